"""The denoiser: Stable Diffusion's UNet on [noisy mask latents | image latents | self-condition], told its task.

With affinity pooling it also sees the noisy latents averaged over what the image says is one segment.

One learnable token per task goes through the cross-attention (supplement A, "Multi-Task Setup"). The supplement says
that it has 786 dimensions; Stable Diffusion v1.4's cross-attention has 768, which is what is used here.
"""

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention import BasicTransformerBlock
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..core.errors import InputError
from ..core.profiles import Profile
from .affinity import Affinity, AffinityPooling, pooled_channels

# diffusers looks for ModelMixin in the module of a part, to know how a pipeline loads it
from .safetensors_model import ModelMixin, SafetensorsModel, load_pretrained  # noqa: F401


class SingleTokenAttention:
    """Cross-attention to one token: its softmax is 1 everywhere, so that every position gets the token's value.

    The same function as with queries and keys, which are not computed.
    """

    def __call__(
        self,
        attn: nn.Module,
        hidden_states: Float[Tensor, "batch positions channels"],
        encoder_hidden_states: Float[Tensor, "batch 1 token_channels"],
        attention_mask: None = None,
    ) -> Float[Tensor, "batch positions channels"]:
        """The attention's output, to be added to `hidden_states` by the block."""
        value = attn.to_out[0](attn.to_v(encoder_hidden_states))
        return value.expand(-1, hidden_states.shape[1], -1)


