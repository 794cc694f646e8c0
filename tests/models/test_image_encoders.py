"""Image encoders share one interface, and read weights as they are published."""

import dataclasses
import json

import pytest
import torch
from diffusers import AutoencoderKL
from safetensors.torch import load_file, save_file
from transformers import Dinov2Config, Dinov2Model

from ldmseg_lib.core.errors import InputError
from ldmseg_lib.models.image_encoders import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    SDVAEImageEncoder,
    SmallImageEncoder,
    ViTImageEncoder,
    build_image_encoder,
)

VAE = {
    "block_out_channels": [32, 32],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "layers_per_block": 1,
    "norm_num_groups": 16,
    "latent_channels": 4,
    "sample_size": 32,
}
VIT = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "mlp_ratio": 2,
    "image_size": 28,
    "patch_size": 14,
}
OLD_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def with_encoder(profile, **settings):
    return dataclasses.replace(profile, image_encoder=dataclasses.replace(profile.image_encoder, **settings))


def pictures(count: int = 2, side: int = 32) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def vae(tmp_path_factory) -> tuple[AutoencoderKL, str]:
    """A tiny VAE saved in the subfolder `vae`, as Stable Diffusion's is."""
    torch.manual_seed(0)
    model = AutoencoderKL(**VAE).eval()
    folder = tmp_path_factory.mktemp("sd")
    model.save_pretrained(folder / "vae")
    return model, str(folder)


@pytest.fixture(scope="module")
def vit(tmp_path_factory) -> tuple[Dinov2Model, str]:
    """A tiny DINOv2 saved as the published one is."""
    torch.manual_seed(0)
    model = Dinov2Model(Dinov2Config(**VIT)).eval()
    folder = tmp_path_factory.mktemp("dinov2")
    model.save_pretrained(folder)
    return model, str(folder)


@pytest.fixture(scope="module")
def encoders(smoke_profile, vae, vit) -> dict:
    """One of each kind, built from a profile."""
    torch.manual_seed(1)
    shape = {"out_channels": 5, "input_size": 42, "layer": -1}
    return {
        "small": build_image_encoder(smoke_profile),
        "sd_vae": build_image_encoder(with_encoder(smoke_profile, kind="sd_vae", pretrained=vae[1])),
        "vit": build_image_encoder(
            with_encoder(smoke_profile, kind="vit", pretrained=vit[1], trainable=False, **shape)
        ),
    }


@pytest.mark.parametrize("kind", ["small", "sd_vae", "vit"])
def test_all_have_one_interface(encoders, kind):
    encoder = encoders[kind].eval()
    for size in ((8, 8), (16, 16), (5, 7)):
        with torch.no_grad():
            features = encoder(pictures(), size)
        assert features.shape == (2, encoder.out_channels, *size) and features.isfinite().all()
    with torch.no_grad():
        assert torch.allclose(encoder(pictures()[1:], (8, 8)), encoder(pictures(), (8, 8))[1:], atol=1e-5)
        assert not torch.allclose(encoder(pictures().flip(-1), (8, 8)), encoder(pictures(), (8, 8)), atol=1e-3)


@pytest.mark.parametrize("kind", ["small", "sd_vae", "vit"])
def test_what_was_saved_is_loaded(encoders, kind, tmp_path):
    encoder = encoders[kind].eval()
    encoder.save_pretrained(tmp_path)
    loaded = type(encoder).from_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(loaded(pictures(), (8, 8)), encoder(pictures(), (8, 8)))
    assert loaded.trainable == encoder.trainable
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}


@pytest.mark.parametrize(("kind", "learns"), [("small", "everything"), ("sd_vae", "nothing"), ("vit", "projection")])
def test_what_learns(encoders, kind, learns):
    encoder = encoders[kind]
    names = {name for name, parameter in encoder.named_parameters() if parameter.requires_grad}
    everything = {name for name, _ in encoder.named_parameters()}
    wanted = {"everything": everything, "nothing": set(), "projection": {"projection.weight", "projection.bias"}}
    assert names == wanted[learns] and encoder.trainable == (learns != "nothing")


def test_the_sd_vae_gives_scaled_posterior_means(encoders, vae):
    """Method 4: the mean of the posterior of 2 I - 1, times 0.18215, no sampling."""
    model, _ = vae
    with torch.no_grad():
        expected = model.encode(pictures() * 2 - 1).latent_dist.mean * 0.18215
        assert torch.allclose(encoders["sd_vae"](pictures(), (16, 16)), expected, atol=1e-6)


