import io
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from ldmseg_lib.core.errors import DatasetError
from ldmseg_lib.data import pixels
from ldmseg_lib.data.pixels import read_depth, read_ids, read_image
from tests.data.folders import colours, smooth_noise

PICTURE = smooth_noise(20, 30)
IDS = np.array([[0, 5, 300, 70000], [(1 << 24) - 1, 5, 0, 256]])


def _with_pillow(path):
    return np.asarray(Image.open(path).convert("RGB"))


@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_ordinary_jpegs_are_what_pillow_gives(tmp_path, subsampling):
    path = tmp_path / "a.jpg"
    Image.fromarray(PICTURE).save(path, quality=85, subsampling=subsampling)
    difference = read_image(path).astype(int) - _with_pillow(path)
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGB"])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpegs_of_every_mode_become_rgb(tmp_path, mode, progressive):
    path = tmp_path / "a.jpg"
    Image.fromarray(PICTURE).convert(mode).save(path, quality=95, progressive=progressive)
    read = read_image(path, (20, 30))
    assert read.dtype == np.uint8
    expected = Image.fromarray(PICTURE).convert(mode).convert("RGB")
    assert np.abs(read.astype(int) - np.asarray(expected)).mean() < 6


def test_inverted_cmyk_of_adobe_is_not_a_negative(tmp_path):
    """Photoshop stores CMYK inverted and says so in an Adobe marker; a decoder that misses it gives the negative."""
    bright = np.full((16, 16, 3), 230, dtype=np.uint8)
    path = tmp_path / "a.jpg"
    Image.fromarray(bright).convert("CMYK").save(path, quality=95)
    assert b"Adobe" in path.read_bytes()
    assert abs(int(read_image(path).mean()) - 230) < 5


@pytest.mark.parametrize("mode", ["P", "RGBA", "LA", "1", "I;16"])
def test_pngs_of_every_mode_serve_as_photographs(tmp_path, mode):
    path = tmp_path / "a.png"
    if mode == "I;16":
        grey = np.arange(600, dtype=np.uint16).reshape(20, 30) * 109
        Image.fromarray(grey).save(path)
        expected = np.repeat((grey >> 8).astype(np.uint8)[..., None], 3, axis=2)
    else:
        Image.fromarray(PICTURE).convert(mode).save(path)
        expected = np.asarray(Image.open(path).convert("RGB"))
    np.testing.assert_array_equal(read_image(path, (20, 30)), expected)


def test_sixteen_bit_colour_keeps_its_range(tmp_path):
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), PICTURE[..., ::-1].astype(np.uint16) * 257)
    np.testing.assert_array_equal(read_image(path), PICTURE)


def _save_with_orientation(path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(PICTURE).save(path, quality=95, exif=exif)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_the_json_decides_whether_a_photograph_is_turned(tmp_path, orientation):
    path = tmp_path / "a.jpg"
    _save_with_orientation(path, orientation)
    flat = read_image(path, (20, 30))
    assert np.abs(flat.astype(int) - PICTURE).mean() < 6
    turned = read_image(path, (30, 20))
    transpose = {5: (1, 1), 6: (-1, 0), 7: (1, -1), 8: (1, 0)}[orientation]
    expected = {
        5: PICTURE.transpose(1, 0, 2),
        6: np.rot90(PICTURE, -1),
        7: np.rot90(PICTURE, 2).transpose(1, 0, 2),
        8: np.rot90(PICTURE, 1),
    }[orientation]
    assert np.abs(turned.astype(int) - expected).mean() < 6, transpose


def test_an_upside_down_photograph_is_shown_as_its_camera_says(tmp_path):
    path = tmp_path / "a.jpg"
    _save_with_orientation(path, 3)
    assert np.abs(read_image(path, (20, 30)).astype(int) - PICTURE[::-1, ::-1]).mean() < 6


def test_another_size_than_the_json_is_an_error_that_gives_both(tmp_path):
    path = tmp_path / "a.jpg"
    Image.fromarray(PICTURE).save(path)
    with pytest.raises(DatasetError, match=r"a\.jpg: the image is 30x20 px, but its JSON says 31x20"):
        read_image(path, (20, 31))


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("share", [0.03, 0.5, 0.9, 0.99])
def test_a_truncated_file_is_never_returned_as_if_whole(tmp_path, suffix, share):
    path = tmp_path / f"a.{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(DatasetError, match=rf"a\.{suffix}: cannot be read as an image"):
        read_image(path)
    if suffix == "png":
        with pytest.raises(DatasetError, match=r"a\.png: .*(PNG|truncated)"):
            read_ids(path, (64, 64), np.array([1]))


def test_a_png_with_a_flipped_byte_is_refused(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x55
    path.write_bytes(data)
    with pytest.raises(DatasetError, match=r"a\.png: "):
        read_ids(path, (64, 64), np.array([1]))


def _png_with_changes(rng):
    """A PNG of ids, and the same with a byte changed, left out or put in, or cut short with and without its end."""
    stream = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (9, 14, rng.integers(3, 5)), dtype=np.uint8)).save(stream, "PNG")
    data = stream.getvalue()
    at = int(rng.integers(8, len(data)))
    other = bytes([data[at] ^ int(rng.integers(1, 256))])
    changed = (other + data[at + 1 :], data[at + 1 :], other + data[at:], b"", data[-12:])[rng.integers(5)]
    return data, data[:at] + changed


def test_a_damaged_png_is_refused_or_read_as_pillow_reads_it(tmp_path):
    rng = np.random.default_rng(0)
    path, refused = tmp_path / "a.png", 0
    for _ in range(400):
        whole, damaged = _png_with_changes(rng)
        path.write_bytes(damaged)
        try:
            ids = read_ids(path, (9, 14), np.zeros(0, np.int64))
        except DatasetError as error:
            assert "a.png: " in str(error)
            refused += 1
            continue
        expected = np.asarray(Image.open(io.BytesIO(whole)).convert("RGB")).astype(np.int64) @ (1, 256, 65536)
        np.testing.assert_array_equal(ids, expected)
    assert refused > 300


