"""The denoiser is Stable Diffusion's UNet with more input channels and a token for each task."""

import copy
import dataclasses
import json

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import nn

from ldmseg_lib.core.errors import InputError
from ldmseg_lib.core.profiles import Profile
from ldmseg_lib.models.denoiser import Denoiser, build_denoiser

# The UNet of CompVis/stable-diffusion-v1-4, as its config.json says.
STABLE_DIFFUSION = {
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [320, 640, 1280, 1280],
    "layers_per_block": 2,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
}
TINY = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [32, 32],
    "layers_per_block": 1,
    "cross_attention_dim": 24,
    "attention_head_dim": 2,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
}


def idle(name: str) -> bool:
    """Whether a parameter does nothing in cross-attention to a single token."""
    return any(part in name for part in (".norm2.", ".attn2.to_q.", ".attn2.to_k.")) and "transformer_blocks" in name


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def with_denoiser(profile: Profile, **settings) -> Profile:
    return dataclasses.replace(profile, denoiser=dataclasses.replace(profile.denoiser, **settings))


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory, smoke_profile) -> tuple[UNet2DConditionModel, Profile]:
    """A tiny UNet saved as Stable Diffusion's folder has it, and a profile that starts from it."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(**TINY).eval()
    folder = tmp_path_factory.mktemp("sd")
    unet.save_pretrained(folder / "unet")
    shape = dict.fromkeys(("channels", "attention", "layers_per_block", "head_dim", "task_dim"))
    return unet, with_denoiser(smoke_profile, pretrained=str(folder), train_time_embedding=False, **shape)


@pytest.fixture(scope="module")
def small(smoke_profile) -> Denoiser:
    torch.manual_seed(0)
    return build_denoiser(with_denoiser(smoke_profile, affinity_channels=None)).eval()


def inputs(channels: int, batch: int = 2, side: int = 8, seed: int = 0):
    """Noisy latents, image latents, self-condition, timesteps."""
    generator = torch.Generator().manual_seed(seed)
    noisy, condition = torch.randn(2, batch, 4, side, side, generator=generator)
    image = torch.randn(batch, channels, side, side, generator=generator)
    return noisy, image, condition, torch.randint(1000, (batch,), generator=generator)


@pytest.mark.parametrize("tasks", [("instance",), ("instance", "semantic"), ("instance", "semantic", "depth")])
def test_parameters_of_the_paper_s_network(tasks):
    """Method 7: Stable Diffusion's 859,520,964, 23,040 for eight more input channels, 768 a task."""
    config = STABLE_DIFFUSION | {"in_channels": 12}
    with torch.device("meta"):
        denoiser = Denoiser(unet_config=config, tasks=list(tasks), latent_channels=4, image_channels=4)
    assert count(denoiser) == 859_544_004 + 768 * len(tasks)
    assert count(denoiser.unet.time_embedding) == 2_050_560


@pytest.mark.parametrize(("channels", "parameters"), [(8, 815_544_964), (12, 815_556_484)])
def test_parameters_without_cross_attention(channels, parameters):
    """Method 3.1: the released single-task network, whose 16 blocks lack attn2 and its norm."""
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(STABLE_DIFFUSION | {"in_channels": channels})
    blocks = [module for module in unet.modules() if type(module).__name__ == "BasicTransformerBlock"]
    for block in blocks:
        block.attn2 = block.norm2 = None
    assert len(blocks) == 16 and count(unet) == parameters


def test_new_channels_do_nothing_at_first(pretrained):
    """Zero columns: with any image and any self-condition, the answer is the original UNet's to its own token."""
    unet, profile = pretrained
    denoiser = build_denoiser(profile).eval()
    noisy, image, condition, t = inputs(denoiser.config.image_channels)
    task = denoiser.task_ids(["instance", "semantic"])
    with torch.no_grad():
        expected = unet(noisy, t, encoder_hidden_states=denoiser.task_tokens.weight[:, None]).sample
        torch.testing.assert_close(denoiser(noisy, 100 * image, 100 * condition, t, task), expected, rtol=0, atol=1e-5)


