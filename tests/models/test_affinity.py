"""Affinity pooling: cells that look alike are averaged, and what that says of z_0 is the best linear estimate."""

import pytest
import torch

from ldmseg_lib.models.affinity import MAX_KEYS, AffinityPooling, pooled_channels
from ldmseg_lib.models.noise_levels import alphas_cumprod


def pooling_of(channels: int = 2) -> AffinityPooling:
    """Its embedding is the features themselves, ten times as large: equal or far apart."""
    pooling = AffinityPooling(channels, channels)
    with torch.no_grad():
        pooling.embedding.weight.copy_(10 * torch.eye(channels)[:, :, None, None])
        pooling.embedding.bias.zero_()
        pooling.offset.fill_(9.0)
    return pooling.requires_grad_(False)


def halves(side: int = 4) -> torch.Tensor:
    """Features [1, 2, side, side]: the left half is one segment, the right half another."""
    features = torch.zeros(1, 2, side, side)
    features[:, 0, :, : side // 2], features[:, 1, :, side // 2 :] = 1, 1
    return features


def noisy(count: int = 1, side: int = 4, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 4, side, side, generator=torch.Generator().manual_seed(seed))


def test_rows_are_shares_of_a_cells_own_segment():
    affinity = pooling_of()(halves())
    assert torch.allclose(affinity.sum(2), torch.ones(1, 16))
    same = (halves()[0, 0].flatten()[:, None] == halves()[0, 0].flatten()[None]).float() / 8
    assert torch.allclose(affinity[0], same, atol=1e-4)


def test_every_cell_gets_the_mean_of_its_segment():
    pooling, z = pooling_of(), noisy()
    pooled = pooling.pool(z, pooling(halves()), torch.tensor([500]))
    assert pooled.shape == (1, pooled_channels(4), 4, 4)
    for columns in (slice(0, 2), slice(2, 4)):
        mean = z[:, :, :, columns].mean((2, 3), keepdim=True)
        assert torch.allclose(pooled[:, :4, :, columns], mean.expand(-1, -1, 4, 2), atol=1e-3)
    assert torch.allclose(pooled[:, 8], torch.tensor(8.0).log() / 3 - 1, atol=1e-3)


@pytest.mark.parametrize("t", [0, 400, 999])
def test_its_estimate_is_the_best_linear_one(t):
    """Of all multiples of the mean none is nearer to z_0, over many draws of unit variance."""
    pooling, features = pooling_of(), torch.zeros(1, 2, 2, 2)
    abar, generator = alphas_cumprod()[t], torch.Generator().manual_seed(1)
    clean = torch.randn(20000, 1, 1, 1, generator=generator).expand(-1, -1, 2, 2)
    z = abar.sqrt() * clean + (1 - abar).sqrt() * torch.randn(20000, 1, 2, 2, generator=generator)
    pooled = pooling.pool(z, pooling(features), torch.full((20000,), t))
    mean, estimate = pooled[:, 0, 0, 0], pooled[:, 1, 0, 0]
    best = (mean * clean[:, 0, 0, 0]).sum() / mean.square().sum()
    assert torch.allclose(estimate, best * mean, rtol=0, atol=0.05)


def test_the_expected_error_is_the_mean_over_the_noise():
    pooling, t = pooling_of(), torch.tensor([[300, 800]])
    clean = noisy(seed=3)
    affinity = pooling(halves())
    expected = pooling.expected_error(affinity, clean, t).reshape(4, 4)
    errors = []
    for level in t[0].tolist():
        abar, generator = alphas_cumprod()[level], torch.Generator().manual_seed(level)
        z = abar.sqrt() * clean + (1 - abar).sqrt() * torch.randn(4000, 4, 4, 4, generator=generator)
        estimate = pooling.pool(z, affinity, torch.full((4000,), level))[:, 4:8]
        errors.append((estimate - clean).square().mean((0, 1)))
    assert torch.allclose(expected, torch.stack(errors).mean(0), rtol=0.1)


def test_the_tasks_of_an_image_share_its_affinity():
    pooling, features = pooling_of(), torch.cat([halves(), halves().flip(3), torch.zeros(1, 2, 4, 4)])
    z, t = noisy(6), torch.tensor([1, 200, 400, 600, 800, 999])
    once = pooling.pool(z, pooling(features), t)
    assert torch.allclose(once, pooling.pool(z, pooling(features.repeat(2, 1, 1, 1)), t), atol=1e-5)


def test_fine_latents_are_pooled_over_blocks_as_over_cells():
    """64 x 64 cells have 1024 keys; where segments are made of whole blocks the result is the same."""
    pooling, z = pooling_of(), noisy(side=64)
    affinity = pooling(halves(64))
    assert affinity.shape == (1, 4096, MAX_KEYS)
    pooled = pooling.pool(z, affinity, torch.tensor([500]))
    left = z[:, :, :, :32].mean((2, 3))
    assert torch.allclose(pooled[0, :4, 5, 7], left[0], atol=1e-3)
    assert torch.allclose(pooled[0, 8], torch.tensor(2048.0).log() / 3 - 1, atol=1e-3)


def test_noise_levels_survive_a_model_in_16_bits():
    half = pooling_of().half().float()
    assert torch.equal(half._levels(torch.arange(1000)), alphas_cumprod())


def test_the_error_teaches_what_belongs_together():
    """From a random embedding, with no label but z_0."""
    torch.manual_seed(0)
    pooling = AffinityPooling(2, 4)
    optimizer = torch.optim.Adam(pooling.parameters(), lr=0.03)
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        values = torch.randn(2, 16, 4, 1, 1, generator=generator)
        clean = torch.where(halves()[:, :1] > 0, values[0], values[1])
        timesteps = torch.randint(1000, (16, 4), generator=generator)
        error = pooling.expected_error(pooling(halves().expand(16, -1, -1, -1)), clean, timesteps).mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
    affinity = pooling(halves())[0].reshape(4, 4, 4, 4)
    assert affinity[0, 0, :, :2].sum() > 0.9 and affinity[0, 3, :, 2:].sum() > 0.9