def _interlaced_png(colours):
    """Adam7 by hand: no library here writes it. Seven small pictures, each from its first pixel and by its steps."""
    rows = b"".join(
        b"\0" + row.tobytes()
        for y, x, dy, dx in (
            (0, 0, 8, 8),
            (0, 4, 8, 8),
            (4, 0, 8, 4),
            (0, 2, 4, 4),
            (2, 0, 4, 2),
            (0, 1, 2, 2),
            (1, 0, 2, 1),
        )
        for row in colours[y::dy, x::dx]
    )

    def chunk(kind, data):
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    height, width, _ = colours.shape
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 1])
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_an_interlaced_png_has_the_same_ids(tmp_path):
    ids = np.random.default_rng(0).integers(0, 1 << 24, (13, 17))
    (tmp_path / "a.png").write_bytes(_interlaced_png(colours(ids)))
    np.testing.assert_array_equal(read_ids(tmp_path / "a.png", (13, 17), np.zeros(0, np.int64)), ids)


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xd9"])
def test_what_is_no_image_is_named(tmp_path, content):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    for read in (
        lambda: read_image(path),
        lambda: read_ids(path, (4, 4), np.array([1])),
        lambda: read_depth(path, (4, 4)),
    ):
        with pytest.raises(DatasetError, match=r"a\.png: "):
            read()


def test_trailing_bytes_behind_a_jpeg_do_no_harm(tmp_path):
    path = tmp_path / "a.jpg"
    Image.fromarray(PICTURE).save(path)
    expected = read_image(path)
    path.write_bytes(path.read_bytes() + b"camera notes")
    np.testing.assert_array_equal(read_image(path), expected)


def test_a_picture_that_would_fill_the_memory_is_refused_before_it_is_decoded(tmp_path):
    side = 30000
    path = tmp_path / "bomb.png"
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    data = bytearray(buffer.getvalue())
    data[16:24] = side.to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    path.write_bytes(data)
    for read in (lambda: read_image(path), lambda: read_ids(path, (side, side), np.array([1]))):
        with pytest.raises(DatasetError, match=r"bomb\.png: (30000x30000 px are more than|cannot be read)"):
            read()
    assert pixels.MAX_PIXELS < Image.MAX_IMAGE_PIXELS


def _id_png(tmp_path, kind):
    path = tmp_path / f"{kind}.png"
    small = np.array([[0, 5, 6, 7], [200, 5, 0, 1]])
    if kind == "rgb":
        Image.fromarray(colours(IDS)).save(path)
        return path, IDS
    if kind == "rgba":
        Image.fromarray(np.dstack([colours(IDS), np.zeros(IDS.shape, np.uint8)])).save(path)
        return path, IDS
    if kind == "rgb with a see-through colour":
        Image.fromarray(colours(IDS)).save(path, transparency=tuple(colours(IDS)[0, 0].tolist()))
        return path, IDS
    if kind == "rgb16":
        cv2.imwrite(str(path), colours(IDS)[..., ::-1].astype(np.uint16))
        return path, IDS
    if kind == "rgb16 scaled":
        cv2.imwrite(str(path), colours(IDS)[..., ::-1].astype(np.uint16) * 257)
        return path, IDS
    if kind == "palette":
        palette = Image.fromarray(colours(IDS)).quantize(8, dither=Image.Dither.NONE)
        assert palette.mode == "P"
        palette.save(path)
        return path, IDS
    if kind == "palette of indices":
        image = Image.fromarray(small.astype(np.uint8)).convert("P")
        image.putpalette([(7 * k + 3) % 256 for k in range(256 * 3)])
        image.save(path)
        return path, small
    if kind == "grey":
        Image.fromarray(small.astype(np.uint8)).save(path)
        return path, small
    if kind == "grey of colours":
        Image.fromarray(small.astype(np.uint8)).save(path)
        return path, small * 65793
    if kind == "grey16":
        ids = np.array([[0, 5, 300, 65535], [1, 5, 0, 256]])
        Image.fromarray(ids.astype(np.uint16)).save(path)
        return path, ids
    assert kind == "one bit"
    Image.fromarray(np.array([[True, False], [False, True]])).save(path)
    return path, np.array([[1, 0], [0, 1]])


@pytest.mark.parametrize(
    "kind",
    [
        "rgb",
        "rgba",
        "rgb with a see-through colour",
        "rgb16",
        "rgb16 scaled",
        "palette",
        "palette of indices",
        "grey",
        "grey of colours",
        "grey16",
        "one bit",
    ],
)
def test_ids_are_exact_in_every_kind_of_png(tmp_path, kind):
    path, ids = _id_png(tmp_path, kind)
    known = np.setdiff1d(np.unique(ids), [0])
    read = read_ids(path, ids.shape, known)
    assert read.dtype == np.int32
    np.testing.assert_array_equal(read, ids)


def test_depth_keeps_all_sixteen_bits(tmp_path):
    path = tmp_path / "a.png"
    stored = np.array([[0, 1, 255], [256, 40000, 65535]], dtype=np.uint16)
    Image.fromarray(stored).save(path)
    np.testing.assert_array_equal(read_depth(path, (2, 3)), stored)


def test_eight_bit_depth_is_refused(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(np.zeros((2, 3), dtype=np.uint8)).save(path)
    with pytest.raises(DatasetError, match=r"a\.png: the depth PNG has 8 bits .* write 16-bit"):
        read_depth(path, (2, 3))
