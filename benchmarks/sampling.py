"""Seconds from image to ids: this library's sampling beside a plain diffusers loop over the same network.

    python benchmarks/sampling.py --pipeline runs/demo/04_diffusion/pipeline --data runs/demo/01_dataset/data
    python benchmarks/sampling.py --size paper --device cuda --speed-up --steps 50 --batch 1 --tasks instance

The plain loop is what diffusers' documentation shows: one task after the other, the image encoded for each, diffusers'
own DDIMScheduler and attention, fp32. Ours encodes the image once, has both tasks in one batch, and the attention to
the one task token folded to its value; with --speed-up also what `LDMSegPipeline.speed_up` does (16 bits, channels
last, compiled into CUDA graphs). Both start from the same noise. Rounds alternate, medians are reported, with the share
of pixels that agree (up to renumbering) and the floor that the counted FLOPs of the network and the device's measured
rate of matrix products set. With --size the weights are random: times alone, no quality.

Writes benchmarks/results/sampling_<device>.json.
"""

import argparse
import copy
import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler
from diffusers.models.attention_processor import AttnProcessor2_0
from torch.utils.flop_counter import FlopCounterMode
from tqdm.auto import tqdm

from ldmseg_lib.core.files import write_json
from ldmseg_lib.core.machine import device_name, package_versions, peak_memory
from ldmseg_lib.core.paths import ROOT
from ldmseg_lib.core.randomness import torch_generator
from ldmseg_lib.data.panoptic import PanopticDataset
from ldmseg_lib.diffusion.sampling import branch, initial_noise
from ldmseg_lib.diffusion.schedulers import SCHEDULE
from ldmseg_lib.experiments.denoising_steps.timing import Precision, autocast
from ldmseg_lib.experiments.full_size import random_pipeline
from ldmseg_lib.pipeline.ldmseg import LDMSegPipeline
from ldmseg_lib.pipeline.segment_colors import matched_ids

TYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Clock:
    """Seconds of named parts, each ended by a wait for the device."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.parts = device, {}
        self.last = time.perf_counter()

    def lap(self, part: str) -> None:
        synchronise(self.device)
        now = time.perf_counter()
        self.parts[part] = self.parts.get(part, 0.0) + now - self.last
        self.last = now


def plain(
    pipeline: LDMSegPipeline,
    images: Sequence[np.ndarray],
    generators: Sequence[torch.Generator],
    steps: int,
    tasks: Sequence[str],
) -> tuple[list[np.ndarray], dict[str, float]]:
    """Instance ids of each image, and seconds by part, with diffusers' parts as they come."""
    clock, latents = Clock(pipeline.device), {}
    denoiser = pipeline.denoiser
    for task in tasks:
        features = pipeline.encode_image(images)
        clock.lap("encode")
        scheduler = DDIMScheduler(
            **SCHEDULE,
            prediction_type=pipeline.config.prediction_type,
            clip_sample=False,
            set_alpha_to_one=False,
            timestep_spacing="trailing",
        )
        scheduler.set_timesteps(steps, device=pipeline.device)
        shape = (denoiser.config.latent_channels, *features.latents.shape[-2:])
        z = initial_noise(shape, branch(generators, task)).to(pipeline.device)
        token = denoiser.task_tokens(denoiser.task_ids([task]))[:, None].expand(len(images), -1, -1)
        estimate = torch.zeros_like(z)
        with torch.no_grad():
            for t in scheduler.timesteps:
                condition = estimate if denoiser.config.self_condition else torch.zeros_like(z)
                x = torch.cat([z, features.latents, condition], dim=1)
                prediction = denoiser.unet(x, t, encoder_hidden_states=token).sample
                step = scheduler.step(prediction, t, z)
                z, estimate = step.prev_sample, step.pred_original_sample
        latents[task] = estimate
        clock.lap("denoise")
    output = pipeline.decode(latents, features.sizes)
    clock.lap("decode and post-process")
    return output.instance_ids, clock.parts


def ours(
    pipeline: LDMSegPipeline,
    images: Sequence[np.ndarray],
    generators: Sequence[torch.Generator],
    steps: int,
    tasks: Sequence[str],
    precision: Precision,
) -> tuple[list[np.ndarray], dict[str, float]]:
    """The same by the pipeline's own parts."""
    clock = Clock(pipeline.device)
    with autocast(pipeline.device, precision):
        features = pipeline.encode_image(images)
        clock.lap("encode")
        latents = pipeline.predict(features, num_inference_steps=steps, tasks=tasks, generators=generators)
        clock.lap("denoise")
    output = pipeline.decode(latents, features.sizes)
    clock.lap("decode and post-process")
    return output.instance_ids, clock.parts


