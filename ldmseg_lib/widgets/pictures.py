"""Images of the editor: reading and checking them, and the static picture for runs without a browser."""

import io
import warnings
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Bool, Int, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from ..core.errors import InputError
from ..data.pixels import as_stored, eight_bits, upright_rgb
from .raster import MAX_SIDE

MAX_MEGAPIXELS = 64
PHOTO_SIDE = 1024
Photo = UInt8[np.ndarray, "height width 3"]


def as_photo(image: Any) -> Photo:
    """`image` as uint8 [height, width, 3].

    Args:
        image: a PIL image; uint8 [height, width, 3] or [height, width]; or floats in [0, 1], [3, height, width] or
            [height, width, 3], as an array or a tensor.

    Raises:
        InputError: it is none of these, or a side is longer than 4096 pixels.
    """
    if isinstance(image, Image.Image):
        image = upright_rgb(image)
    array = np.asarray(image)
    if array.dtype == np.uint16:
        array = eight_bits(array)
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


def as_ids(ids: Any, photo: Photo) -> Int[np.ndarray, "height width"]:
    """`ids` as int32 [height, width], checked against the photo's size.

    Raises:
        InputError: not whole numbers, another size than the image, or outside 0..2**24 - 1.
    """
    array = np.asarray(ids)
    if array.ndim != 2 or array.dtype.kind not in "iu":
        raise InputError(f"ids must be whole numbers [height, width], not {array.dtype} {array.shape}")
    if array.shape != photo.shape[:2]:
        raise InputError(
            f"image and ids differ in size: the image is {photo.shape[1]} x {photo.shape[0]} pixels, "
            f"the ids are {array.shape[1]} x {array.shape[0]}; resize one to the other (ids by nearest neighbour)"
        )
    if array.min() < 0 or array.max() >= 2**24:
        wrong = array.min() if array.min() < 0 else array.max()
        raise InputError(f"id {wrong} is out of range: COCO's PNGs hold 0 (void) to {2**24 - 1}; renumber the segments")
    return array.astype(np.int32)


def renumber(
    ids: Int[np.ndarray, "height width"], num_ids: int | None
) -> tuple[Int[np.ndarray, "height width"], dict[int, int]]:
    """Ids below `num_ids`, and the original id of each; the dict is empty when all ids were below it already.

    Raises:
        InputError: there are more segments than the model has ids.
    """
    if num_ids is None or ids.max() < num_ids:
        return ids, {}
    originals = np.unique(ids[ids > 0])
    if len(originals) >= num_ids:
        raise InputError(f"{len(originals)} segments are too many: this model knows {num_ids - 1}; merge some first")
    numbers = np.where(ids > 0, np.searchsorted(originals, ids) + 1, 0).astype(np.int32)
    return numbers, dict(enumerate(originals.tolist(), start=1))


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
                return as_stored(ImageOps.exif_transpose(image), name)
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
    """The photo with at most `side` pixels a side, its aspect kept; unchanged where it is small enough."""
    picture = Image.fromarray(photo)
    picture.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=None)
    return np.asarray(picture)


def image_file(array: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    """The bytes of an image file of uint8 or uint16 pixels."""
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind, **options)
    return file.getvalue()


def photo_file(photo: Photo) -> bytes:
    """The photo for the page: lossless while small, JPEG above 400,000 pixels."""
    small = photo.shape[0] * photo.shape[1] <= 400_000
    return image_file(photo) if small else image_file(photo, "JPEG", quality=92)


def static_picture(
    photo: Photo,
    ids: Int[np.ndarray, "height width"],
    region: Bool[np.ndarray, "height width"],
    colors: dict[int, str],
) -> bytes:
    """A JPEG of the editor's picture for print and for notebooks without a browser: segments over the photo with
    outlines, the hidden region striped."""
    scale = max(1, -(-384 // max(ids.shape)))
    photo, ids, region = (a.repeat(scale, axis=0).repeat(scale, axis=1) for a in (photo, ids, region))
    names, index = np.unique(ids, return_inverse=True)
    table = np.array([matplotlib.colors.to_rgb(colors.get(name, "black")) for name in names.tolist()])
    share = 0.5 * ((ids > 0) & ~region)[..., None]
    picture = (1 - share) * photo + share * 255 * table[index.reshape(ids.shape)]
    stripes = np.where(np.indices(ids.shape).sum(0) // 6 % 2 == 0, 255, 40)
    picture[region] = 0.55 * picture[region] + 0.45 * stripes[region][:, None]
    parts = np.where(region, -1, ids)
    edge = np.zeros(ids.shape, bool)
    edge[:, 1:] |= parts[:, 1:] != parts[:, :-1]
    edge[1:] |= parts[1:] != parts[:-1]
    picture[edge] = 255
    return image_file(picture.round().astype(np.uint8), "JPEG", quality=85)