def test_new_channels_learn(pretrained):
    denoiser = build_denoiser(pretrained[1])
    noisy, image, condition, t = inputs(denoiser.config.image_channels)
    denoiser(noisy, image, condition, t, torch.tensor([0, 1])).square().mean().backward()
    gradient = denoiser.unet.conv_in.weight.grad
    assert (gradient[:, 4:].abs().sum((0, 2, 3)) > 0).all()


def test_the_config_of_a_widened_network_says_so(pretrained, tmp_path):
    """Trap 19: a network whose config kept the old number of channels could not be loaded again."""
    denoiser = build_denoiser(pretrained[1]).eval()
    denoiser.save_pretrained(tmp_path)
    loaded = Denoiser.from_pretrained(tmp_path)
    arguments = (*inputs(denoiser.config.image_channels), torch.tensor([1, 0]))
    with torch.no_grad():
        assert torch.equal(loaded(*arguments), denoiser(*arguments))
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}


def test_the_time_embedding_is_frozen_where_the_profile_says_so(pretrained, small):
    """Method 3.5: the MLP of the time embedding, not the blocks' own projections."""
    denoiser = build_denoiser(pretrained[1])
    frozen = {name for name, parameter in denoiser.named_parameters() if not parameter.requires_grad and not idle(name)}
    assert frozen == {f"unet.time_embedding.linear_{i}.{part}" for i in (1, 2) for part in ("weight", "bias")}
    assert all(parameter.requires_grad for name, parameter in small.named_parameters() if not idle(name))


def test_a_frozen_time_embedding_stays_frozen(pretrained, tmp_path):
    """Wherever a model comes from: a file, a copy with other tasks, one with affinity pooling."""
    denoiser = build_denoiser(pretrained[1])
    denoiser.save_pretrained(tmp_path)
    loaded = Denoiser.from_pretrained(tmp_path)
    for other in (loaded, loaded.with_tasks(["instance", "depth"]), loaded.with_affinity(8)):
        assert not any(p.requires_grad for p in other.unet.time_embedding.parameters())
    assert {n for n, p in loaded.named_parameters() if p.requires_grad} == {
        n for n, p in denoiser.named_parameters() if p.requires_grad
    }


def test_the_task_token_changes_the_answer(small):
    noisy, image, condition, t = inputs(small.config.image_channels)
    with torch.no_grad():
        instance, semantic = (small(noisy, image, condition, t, torch.tensor([k, k])) for k in (0, 1))
        mixed = small(noisy, image, condition, t, torch.tensor([0, 1]))
    assert not torch.allclose(instance, semantic, atol=1e-4)
    assert torch.allclose(mixed[0], instance[0], atol=1e-5) and torch.allclose(mixed[1], semantic[1], atol=1e-5)


