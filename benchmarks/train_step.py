"""One training step of the paper's network at full size: images a second, share of the chip's rate, memory.

    python benchmarks/train_step.py [--device cuda] [--card-gib 40] [--tiny]

Stable Diffusion v1.4's UNet, DINOv2 ViT-B/14 and the mask autoencoder with random weights, 512 px, the objective and
the optimiser of the `paper` profile in bf16. For each way to run it (gradient checkpointing or not, torch.compile or
not) the largest batch that fits a card of 40 GiB and the whole card is searched for, and timed; beside it stands what
`python -m ldmseg_lib.training --estimate` says. The chip's rate is measured here too, on a large matrix product.
`--tiny` tries the script itself on small networks, on a CPU if need be.
"""

import argparse
import dataclasses
import gc
import time
from collections.abc import Callable
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from tqdm.auto import tqdm

from ldmseg_lib.core.files import write_json
from ldmseg_lib.core.machine import device_name, package_versions
from ldmseg_lib.core.paths import ROOT
from ldmseg_lib.core.profiles import Profile
from ldmseg_lib.experiments.estimate import memory_of
from ldmseg_lib.experiments.fake_networks import DiffusionNetworks
from ldmseg_lib.experiments.full_size import random_pipeline
from ldmseg_lib.experiments.step_cost import without_content
from ldmseg_lib.training.diffusion import DiffusionObjective

GIB = 2**30
WARM_UP, TIMED = 3, 10


def synchronise(device: str) -> None:
    """Wait for the device."""
    if device == "cuda":
        torch.cuda.synchronize()


def measured_rate(device: str, *, tiny: bool) -> float:
    """FLOP/s of a bf16 matrix product: what the chip gives at best."""
    size = 256 if tiny else 8192
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    best = 0.0
    for _ in range(5):
        synchronise(device)
        started = time.perf_counter()
        for _ in range(10):
            a @ b
        synchronise(device)
        best = max(best, 10 * 2 * size**3 / (time.perf_counter() - started))
    return best


class Step:
    """A training step of the paper's objective, everything included but the loading of data."""

    def __init__(self, profile: Profile, device: str, *, checkpointing: bool, compiled: bool, tiny: bool) -> None:
        parts = random_pipeline("vit", tiny=tiny)
        if checkpointing:
            parts.denoiser.unet.enable_gradient_checkpointing()
        parts.denoiser.unet.time_embedding.requires_grad_(profile.denoiser.train_time_embedding)
        parts.image_encoder.backbone.requires_grad_(profile.image_encoder.trainable)
        self.objective = DiffusionObjective(
            parts.denoiser, parts.image_encoder, {"mask": parts.autoencoder}, profile.diffusion
        )
        self.objective.to(device, memory_format=torch.channels_last).train()
        if compiled:
            parts.denoiser.unet.compile()
        self.learned = [p for p in self.objective.trained.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.learned, lr=1e-4, weight_decay=0.05, fused=True)
        self.ema = EMAModel(self.learned, decay=0.999, foreach=True)
        self.device, self.size = device, parts.config.image_size

    def batch(self, images: int) -> dict[str, Any]:
        """Noise for images, blocks for ids."""
        ids = torch.arange(64).reshape(8, 8).repeat_interleave(self.size // 8, 0).repeat_interleave(self.size // 8, 1)
        maps = ids.expand(images, -1, -1).to(self.device)
        return {
            "image": torch.rand(images, 3, self.size, self.size, device=self.device),
            "ids": maps,
            "semantic": maps,
            "image_id": list(range(images)),
            "visit": [0] * images,
        }

    def __call__(self, batch: dict[str, Any]) -> None:
        images = len(batch["image_id"])
        with torch.autocast(self.device, torch.bfloat16):
            loss = self.objective(batch, {"images": images})["loss"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.learned, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.step(self.learned)


def fits(step: Step, images: int) -> bool:
    """Whether two steps go through."""
    try:
        batch = step.batch(images)
        for _ in range(2):
            step(batch)
    except torch.OutOfMemoryError:
        return False
    finally:
        step.optimizer.zero_grad(set_to_none=True)
        gc.collect()
        if step.device == "cuda":
            torch.cuda.empty_cache()
    return True


def largest(works: Callable[[int], bool], *, limit: int) -> int:
    """The largest number up to `limit` that works, by doubling and then halving the gap; 0 if not even 1 does."""
    good, bad = 0, 1
    while bad <= limit and works(bad):
        good, bad = bad, 2 * bad
    bad = min(bad, limit + 1)
    while bad - good > max(1, good // 16):
        middle = (good + bad) // 2
        good, bad = (middle, bad) if works(middle) else (good, middle)
    return good


def timed(step: Step, images: int) -> dict[str, float]:
    """Images a second and peak memory at a batch of `images`."""
    batch = step.batch(images)
    for _ in range(WARM_UP):
        step(batch)
    if step.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    synchronise(step.device)
    started = time.perf_counter()
    for _ in tqdm(range(TIMED), desc=f"batch of {images}", leave=False):
        step(batch)
    synchronise(step.device)
    seconds = (time.perf_counter() - started) / TIMED
    peak = torch.cuda.max_memory_allocated() / GIB if step.device == "cuda" else 0.0
    return {"batch": images, "images_per_second": images / seconds, "peak_gib": peak}


def estimated(profile: Profile, images: int, *, checkpointing: bool) -> tuple[float, float]:
    """FLOPs of an image and GiB of a step, as `--estimate` counts them."""
    with without_content():
        networks = DiffusionNetworks(profile, list(profile.diffusion.tasks), checkpointing=checkpointing)
        cost = networks.step(images, precision="bf16", self_condition=True)
        memory = memory_of(networks, profile.diffusion.training, cost.peak_bytes, processes=1)
        return cost.flops / images, memory.total / GIB


def main() -> None:
    """Measure every way, print, and write benchmarks/results/train_step.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--card-gib", type=float, default=40.0)
    parser.add_argument("--limit", type=int, default=512, help="no batch larger than this")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--no-compile", action="store_true")
    options = parser.parse_args()
    device, profile = options.device, Profile.load("paper")
    rate = measured_rate(device, tiny=options.tiny)
    rows = []
    for compiled in (False,) if options.no_compile else (False, True):
        for checkpointing in (True, False):
            for card in (options.card_gib, None) if device == "cuda" else (None,):
                if device == "cuda":
                    total = torch.cuda.get_device_properties(0).total_memory
                    torch.cuda.set_per_process_memory_fraction(min(1.0, (card or 1e9) * GIB / total))
                step = Step(profile, device, checkpointing=checkpointing, compiled=compiled, tiny=options.tiny)
                most = largest(lambda images, step=step: fits(step, images), limit=options.limit)
                row: dict[str, Any] = {"checkpointing": checkpointing, "compiled": compiled, "card_gib": card}
                if most:
                    row |= timed(step, most)
                    if not options.tiny:
                        flops, gib = estimated(profile, most, checkpointing=checkpointing)
                        row |= {"estimated_gib": gib, "share_of_rate": flops * row["images_per_second"] / rate}
                rows.append(row)
                print(row, flush=True)
                del step
                gc.collect()
                if device == "cuda":
                    torch.cuda.empty_cache()
    record = {
        "device": device_name(),
        "versions": package_versions(),
        "measured_bf16_flops": rate,
        "tiny": options.tiny,
        "training": dataclasses.asdict(profile.diffusion.training),
        "rows": rows,
    }
    if not options.tiny:
        write_json(ROOT / "benchmarks" / "results" / "train_step.json", record)


if __name__ == "__main__":
    main()
