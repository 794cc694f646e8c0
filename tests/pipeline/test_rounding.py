"""Rounding: an estimate of z_0 becomes a valid map's latents, and sampling goes on from these."""

import numpy as np
import pytest
import torch

from ldmseg_lib.core.randomness import torch_generator
from ldmseg_lib.diffusion.sampling import sample_latents
from ldmseg_lib.diffusion.schedulers import PREDICTION_TYPES, NoiseSchedule
from ldmseg_lib.pipeline.rounding import rounded
from tests.diffusion.test_sampling import ExactNetwork, clean_latents, generators
from tests.pipeline.perfect_model import NUM_IDS, OneHotAutoencoder


def maps() -> torch.Tensor:
    """Ids [2, 4, 4] from 1."""
    return torch.randint(1, NUM_IDS, (2, 4, 4), generator=torch.Generator().manual_seed(0))


def one_hot(cells: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.one_hot(cells, NUM_IDS).permute(0, 3, 1, 2).float()


class Exact(OneHotAutoencoder):
    dtype = torch.float32

    def from_latents(self, latents: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        return super().from_latents(latents)


def test_a_blurred_map_becomes_the_map():
    exact = one_hot(maps())
    blurred = exact + 0.3 * torch.rand(exact.shape, generator=torch.Generator().manual_seed(1))
    assert torch.equal(rounded(Exact(), blurred, labels=NUM_IDS - 1), exact)
    assert torch.equal(rounded(Exact(), exact, labels=NUM_IDS - 1), exact)


def test_neither_void_nor_a_label_that_is_none_is_an_answer():
    found = rounded(Exact(), one_hot(maps() * 0), labels=3)
    assert set(found.argmax(1).unique().tolist()) <= {1, 2, 3}


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_the_step_goes_on_from_the_rounded_estimate(prediction_type):
    """Rounded to another map, each but the last estimate is that map: DDIM then arrives where it says."""
    other = torch.full_like(clean_latents(), 0.5)
    network = ExactNetwork(prediction_type)
    seen = []
    found = sample_latents(
        network,
        clean_latents(),
        torch.zeros(2, dtype=torch.long),
        generators(),
        prediction_type=prediction_type,
        num_inference_steps=3,
        rounding=lambda estimate: other,
        on_estimate=lambda step, estimate: seen.append(estimate),
    )
    assert torch.equal(seen[0], other) and torch.equal(seen[1], other) and torch.equal(seen[2], found)
    assert torch.allclose(found, clean_latents(), atol=1e-3)
    assert torch.equal(network.conditions[1], other)
    t = torch.tensor([666, 666])
    noise = NoiseSchedule().implied_noise(network.inputs[0], other, torch.tensor([999, 999]))
    assert torch.allclose(network.inputs[1], NoiseSchedule().add_noise(other, noise, t), atol=1e-4)


def test_rounding_is_a_setting_of_the_pipeline_and_of_a_call(smoke_pipeline):
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    features = smoke_pipeline.encode_image(image)

    def latents(**settings) -> torch.Tensor:
        found = smoke_pipeline.predict(features, num_inference_steps=3, generators=[torch_generator(1)], **settings)
        return found["instance"]

    plain, rounds = latents(round_estimates=False), latents(round_estimates=True)
    assert not torch.allclose(plain, rounds)
    before = smoke_pipeline.config.round_estimates
    try:
        for wanted, expected in ((True, rounds), (False, plain)):
            smoke_pipeline.register_to_config(round_estimates=wanted)
            assert torch.equal(latents(), expected)
    finally:
        smoke_pipeline.register_to_config(round_estimates=before)


def test_one_step_has_nothing_to_round(smoke_pipeline):
    features = smoke_pipeline.encode_image(np.zeros((32, 32, 3), np.uint8))
    found = [
        smoke_pipeline.predict(features, num_inference_steps=1, generators=[torch_generator(1)], round_estimates=on)
        for on in (True, False)
    ]
    assert torch.equal(found[0]["semantic"], found[1]["semantic"])