def floor(
    pipeline: LDMSegPipeline, images: Sequence[np.ndarray], steps: int, tasks: Sequence[str], dtype: torch.dtype
) -> dict[str, float]:
    """Counted FLOPs of all denoising steps, the device's rate of matrix products, and the seconds they imply."""
    features = pipeline.encode_image(images).latents.repeat(len(tasks), 1, 1, 1)
    z = torch.zeros(len(features), pipeline.denoiser.config.latent_channels, *features.shape[-2:]).to(pipeline.device)
    t = torch.full((len(z),), 500, device=pipeline.device)
    numbers = pipeline.denoiser.task_ids(tasks).repeat_interleave(len(images))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        pipeline.denoiser(z, features, z, t, numbers)
    side = 2048 if pipeline.device.type == "cpu" else 8192
    a = torch.randn(side, side, device=pipeline.device, dtype=dtype)
    rates = []
    for _ in range(5):
        synchronise(pipeline.device)
        began = time.perf_counter()
        a @ a
        synchronise(pipeline.device)
        rates.append(2 * side**3 / (time.perf_counter() - began))
    flops = counter.get_total_flops() * steps
    return {"gflop": flops / 1e9, "gflop_per_second": max(rates) / 1e9, "seconds": flops / max(rates)}


def agreement(mine: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> float:
    """Share of pixels with the same id once segments are matched."""
    return float(np.mean([(matched_ids(a, b) == b).mean() for a, b in zip(mine, theirs, strict=True)]))


def main() -> None:
    """Measure, print, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--pipeline", type=Path, help="folder of a trained pipeline")
    source.add_argument("--size", choices=["paper", "tiny"], help="random weights of this size")
    parser.add_argument("--data", type=Path, help="COCO-panoptic folder to take images from; else noise")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=["fp32", "fp16", "bf16"], default="fp32", help="of ours")
    parser.add_argument("--speed-up", action="store_true", help="ours by LDMSegPipeline.speed_up, in bf16 and compiled")
    parser.add_argument("--tasks", nargs="+", default=["instance", "semantic"])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()

    load = os.getloadavg()[0]
    if options.pipeline:
        pipeline = LDMSegPipeline.from_pretrained(options.pipeline).to(options.device)
    else:
        pipeline = random_pipeline(device=options.device, tiny=options.size == "tiny")
    side = pipeline.config.image_size
    if options.data:
        dataset = PanopticDataset(options.data, "val", max_images=options.batch)
        images = [dataset.ground_truth(index).image for index in range(options.batch)]
    else:
        images = list(np.random.default_rng(0).integers(0, 256, (options.batch, side, side, 3), dtype=np.uint8))
    precision = "bf16" if options.speed_up else options.precision
    bound = floor(pipeline, images, options.steps, options.tasks, TYPES[precision])
    fast = copy.deepcopy(pipeline)
    if options.speed_up:
        fast.speed_up()
    pipeline.denoiser.unet.set_attn_processor(AttnProcessor2_0())
    seconds: dict[str, list[dict[str, float]]] = {"plain": [], "ours": []}
    results: dict[str, list[np.ndarray]] = {}
    for round_ in tqdm(range(options.rounds + 1), desc="rounds"):
        generators = [torch_generator(0, "sampling", number) for number in range(options.batch)]
        found = {
            "plain": plain(pipeline, images, generators, options.steps, options.tasks),
            # sped up, its weights have the precision already
            "ours": ours(fast, images, generators, options.steps, options.tasks, options.precision),
        }
        for name, (ids, parts_of_round) in found.items():
            results[name] = ids
            if round_:
                seconds[name].append(parts_of_round)

    parts = {
        name: {part: statistics.median(run[part] for run in runs) / options.batch for part in runs[0]}
        for name, runs in seconds.items()
    }
    totals = {
        name: statistics.median(sum(run.values()) for run in runs) / options.batch for name, runs in seconds.items()
    }
    device = torch.device(options.device)
    record = {
        "device": device_name() if device.type == "cuda" else f"{device_name()}, {torch.get_num_threads()} threads",
        "load before": load,
        "weights": str(options.pipeline.name) if options.pipeline else "random: times alone, no quality",
        "image_size": side,
        "steps": options.steps,
        "batch": options.batch,
        "tasks": options.tasks,
        "precision": {"plain": "fp32", "ours": precision},
        "sped up": options.speed_up,
        "rounds": options.rounds,
        "seconds an image": {name: {**parts[name], "total": totals[name]} for name in parts},
        "times as fast": totals["plain"] / totals["ours"],
        "pixels that agree": agreement(results["ours"], results["plain"]),
        "floor of the denoising steps, an image": {
            key: value / (1 if key == "gflop_per_second" else options.batch) for key, value in bound.items()
        },
        "versions": package_versions(),
        **peak_memory(),
    }
    write_json(options.output or ROOT / "benchmarks" / "results" / f"sampling_{device.type}.json", record)
    for name, row in record["seconds an image"].items():
        print(f"{name:6}" + "  ".join(f"{part} {value:.4f} s" for part, value in row.items()))
    same, ratio = 100 * record["pixels that agree"], record["times as fast"]
    print(f"ours is {ratio:.2f} times as fast; {same:.2f} % of pixels agree")
    an_image = record["floor of the denoising steps, an image"]
    print(f"floor of the steps: {an_image['seconds']:.4f} s for {an_image['gflop']:.1f} GFLOP")


if __name__ == "__main__":
    main()
