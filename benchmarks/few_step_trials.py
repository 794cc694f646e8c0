"""What else was tried to need fewer steps: students of one teacher, distilled in other ways than notebook 12's.

    python benchmarks/few_step_trials.py runs/demo

Each trial changes the profile's section `consistency` in what its name says and is judged on the same held-out images
from the same noise. Finished trials are kept in <run folder>/few_step_trials, so an interrupted call goes on. The
result is committed, and notebook 12 shows it: what did not help belongs there too.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from ldmseg_lib.core.errors import one_line_errors
from ldmseg_lib.core.files import read_json, write_json
from ldmseg_lib.core.machine import device_name, package_versions
from ldmseg_lib.core.profiles import Profile
from ldmseg_lib.data.splits import training_split, validation_split
from ldmseg_lib.experiments.denoising_steps.study import Sampling, evaluate_runs, plan_runs
from ldmseg_lib.experiments.segmentation import Cleaning
from ldmseg_lib.pipeline.ldmseg import LDMSegPipeline
from ldmseg_lib.training.consistency import train_consistency

RESULT = Path(__file__).parent / "results" / "few_step_trials.json"
TRIALS: dict[str, dict[str, Any]] = {
    "a grid of 4": {"timesteps": 4, "counts": [1, 2, 4]},
    "a grid of 1: the teacher's whole path at once": {
        "timesteps": 1,
        "teacher_steps": 8,
        "training.steps": 200,
        "counts": [1],
    },
}


def try_out(run: Path, profile: Profile, *, seed: int = 0) -> dict[str, Any]:
    """Distil and judge the run's teacher as `profile` says: seconds, steps, images, and scores by denoising steps."""
    settings, evaluation = profile.consistency, profile.evaluation
    data = run / "01_dataset" / "data"
    teacher = LDMSegPipeline.from_pretrained(run / "04_diffusion" / "pipeline")
    kind = settings.timesteps, settings.teacher_steps, settings.huber, settings.training.steps
    key = "-".join(str(part) for part in kind)
    folder = run / "few_step_trials" / key
    student, record = train_consistency(profile, training_split(profile, data, seed=seed), teacher, folder, seed=seed)
    student.set_progress_bar_config(disable=True)
    val = validation_split(profile, data, seed=seed, max_images=settings.num_images)
    rows, _, _ = evaluate_runs(
        student,
        val,
        plan_runs(({"consistency": settings.counts}, len(val))),
        sampling=Sampling(seed, evaluation.batch_size),
        cleaning=Cleaning(evaluation.threshold, evaluation.min_area),
    )
    scores = {
        str(row["steps"]): {
            "class-agn. PQ": round(100 * row["class_agnostic"]["All"]["pq"], 1),
            "PQ": round(100 * row["panoptic"]["All"]["pq"], 1),
        }
        for row in rows
    }
    return {"seconds": round(record.seconds), "steps": record.steps, "images": len(val), "scores": scores}


@one_line_errors
def main() -> int:
    """Exit code 2 for bad input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run folder with notebooks 1, 2 and 4, such as runs/demo")
    parser.add_argument("--profile", default="demo")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    result = read_json(RESULT) if RESULT.exists() else {}
    header = {"device": device_name(), "packages": package_versions(), "profile": options.profile, "seed": options.seed}
    for name, changes in TRIALS.items():
        profile = Profile.load(options.profile, {f"consistency.{key}": value for key, value in changes.items()})
        found = try_out(options.run, profile, seed=options.seed)
        result = result | header | {"trials": result.get("trials", {}) | {name: changes | found}}
        write_json(RESULT, result)
        print(f"{name}: " + ", ".join(f"{steps}: {score}" for steps, score in found["scores"].items()), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