class Denoiser(SafetensorsModel):
    """A UNet with one token per task.

    Args:
        unet_config: configuration of the UNet2DConditionModel, its in_channels being `input_channels` of what follows.
        tasks: names of the tasks, in the order of their tokens.
        latent_channels: channels of the mask latents.
        image_channels: channels of the image latents.
        self_condition: whether an earlier estimate of z_0 was ever fed back in training; else sampling feeds none.
        affinity_channels: of the embedding that says which cells are of one segment; None: no affinity pooling.
        train_time_embedding: whether the UNet's time embedding learns, now and whenever the model is loaded again.
    """

    @register_to_config
    def __init__(
        self,
        *,
        unet_config: dict[str, Any],
        tasks: Sequence[str],
        latent_channels: int,
        image_channels: int,
        self_condition: bool = True,
        affinity_channels: int | None = None,
        train_time_embedding: bool = True,
    ) -> None:
        super().__init__()
        self.unet = UNet2DConditionModel.from_config(unet_config)
        self.task_tokens = nn.Embedding(len(tasks), self.unet.config.cross_attention_dim)
        nn.init.normal_(self.task_tokens.weight, std=1.0)
        self.affinity = None if affinity_channels is None else AffinityPooling(image_channels, affinity_channels)
        self.prepare_unet()

    def prepare_unet(self) -> None:
        """Have the cross-attentions use that there is one token, and freeze what does not learn.

        That is what one token leaves idle, and the time embedding unless `train_time_embedding`.
        """
        self.unet.time_embedding.requires_grad_(self.config.train_time_embedding)
        for block in self.unet.modules():
            if isinstance(block, BasicTransformerBlock):
                block.attn2.set_processor(SingleTokenAttention())
                for idle in (block.norm2, block.attn2.to_q, block.attn2.to_k):
                    idle.requires_grad_(False)

    def task_ids(self, tasks: Sequence[str]) -> Int[Tensor, "tasks"]:
        """The token numbers of `tasks`.

        Raises:
            InputError: a task that this model was not trained for; the message names those it knows.
        """
        known = list(self.config.tasks)
        unknown = [task for task in tasks if task not in known]
        if unknown:
            raise InputError(f"this model knows no task {unknown[0]!r}; it was trained for {', '.join(known)}")
        return torch.tensor([known.index(task) for task in tasks], device=self.device)

    def with_tasks(self, tasks: Sequence[str]) -> "Denoiser":
        """A copy that knows `tasks`: the tokens of tasks known here are kept, those of new ones are random."""
        known, width = list(self.config.tasks), self.task_tokens.embedding_dim
        grown = copy.deepcopy(self)
        grown.task_tokens = nn.Embedding(len(tasks), width, device=self.device, dtype=self.dtype)
        grown.register_to_config(tasks=list(tasks))
        with torch.no_grad():
            for number, task in enumerate(tasks):
                if task in known:
                    grown.task_tokens.weight[number] = self.task_tokens.weight[known.index(task)]
        return grown

    def with_affinity(self, channels: int) -> "Denoiser":
        """A copy with affinity pooling, to be trained: the new inputs have zero weights, the embedding is random.

        Raises:
            InputError: it has one of another width.
        """
        grown, own = copy.deepcopy(self), self.config.affinity_channels
        if own == channels:
            return grown
        if own is not None:
            raise InputError(
                f"the denoiser to go on from groups cells by an embedding of {own} channels, and denoiser."
                f"affinity_channels is {channels}; set it to {own}"
            )
        added = pooled_channels(self.config.latent_channels)
        grown.unet = _widened_unet(grown.unet, grown.unet.config.in_channels + added)
        grown.affinity = AffinityPooling(self.config.image_channels, channels)
        grown.to(device=self.device, dtype=self.dtype)
        unet_config = {**self.config.unet_config, "in_channels": grown.unet.config.in_channels}
        grown.register_to_config(unet_config=unet_config, affinity_channels=channels)
        return grown

    def forward(
        self,
        noisy: Float[Tensor, "batch latent_channels height width"],
        image_latents: Float[Tensor, "batch image_channels height width"],
        self_condition: Float[Tensor, "batch latent_channels height width"],
        timesteps: Int[Tensor, "batch"],
        task_ids: Int[Tensor, "batch"],
        affinity: Affinity | None = None,
    ) -> Float[Tensor, "batch latent_channels height width"]:
        """The prediction at z_t: noise, z_0 or v, as the model was trained.

        Args:
            noisy: z_t.
            image_latents: features of the image at the latents' size.
            self_condition: an earlier estimate of z_0, or zeros.
            timesteps: 0..999.
            task_ids: numbers from `task_ids`.
            affinity: what `self.affinity` makes of the image latents, where it is at hand: it is the same at every
                timestep and for every task, so that one entry may serve several rows (see `AffinityPooling.pool`).

        Returns:
            In the weights' type, whatever the type of the latents.
        """
        inputs = [noisy, image_latents, self_condition]
        if self.affinity is not None:
            affinity = self.affinity(image_latents) if affinity is None else affinity
            inputs.append(self.affinity.pool(noisy, affinity, timesteps))
        x = torch.cat(inputs, dim=1).to(self.task_tokens.weight.dtype)
        return self.unet(x, timesteps, encoder_hidden_states=self.task_tokens(task_ids)[:, None]).sample


def input_channels(latent_channels: int, image_channels: int, *, affinity: bool = False) -> int:
    """What the UNet sees: noisy latents, image latents, self-condition, and the pooled latents where there are any."""
    pooled = pooled_channels(latent_channels) if affinity else 0
    return latent_channels + image_channels + latent_channels + pooled


def _widened_unet(unet: UNet2DConditionModel, in_channels: int) -> UNet2DConditionModel:
    """`unet` with input channels appended whose weights are zero, so that at first it does what it did before."""
    old = unet.conv_in
    new = nn.Conv2d(in_channels, old.out_channels, old.kernel_size, old.stride, old.padding)
    with torch.no_grad():
        new.weight.zero_()
        new.weight[:, : old.in_channels] = old.weight
        new.bias.copy_(old.bias)
    unet.conv_in = new
    unet.register_to_config(in_channels=in_channels)
    return unet


