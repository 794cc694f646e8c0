"""Photographs, id PNGs and depth PNGs as arrays, with the oddities that real files have.

OpenCV decodes ordinary photographs: it and Pillow use libjpeg-turbo, and the pixels are the same. Ordinary id PNGs
(8-bit RGB) go through kornia-rs, a binding of Rust's png crate: one of 640x480 takes it 0.8 ms of a core, libspng
(through pyspng; whose C library is no longer maintained) 2.1 ms, OpenCV 3.4 ms and Pillow 4.3 ms. What it refuses, the
others read or name. Pillow takes everything else, and checks every file that does not end as its format says, because
decoders may return a truncated file as if it were whole.
"""

import contextlib
import io
import os
import struct
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Int, Integer, UInt8, UInt16
from kornia_rs.io import decode_image_png_u8
from PIL import Image, ImageOps

from .problems import FileFault

MAX_PIXELS = 64_000_000
"""Larger files are refused before they are decoded: a small file can claim a picture that fills the memory."""

UNKNOWN_DEPTH = 65535
ID_LIMIT = 1 << 24

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"\x00\x00\x00\x00IEND\xaeB\x60\x82"
_JPEG_END = b"\xff\xd9"
_EXIF_ORIENTATION = 0x0112
_GREY, _RGB, _PALETTE, _RGBA = 0, 2, 3, 6
_BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, MemoryError, struct.error, cv2.error, *_BOMBS)

# OpenCV's thread pool does not survive the fork of a loader's worker, and one image is too small to share
cv2.setNumThreads(1)


def read_image(path: str | os.PathLike, size: tuple[int, int] | None = None) -> UInt8[np.ndarray, "height width 3"]:
    """The photograph in `path` as RGB, whatever its own mode is (greyscale, CMYK, palette, 16 bit).

    `size` is (height, width) as the annotations say. A camera's EXIF rotation is applied where the rotated picture has
    that size (and without a `size`), else ignored: annotators may have seen either, and the size tells which.

    Raises:
        FileFault: the file is missing, truncated, no image, too large, or of another size.
    """
    data = _read(path)
    with _named(path, "an image"):
        image = _open(data, path)
        flat = (image.height, image.width)
        orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
        turned = flat[::-1] if orientation in (5, 6, 7, 8) else flat
        if size is not None and tuple(size) not in (flat, turned):
            raise FileFault(path, f"the image is {flat[1]}x{flat[0]} px, but its JSON says {size[1]}x{size[0]}")
        turn = orientation in range(2, 9) and (size is None or tuple(size) == turned)
        if turn or image.format != "JPEG" or image.mode not in ("RGB", "L") or not data.endswith(_JPEG_END):
            return as_stored(ImageOps.exif_transpose(image) if turn else image, path)
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
        if pixels is None or pixels.shape[:2] != flat:
            return as_stored(image, path)
        return pixels


