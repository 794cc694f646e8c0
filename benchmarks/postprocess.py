"""Post-processing from the decoder's logits to the panoptic map, beside the supplement's NumPy procedure.

    python benchmarks/postprocess.py [--autoencoder FOLDER | --logits FILE.safetensors] [--device cuda]

128 mask channels and 134 classes at 256x256, to ids at 512x512, on one thread. The supplement's procedure is its
pseudo-code with the slips mended, after resizing both sets of logits with torch. Peak memory is measured in processes
of their own (Linux only) and counts everything beyond the logits that are given. On a GPU the same code runs there and
times include the wait for it.

Logits are random (two kinds), and with `--autoencoder` those of a trained mask autoencoder of at least 134 ids that
encoded a made-up map at twice the logits' resolution (benchmarks/train_autoencoder.py trains one); `--logits` takes
tensors `mask_logits` and `semantic_logits` instead.
"""

import argparse
import math
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from ldmseg_lib.core.files import write_json
from ldmseg_lib.core.machine import device_name, package_versions
from ldmseg_lib.core.paths import ROOT
from ldmseg_lib.pipeline.postprocess import postprocess_panoptic

MASKS, CLASSES, LOW, SIZE = 128, 134, 256, (512, 512)
THRESHOLD, MIN_AREA = 0.5, 512
SUPPLEMENT_SECONDS, PAINTER_SECONDS = 0.024, (0.5, 0.7)


def supplement(mask_logits: Tensor, semantic_logits: Tensor) -> tuple[np.ndarray, dict[int, int]]:
    """The pseudo-code of Supplement A on resized arrays: arg max twice, then one segment after another."""
    masks, classes = (
        F.interpolate(logits[None], SIZE, mode="bilinear", align_corners=False)[0].cpu().numpy()
        for logits in (mask_logits, semantic_logits)
    )
    panoptic = np.argmax(masks, axis=0)
    semantic = np.argmax(classes, axis=0)
    exponentials = np.exp(masks - masks.max(axis=0))
    panoptic[1 / exponentials.sum(axis=0) < THRESHOLD] = 0
    categories = {}
    for segment_id in np.unique(panoptic):
        mask = panoptic == segment_id
        votes = np.bincount(semantic[mask], minlength=CLASSES)
        votes[0] = 0
        if segment_id == 0 or mask.sum() < MIN_AREA or votes.max() == 0:
            panoptic[mask] = 0
            continue
        categories[int(segment_id)] = int(np.argmax(votes))
    return panoptic, categories


def ours(mask_logits: Tensor, semantic_logits: Tensor) -> tuple[np.ndarray, dict[int, int]]:
    """The library's function, with its result brought to the host."""
    panoptic, categories = postprocess_panoptic(
        mask_logits, semantic_logits, size=SIZE, threshold=THRESHOLD, min_area=MIN_AREA
    )
    return panoptic.cpu().numpy(), categories


def random_logits(kind: str) -> tuple[Tensor, Tensor]:
    """ "noise": independent at every position, nothing is easy; "regions": smooth fields, as of large segments."""
    generator = torch.Generator().manual_seed(0)
    if kind == "noise":
        return tuple(5 * torch.randn(channels, LOW, LOW, generator=generator) for channels in (MASKS, CLASSES))
    fields = (torch.randn(1, channels, 32, 32, generator=generator) for channels in (MASKS, CLASSES))
    return tuple(8 * F.interpolate(field, (LOW, LOW), mode="bicubic")[0] for field in fields)


def autoencoder_logits(folder: Path) -> tuple[Tensor, Tensor]:
    """Logits of a trained autoencoder for a map of 24 segments with random ids, and for one of their classes."""
    from ldmseg_lib.models.autoencoder import MaskAutoencoder

    model = MaskAutoencoder.from_pretrained(folder).eval()
    num_ids = model.config.num_ids
    if num_ids < CLASSES:
        raise SystemExit(f"{folder}: an autoencoder of {num_ids} ids; train one of at least {CLASSES}")
    generator = np.random.default_rng(0)
    rows, columns = np.indices(SIZE)
    centres = generator.uniform(0, SIZE[0], (24, 2))
    frayed = 12 * np.stack([cv2.resize(generator.normal(size=(40, 40)), SIZE[::-1]) for _ in range(2)])
    distances = [(rows + frayed[0] - y) ** 2 + (columns + frayed[1] - x) ** 2 for y, x in centres]
    segment = np.argmin(distances, axis=0)
    maps = (
        (generator.choice(np.arange(1, MASKS), 24, replace=False)[segment], MASKS),
        (generator.integers(1, CLASSES, 24)[segment], CLASSES),
    )
    with torch.inference_mode():
        decoded = [
            (model.decode(model.encode(torch.from_numpy(ids)[None]).mean)[0, :channels], ids) for ids, channels in maps
        ]
    right = [
        float((F.interpolate(x[None], SIZE, mode="bilinear")[0].argmax(0).numpy() == ids).mean()) for x, ids in decoded
    ]
    print(f"the autoencoder gives back {right[0]:.1%} of the instance map and {right[1]:.1%} of the class map")
    return decoded[0][0].clone(), decoded[1][0].clone()


