"""The full-size pipeline has the paper's counts; a tiny one of the same kind runs from image to maps."""

import numpy as np
import pytest
import torch

from ldmseg_lib.core.errors import InputError
from ldmseg_lib.experiments.denoising_steps.timing import time_pipeline
from ldmseg_lib.experiments.full_size import random_pipeline


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(("encoder", "parameters"), [("vit", 86_580_480 + 768 * 4 + 4), ("sd_vae", 34_163_664)])
def test_networks_have_the_parameters_of_the_paper(encoder, parameters):
    """Method 3.1 and 7 for the UNet, with two task tokens; 2.1 for the autoencoder of 256 ids; the encoders' own."""
    pipeline = random_pipeline(encoder, device="meta")
    assert count(pipeline.denoiser) == 859_544_004 + 2 * 768
    assert count(pipeline.autoencoder) == 2_318_536
    assert count(pipeline.image_encoder) == parameters
    assert (pipeline.config.image_size, pipeline.num_ids, len(pipeline.config.categories)) == (512, 256, 133)


@pytest.mark.parametrize("encoder", ["vit", "sd_vae"])
def test_a_tiny_one_is_timed_as_the_full_one_would_be(encoder):
    pipeline = random_pipeline(encoder, tiny=True)
    pipeline.set_progress_bar_config(disable=True)
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    result = time_pipeline(pipeline, [image], [1, 2], sampler="ddpm", repeats=1, warmups=0, progress=False)
    assert [row["steps"] for row in result["rows"]] == [1, 2] and result["sampler"] == "ddpm"
    assert count(pipeline.denoiser) < 1_000_000


def test_an_unknown_encoder_names_the_valid_ones():
    with pytest.raises(InputError, match="'clip'; valid ones are vit, sd_vae"):
        random_pipeline("clip")
