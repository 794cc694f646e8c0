"""Files of labels and of single masks as arrays: palettes, greys, alpha, and JPEGs that blur a mask's edge."""

from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int32
from PIL import Image, UnidentifiedImageError

from .findings import Findings, SourceFault

_UNREADABLE = "masks that cannot be used"


def read_labels(path: Path, size: tuple[int, int]) -> Int32[np.ndarray, "height width"]:
    """The values of a palette or greyscale image of (height, width) = `size`, not its colours.

    Raises:
        DatasetError: it is missing, no image, of another size, or has colours.
    """
    image = open_mask(path, size)
    if image.mode not in ("P", "L", "1") and not image.mode.startswith("I"):
        raise SourceFault(
            _UNREADABLE,
            f"{path}: has colours ({image.mode}) where numbers are needed; save it with a palette or grey",
        )
    return np.array(image).astype(np.int32)


def open_mask(path: Path, size: tuple[int, int]) -> Image.Image:
    """The image in `path`, of (height, width) = `size`.

    Raises:
        DatasetError: it is missing, no image, or of another size.
    """
    try:
        with Image.open(path) as image:
            if (image.height, image.width) == size:
                image.load()
                return image.copy()
            found = f"{image.width}x{image.height}"
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split())
        raise SourceFault(_UNREADABLE, f"{path}: cannot be read as an image ({reason})") from None
    raise SourceFault(_UNREADABLE, f"{path}: the mask is {found} px, its photograph {size[1]}x{size[0]}")


def read_mask(path: Path, size: tuple[int, int], findings: Findings) -> Bool[np.ndarray, "height width"]:
    """The mask in `path`: what is not zero; the alpha channel where that varies; half the range in a JPEG.

    Raises:
        DatasetError: it is missing, no image, of another size, or has more values than a mask.
    """
    image = open_mask(path, size)
    values = _mask_values(image, findings)
    levels = np.unique(values)
    lossy = path.suffix.lower() in (".jpg", ".jpeg", ".webp") and levels[-1] > 0
    if lossy and levels[-1] < 64:
        raise SourceFault(
            _UNREADABLE,
            f"{path}: values up to {levels[-1]} in a lossy format cannot be told from its noise; save masks as PNG",
        )
    if len(levels) <= 2 and levels[0] == 0:
        return values > 0
    if len(levels) == 1:
        return np.ones(size, bool)
    low, high = 0 if lossy else int(levels[0]), int(levels[-1])
    share = (values.astype(np.float64) - low) / (high - low)
    between = ((share > 0.1) & (share < 0.9)).sum()
    # a soft edge has few pixels of its own; a map of several objects has its numbers everywhere
    if not lossy and len(levels) > 2 and between > 0.25 * (share > 0.1).sum():
        raise SourceFault(
            _UNREADABLE,
            f"{path}: has {len(levels)} values from {low} to {high} where a mask has two; is it a map of several"
            " objects (see the format voc)?",
        )
    findings.remark("masks of other values than two (JPEG or a soft edge), cut at half")
    return share >= 0.5


def _mask_values(image: Image.Image, findings: Findings) -> np.ndarray:
    if image.mode == "P" and "transparency" not in image.info:
        colours = np.array(image.convert("RGB")).max(-1)
        # a palette of one colour says nothing; its indices do
        return colours if len(np.unique(colours)) > 1 else np.array(image)
    if image.mode.startswith("I") or image.mode in ("1", "L", "F"):
        return np.array(image)
    if image.mode in ("RGBA", "LA", "PA", "P"):
        pixels = np.array(image.convert("RGBA"))
        if np.ptp(pixels[..., 3]):
            findings.remark("masks read from their alpha channel")
            return pixels[..., 3]
        return pixels[..., :3].max(-1)
    return np.array(image.convert("RGB")).max(-1)
