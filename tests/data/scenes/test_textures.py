"""Patterns of the embedded data set."""

import numpy as np
import pytest

from ldmseg_lib.data.scenes.textures import PATTERNS, cloud_noise, value_noise


@pytest.fixture
def grid() -> tuple[np.ndarray, np.ndarray]:
    u, v = np.meshgrid(np.linspace(-9, 9, 301), np.linspace(-7, 8, 280))
    return u.ravel().astype(np.float32), v.ravel().astype(np.float32)


@pytest.mark.parametrize("name", PATTERNS)
def test_a_pattern_mixes_the_two_colours(name, grid):
    share = PATTERNS[name](*grid, np.float32(0.01))
    assert share.dtype == np.float32 and share.shape == grid[0].shape
    assert share.min() >= 0 and share.max() <= 1
    if name != "plain":
        assert share.max() - share.min() > 0.5


@pytest.mark.parametrize("name", sorted(set(PATTERNS) - {"plain"}))
def test_a_pattern_fades_where_a_pixel_is_larger_than_its_period(name, grid):
    near, far = (PATTERNS[name](*grid, np.float32(blur)) for blur in (0.01, 6))
    assert far.std() < 0.25 * near.std()


def test_noise_is_continuous_also_across_its_period():
    u = np.linspace(-130, 130, 260_001).astype(np.float32)
    v = np.full_like(u, 0.37)
    for noise in (value_noise, cloud_noise):
        values = noise(u, v)
        assert 0 <= values.min() < 0.3 and 0.7 < values.max() <= 1
        assert np.abs(np.diff(values)).max() < 0.02


def test_noise_repeats_after_64_units():
    u, v = np.random.default_rng(0).uniform(-20, 20, (2, 1000)).astype(np.float32)
    np.testing.assert_allclose(value_noise(u, v), value_noise(u + 64, v - 64), atol=1e-4)
