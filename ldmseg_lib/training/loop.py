"""The one training loop. What is trained is an objective: a module whose forward pass returns the loss of a batch.

The loop knows nothing of masks or diffusion. It brings: batches that are the same whatever the number of processes,
accumulation, mixed precision, clipping, warm-up and cosine, EMA, a progress bar, a metrics file, checkpoints, resume.
"""

import contextlib
import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sized
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from ..core.errors import CheckpointError, InputError
from ..core.files import write_text
from ..core.profiles import Profile
from ..core.randomness import torch_generator
from ..core.sections import TrainingProfile
from ..data.panoptic import collate as collate_samples
from .checkpoint import (
    CheckpointFolder,
    flatten_optimizer,
    load_part,
    random_states,
    restore_optimizer,
    restore_random_states,
)
from .epoch_stream import EpochStream
from .objective import Objective
from .optimizers import build_optimizer
from .preemption import EXIT_RESUMABLE, StopRequest, batches_of
from .processes import of_all_processes, of_process, start_accelerator, summed_totals, window_means
from .sharding import ShardedObjective, laid_out_as, whole

# Settings that may change between a run and its continuation without changing the weights.
_FREE_SETTINGS = {"micro_batch_size", "checkpoint_every", "keep_checkpoints", "log_every"}
_FREE_SETTINGS |= {"gradient_checkpointing", "shard"}


@dataclass(frozen=True)
class TrainingRecord:
    """What a finished training was: for result files."""

    steps: int
    images: int
    seconds: float  # over all sessions of the run
    images_per_second: float
    final_loss: float  # mean over the last log window
    parameters: int  # that learned


def learning_rate(settings: TrainingProfile, step: int) -> float:
    """Linear warm-up from 0, then a cosine from `learning_rate` to `final_learning_rate` at the last step."""
    warm = min(1.0, (step + 1) / max(1, settings.warmup_steps))
    progress = max(0.0, (step - settings.warmup_steps) / max(1, settings.steps - 1 - settings.warmup_steps))
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return warm * (settings.final_learning_rate + (settings.learning_rate - settings.final_learning_rate) * cosine)