def upright_rgb(image: Image.Image, name: str | os.PathLike = "the image") -> UInt8[np.ndarray, "height width 3"]:
    """A PIL image as `read_image` would read its file: RGB, upright by its EXIF data.

    Raises:
        FileFault: beginning with `name`: it has floats, or is damaged.
    """
    with _named(name, "an image"):
        return as_stored(ImageOps.exif_transpose(image), name)


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Height and width of a PIL image once it is upright."""
    turned = image.getexif().get(_EXIF_ORIENTATION, 1) in (5, 6, 7, 8)
    return (image.width, image.height) if turned else (image.height, image.width)


def exif_orientation(path: str | os.PathLike) -> tuple[int, tuple[int, int]]:
    """How a camera says that its picture in `path` is to be turned (1 is not at all, 5 to 8 by a quarter), and the
    (height, width) before that; (1, (0, 0)) where that cannot be read."""
    with contextlib.suppress(*_BROKEN), Image.open(path) as image:
        return image.getexif().get(_EXIF_ORIENTATION, 1), (image.height, image.width)
    return 1, (0, 0)


def read_ids(
    path: str | os.PathLike, size: tuple[int, int] | None, segment_ids: Int[np.ndarray, " segments"]
) -> Int[np.ndarray, "height width"]:
    """The ids of the panoptic PNG `path` of (height, width) = `size`, or any: id = R + 256 G + 65536 B, 0 unlabelled.

    Greyscale PNGs of 8 or 16 bits hold the id itself. Where a file can be read in two ways (a palette may stand for its
    colours or for its indices), the first one whose ids are all among `segment_ids` is meant, else the first.

    Raises:
        FileFault: the file is missing, truncated, no PNG, too large, or of another size.
    """
    data = _read(path)
    width, height, bits, colour = _png_header(data, path)
    if size is not None and (height, width) != tuple(size):
        raise FileFault(path, f"the PNG is {width}x{height} px, but its JSON says {size[1]}x{size[0]}")
    with _named(path, "a PNG of ids"):
        if bits == 8 and colour in (_RGB, _RGBA):
            return _ids_from_colours(_decode_colours(data, (height, width), colour, path))
        allowed = np.append(np.asarray(segment_ids, dtype=np.int64), 0)
        readings = list(_readings(data, bits, colour, path))
        return next((ids for ids in readings if np.isin(np.unique(ids), allowed).all()), readings[0])


def read_depth(path: str | os.PathLike, size: tuple[int, int]) -> UInt16[np.ndarray, "height width"]:
    """The stored values of the depth PNG `path` of (height, width) = `size`: 65535 is unknown, 0 infinitely far.

    Raises:
        FileFault: the file is missing, truncated, too large, of another size, or no 16-bit greyscale PNG.
    """
    data = _read(path)
    width, height, bits, colour = _png_header(data, path)
    if (height, width) != tuple(size):
        raise FileFault(path, f"the depth PNG is {width}x{height} px, but its JSON says {size[1]}x{size[0]}")
    if (bits, colour) != (16, _GREY):
        raise FileFault(path, f"the depth PNG has {bits} bits and colour type {colour}; write 16-bit greyscale")
    with _named(path, "a depth PNG"):
        return _decode_png(data, path)


@contextlib.contextmanager
def _named(path: str | os.PathLike, kind: str) -> Iterator[None]:
    """Turn whatever a decoder raises into a fault of the file."""
    try:
        yield
    except FileFault:
        raise
    except _BROKEN as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise FileFault(path, f"cannot be read as {kind} ({reason})") from None


def _read(path: str | os.PathLike) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        # accents may be composed in one way in the JSON and in another on the disk, as macOS does
        for form in ("NFC", "NFD"):
            other = Path(path).with_name(unicodedata.normalize(form, Path(path).name))
            if other.is_file() and not other.is_symlink():
                return other.read_bytes()
        raise FileFault(path, "no such file") from None
    except OSError as error:
        raise FileFault(path, f"cannot be read ({error.strerror or error})") from None


def _refuse_large(width: int, height: int, path: str | os.PathLike) -> None:
    if width * height > MAX_PIXELS:
        raise FileFault(path, f"{width}x{height} px are more than the {MAX_PIXELS:,} that are read; scale it down")


def _open(data: bytes, path: str | os.PathLike) -> Image.Image:
    if not data:
        raise FileFault(path, "the file is empty")
    image = Image.open(io.BytesIO(data))
    _refuse_large(image.width, image.height, path)
    return image


def as_stored(image: Image.Image, name: str | os.PathLike = "the image") -> UInt8[np.ndarray, "height width 3"]:
    """A PIL image of any mode as RGB, not turned: 16 bits are scaled, alpha is dropped.

    Raises:
        FileFault: beginning with `name`: it has floats.
    """
    if image.mode.startswith("I"):
        # Pillow would clip 16 bits at 255 instead of scaling them
        return np.repeat(eight_bits(np.asarray(image))[..., None], 3, axis=2)
    if image.mode == "F":
        raise FileFault(name, "floating-point images have no agreed range; write 8 or 16 bits")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return np.array(image.convert("RGB"))


def eight_bits(values: Integer[np.ndarray, "..."]) -> UInt8[np.ndarray, "..."]:
    """16-bit values scaled to 8 bits."""
    return (values.astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)


def _png_header(data: bytes, path: str | os.PathLike) -> tuple[int, int, int, int]:
    """Width, height, bits a channel and colour type, from the header alone."""
    if len(data) < 26 or not data.startswith(_PNG_SIGNATURE) or data[12:16] != b"IHDR":
        raise FileFault(path, "not a PNG file")
    width, height, bits, colour = struct.unpack(">IIBB", data[16:26])
    _refuse_large(width, height, path)
    return width, height, bits, colour


def _decode_png(data: bytes, path: str | os.PathLike) -> np.ndarray:
    """Samples as stored, channels in the order B, G, R(, A)."""
    if not data.endswith(_PNG_END):
        _open(data, path).load()
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        _open(data, path).load()
        raise FileFault(path, "cannot be decoded; the PNG is damaged")
    return pixels


def _decode_colours(data: bytes, size: tuple[int, int], colour: int, path: str | os.PathLike) -> np.ndarray:
    """Samples of an 8-bit PNG of `size` in the order R, G, B(, A)."""
    if data.endswith(_PNG_END):
        # kornia-rs raises nothing narrower; the decoders below say what is wrong, or read the file
        with contextlib.suppress(Exception):
            return decode_image_png_u8(data, size, "rgb" if colour == _RGB else "rgba")
    pixels = _decode_png(data, path)
    return cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGBA if pixels.shape[2] == 4 else cv2.COLOR_BGR2RGB)


def _ids_from_colours(colours: np.ndarray) -> np.ndarray:
    rgba = colours if colours.shape[2] == 4 else cv2.cvtColor(colours, cv2.COLOR_RGB2RGBA)
    ids = rgba.view("<u4")[..., 0]
    return np.bitwise_and(ids, ID_LIMIT - 1, out=ids).view(np.int32)


def _readings(data: bytes, bits: int, colour: int, path: str | os.PathLike) -> Iterator[np.ndarray]:
    """What an unusual PNG may mean, the likeliest first."""
    if colour == _PALETTE:
        image = _open(data, path)
        yield _ids_from_colours(np.array(image.convert("RGB")))
        yield np.array(image).astype(np.int32)
        return
    pixels = _decode_png(data, path).astype(np.int32)
    if colour in (_RGB, _RGBA):
        scale = 257 if pixels[..., :3].max(initial=0) > 255 else 1
        if (pixels[..., :3] % scale).any():
            raise FileFault(path, "16-bit colours that are no 8-bit values; write ids as 8-bit RGB")
        yield _ids_from_colours((pixels[..., :3] // scale).astype(np.uint8)[..., ::-1].copy())
        return
    grey = pixels if pixels.ndim == 2 else pixels[..., 0]
    if bits < 8:
        grey = grey // (255 // ((1 << bits) - 1))
    yield grey
    if bits == 8:
        yield grey * 65793
