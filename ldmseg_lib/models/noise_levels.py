"""Stable Diffusion v1.4's noise levels, adopted by the paper (supplement A)."""

import torch
from jaxtyping import Float
from torch import Tensor

NUM_TIMESTEPS = 1000
BETA_START, BETA_END = 0.00085, 0.012


def alphas_cumprod() -> Float[Tensor, "timesteps"]:
    """abar_t for t = 0..999, float32: z_t = sqrt(abar_t) z_0 + sqrt(1 - abar_t) eps."""
    root = torch.linspace(BETA_START**0.5, BETA_END**0.5, NUM_TIMESTEPS, dtype=torch.float64)
    return (1 - root**2).cumprod(0).float()
