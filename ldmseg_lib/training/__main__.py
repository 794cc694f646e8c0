"""Training without a notebook: on one device or several, on one machine or several; what a profile will cost.

    python -m ldmseg_lib.training {autoencoder,diffusion,...} --profile PROFILE [--run-dir …] [--data-root …] [--seed 0]

A training works in its notebook's place in the run folder and goes on from the newest checkpoint there. The notebook,
or `make reproduce`, then finds it finished and goes on from it. Exit code 75 says that it was asked to stop (SIGTERM),
has saved, and can be started again.

One machine, 8 GPUs; the second line does the same, but says 1 where the first says 75:

    python -m ldmseg_lib.training diffusion --profile paper --data-root COCO --devices 8
    torchrun --nproc-per-node 8 -m ldmseg_lib.training diffusion --profile paper --data-root COCO

Two machines of 8 GPUs, on both, with a run folder that both see:

    torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint FIRST:29500 -m ldmseg_lib.training …

Slurm, where srun takes torchrun's place and every process gets the signal itself:

    #SBATCH --nodes=2 --ntasks-per-node=8 --gpus-per-node=8 --cpus-per-task=8 --requeue --signal=TERM@300
    export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
    srun python -m ldmseg_lib.training diffusion --profile paper --data-root COCO
    [ $? -ne 75 ] || scontrol requeue "$SLURM_JOB_ID"

Cards with little memory: --overrides diffusion.training.shard=true splits weights, gradients and optimiser state over
the processes (FSDP2); diffusion.training.micro_batch_size=8 accumulates, with the same effective batch.

What it costs, counted on networks without weights or data, needs no GPU:

    python -m ldmseg_lib.training --estimate --profile paper
"""

import argparse
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..core.errors import InputError
from .launch import end_with_parent, run_processes, take_slurm_for_torchrun
from .preemption import EXIT_RESUMABLE


def _parser() -> argparse.ArgumentParser:
    from ..experiments.trainables import TRAINABLES

    summary, _, rest = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        prog="python -m ldmseg_lib.training",
        description=summary,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", nargs="?", choices=list(TRAINABLES), help="what to train")
    parser.add_argument("--profile", default="demo", help="smoke, demo, gpu, paper, or a YAML file")
    parser.add_argument("--run-dir", help="where the run keeps everything (runs/PROFILE)")
    parser.add_argument("--data-root", help="a COCO-panoptic folder (the embedded data set)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--overrides", help="single settings: section.key=value,…")
    parser.add_argument("--devices", type=int, default=1, help="processes to start on this machine")
    parser.add_argument("--opened", action="store_true", help="the caller has opened the notebook's stage")
    parser.add_argument("--estimate", action="store_true", help="count FLOPs and memory, train nothing")
    parser.add_argument("--json", metavar="FILE", help="with --estimate: write it there too")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """The command. Exit code 2 for bad input, with one line on stderr; 75 when it was asked to stop and has saved."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = _parser()
    given = parser.parse_args(arguments)
    if not given.estimate and given.what is None:
        parser.error("say what to train, or --estimate")
    try:
        take_slurm_for_torchrun(os.environ)
        if given.estimate:
            from ..experiments.estimate import print_estimate

            print_estimate(given.profile, overrides=given.overrides, json_file=given.json)
            return 0
        return _train(given, arguments)
    except (InputError, OSError) as error:
        rank = os.environ.get("RANK")
        print(f"error{f' in process {rank}' if rank else ''}: {error}", file=sys.stderr)
        return 2


def _train(given: argparse.Namespace, arguments: list[str]) -> int:
    from ..experiments.trainables import TRAINABLES, TrainingRun
    from ..reproduction.stages import open_stage, resolve

    trainable = TRAINABLES[given.what]
    names = ("profile", "data_root", "run_dir", "seed", "overrides")
    profile, run_dir, data_root = resolve(**{name: getattr(given, name) for name in names})
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    first = os.environ.get("RANK", "0") == "0"
    # until the loop takes over, there is nothing to save
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_RESUMABLE))
    if not given.opened and first:
        stage = open_stage(trainable.stage, **{name: getattr(given, name) for name in names})
        if stage.result is not None:
            print(f"{trainable.stage} is finished in {run_dir} ({stage.result['date']})")
            if not several:
                return 0
    if given.devices > 1 and not several:
        return run_processes([*arguments, "--opened"], processes=given.devices)
    if given.opened:
        end_with_parent()
    run = TrainingRun(
        profile=profile,
        seed=given.seed,
        run_dir=run_dir,
        data_root=data_root or run_dir / "01_dataset" / "data",
        data_given=data_root is not None,
    )
    return _work(lambda: trainable.work(run, run.stage(trainable.stage) / trainable.folder))


def _work(work: Callable[[], Any]) -> int:
    """Do `work` as one of several processes, or alone. The first one alone saves models."""
    import torch
    from accelerate.state import PartialState
    from torch.distributed.elastic.multiprocessing.errors import record

    state = PartialState(cpu=not torch.cuda.is_available())
    # the first one has claimed the run folder by then
    state.wait_for_everyone()
    if not state.is_main_process:
        _save_nothing()
    # record tells torchrun what went wrong; it would also swallow an exit code of 0, which is no matter
    record(work)()
    state.wait_for_everyone()
    state.destroy_process_group()
    return 0


def _save_nothing() -> None:
    """Models are the same in every process; of several that wrote one file at once, none could tell what is in it."""
    from diffusers import DiffusionPipeline, ModelMixin

    def leave_it(_self: Any, _folder: str | Path, *_: Any, **__: Any) -> None:
        return None

    for kind in (ModelMixin, DiffusionPipeline):
        setattr(kind, "save_pretrained", leave_it)  # noqa: B010 - a type checker would not let us assign it


if __name__ == "__main__":
    sys.exit(main())
