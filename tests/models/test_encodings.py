"""Encodings lose nothing: every id comes back, and void is apart from all of them."""

import pytest
import torch

from ldmseg_lib.core.errors import InputError
from ldmseg_lib.models.encodings import get_encoding

NAMES = ("bits", "colors", "positional")
PALETTES = ("colors", "colors_cube", "colors_random", "colors_hue", "colors_grey")


def all_ids(num_ids: int) -> torch.Tensor:
    """Every id once, [1, 1, num_ids]."""
    return torch.arange(num_ids)[None, None]


@pytest.mark.parametrize("num_ids", [2, 3, 7, 16, 20, 32, 100, 128, 255, 256])
@pytest.mark.parametrize("name", NAMES)
def test_every_id_comes_back(name, num_ids):
    encoding, ids = get_encoding(name, num_ids), all_ids(num_ids)
    encoded = encoding.encode(ids)
    assert encoded.shape == (1, encoding.num_channels, 1, num_ids)
    assert encoded.abs().max() <= 1
    assert torch.equal(encoding.decode(encoded), ids)


@pytest.mark.parametrize("name", (*NAMES, *PALETTES[1:]))
def test_every_id_of_every_number_of_ids_comes_back_and_none_is_void(name):
    for num_ids in range(2, 257):
        encoding, ids = get_encoding(name, num_ids), all_ids(num_ids)
        encoded = encoding.encode(ids)
        assert torch.equal(encoding.decode(encoded), ids), num_ids
        assert (encoded[0, :, 0, 1:] != 0).any(dim=0).all() and (encoded[0, :, 0, 0] == 0).all(), num_ids


@pytest.mark.parametrize("size", [(1, 1), (1, 255), (3, 5), (17, 64), (64, 1)])
@pytest.mark.parametrize("name", NAMES)
def test_maps_of_all_sizes_come_back(name, size):
    ids = torch.randint(0, 256, (2, *size), generator=torch.Generator().manual_seed(1))
    encoding = get_encoding(name)
    encoded = encoding.encode(ids)
    assert encoded.shape == (2, encoding.num_channels, *size)
    assert torch.equal(encoding.decode(encoded), ids)
    assert ((encoded == 0).all(dim=1) == (ids == 0)).all()


@pytest.mark.parametrize("num_ids", [2, 16, 100, 256])
@pytest.mark.parametrize("name", NAMES)
def test_void_is_zero_and_no_id_is(name, num_ids):
    encoded = get_encoding(name, num_ids).encode(all_ids(num_ids))[0, :, 0]
    assert (encoded[:, 0] == 0).all()
    assert (encoded[:, 1:].norm(dim=0) > 0.3).all()


@pytest.mark.parametrize("name", NAMES)
def test_ids_survive_noise_of_a_third_of_their_distance(name):
    encoding = get_encoding(name, 256)
    vectors = encoding.encode(all_ids(256))[0, :, 0].T
    distances = torch.cdist(vectors, vectors).fill_diagonal_(torch.inf)
    noise = torch.randn(vectors.shape, generator=torch.Generator().manual_seed(0))
    noise *= distances.min() / 3 / noise.norm(dim=1, keepdim=True)
    moved = (vectors + noise).T[None, :, None]
    assert distances.min() > 0.05
    assert torch.equal(encoding.decode(moved), all_ids(256))


def test_bits_are_the_binary_digits_least_significant_first():
    """Method 1.3: y = 5 in 7 bits is 1 0 1 0 0 0 0, as -1 and 1."""
    encoded = get_encoding("bits", 128).encode(torch.tensor([[[5]]]))
    assert encoded.flatten().tolist() == [1, -1, 1, -1, -1, -1, -1]


@pytest.mark.parametrize(
    ("name", "num_ids", "channels"),
    [("bits", 256, 8), ("bits", 128, 7), ("bits", 16, 4), ("colors", 256, 3), ("positional", 256, 8)],
)
def test_widths_of_the_supplement(name, num_ids, channels):
    assert get_encoding(name, num_ids).num_channels == channels


