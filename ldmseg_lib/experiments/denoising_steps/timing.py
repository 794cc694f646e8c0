"""Latency per image of a pipeline, part by part, and how it grows with the number of denoising steps (Table S2).

Each part ends with a device synchronisation; after a warm-up, medians over repetitions are reported. Repetitions cycle
through all step counts, so that a temporary slowdown of the machine affects all of them alike.
"""

import contextlib
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from tqdm.auto import tqdm

from ...core.errors import InputError
from ...core.machine import device_name
from ...core.randomness import torch_generator
from ...pipeline.decoding import decode_image
from ...pipeline.images import Picture
from ...pipeline.ldmseg import LDMSegPipeline

Precision = Literal["fp32", "fp16", "bf16"]
PARTS = ("encode", "denoise", "decode", "postprocess")
TASKS = ("instance", "semantic")
_TYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


def autocast(device: torch.device | str, precision: Precision) -> contextlib.AbstractContextManager:
    """Mixed precision on `device`; with "fp32" nothing changes."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(torch.device(device).type, dtype=_TYPES[precision])


def time_pipeline(
    pipeline: LDMSegPipeline,
    images: Sequence[Picture],
    step_counts: Sequence[int],
    *,
    seed: int = 0,
    sampler: str | None = None,
    precision: Precision = "fp32",
    repeats: int = 5,
    warmups: int = 2,
    progress: bool = True,
) -> dict[str, Any]:
    """Time the pipeline on `images`, which go through it as one batch, at each number of denoising steps.

    Args:
        pipeline: on the device to be timed.
        images: one batch; their number divides the seconds.
        step_counts: numbers of denoising steps.
        seed: of the noise.
        sampler: instead of the pipeline's own.
        precision: of the image encoder and the denoiser; decoding is always in float32.
        repeats: measurements of each number of steps.
        warmups: runs before them, at the least number of steps, that are not measured.
        progress: show a bar.

    Returns:
        {"device", "precision", "batch", "image_size", "sampler", "tasks", "repeats", "rows", "fit"}: a row has "steps",
        the median seconds an image of "encode", "denoise", "decode", "postprocess" and their "total", and the "least"
        and the "most" total; "fit" has "fixed" and "per_step" (None with a single number of steps).

    Raises:
        InputError: no image, no number of steps, or no repetition.
    """
    if not images or not step_counts or repeats < 1:
        raise InputError("timing needs at least one image, one number of steps and one repetition")
    settings: dict[str, Any] = {"seed": seed, "sampler": sampler, "precision": precision}
    for _ in range(warmups):
        _time_once(pipeline, images, min(step_counts), **settings)
    measured: dict[int, list[dict[str, float]]] = {steps: [] for steps in step_counts}
    rounds = [steps for _ in range(repeats) for steps in measured]
    for steps in tqdm(rounds, desc=f"timing {sampler or pipeline.config.sampler}", unit="run", disable=not progress):
        measured[steps].append(_time_once(pipeline, images, steps, **settings))
    rows = [_row(steps, runs, len(images)) for steps, runs in measured.items()]
    threads = "" if pipeline.device.type == "cuda" else f", {torch.get_num_threads()} threads"
    return {
        "device": device_name() + threads,
        "precision": precision,
        "batch": len(images),
        "image_size": pipeline.config.image_size,
        "sampler": sampler or pipeline.config.sampler,
        "tasks": list(TASKS),
        "repeats": repeats,
        "rows": rows,
        "fit": fit_line([r["steps"] for r in rows], [r["total"] for r in rows]) if len(rows) > 1 else None,
    }


def fit_line(steps: Sequence[int], seconds: Sequence[float]) -> dict[str, float]:
    """The least-squares line seconds = fixed + per_step x denoising steps, as {"fixed", "per_step"}.

    Raises:
        InputError: fewer than two different numbers of steps.
    """
    if len(set(steps)) < 2:
        raise InputError(f"a line needs at least two numbers of steps, not {sorted(set(steps))}")
    per_step, fixed = np.polyfit(np.asarray(steps, float), np.asarray(seconds, float), 1)
    return {"fixed": float(fixed), "per_step": float(per_step)}


def time_samplers(
    pipeline: LDMSegPipeline, images: Sequence[Picture], step_counts: Mapping[str, Sequence[int]], **settings: Any
) -> dict[str, dict[str, Any]]:
    """`time_pipeline` for each sampler of `step_counts`, which names its numbers of steps."""
    return {
        sampler: time_pipeline(pipeline, images, counts, sampler=sampler, **settings)
        for sampler, counts in step_counts.items()
    }


def _row(steps: int, runs: Sequence[Mapping[str, float]], batch: int) -> dict[str, Any]:
    totals = [sum(run.values()) / batch for run in runs]
    return {
        "steps": steps,
        **{part: statistics.median(run[part] for run in runs) / batch for part in PARTS},
        # the median of the sums, which need not be the sum of the medians
        "total": statistics.median(totals),
        "least": min(totals),
        "most": max(totals),
    }


@torch.no_grad()
def _time_once(
    pipeline: LDMSegPipeline,
    images: Sequence[Picture],
    num_inference_steps: int,
    *,
    seed: int,
    sampler: str | None,
    precision: Precision,
) -> dict[str, float]:
    """Seconds of each part, of the whole batch."""
    seconds: dict[str, float] = {}
    device = pipeline.device
    with _timed(seconds, "encode", device), autocast(device, precision):
        features = pipeline.encode_image(images)
    generators = [torch_generator(seed, "timing", number) for number in range(len(images))]
    with _timed(seconds, "denoise", device), autocast(device, precision):
        latents = pipeline.predict(
            features, generators=generators, tasks=TASKS, num_inference_steps=num_inference_steps, sampler=sampler
        )
    # image by image, as the pipeline decodes: the logits of many at once may not fit in memory
    for number, size in enumerate(features.sizes):
        with _timed(seconds, "decode", device):
            logits = {task: pipeline.autoencoder.from_latents(z[number : number + 1])[0] for task, z in latents.items()}
        with _timed(seconds, "postprocess", device):
            decode_image(
                {task: [values] for task, values in logits.items()},
                size,
                None,
                num_ids=pipeline.num_ids,
                categories=pipeline.config.categories,
                threshold=pipeline.config.threshold,
                min_area=pipeline.config.min_area,
            )
    return seconds


@contextlib.contextmanager
def _timed(seconds: dict[str, float], part: str, device: torch.device) -> Iterator[None]:
    """Add the seconds of a block to `seconds[part]`; the block ends when the device has done its work."""
    start = time.perf_counter()
    yield
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    seconds[part] = seconds.get(part, 0.0) + time.perf_counter() - start
