"""The mask autoencoder is the paper's, keeps what it is given, and survives saving."""

import dataclasses

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ldmseg_lib.core.errors import CheckpointError, InputError
from ldmseg_lib.models.autoencoder import LatentDistribution, MaskAutoencoder, build_autoencoder, load_autoencoder


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def small(**settings) -> MaskAutoencoder:
    torch.manual_seed(0)
    return MaskAutoencoder(**{"num_ids": 16, "channels": (16, 16, 32), "num_upscalers": 1} | settings)


@pytest.mark.parametrize(
    ("settings", "parameters"),
    [
        ({"num_ids": 128}, 2_023_208),
        ({"num_ids": 256}, 2_318_536),
        ({"encoding": "scalar"}, 1_728_745),
    ],
)
def test_parameters_are_those_of_the_paper(settings, parameters):
    """Method 2.1: 7 bits and 128 logits as released, 8 and 256 as in the paper, one channel for depth."""
    assert count(MaskAutoencoder(**settings)) == parameters


def test_encoder_and_decoder_have_their_own_counts():
    autoencoder = MaskAutoencoder(num_ids=128)
    assert (count(autoencoder.encoder), count(autoencoder.decoder)) == (1_192_360, 830_848)


def test_sizes_are_those_of_the_paper():
    """Method 2.1: 512 px to 4 x 64 x 64 and back to logits at 256, bilinearly at 512. Here a quarter of that."""
    autoencoder, ids = MaskAutoencoder(num_ids=128), torch.zeros(1, 128, 128, dtype=torch.long)
    with torch.no_grad():
        mean, logvar = autoencoder.encode(ids)
        assert mean.shape == logvar.shape == (1, 4, 16, 16)
        assert autoencoder.decode(mean).shape == (1, 128, 64, 64)
        assert autoencoder.decode(mean, (128, 128)).shape == (1, 128, 128, 128)
    assert autoencoder.factor == 8


def test_a_latent_sees_63_pixels():
    """Method 2.1, and 5.3: what inpainting may leak. Group normalisation is taken out, which sees everything."""
    autoencoder = MaskAutoencoder(num_ids=4)
    autoencoder.encoder = nn.Sequential(*(m for m in autoencoder.encoder if not isinstance(m, nn.GroupNorm)))
    x = torch.randn(1, 2, 128, 128, requires_grad=True)
    autoencoder.encoder(x)[0, :, 8, 8].sum().backward()
    rows = x.grad.abs().sum((0, 1, 3)).nonzero()[:, 0]
    assert rows.max() - rows.min() + 1 == 63


def test_a_void_map_is_a_map_of_zeros():
    autoencoder = small()
    assert (autoencoder.encode_input(torch.zeros(1, 8, 8, dtype=torch.long)) == 0).all()
    unknown = torch.full((1, 8, 8), torch.nan)
    assert (small(encoding="scalar").encode_input(unknown) == 0).all()


def test_latents_are_scaled_on_the_way_in_and_unscaled_on_the_way_out():
    autoencoder, ids = small(latent_scale=0.25), torch.arange(16).repeat(1, 16, 1)
    with torch.no_grad():
        mean = autoencoder.encode(ids).mean
        assert torch.allclose(autoencoder.to_latents(ids), 0.25 * mean)
        assert torch.allclose(autoencoder.from_latents(0.25 * mean), autoencoder.decode(mean), atol=1e-6)


def test_samples_of_the_distribution_have_its_mean_and_deviation():
    distribution = LatentDistribution(torch.full((1, 1, 200, 200), 3.0), torch.full((1, 1, 200, 200), 0.25).log())
    sample = distribution.sample(torch.randn(1, 1, 200, 200, generator=torch.Generator().manual_seed(0)))
    assert sample.mean().item() == pytest.approx(3, abs=0.02) and sample.std().item() == pytest.approx(0.5, abs=0.02)


def test_an_extreme_log_variance_stays_finite():
    """Method 2.2: clamped to -30..20."""
    autoencoder = small()
    with torch.no_grad():
        autoencoder.encoder[-1].bias[4:] = torch.tensor([-1e4, 1e4, 0.0, 25.0])
        logvar = autoencoder.encode(torch.ones(1, 8, 8, dtype=torch.long)).logvar
    assert logvar.min() == -30 and logvar.max() == 20


