"""Seconds of Table S2 at the paper's size: Stable Diffusion v1.4's UNet at 512 px, with random weights.

    python benchmarks/denoising_time.py [--device cuda] [--precision fp16] [--image-encoder vit|sd_vae]

Time does not depend on what the weights are, quality does: there is no PQ here, and the table says so. One image at a
time, as the supplement reports it; instance and semantic map together in one batch of two. Image encoder, denoising
steps, decoder and post-processing are timed apart, and fitted by a line beside the paper's (RTX 4090).

Writes benchmarks/results/denoising_time_<device>.json and, on a GPU, tables/gpu/inference_time_full_size in three
formats, with its record in tables/gpu/results.
"""

import argparse
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ldmseg_lib.core.files import write_json
from ldmseg_lib.core.machine import package_versions, peak_memory
from ldmseg_lib.core.paths import ROOT, TABLES
from ldmseg_lib.experiments.denoising_steps.tables import TIME_DECIMALS, time_fits, time_table
from ldmseg_lib.experiments.denoising_steps.timing import time_pipeline
from ldmseg_lib.experiments.full_size import IMAGE_ENCODERS, random_pipeline
from ldmseg_lib.experiments.supplement import supplement
from ldmseg_lib.reproduction.results import as_text, write_text_table

NAME = "inference_time_full_size"
ENCODERS = {"vit": "DINOv2 ViT-B/14", "sd_vae": "Stable Diffusion's VAE encoder"}


def picture(side: int) -> np.ndarray:
    """Noise: what is on the image costs no time."""
    return np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)


def main() -> None:
    """Measure, print, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=["fp32", "fp16", "bf16"], default="fp16")
    parser.add_argument("--image-encoder", choices=IMAGE_ENCODERS, default="vit")
    parser.add_argument("--sampler", default="ddpm")
    parser.add_argument("--size", choices=["paper", "tiny"], default="paper", help="tiny: only to try the script")
    parser.add_argument("--steps", type=int, nargs="+", default=supplement("table_s2")["iters"].tolist())
    parser.add_argument("--batch", type=int, default=1, help="images at a time")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, help="a JSON; tables are then not written")
    options = parser.parse_args()

    load = os.getloadavg()[0]
    pipeline = random_pipeline(options.image_encoder, device=options.device, tiny=options.size == "tiny")
    pipeline.set_progress_bar_config(disable=True)
    timing = time_pipeline(
        pipeline,
        [picture(pipeline.config.image_size)] * options.batch,
        options.steps,
        sampler=options.sampler,
        precision=options.precision,
        repeats=options.repeats,
    )
    record: dict[str, Any] = {
        "weights": "random weights: times alone, no quality",
        "size": options.size,
        "image_encoder": options.image_encoder,
        "parameters": {
            name: sum(p.numel() for p in getattr(pipeline, name).parameters())
            for name in ("denoiser", "image_encoder", "autoencoder")
        },
        "load before": load,
        "versions": package_versions(),
        **peak_memory(),
        **timing,
    }
    kind = torch.device(options.device).type
    fits = time_fits({"sampler": timing["sampler"], "timing": {timing["sampler"]: timing}})
    write_json(options.output or ROOT / "benchmarks" / "results" / f"denoising_time_{kind}.json", record)
    if kind == "cuda" and options.size == "paper" and options.output is None:
        write_json(TABLES / "gpu" / "results" / f"{NAME}.json", record)
        caption = (
            f"Seconds of an image at full size, by part. {ENCODERS[options.image_encoder]}, Stable Diffusion v1.4's"
            f" UNet, {timing['image_size']} px, random weights: times alone, no quality. {timing['device']},"
            f" {timing['precision']}, batch {timing['batch']}."
        )
        text = as_text(time_table(timing), TIME_DECIMALS)
        write_text_table(text, TABLES / "gpu", NAME, caption=caption, findings=[fits])
    print(time_table(timing).to_string(index=False))
    print(fits)


if __name__ == "__main__":
    main()