def train(
    objective: Objective,
    dataset: Dataset,
    settings: TrainingProfile,
    folder: str | Path,
    *,
    seed: int,
    collate: Callable[[list], dict[str, Any]] = collate_samples,
    workers: int = 0,
    title: str = "training",
    identity: Mapping[str, Any] | None = None,
    on_log: Callable[[Mapping[str, float]], None] | None = None,
    measure: Callable[[Any], float | None] | None = None,
) -> tuple[TrainingRecord, EMAModel | None]:
    """Train `objective.trained` for `settings.steps` steps, going on from the newest checkpoint in `folder`.

    Under torchrun, or with the same variables set, several processes train together; all of them must call this.

    Args:
        objective: what is trained; it lies on the training device afterwards, with the final weights.
        dataset: indexed by (index, visit).
        settings: the profile's training section.
        folder: gets checkpoints/ and metrics.jsonl.
        seed: of the order of the images; the objective has its own.
        collate: samples to a batch; tensors in it are moved to the device.
        workers: loader processes.
        title: shown on the progress bar.
        identity: what else, besides `settings`, a checkpoint must agree with to be gone on from, as JSON values.
        on_log: called every `log_every` steps with what goes to metrics.jsonl, on the main process.
        measure: how good the objective is with the weights that it has during the call (the averaged ones, where there
            is an EMA); larger is better, None: not known. Called on all processes before a checkpoint is written, and
            must give all the same. The best checkpoint is kept beside the last ones.

    Returns:
        The record of the training, and the EMA of the trained parameters (None without `ema_decay`).

    Raises:
        CheckpointError: the folder's checkpoints belong to other settings, or one cannot be written.
        ProfileError: the batch does not divide into processes and micro-batches, or the device lacks the precision.
        InputError: the loss is no longer finite; the last checkpoint is from before.
    """
    folder = Path(folder)
    accelerator = start_accelerator(settings.precision)
    processes, device = accelerator.num_processes, accelerator.device
    checkpoints = CheckpointFolder(folder / "checkpoints", keep=settings.keep_checkpoints)
    images = len(cast(Sized, dataset))
    own = {"seed": seed, "title": title, "images": images, **asdict(settings), **_flat(identity or {})}
    parts, state = _found(checkpoints, own)
    if parts:
        load_part(objective.trained, parts["model"], what=str(checkpoints.folder))
    sharded = None
    if settings.shard and processes > 1:
        sharded = ShardedObjective(objective, device=device, processes=processes)
    else:
        # convolutions run faster on channels-last tensors, on CPUs and GPUs alike
        objective.to(device, memory_format=torch.channels_last)
    parameters = [p for p in objective.trained.parameters() if p.requires_grad]
    ema = EMAModel(parameters, decay=settings.ema_decay, foreach=True) if settings.ema_decay else None
    optimizer = build_optimizer(objective.trained, settings)
    if parts:
        restore_optimizer(optimizer, parts["optimizer"])
        if ema is not None:
            ema.shadow_params = [laid_out_as(parts["ema"][str(i)], p) for i, p in enumerate(parameters)]
            ema.optimization_step = state["step"]
        restore_random_states(of_process(parts["random"], accelerator.process_index))
    start, seconds = state["step"], state["seconds"]

    # in evaluation mode it only adds the mixed precision
    model = accelerator.prepare_model(sharded or objective, evaluation_mode=sharded is not None)
    optimizer = accelerator.prepare_optimizer(optimizer)
    if accelerator.scaler is not None and state.get("scaler"):
        accelerator.scaler.load_state_dict(state["scaler"])
    share = max(1, settings.batch_size // processes)
    micro = min(settings.micro_batch_size or share, share)
    stream = EpochStream(
        images,
        batch_size=settings.batch_size,
        micro_batch_size=micro,
        steps=settings.steps,
        start=start,
        seed=seed,
        rank=accelerator.process_index,
        processes=processes,
    )
    # an own generator: the loader would otherwise draw from the global one
    own_stream = torch_generator(seed, "loader")
    loader = DataLoader(dataset, batch_sampler=stream, collate_fn=collate, num_workers=workers, generator=own_stream)
    accumulation = settings.batch_size // (micro * processes)
    main = accelerator.is_main_process
    metrics = folder / "metrics.jsonl"
    if main:
        _drop_metrics_after(start, metrics)
    window: dict[str, list[Tensor]] = {}
    last = dict(state.get("last", {}))

    def save(step: int, *, leaving: bool) -> None:
        metric = None if measure is None or leaving else _measured(measure, objective, parameters, ema, sharded)
        parts = {"model": whole(objective.trained.state_dict(), keep=main)}
        parts["optimizer"] = whole(flatten_optimizer(optimizer.optimizer), keep=main)
        parts["random"] = of_all_processes(random_states(), accelerator)
        if ema is not None:
            parts["ema"] = whole({str(i): p for i, p in enumerate(ema.shadow_params)}, keep=main)
        if main:
            scaler = accelerator.scaler.state_dict() if accelerator.scaler is not None else None
            state = {"identity": own, "seconds": seconds, "scaler": scaler, "last": last}
            checkpoints.save(step, parts, state, metric=metric)
        accelerator.wait_for_everyone()

    model.train()
    began = window_began = time.perf_counter()
    before = seconds
    with (
        StopRequest() as stop,
        batches_of(loader) as batches,
        tqdm(total=settings.steps, initial=start, desc=title, unit="step", disable=not main, mininterval=1.0) as bar,
    ):
        for step in range(start, settings.steps):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(settings, step)
            micros = [_to_device(next(batches), accelerator.device) for _ in range(accumulation)]
            totals, stop_anywhere = summed_totals(objective, micros, accelerator, stop.asked)
            for number, batch in enumerate(micros):
                last_micro = number == accumulation - 1
                if sharded is not None:
                    sharded.synchronise(last_micro)
                with contextlib.nullcontext() if last_micro or sharded else accelerator.no_sync(model):
                    terms = model(batch, totals)
                    # processes average their gradients, but the totals are already those of all
                    accelerator.backward(terms["loss"] * processes)
                for name, value in terms.items():
                    window.setdefault(name, []).append(value.detach())
            accelerator.clip_grad_norm_(parameters, settings.gradient_clip)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if ema is not None:
                ema.step(parameters)
            if hasattr(objective, "after_step"):
                objective.after_step()
            done = step + 1
            seconds = before + time.perf_counter() - began
            if done % settings.log_every == 0 or done == settings.steps:
                now = time.perf_counter()
                steps_in_window = (len(window["loss"])) // accumulation
                rate = steps_in_window * settings.batch_size / (now - window_began)
                last = window_means(window, steps_in_window, accelerator)
                window, window_began = {}, now
                _require_finite(last["loss"], title, done)
                if main:
                    entry = {"step": done, **last, "learning_rate": optimizer.param_groups[0]["lr"]}
                    entry["images_per_second"] = rate
                    _add_metrics(entry, metrics)
                    bar.set_postfix(loss=f"{last['loss']:.4f}", images_s=f"{rate:.0f}", refresh=False)
                    if on_log is not None:
                        on_log(entry)
            bar.update()
            # of several processes none may leave alone: they agree where they add up their totals
            leave = stop.asked if processes == 1 else stop_anywhere
            if done % settings.checkpoint_every == 0 or done == settings.steps or leave:
                if accelerator.scaler is None:
                    _require_finite(terms["loss"].item(), title, done)
                save(done, leaving=leave and done < settings.steps)
            if leave and done < settings.steps:
                print(f"{title}: asked to stop; saved at step {done}, start again to go on", file=sys.stderr)
                sys.exit(EXIT_RESUMABLE)
    accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    if sharded is not None:
        sharded.restore()
        objective.to(device)
        if ema is not None:
            ema.shadow_params = [*whole({str(i): p for i, p in enumerate(ema.shadow_params)}).values()]
            ema.to(device)
    # as it will be when it is loaded again, so that both round alike
    objective.to(memory_format=torch.contiguous_format)
    seen = settings.steps * settings.batch_size
    record = TrainingRecord(
        steps=settings.steps,
        images=seen,
        seconds=seconds,
        images_per_second=seen / seconds if seconds else 0.0,
        final_loss=last.get("loss", math.nan),
        parameters=sum(p.numel() for p in parameters),
    )
    return record, ema


def _found(
    checkpoints: CheckpointFolder, identity: Mapping[str, Any]
) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """The newest checkpoint's tensors and state, once it is sure that it is of this training; else nothing, step 0."""
    found = checkpoints.load()
    if found is None:
        return {}, {"step": 0, "seconds": 0.0}
    theirs = found[1].get("identity", {})
    differing = [k for k in identity if k not in _FREE_SETTINGS and _plain(identity[k]) != theirs.get(k)]
    if differing:
        parts_text = ", ".join(f"{k} is {theirs.get(k)!r} there and {identity[k]!r} here" for k in differing)
        raise CheckpointError(
            f"{checkpoints.folder}: its checkpoints belong to another training ({parts_text}); choose another run"
            " folder or remove this one"
        )
    return found


@torch.no_grad()
def _measured(
    measure: Callable[[Any], float | None],
    objective: Any,
    parameters: list[nn.Parameter],
    ema: EMAModel | None,
    sharded: ShardedObjective | None,
) -> float | None:
    """What `measure` says of the averaged weights, or of the present ones; training weights are back afterwards."""
    objective.eval()
    with sharded.gathered(ema) if sharded is not None else contextlib.nullcontext():
        if ema is not None and sharded is None:
            ema.store(parameters)
            ema.copy_to(parameters)
        value = measure(objective)
        if ema is not None and sharded is None:
            ema.restore(parameters)
    objective.train()
    return value if value is not None and math.isfinite(value) else None


def seen_settings(profile: Profile, *sections: str) -> dict[str, Any]:
    """What of a profile shapes a training: its data and the given sections, less what `train` gets anyway."""
    settings = asdict(profile)
    # loader processes change nothing, and how many scenes were drawn is known by the number of images
    idle = {"training", "workers", "train_scenes", "val_scenes", "min_things", "max_things"}
    return {name: {k: v for k, v in settings[name].items() if k not in idle} for name in ("data", *sections)}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted keys, so that a difference can be named."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _plain(value: Any) -> Any:
    """`value` as it comes back from JSON."""
    return json.loads(json.dumps(value))


def _drop_metrics_after(step: int, path: Path) -> None:
    """Keep the metrics of the steps that will not be done again."""
    kept = []
    for line in path.read_text().splitlines() if path.exists() else []:
        # a killed process can leave half a line
        with contextlib.suppress(json.JSONDecodeError):
            kept += [f"{line}\n"] if json.loads(line)["step"] <= step else []
    write_text(path, "".join(kept))


def _add_metrics(values: Mapping[str, float], path: Path) -> None:
    try:
        with open(path, "a") as file:
            file.write(json.dumps(values) + "\n")
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be written ({error.strerror}); start again when it can, the training goes on from its last"
            " checkpoint"
        ) from error


def _to_device(batch: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    return {k: v.to(device, non_blocking=True) if isinstance(v, Tensor) else v for k, v in batch.items()}


def _require_finite(loss: float, title: str, step: int) -> None:
    if not math.isfinite(loss):
        raise InputError(
            f"{title}: the loss is {loss} at step {step}; lower the learning rate or the gradient clip of its training,"
            " in a new run folder (checkpoints from before are kept)"
        )
