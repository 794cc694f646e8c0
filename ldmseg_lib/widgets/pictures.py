"""Pictures for the editor: what may be opened, the colours of segments, and the picture for papermill."""

import io
import warnings
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from ..core.errors import InputError
from .raster import MAX_SIDE

MAX_MEGAPIXELS = 64
PHOTO_SIDE = 1024
Photo = UInt8[np.ndarray, "height width 3"]

# Okabe and Ito's colours for colour-blind readers (https://jfly.uni-koeln.de/color/), without black, with two of Tol's,
# then the same hues lighter and darker. Void has no colour.
_HUES = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7", "#882255", "#44aa99")


def _mix(colour: str, other: int, share: float) -> str:
    parts = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(part + (other - part) * share):02x}" for part in parts)


PALETTE = (*_HUES, *(_mix(c, 255, 0.45) for c in _HUES), *(_mix(c, 0, 0.4) for c in _HUES))


def as_photo(image: Any) -> Photo:
    """`image` as uint8 [height, width, 3].

    Args:
        image: a PIL image; uint8 [height, width, 3] or [height, width]; or floats in [0, 1], [3, height, width] or
            [height, width, 3], as an array or a tensor.

    Raises:
        InputError: it is none of these, or a side is longer than 4096 pixels.
    """
    if isinstance(image, Image.Image):
        image = image.convert("RGB")
    array = np.asarray(image)
    if array.dtype.kind == "f" and array.ndim == 3 and array.shape[0] == 3:
        array = array.transpose(1, 2, 0)
    if array.ndim == 2:
        array = np.repeat(array[..., None], 3, axis=2)
    if array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise InputError(f"the image must be [height, width, 3] uint8 or [3, height, width] floats, not {array.shape}")
    if array.dtype.kind == "f":
        if not np.isfinite(array).all() or array.min() < 0 or array.max() > 1:
            raise InputError("an image of floats must have values from 0 to 1")
        array = np.round(array * 255).astype(np.uint8)
    if array.dtype != np.uint8:
        raise InputError(f"the image must be uint8, or floats from 0 to 1, not {array.dtype}")
    if max(array.shape[:2]) > MAX_SIDE:
        raise InputError(f"the image is {array.shape[1]} x {array.shape[0]}; sides may have up to {MAX_SIDE} pixels")
    return np.ascontiguousarray(array)


def as_ids(ids: Any, photo: Photo, num_ids: int | None) -> Int[np.ndarray, "height width"]:
    """`ids` as int32 [height, width], checked against the photo's size and the number of ids.

    Raises:
        InputError: not whole numbers, another size than the image, or outside 0..num_ids - 1 (0..2**24 - 1 if None).
    """
    array = np.asarray(ids)
    if array.ndim != 2 or array.dtype.kind not in "iu":
        raise InputError(f"ids must be whole numbers [height, width], not {array.dtype} {array.shape}")
    if array.shape != photo.shape[:2]:
        raise InputError(
            f"image and ids differ in size: the image is {photo.shape[1]} x {photo.shape[0]} pixels, "
            f"the ids are {array.shape[1]} x {array.shape[0]}; resize one to the other (ids by nearest neighbour)"
        )
    top = 2**24 if num_ids is None else num_ids
    if array.min() < 0 or array.max() >= top:
        wrong = array.min() if array.min() < 0 else array.max()
        whose = "COCO's PNGs hold" if num_ids is None else "this model knows"
        raise InputError(f"id {wrong} is out of range: {whose} 0 (void) to {top - 1}; renumber the segments")
    return array.astype(np.int32)


def read_picture(data: bytes, name: str = "the upload") -> Photo:
    """The picture in a file's bytes as uint8 [height, width, 3], upright (EXIF orientation applied).

    Raises:
        InputError: not an image, damaged, or above 64 megapixels (seen before any pixel is decoded).
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data)) as image:
                width, height = image.size
                if width * height > MAX_MEGAPIXELS * 10**6:
                    raise _too_large(name, f"{width} x {height} = {width * height / 1e6:.0f} megapixels")
                return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except UnidentifiedImageError:
        raise InputError(f"{name} is not an image; choose a JPEG, PNG or WebP file") from None
    except Image.DecompressionBombError:
        raise _too_large(name, "far more megapixels") from None
    except (OSError, SyntaxError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{name} is damaged and cannot be read ({error}); save it again or choose another") from None


def _too_large(name: str, size: str) -> InputError:
    return InputError(f"{name} has {size}; the editor takes up to {MAX_MEGAPIXELS}: make it smaller first")


def shrink(photo: Photo, side: int) -> Photo:
    """The photo with at most `side` pixels a side, its aspect kept; as it is where it is small enough."""
    height, width = photo.shape[:2]
    if max(height, width) <= side:
        return photo
    share = side / max(height, width)
    size = (max(1, round(width * share)), max(1, round(height * share)))
    return np.asarray(Image.fromarray(photo).resize(size, Image.Resampling.LANCZOS))


def png_bytes(array: np.ndarray) -> bytes:
    """A PNG file of uint8 or uint16 pixels."""
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


def photo_file(photo: Photo) -> bytes:
    """The photo for the page: lossless while small, JPEG above 400,000 pixels."""
    if photo.shape[0] * photo.shape[1] <= 400_000:
        return png_bytes(photo)
    file = io.BytesIO()
    Image.fromarray(photo).save(file, "JPEG", quality=92)
    return file.getvalue()


def colours_of(ids: Int[np.ndarray, "height width"], colours: dict[int, str]) -> UInt8[np.ndarray, "height width 3"]:
    """The colour of each pixel's segment; black where an id has none."""
    present, index = np.unique(ids, return_inverse=True)
    table = [bytes.fromhex(colours.get(int(i), "#000000")[1:]) for i in present]
    return np.array([list(c) for c in table], np.uint8)[index.reshape(ids.shape)]


def static_picture(
    photo: Photo,
    ids: Int[np.ndarray, "height width"],
    region: Bool[np.ndarray, "height width"],
    colours: dict[int, str],
) -> bytes:
    """A JPEG of the editor's picture: segments over the photo with outlines, the hidden region striped. For print and
    for notebooks that ran without a browser."""
    scale = max(1, -(-384 // max(ids.shape)))
    large = [np.repeat(np.repeat(a, scale, axis=0), scale, axis=1) for a in (photo, ids, region)]
    photo, ids, region = large[0].astype(np.float32), large[1], large[2]
    shown = (ids > 0) & ~region
    picture = np.where(shown[..., None], 0.5 * photo + 0.5 * colours_of(ids, colours), photo)
    rows, columns = np.indices(ids.shape)
    stripes = ((rows + columns) // 6) % 2 == 0
    picture[region] = 0.55 * picture[region] + 0.45 * np.where(stripes, 255, 40)[region][:, None]
    parts = np.where(region, -1, ids)
    edge = np.zeros(ids.shape, bool)
    edge[:, 1:] |= parts[:, 1:] != parts[:, :-1]
    edge[1:] |= parts[1:] != parts[:-1]
    picture[edge] = 255
    file = io.BytesIO()
    Image.fromarray(picture.round().astype(np.uint8)).save(file, "JPEG", quality=85)
    return file.getvalue()
