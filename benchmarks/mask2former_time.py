"""Seconds an image of the full-size ViT-B baseline beside LDMSeg's, side by side, with random weights.

    python benchmarks/mask2former_time.py [--device cuda] [--precision fp16] [--backbone dinov2|mae]

Time does not depend on what the weights are, quality does: there is no PQ here, and the table says so. One image at a
time, both models in turn, the median of all rounds. LDMSeg is the paper's: Stable Diffusion v1.4's UNet, DINOv2, with
`--steps` denoising steps, instance and semantic map together.

Writes benchmarks/results/mask2former_time_<device>.json and, on a GPU, tables/gpu/mask2former_time_full_size in three
formats, with its record in tables/gpu/results.
"""

import argparse
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from ldmseg_lib.core.files import write_json
from ldmseg_lib.core.machine import device_name, package_versions, peak_memory
from ldmseg_lib.core.paths import ROOT, TABLES
from ldmseg_lib.experiments.denoising_steps.timing import autocast
from ldmseg_lib.experiments.full_size import random_pipeline
from ldmseg_lib.experiments.mask2former.judging import seconds_per_image
from ldmseg_lib.experiments.mask2former_full_size import BACKBONES, random_mask2former
from ldmseg_lib.pipeline.query_segmentation import segment_images
from ldmseg_lib.reproduction.results import as_text, write_text_table

NAME = "mask2former_time_full_size"


def main() -> None:
    """Measure, print, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=["fp32", "fp16", "bf16"], default="fp16")
    parser.add_argument("--backbone", choices=BACKBONES, default="dinov2")
    parser.add_argument("--sampler", default="ddpm")
    parser.add_argument("--size", choices=["paper", "tiny"], default="paper", help="tiny: only to try the script")
    parser.add_argument("--steps", type=int, nargs="+", default=[10, 50], help="LDMSeg's denoising steps")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, help="a JSON; tables are then not written")
    options = parser.parse_args()

    load, tiny = os.getloadavg()[0], options.size == "tiny"
    baseline = random_mask2former(options.backbone, device=options.device, tiny=tiny)
    pipeline = random_pipeline("vit", device=options.device, tiny=tiny)
    pipeline.set_progress_bar_config(disable=True)
    side = pipeline.config.image_size
    images = [np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)]

    def measure(segment: Any) -> float:
        with autocast(options.device, options.precision):
            return seconds_per_image(segment, images, device=options.device, repeats=options.repeats)

    def sample(steps: int) -> Any:
        generator = torch.Generator().manual_seed(0)
        return lambda pictures: pipeline(
            pictures, num_inference_steps=steps, sampler=options.sampler, generator=generator
        )

    networks = [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]
    ours = sum(p.numel() for network in networks for p in network.parameters())
    rows = [
        {
            "model": f"Mask2Former, ViT-B ({options.backbone})",
            "parameters [M]": sum(p.numel() for p in baseline.parameters()) / 1e6,
            "s / image": measure(lambda pictures: segment_images(baseline, pictures)),
        }
    ]
    rows += [
        {"model": f"LDMSeg, {steps} steps", "parameters [M]": ours / 1e6, "s / image": measure(sample(steps))}
        for steps in options.steps
    ]
    for row in rows:
        row["times the baseline"] = row["s / image"] / rows[0]["s / image"]
    kind = torch.device(options.device).type
    device = device_name() if kind == "cuda" else f"{device_name()}, {torch.get_num_threads()} threads"
    record = {
        "weights": "random weights: times alone, no quality",
        "size": options.size,
        "image_size": side,
        "device": device,
        "precision": options.precision,
        "repeats": options.repeats,
        "rows": rows,
        "load before": load,
        "versions": package_versions(),
        **peak_memory(),
    }
    write_json(options.output or ROOT / "benchmarks" / "results" / f"mask2former_time_{kind}.json", record)
    frame = pd.DataFrame(rows)
    if kind == "cuda" and not tiny and options.output is None:
        write_json(TABLES / "gpu" / "results" / f"{NAME}.json", record)
        caption = (
            f"Seconds of an image at full size, {side} px, random weights: times alone, no quality. {device},"
            f" {options.precision}, one image at a time."
        )
        write_text_table(as_text(frame, {"s / image": 4}), TABLES / "gpu", NAME, caption=caption)
    print(frame.to_string(index=False))


if __name__ == "__main__":
    main()