def test_the_sd_vae_is_read_under_its_old_names_too(encoders, vae, smoke_profile, tmp_path):
    """Stable Diffusion v1.4's own file calls its attention query, key, value and proj_attn."""
    model, _ = vae
    model.save_pretrained(tmp_path / "vae")
    path = tmp_path / "vae" / "diffusion_pytorch_model.safetensors"
    old = {}
    for name, tensor in load_file(path).items():
        for new_name, old_name in OLD_NAMES.items():
            name = name.replace(f"attentions.0.{new_name}.", f"attentions.0.{old_name}.")
        old[name] = tensor
    assert sum("proj_attn" in name for name in old) == 4
    save_file(old, path)
    encoder = build_image_encoder(with_encoder(smoke_profile, kind="sd_vae", pretrained=str(tmp_path))).eval()
    with torch.no_grad():
        assert torch.equal(encoder(pictures(), (16, 16)), encoders["sd_vae"](pictures(), (16, 16)))


def test_the_vit_gives_normalised_patch_tokens_in_their_places(encoders, vit):
    """The last hidden state through the final LayerNorm, without the class token, row by row."""
    encoder, model = encoders["vit"].eval(), vit[0]
    images = pictures(1, side=42)
    mean, std = (torch.tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    with torch.no_grad():
        tokens = model((images - mean) / std).last_hidden_state[0, 1:]
        weight, bias = encoder.projection.weight[:, :, 0, 0], encoder.projection.bias
        expected = (tokens @ weight.T + bias).T.reshape(5, 3, 3)
        assert torch.allclose(encoder(images, (3, 3))[0], expected, atol=1e-5)


def test_an_inner_layer_of_the_vit(vit, smoke_profile):
    settings = {"kind": "vit", "pretrained": vit[1], "out_channels": 5, "input_size": 42, "trainable": False}
    torch.manual_seed(1)
    inner = build_image_encoder(with_encoder(smoke_profile, layer=1, **settings)).eval()
    torch.manual_seed(1)
    last = build_image_encoder(with_encoder(smoke_profile, layer=-1, **settings)).eval()
    with torch.no_grad():
        assert not torch.allclose(inner(pictures(), (3, 3)), last(pictures(), (3, 3)), atol=1e-3)


def test_a_frozen_backbone_gets_no_gradient_and_a_trained_one_does(vit, smoke_profile):
    for trainable in (False, True):
        settings = {"kind": "vit", "pretrained": vit[1], "input_size": 28, "layer": -1, "trainable": trainable}
        encoder = build_image_encoder(with_encoder(smoke_profile, **settings))
        encoder(pictures(), (4, 4)).square().mean().backward()
        reached = {name for name, p in encoder.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
        assert "projection.weight" in reached
        assert any(name.startswith("backbone.encoder.layer.0") for name in reached) == trainable
        # whatever may learn is reached: unused parameters would stop training on several processes
        assert {name for name, p in encoder.named_parameters() if p.requires_grad and p.grad is None} == set()


def test_a_vit_s_input_must_be_whole_patches(vit, smoke_profile):
    profile = with_encoder(smoke_profile, kind="vit", pretrained=vit[1], input_size=30, layer=-1)
    with pytest.raises(InputError, match=r"image_encoder\.input_size 30 .* patch size 14"):
        build_image_encoder(profile)


@pytest.mark.parametrize("kind", ["sd_vae", "vit"])
def test_missing_weights_name_the_key_and_the_command(kind, smoke_profile, tmp_path):
    profile = with_encoder(smoke_profile, kind=kind, pretrained=str(tmp_path / "none"))
    with pytest.raises(InputError, match=r"image_encoder\.pretrained") as error:
        build_image_encoder(profile)
    assert f"hf download {tmp_path / 'none'}" in str(error.value)
    with pytest.raises(InputError, match=r"set image_encoder\.pretrained"):
        build_image_encoder(with_encoder(smoke_profile, kind=kind, pretrained=None))


def test_weights_of_another_model_are_refused(vit, smoke_profile, tmp_path):
    """A backbone with more layers than the file has would keep random ones."""
    vit[0].save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 4}))
    profile = with_encoder(smoke_profile, kind="vit", pretrained=str(tmp_path), input_size=28, layer=-1)
    with pytest.raises(InputError, match=r"lack 'encoder\.layer\.3"):
        build_image_encoder(profile)


def test_configs_are_plain_json(encoders):
    """Whatever a backbone's configuration holds, it is in the encoder's own."""
    for encoder in (encoders["sd_vae"], encoders["vit"]):
        again = type(encoder).from_config(json.loads(encoder.to_json_string()))
        assert sum(p.numel() for p in again.parameters()) == sum(p.numel() for p in encoder.parameters())


def test_the_small_encoder_halves_with_each_width():
    encoder = SmallImageEncoder(channels=(8, 16, 8), out_channels=3)
    with torch.no_grad():
        assert encoder.layers(pictures()).shape == (2, 3, 4, 4)
    assert isinstance(encoder, SmallImageEncoder) and not isinstance(encoder, SDVAEImageEncoder | ViTImageEncoder)