def seconds(actions: Sequence[Callable[[], object]], rounds: int, on_cpu: bool) -> list[float]:
    """Best time of each action, in rounds of all of them: processor time on the CPU, wall time elsewhere.

    The best, because whatever else the machine does only adds to it.
    """
    clock = time.process_time if on_cpu else time.perf_counter
    best = [math.inf] * len(actions)
    for _ in range(rounds):
        for index, action in enumerate(actions):
            start = clock()
            action()
            best[index] = min(best[index], clock() - start)
    return best


def _status(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024


def _extra_mebibytes(method: Callable, logits: tuple[Tensor, Tensor], queue: Any) -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    small = tuple(x[:, :8, :8].clone() for x in logits)
    postprocess_panoptic(*small, size=(16, 16))
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    method(*logits)
    queue.put(_status("VmHWM") - before)


def peak_memory(method: Callable, logits: tuple[Tensor, Tensor]) -> float:
    """Mebibytes beyond the logits, in a fresh process."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_extra_mebibytes, args=(method, tuple(x.cpu() for x in logits), queue))
    process.start()
    value = queue.get()
    process.join()
    return value


def compare(logits: tuple[Tensor, Tensor], rounds: int) -> dict[str, Any]:
    """Time, memory and agreement of the two."""
    on_cpu = logits[0].device.type == "cpu"
    expected, expected_categories = supplement(*logits)
    panoptic, categories = ours(*logits)
    slow, fast = seconds([lambda: supplement(*logits), lambda: ours(*logits)], rounds, on_cpu)
    result = {
        "segments": len(categories),
        "pixels that differ": int((panoptic != expected).sum()),
        "same categories": categories == expected_categories,
        "supplement's procedure (s)": slow,
        "ours (s)": fast,
        "times as fast": slow / fast,
    }
    if on_cpu:
        result["supplement's procedure (MiB)"] = peak_memory(supplement, logits)
        result["ours (MiB)"] = peak_memory(ours, logits)
        result["share of the memory"] = result["ours (MiB)"] / result["supplement's procedure (MiB)"]
    return result


def main() -> None:
    """Measure, print, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--autoencoder", type=Path, help="folder of a trained MaskAutoencoder")
    source.add_argument("--logits", type=Path, help="safetensors with mask_logits and semantic_logits")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    load = os.getloadavg()[0]
    cases = {kind: random_logits(kind) for kind in ("noise", "regions")}
    if options.autoencoder:
        cases["trained autoencoder"] = autoencoder_logits(options.autoencoder)
    if options.logits:
        tensors = load_file(options.logits)
        cases[options.logits.name] = (tensors["mask_logits"], tensors["semantic_logits"])
    measured = {
        name: compare(tuple(x.to(options.device) for x in logits), options.rounds) for name, logits in cases.items()
    }
    device = device_name() if options.device != "cpu" else f"{device_name()}, one thread"
    output = options.output or ROOT / "benchmarks" / "results" / f"postprocess_{torch.device(options.device).type}.json"
    write_json(
        output,
        {
            "device": device,
            "load before": load,
            "packages": package_versions(),
            "task": f"{MASKS} masks and {CLASSES} classes of {LOW}x{LOW} to {SIZE[0]}x{SIZE[1]}",
            "supplement states (s, RTX 4090 machine)": SUPPLEMENT_SECONDS,
            "supplement states for Painter (s, 448 and 560 px)": PAINTER_SECONDS,
            **measured,
        },
    )
    for name, values in measured.items():
        print(name)
        for key, value in values.items():
            print(f"  {key:32s} {value:10.3f}" if isinstance(value, float) else f"  {key:32s} {value!s:>10}")
    print(f"device: {device}; load before: {load:.1f}")
    print(f"the supplement states {SUPPLEMENT_SECONDS} s for its own and {PAINTER_SECONDS} s for Painter's")


if __name__ == "__main__":
    main()