def _small_unet_config(profile: Profile, in_channels: int) -> dict[str, Any]:
    settings = profile.denoiser
    # a profile without them names pretrained weights, which bring their own
    assert settings.attention is not None and settings.channels is not None and settings.head_dim is not None
    down = ["CrossAttnDownBlock2D" if here else "DownBlock2D" for here in settings.attention]
    up = ["CrossAttnUpBlock2D" if here else "UpBlock2D" for here in reversed(settings.attention)]
    return {
        "sample_size": profile.data.image_size // 2 ** (len(profile.autoencoder.channels) - 1),
        "in_channels": in_channels,
        "out_channels": profile.autoencoder.latent_channels,
        "down_block_types": down,
        "up_block_types": up,
        "block_out_channels": list(settings.channels),
        "norm_num_groups": _norm_groups(settings.channels),
        "layers_per_block": settings.layers_per_block,
        "cross_attention_dim": settings.task_dim,
        # diffusers calls the number of heads `attention_head_dim` when `num_attention_heads` is absent
        "attention_head_dim": [max(1, width // settings.head_dim) for width in settings.channels],
    }


def _norm_groups(channels: Sequence[int]) -> int:
    """As many of Stable Diffusion's 32 groups as fit the widths with at least two channels in each.

    The time embedding is added channel by channel and then normalised: alone in its group it would vanish.
    """
    groups = math.gcd(32, *channels)
    while groups > 1 and min(channels) < 2 * groups:
        groups //= 2
    return groups


def build_denoiser(
    profile: Profile, *, image_channels: int | None = None, tasks: Sequence[str] | None = None
) -> Denoiser:
    """The profile's denoiser: Stable Diffusion's UNet with zero columns for the new channels, or a small random one.

    Args:
        profile: `denoiser` gives the shape or the checkpoint, `diffusion.tasks` the tokens.
        image_channels: channels of the image latents; as the profile's image encoder by default.
        tasks: task names instead of the profile's.

    Example:
        >>> import torch
        >>> from ldmseg_lib import Profile, build_denoiser
        >>> denoiser = build_denoiser(Profile.load("smoke"), image_channels=8)
        >>> noisy = torch.randn(1, 4, 8, 8)
        >>> image_latents = torch.randn(1, 8, 8, 8)
        >>> timestep, task = torch.tensor([500]), torch.tensor([0])
        >>> denoiser(noisy, image_latents, torch.zeros_like(noisy), timestep, task).shape
        torch.Size([1, 4, 8, 8])
    """
    latent_channels = profile.autoencoder.latent_channels
    image_channels = image_channels or profile.image_encoder.out_channels
    tasks = list(tasks or profile.diffusion.tasks)
    affinity = profile.denoiser.affinity_channels
    in_channels = input_channels(latent_channels, image_channels, affinity=affinity is not None)
    shape = {
        "tasks": tasks,
        "latent_channels": latent_channels,
        "image_channels": image_channels,
        "self_condition": profile.diffusion.self_condition_probability > 0,
        "affinity_channels": affinity,
        "train_time_embedding": profile.denoiser.train_time_embedding,
    }
    if profile.denoiser.pretrained is None:
        denoiser = Denoiser(unet_config=_small_unet_config(profile, in_channels), **shape)
    else:
        unet = load_pretrained(
            UNet2DConditionModel, profile.denoiser.pretrained, subfolder="unet", key="denoiser.pretrained"
        )
        for name in ("in_channels", "out_channels"):
            if unet.config[name] != latent_channels:
                raise InputError(
                    f"denoiser.pretrained: the UNet at {profile.denoiser.pretrained!r} has {name} {unet.config[name]},"
                    f" but the mask latents of this profile have {latent_channels} (autoencoder.latent_channels)"
                )
        unet = _widened_unet(unet, in_channels)
        config = {key: value for key, value in unet.config.items() if not key.startswith("_")}
        with torch.device("meta"):
            denoiser = Denoiser(unet_config=config, **shape)
        denoiser.unet = unet
        denoiser.task_tokens = nn.Embedding(len(tasks), unet.config.cross_attention_dim)
        denoiser.affinity = None if affinity is None else AffinityPooling(image_channels, affinity)
        denoiser.prepare_unet()
    return denoiser