def test_a_size_that_does_not_divide_is_named():
    with pytest.raises(InputError, match="10 x 8 does not divide by the autoencoder's factor 4"):
        small().encode(torch.zeros(1, 10, 8, dtype=torch.long))


def test_maps_need_not_be_square():
    with torch.no_grad():
        assert small().to_latents(torch.ones(2, 16, 32, dtype=torch.long)).shape == (2, 4, 4, 8)


@pytest.mark.parametrize("encoding", ["bits", "colors", "positional", "scalar"])
def test_what_was_saved_is_loaded(tmp_path, encoding):
    autoencoder = small(encoding=encoding, latent_scale=1.7).eval()
    autoencoder.save_pretrained(tmp_path)
    loaded = MaskAutoencoder.from_pretrained(tmp_path)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(16, (1, 16, 16), generator=generator)
    target = torch.rand(1, 16, 16, generator=generator) if encoding == "scalar" else ids
    with torch.no_grad():
        latents = autoencoder.to_latents(target)
        assert torch.equal(loaded.to_latents(target), latents)
        assert torch.equal(loaded.from_latents(latents), autoencoder.from_latents(latents))
    assert not loaded.training
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "diffusion_pytorch_model.safetensors"}


def test_pickles_are_never_read(tmp_path):
    """A weight file in PyTorch's own format can run code when it is opened."""
    autoencoder = small()
    autoencoder.save_pretrained(tmp_path)
    (tmp_path / "diffusion_pytorch_model.safetensors").unlink()
    torch.save(autoencoder.state_dict(), tmp_path / "diffusion_pytorch_model.bin")
    with pytest.raises(InputError, match="safetensors"):
        MaskAutoencoder.from_pretrained(tmp_path)


def test_weights_of_another_width_are_refused(tmp_path):
    small().save_pretrained(tmp_path)
    MaskAutoencoder(num_ids=16, channels=(16, 16, 64), num_upscalers=1).save_config(tmp_path)
    with pytest.raises(InputError, match=str(tmp_path)):
        MaskAutoencoder.from_pretrained(tmp_path)


def test_weights_that_lack_some_are_refused(tmp_path):
    """Libraries only warn, and go on with random ones."""
    small().save_pretrained(tmp_path)
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    del weights["decoder.0.bias"]
    save_file(weights, path)
    with pytest.raises(InputError, match=r"lack 'decoder\.0\.bias'"):
        MaskAutoencoder.from_pretrained(tmp_path)


def test_the_profile_gives_the_shape(smoke_profile):
    autoencoder = build_autoencoder(smoke_profile)
    assert autoencoder.config.num_ids == smoke_profile.data.num_ids
    assert tuple(autoencoder.config.channels) == smoke_profile.autoencoder.channels
    assert build_autoencoder(smoke_profile, scalar=True).encoding is None
    scaled = dataclasses.replace(
        smoke_profile, autoencoder=dataclasses.replace(smoke_profile.autoencoder, latent_scale=0.5)
    )
    assert build_autoencoder(scaled).config.latent_scale == 0.5


def test_a_checkpoint_of_another_shape_than_the_profile_s_is_refused_naming_both(tmp_path, smoke_profile):
    build_autoencoder(smoke_profile).save_pretrained(tmp_path)
    assert load_autoencoder(smoke_profile, tmp_path).config.encoding == "bits"
    settings = smoke_profile.autoencoder
    for change, message in {
        ("encoding", "colors"): "encoding 'bits', but the profile asks for 'colors'; set autoencoder.encoding",
        ("channels", (16, 64)): r"channels .*16, 16, 32.*, but the profile asks for \(16, 64\)",
        ("latent_channels", 8): "latent_channels 4, but the profile asks for 8",
    }.items():
        other = dataclasses.replace(smoke_profile, autoencoder=dataclasses.replace(settings, **dict([change])))
        with pytest.raises(CheckpointError, match=message):
            load_autoencoder(other, tmp_path)
    other = dataclasses.replace(smoke_profile, data=dataclasses.replace(smoke_profile.data, num_ids=64))
    with pytest.raises(CheckpointError, match=r"num_ids 16, but the profile asks for 64; set data\.num_ids"):
        load_autoencoder(other, tmp_path)