def test_everything_that_conditions_it_changes_the_answer(small):
    noisy, image, condition, t = inputs(small.config.image_channels)
    task = torch.tensor([0, 0])
    with torch.no_grad():
        answer = small(noisy, image, condition, t, task)
        for other in ((-noisy, image, condition, t), (noisy, -image, condition, t), (noisy, image, -condition, t)):
            assert not torch.allclose(small(*other, task), answer, atol=1e-4)
        assert not torch.allclose(small(noisy, image, condition, t // 2, task), answer, atol=1e-3)


@pytest.mark.parametrize("channels", [(32, 32), (64, 128, 128), (24, 48), (8, 8), (40, 80)])
def test_the_timestep_is_seen_at_any_width(smoke_profile, channels):
    """Added to each channel, the time embedding would vanish in a normalisation of single channels."""
    profile = with_denoiser(smoke_profile, channels=channels, attention=(False,) * len(channels), head_dim=8)
    torch.manual_seed(0)
    denoiser = build_denoiser(profile).eval()
    noisy, image, condition, _ = inputs(denoiser.config.image_channels)
    with torch.no_grad():
        early, late = (denoiser(noisy, image, condition, torch.full((2,), t), torch.tensor([0, 0])) for t in (0, 999))
    assert (early - late).abs().mean() > 1e-3


def test_tasks_are_known_by_name(small):
    assert small.task_ids(["semantic", "instance"]).tolist() == [1, 0]
    with pytest.raises(InputError, match="no task 'depth'; it was trained for instance, semantic"):
        small.task_ids(["instance", "depth"])


def test_the_profile_gives_the_shape(smoke_profile, small):
    config = small.unet.config
    assert tuple(config.block_out_channels) == smoke_profile.denoiser.channels
    assert config.cross_attention_dim == smoke_profile.denoiser.task_dim
    image_channels = smoke_profile.image_encoder.out_channels
    assert config.in_channels == 4 + image_channels + 4 and config.out_channels == 4
    heads = [m.heads for m in small.modules() if type(m).__name__ == "Attention"]
    width = smoke_profile.denoiser.channels[-1]
    assert set(heads) == {width // smoke_profile.denoiser.head_dim}


def test_attention_stands_where_the_profile_puts_it(small, smoke_profile):
    for block, here in zip(small.unet.down_blocks, smoke_profile.denoiser.attention):
        assert hasattr(block, "attentions") == here
    for block, here in zip(small.unet.up_blocks, reversed(smoke_profile.denoiser.attention)):
        assert hasattr(block, "attentions") == here


def test_a_network_without_self_conditioning_says_so(smoke_profile):
    never = dataclasses.replace(
        smoke_profile, diffusion=dataclasses.replace(smoke_profile.diffusion, self_condition_probability=0.0)
    )
    assert build_denoiser(never).config.self_condition is False
    assert build_denoiser(smoke_profile).config.self_condition is True


def test_missing_weights_name_the_key_and_the_command(smoke_profile, tmp_path):
    shape = dict.fromkeys(("channels", "attention", "layers_per_block", "head_dim", "task_dim"))
    profile = with_denoiser(smoke_profile, pretrained=str(tmp_path), **shape)
    with pytest.raises(InputError, match=r"denoiser\.pretrained") as error:
        build_denoiser(profile)
    assert f"hf download {tmp_path}" in str(error.value)


def test_weights_that_lack_some_are_refused(pretrained, tmp_path):
    unet, profile = pretrained
    unet.save_pretrained(tmp_path / "unet")
    UNet2DConditionModel(**TINY | {"layers_per_block": 2}).save_config(tmp_path / "unet")
    with pytest.raises(InputError, match=r"denoiser\.pretrained"):
        build_denoiser(with_denoiser(profile, pretrained=str(tmp_path)))


def test_the_folded_attention_to_the_task_is_the_plain_one(small, smoke_profile):
    torch.manual_seed(0)
    channels = smoke_profile.image_encoder.out_channels
    inputs = [torch.randn(2, 4, 8, 8), torch.randn(2, channels, 8, 8), torch.zeros(2, 4, 8, 8)]
    inputs += [torch.tensor([3, 900]), torch.tensor([0, 1])]
    folded = small(*inputs)
    plain = copy.deepcopy(small)
    plain.unet.set_attn_processor(AttnProcessor())
    torch.testing.assert_close(folded, plain(*inputs), rtol=0, atol=1e-5)


def test_what_the_folded_attention_leaves_idle_does_not_learn(small, smoke_profile):
    channels = smoke_profile.image_encoder.out_channels
    model = copy.deepcopy(small)
    model(
        torch.randn(1, 4, 8, 8),
        torch.randn(1, channels, 8, 8),
        torch.zeros(1, 4, 8, 8),
        torch.tensor([500]),
        torch.tensor([0]),
    ).sum().backward()
    assert {name for name, p in model.named_parameters() if p.requires_grad and p.grad is None} == set()
    assert not any(p.requires_grad for name, p in model.named_parameters() if "attn2.to_q" in name)


def test_a_copy_with_another_task_answers_the_old_ones_as_before():
    """What multi-task training goes on from: nothing but the new token is new."""
    torch.manual_seed(0)
    profile = Profile.load("smoke")
    old = build_denoiser(profile).eval()
    grown = old.with_tasks(["instance", "depth", "semantic"])
    assert grown.config.tasks == ["instance", "depth", "semantic"] and old.config.tasks == ["instance", "semantic"]
    latents, image = torch.randn(2, 4, 8, 8), torch.randn(2, profile.image_encoder.out_channels, 8, 8)
    arguments = (latents, image, torch.zeros_like(latents), torch.tensor([10, 900]))
    with torch.no_grad():
        for task in ("instance", "semantic"):
            before, after = (model(*arguments, model.task_ids([task, task])) for model in (old, grown))
            assert torch.equal(before, after)
        assert not torch.allclose(grown(*arguments, grown.task_ids(["depth"] * 2)), after, atol=1e-4)
    flags = [[p.requires_grad for p in model.unet.parameters()] for model in (old, grown)]
    assert flags[0] == flags[1] and grown.task_tokens.weight.requires_grad
    with torch.no_grad():
        grown.task_tokens.weight.add_(1)
        grown.unet.conv_in.weight.add_(1)
    with torch.no_grad():
        assert torch.equal(old(*arguments, old.task_ids(["semantic"] * 2)), before)


@pytest.fixture(scope="module")
def grouping(smoke_profile) -> Denoiser:
    torch.manual_seed(0)
    return build_denoiser(with_denoiser(smoke_profile, affinity_channels=6)).eval()


def test_affinity_pooling_is_a_setting_that_is_saved(grouping, small, tmp_path):
    assert grouping.unet.config.in_channels == small.unet.config.in_channels + 9
    grouping.save_pretrained(tmp_path)
    loaded = Denoiser.from_pretrained(tmp_path)
    arguments = (*inputs(grouping.config.image_channels), torch.tensor([1, 0]))
    with torch.no_grad():
        assert torch.equal(loaded(*arguments), grouping(*arguments))
        affinity = grouping.affinity(arguments[1])
        assert torch.equal(grouping(*arguments, affinity), grouping(*arguments))
        assert not torch.allclose(grouping(*arguments, affinity.flip(0)), grouping(*arguments), atol=1e-4)


def test_a_denoiser_saved_before_there_was_pooling_has_none(small, tmp_path):
    small.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["affinity_channels"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert Denoiser.from_pretrained(tmp_path).affinity is None


def test_weights_of_another_grouping_width_say_so(grouping, tmp_path):
    grouping.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"affinity_channels": 4}))
    with pytest.raises(InputError, match=r"affinity\.embedding.*\[4\].*\[6\]"):
        Denoiser.from_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"an embedding of 6 channels.*affinity_channels is 4; set it to 6"):
        grouping.with_affinity(4)


def test_pooling_that_is_added_does_nothing_at_first(small):
    grown = small.with_affinity(6).eval()
    arguments = (*inputs(small.config.image_channels), torch.tensor([1, 0]))
    with torch.no_grad():
        assert torch.allclose(grown(*arguments), small(*arguments), atol=1e-6)
    assert grown.config.affinity_channels == 6 and small.affinity is None
    grown(*arguments).square().mean().backward()
    assert grown.unet.conv_in.weight.grad[:, -9:].abs().sum() > 0


def test_a_pretrained_unet_can_have_pooling(pretrained):
    denoiser = build_denoiser(with_denoiser(pretrained[1], affinity_channels=6)).eval()
    noisy, image, condition, t = inputs(denoiser.config.image_channels)
    plain = build_denoiser(pretrained[1]).eval()
    plain.task_tokens.load_state_dict(denoiser.task_tokens.state_dict())
    with torch.no_grad():
        found, expected = (model(noisy, image, condition, t, torch.tensor([0, 1])) for model in (denoiser, plain))
    assert torch.allclose(found, expected, atol=1e-5)
