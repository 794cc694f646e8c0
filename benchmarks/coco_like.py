"""A folder of made-up photographs with the size, file sizes and number of segments of COCO's, for the benchmarks."""

import json
import os
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from ldmseg_lib.data.layout import find_split

SIZE = (480, 640)
SEGMENTS = 11
"""COCO's panoptic annotations have about 11 segments an image."""

DESCRIPTION = "made: 640x480, with files and segments like COCO's"


def write_folder(root: Path, *, images: int, distinct: int = 250, seed: int = 0, split: str = "val") -> None:
    """Write `images` images with panoptic annotations to `root`; beyond `distinct` they are links to earlier files."""
    (root / "images").mkdir(parents=True, exist_ok=True)
    (root / "panoptic").mkdir(exist_ok=True)
    rng = np.random.default_rng(seed)
    categories = [{"id": k, "name": f"class {k}", "isthing": int(k <= 80)} for k in range(1, 134)]
    records, annotations = [], []
    for number in tqdm(range(images), desc=f"writing {root}", unit=" images"):
        names = f"{number:012d}.jpg", f"{number:012d}.png"
        paths = root / "images" / names[0], root / "panoptic" / names[1]
        if number < distinct:
            index = _segments(rng)
            ids = np.append(0, rng.choice(1 << 24, SEGMENTS, replace=False))[index]
            Image.fromarray(_photograph(rng)).save(paths[0], quality=92)
            colours = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)
            Image.fromarray(colours).save(paths[1])
            areas = dict(zip(*(part.tolist() for part in np.unique(ids[ids > 0], return_counts=True)), strict=True))
            segments = [
                {"id": key, "category_id": int(rng.integers(1, 134)), "iscrowd": 0, "area": area}
                for key, area in areas.items()
            ]
        else:
            segments = annotations[number % distinct]["segments_info"]
            for path in paths:
                path.unlink(missing_ok=True)
                os.link(path.with_stem(f"{number % distinct:012d}"), path)
        records.append({"id": number, "file_name": names[0], "height": SIZE[0], "width": SIZE[1]})
        annotations.append({"image_id": number, "file_name": names[1], "segments_info": segments})
    document = {
        "info": {"description": DESCRIPTION},
        "images": records,
        "annotations": annotations,
        "categories": categories,
    }
    (root / f"panoptic_{split}.json").write_text(json.dumps(document))


def describe(folder: Path, split: str) -> str:
    """What results say about the data they were measured on."""
    document = json.loads(find_split(folder, split).annotations.read_bytes())
    return document.get("info", {}).get("description") or folder.name


def _smooth(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    """Noise of rows x columns values, between -1 and 1, enlarged to the size of the images."""
    noise = Image.fromarray(rng.uniform(-1, 1, (rows, columns)).astype(np.float32))
    return np.asarray(noise.resize(SIZE[::-1], Image.Resampling.BICUBIC))


def _photograph(rng: np.random.Generator) -> np.ndarray:
    """Noise whose strength falls with its frequency, as in photographs."""
    octaves = [sum(_smooth(rng, 3 << k, 4 << k) * 0.85**k for k in range(8)) for _ in range(4)]
    grey = octaves[0]
    channels = np.stack([grey + 0.35 * colour for colour in octaves[1:]], axis=-1)
    return (127 + 75 * channels).clip(0, 255).astype(np.uint8)


def _segments(rng: np.random.Generator) -> np.ndarray:
    """Places nearest to one of some centres, with frayed borders; about a tenth is void."""
    height, width = SIZE
    rows = np.arange(height)[:, None] + 25 * _smooth(rng, 12, 16) + 5 * _smooth(rng, 60, 80)
    columns = np.arange(width)[None, :] + 25 * _smooth(rng, 12, 16) + 5 * _smooth(rng, 60, 80)
    centres = rng.uniform(0, 1, (SEGMENTS, 2)) * SIZE
    distances = np.stack([(rows - y) ** 2 + (columns - x) ** 2 for y, x in centres])
    index = distances.argmin(axis=0) + 1
    index[_smooth(rng, 6, 8) > 0.5] = 0
    return index
