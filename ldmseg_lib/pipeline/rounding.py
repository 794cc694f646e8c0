"""Rounding: an estimate of z_0 replaced by the latents of the nearest valid map.

Decoded, arg max, encoded again: so that a region cannot stay half one id and half another on the way. Known as the
clamping trick (Li et al., Diffusion-LM Improves Controllable Text Generation, 2022, section 4.2). It takes no
evaluation of the denoiser, but an encoding and a decoding of the mask autoencoder at every step.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from ..models.autoencoder import MaskAutoencoder

# maps whose logits, one channel an id at full size, are there at a time
_CHUNK = 16


@torch.no_grad()
def rounded(
    autoencoder: MaskAutoencoder,
    latents: Float[Tensor, "batch channels rows columns"],
    *,
    labels: int,
) -> Float[Tensor, "batch channels rows columns"]:
    """The latents of the id maps that `latents` are decoded to.

    Args:
        autoencoder: of id maps.
        latents: estimates of z_0.
        labels: how many of the ids from 1 are possible; void, of which the decoder says nothing, is not.
    """
    side = (latents.shape[-2] * autoencoder.factor, latents.shape[-1] * autoencoder.factor)
    parts = []
    for part in latents.split(_CHUNK):
        logits = autoencoder.from_latents(part.to(autoencoder.dtype), side)
        parts.append(autoencoder.to_latents(logits[:, 1 : labels + 1].argmax(1) + 1))
    return torch.cat(parts).to(latents.dtype)