def test_colours_are_equidistant():
    """Supplement B: 256 equidistant colours; here a lattice, whose neighbours along an axis are equally far apart."""
    colors = get_encoding("colors", 256).codebook
    assert len(colors.unique(dim=0)) == 256
    for channel in colors.T:
        steps = channel.unique().diff()
        assert torch.allclose(steps, steps[0].expand_as(steps), atol=1e-6)
        assert (channel.min(), channel.max()) == (-1, 1)


def nearest_distances(name: str) -> torch.Tensor:
    """Of each of 256 colours to the one nearest to it, in units of the range of a channel."""
    colors = get_encoding(name, 256).codebook
    return torch.cdist(colors, colors).fill_diagonal_(torch.inf).min(dim=1).values / 2


@pytest.mark.parametrize(
    ("name", "distance"),
    [("colors", 1 / 7), ("colors_cube", 1 / 6), ("colors_hue", 6 / 256), ("colors_grey", 3**0.5 / 255)],
)
def test_palettes_are_equidistant_and_differ_in_how_far_apart_their_colours_are(name, distance):
    # around the corners of the circle of hues two of its colours are nearer in a straight line
    assert torch.allclose(nearest_distances(name).median(), torch.tensor(distance), rtol=1e-3)
    # of the cube a third is left out, and some colours have lost all their neighbours along the axes
    assert nearest_distances(name).max() < (1.5 if name == "colors_cube" else 1.01) * distance


def test_the_cube_has_seven_levels_and_no_mid_grey():
    """Method 1.4: the other reading of "equidistant", 256 of 7 x 7 x 7 colours; mid grey would be void."""
    colors = get_encoding("colors_cube", 256).codebook
    assert all(len(channel.unique()) == 7 for channel in colors.T) and len(colors.unique(dim=0)) == 256


def test_greys_are_the_evenly_spaced_24_bit_numbers():
    """Method 1.4: k (2^24 - 1) / 255 has three equal bytes."""
    numbers = torch.arange(256) * ((2**24 - 1) // 255)
    channels = torch.stack([numbers >> 16, numbers >> 8, numbers], dim=1) & 255
    assert torch.allclose(get_encoding("colors_grey", 256).codebook, channels / 255 * 2 - 1, atol=1e-6)


def test_random_colours_are_the_same_each_time():
    assert torch.equal(get_encoding("colors_random").codebook, get_encoding("colors_random").codebook)


def test_positions_are_sines_and_cosines_of_doubling_frequencies():
    codebook = get_encoding("positional", 256).codebook
    u = 2 * (37 + 0.5) / 256 - 1
    angles = torch.tensor([torch.pi * u * 2**octave for octave in range(4)])
    assert torch.allclose(codebook[37], torch.cat([angles.sin(), angles.cos()]), atol=1e-6)


def test_another_void_id():
    encoding = get_encoding("bits", 16)
    ids = torch.tensor([[[0, 3, 15]]])
    encoded = encoding.encode(ids, void_id=15)
    assert (encoded[0, :, 0, 2] == 0).all() and (encoded[0, :, 0, 0] == -1).all()
    assert torch.equal(encoding.decode(encoded, void_id=15), ids)


@pytest.mark.parametrize("wrong", [-1, 16, 300])
def test_ids_without_room_are_refused(wrong):
    with pytest.raises(InputError, match=r"0\.\.15"):
        get_encoding("bits", 16).encode(torch.tensor([[[1, wrong]]]))


def test_an_empty_map_is_encoded():
    assert get_encoding("bits", 16).encode(torch.zeros(0, 4, 4, dtype=torch.long)).shape == (0, 4, 4, 4)


def test_bad_names_and_sizes_are_named():
    with pytest.raises(InputError, match="'bit'; valid ones are bits, colors, positional"):
        get_encoding("bit")
    with pytest.raises(InputError, match="at least 2"):
        get_encoding("bits", 1)
