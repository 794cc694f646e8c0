"""What a profile costs, counted without weights or a GPU: checked against counts by hand and against real memory."""

import json

import pytest
import torch
from torch import nn

from ldmseg_lib.core.errors import ProfileError
from ldmseg_lib.core.profiles import Profile
from ldmseg_lib.experiments import estimate
from ldmseg_lib.experiments.fake_networks import DiffusionNetworks
from ldmseg_lib.experiments.step_cost import checkpoint_blocks, step_cost, without_content
from ldmseg_lib.training.__main__ import main


def stack(depth: int = 4, width: int = 8) -> nn.ModuleDict:
    layers = [layer for _ in range(depth) for layer in (nn.Linear(width, width, bias=False), nn.SiLU())]
    return nn.ModuleDict({"stack": nn.Sequential(*layers)})


def cost_of(networks, rows: int, **settings):
    x = torch.zeros(rows, 8)
    return step_cost(networks, lambda: networks["stack"](x).float().mean().backward(), inputs=[x], **settings)


@pytest.mark.parametrize("fake", [False, True])
def test_flops_and_memory_of_a_stack_are_those_counted_by_hand(fake):
    """2 a multiply-add; forward once, backward twice less the gradient of the input, which nobody asks for."""
    import contextlib

    with without_content() if fake else contextlib.nullcontext():
        one, two = (cost_of(stack(), rows) for rows in (1000, 2000))
    products = 4 + 4 + 3
    assert one.flops == 2 * 1000 * 8 * 8 * products and two.flops == 2 * one.flops
    # both the products and the activations are kept for the backward pass
    kept = 2 * 4 * 1000 * 8 * 4
    assert kept <= one.peak_bytes <= 1.7 * kept
    assert kept <= two.peak_bytes - one.peak_bytes <= 1.7 * kept


def test_half_precision_keeps_half_of_the_activations():
    with without_content():
        full, half = (cost_of(stack(), 20000, precision=precision) for precision in ("fp32", "fp16"))
    assert half.flops == full.flops
    assert 0.4 < half.peak_bytes / full.peak_bytes < 0.75


def test_checkpointing_trades_memory_for_flops():
    profile = Profile.load("smoke")
    with without_content():
        plain, saved = (DiffusionNetworks(profile, ["instance"], checkpointing=c) for c in (False, True))
        costs = [[n.step(b, precision="fp32", self_condition=False) for b in (1, 9)] for n in (plain, saved)]
    by_image = [(nine.peak_bytes - one.peak_bytes) / 8 for one, nine in costs]
    assert costs[1][0].flops > 1.1 * costs[0][0].flops and by_image[1] < by_image[0]


def test_networks_without_content_need_no_memory_and_have_every_parameter():
    with without_content():
        networks = DiffusionNetworks(Profile.load("paper"), ["instance", "semantic"], checkpointing=False)
    counted = sum(p.numel() for p in networks.denoiser.parameters())
    assert counted == 859_544_004 + 2 * 768  # 23,040 for the 12 input channels
    assert sum(p.numel() for p in networks.autoencoder.parameters()) == 2_318_536


@pytest.mark.slow
def test_the_paper_profile_is_complete_and_costs_what_the_method_says():
    """About 0.68 TFLOP an evaluation of the UNet, 3.4 a sample in training with checkpointing."""
    profile = Profile.load("paper")
    with without_content():
        networks = DiffusionNetworks(profile, ["instance", "semantic"], checkpointing=True)
        forward = networks.forward(1, precision="fp16").flops
        step = networks.step(1, precision="fp16", self_condition=True).flops
        encoders = networks.around(1, precision="fp16").flops
    assert forward / 1e12 == pytest.approx(0.7, abs=0.12)
    # forward without and with gradients, twice that backward, and the blocks, which are most of it, forward once more
    assert 4.5 < (step - encoders) / forward <= 5


@pytest.mark.slow
def test_every_stage_of_the_paper_profile_goes_through():
    work, cases, _ = estimate.estimate(Profile.load("paper"), progress=False)
    stages = {item.stage for item in work}
    assert {"02_autoencoder", "03_encodings", "04_diffusion", "07_components", "08_multitask", "12_few_steps"} <= stages
    assert all(item.flops > 0 and item.samples > 0 for item in work)
    (diffusion,) = [item for item in work if item.stage == "04_diffusion"]
    assert diffusion.samples == 25_600_000 and 3 < diffusion.flops / 1e12 < 7
    checkpointed, sharded, plain, _ = cases
    assert checkpointed.fits > plain.fits and sharded.fits > checkpointed.fits
    assert sharded.memory.adam * 8 == checkpointed.memory.adam


@pytest.mark.slow
def test_every_diffusion_training_of_the_paper_profile_fits_one_card():
    """Also where a notebook trains in one process: its micro-batch, not its batch of 256, is what a card holds."""
    with without_content():
        alone = estimate.single_gpu_memory(Profile.load("paper"))
        whole = estimate.single_gpu_memory(Profile.load("paper", "multitask.training.micro_batch_size=null"))
    card = (estimate.CARD_GIB - estimate.RESERVE_GIB) * estimate.GIB
    assert {stage: memory.total <= card for stage, memory in alone.items()} == dict.fromkeys(alone, True)
    assert whole["08_multitask"].total > 3 * card


def test_large_batches_of_the_paper_profile_are_cut_into_micro_batches():
    """For any of 1, 2, 4 and 8 processes, and so that the gradients are those of the whole batch."""
    profile = Profile.load("paper")
    trainings = (profile.diffusion, profile.multitask, profile.consistency, profile.components.diffusion)
    for training in (section.training for section in trainings):
        assert training.gradient_checkpointing and training.micro_batch_size <= 16
        assert training.batch_size % (8 * training.micro_batch_size) == 0


def test_the_command_prints_and_writes_the_estimate(tmp_path, capsys):
    assert main(["--estimate", "--profile", "smoke", "--json", str(tmp_path / "cost.json")]) == 0
    said = capsys.readouterr().out
    assert "04_diffusion" in said and "8 x A100" in said and "GiB" in said and "12_few_steps  " in said
    written = json.loads((tmp_path / "cost.json").read_text())
    assert written["profile"] == "smoke" and {"stage", "samples", "flops", "total"} <= written["work"][0].keys()


def test_settings_that_do_not_fit_are_found_without_a_gpu(capsys):
    assert main(["--estimate", "--profile", "smoke", "--overrides", "data.image_size=33"]) == 2
    assert "error: data.image_size 33" in capsys.readouterr().err
    with pytest.raises(ProfileError):
        Profile.load("paper", "denoiser.channels=[1]")


def test_hours_are_flops_over_rate():
    assert estimate.hours(312e12 * 3600 * 8 * 0.5, "A100", devices=8, utilisation=0.5) == pytest.approx(1)


def test_checkpointing_gives_the_same_gradients():
    """Without the random state, which the UNet needs none of."""
    from ldmseg_lib.models.denoiser import build_denoiser

    gradients = []
    for saved in (False, True):
        torch.manual_seed(0)
        denoiser = build_denoiser(Profile.load("smoke")).train()
        if saved:
            checkpoint_blocks(denoiser.unet)
        x, t = torch.randn(1, 4, 8, 8), torch.tensor([5])
        features = torch.randn(1, 8, 8, 8)
        denoiser(x, features, torch.zeros_like(x), t, torch.tensor([0])).square().mean().backward()
        gradients.append(denoiser.unet.conv_in.weight.grad)
    assert torch.allclose(*gradients, atol=1e-6)
