"""How long the check of a folder of 5,000 COCO-sized images takes: at most 120 s on two cores is the goal.

    python benchmarks/data_check.py [--folder COCO --split val] [--workers 2]

Without a folder, one is made in a temporary place. Both seconds on the clock and of processor time are stated, because
other work on the machine lengthens the first.
"""

import argparse
import tempfile
import time
from pathlib import Path

from coco_like import describe, write_folder

from ldmseg_lib.core.files import write_json
from ldmseg_lib.core.machine import device_name, package_versions
from ldmseg_lib.core.paths import ROOT
from ldmseg_lib.data.annotations import load_annotations
from ldmseg_lib.data.check import check_dataset
from ldmseg_lib.data.layout import find_split

GOAL_SECONDS = 120


def main() -> None:
    """Measure, print, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="a COCO panoptic folder (default: one that is made)")
    parser.add_argument("--split", default="val")
    parser.add_argument("--images", type=int, default=5000, help="images of the folder that is made")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "data_check.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        if options.folder is None:
            write_folder(folder, images=options.images, split=options.split)
        clock, processor = time.perf_counter(), time.process_time()
        problems = check_dataset(folder, options.split, workers=options.workers, progress=True)
        clock, processor = time.perf_counter() - clock, time.process_time() - processor
        data = describe(folder, options.split)
        images = len(load_annotations(find_split(folder, options.split)))
    result = {
        "device": device_name(),
        "packages": package_versions(),
        "data": data,
        "images": images,
        "workers": options.workers,
        "seconds": round(clock, 1),
        "processor seconds": round(processor, 1),
        "goal, seconds for 5,000 images on two cores": GOAL_SECONDS,
        "faults": len(problems),
    }
    write_json(options.output, result)
    print(
        f"{images} images, {len(problems)} faults: {clock:.1f} s, {processor:.1f} s of processor time ({device_name()})"
    )


if __name__ == "__main__":
    main()
