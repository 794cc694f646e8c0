"""Published weights: every tensor of the UNet, the VAE and DINOv2 is used, or said not to be."""

import dataclasses

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import Dinov2Config, Dinov2Model

from ldmseg_lib.core.errors import InputError
from ldmseg_lib.models.denoiser import build_denoiser
from ldmseg_lib.models.image_encoders import build_image_encoder
from ldmseg_lib.models.weight_accounting import OLD_ATTENTION, account_for_weights, main

UNET = {
    "sample_size": 8,
    "block_out_channels": [32, 32],
    "layers_per_block": 1,
    "cross_attention_dim": 24,
    "attention_head_dim": 2,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
}
VAE = {
    "block_out_channels": [16, 32],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "latent_channels": 4,
    "sample_size": 32,
}
VIT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}


def rename_attention(file) -> None:
    """Give the VAE's attention the names that it has in Stable Diffusion v1.4's own file."""
    old = {}
    for name, tensor in load_file(file).items():
        for before, now in OLD_ATTENTION.items():
            name = name.replace(f"attentions.0.{now}.", f"attentions.0.{before}.")
        old[name] = tensor
    assert sum("proj_attn" in name for name in old) == 4
    save_file(old, file)


@pytest.fixture(scope="module", params=["old", "new"])
def checkpoints(request, tmp_path_factory) -> tuple[str, str]:
    """Tiny networks saved as CompVis/stable-diffusion-v1-4 and facebook/dinov2-base are: two folders."""
    torch.manual_seed(0)
    folder, vit = tmp_path_factory.mktemp("sd"), tmp_path_factory.mktemp("dinov2")
    UNet2DConditionModel(**UNET).save_pretrained(folder / "unet")
    AutoencoderKL(**VAE).save_pretrained(folder / "vae")
    if request.param == "old":
        rename_attention(folder / "vae" / "diffusion_pytorch_model.safetensors")
    Dinov2Model(Dinov2Config(**VIT)).save_pretrained(vit)
    return str(folder), str(vit)


def starting_from(profile, folder: str, kind: str, source: str):
    shape = dict.fromkeys(("channels", "attention", "layers_per_block", "head_dim", "task_dim"))
    denoiser = dataclasses.replace(profile.denoiser, pretrained=folder, **shape)
    encoder = dataclasses.replace(
        profile.image_encoder, kind=kind, pretrained=source, input_size=28, layer=-1, out_channels=4, trainable=False
    )
    return dataclasses.replace(profile, denoiser=denoiser, image_encoder=encoder)


def test_every_tensor_is_used_or_has_a_remark(checkpoints, smoke_profile):
    folder, vit = checkpoints
    for kind, source in (("sd_vae", folder), ("vit", vit)):
        for fates in account_for_weights(starting_from(smoke_profile, folder, kind, source)).values():
            assert fates and all(fate.used_as or fate.remark for fate in fates)


def test_the_accounts_are_what_the_built_networks_hold(checkpoints, smoke_profile):
    """Bit by bit: a tensor said to be used stands in the network, and the network has nothing else."""
    folder, vit = checkpoints
    profile = starting_from(smoke_profile, folder, "sd_vae", folder)
    unet_fates, vae_fates = account_for_weights(profile).values()
    unet, encoder = build_denoiser(profile).unet.state_dict(), build_image_encoder(profile).state_dict()
    file = load_file(f"{folder}/unet/diffusion_pytorch_model.safetensors")
    assert {fate.tensor for fate in unet_fates} == set(file) and {fate.used_as for fate in unet_fates} == set(unet)
    for fate in unet_fates:
        held = unet[fate.used_as]
        assert torch.equal(held[:, :4] if fate.used_as == "conv_in.weight" else held, file[fate.tensor])
    assert (unet["conv_in.weight"][:, 4:] == 0).all()
    file = load_file(f"{folder}/vae/diffusion_pytorch_model.safetensors")
    used = {fate.used_as: file[fate.tensor] for fate in vae_fates if fate.used_as}
    assert {fate.tensor for fate in vae_fates} == set(file) and set(used) == set(encoder)
    assert all(torch.equal(encoder[name], tensor) for name, tensor in used.items())
    assert all("decoder" in fate.remark for fate in vae_fates if not fate.used_as)

    profile = starting_from(smoke_profile, folder, "vit", vit)
    _, fates = account_for_weights(profile).values()
    backbone = build_image_encoder(profile).backbone.state_dict()
    file = load_file(f"{vit}/model.safetensors")
    assert {fate.used_as for fate in fates} == set(backbone) and {fate.tensor for fate in fates} == set(file)
    assert all(torch.equal(backbone[fate.used_as], file[fate.tensor]) for fate in fates)


def test_full_size_files_have_as_many_tensors_as_published():
    """Stable Diffusion v1.4's UNet and VAE, and DINOv2's ViT-B/14, built without memory from their configurations."""
    from ldmseg_lib.experiments.full_size import random_pipeline

    pipeline, vit = random_pipeline("sd_vae", device="meta"), random_pipeline("vit", device="meta")
    assert len(pipeline.denoiser.unet.state_dict()) == 686
    assert len(pipeline.image_encoder.state_dict()) == 108  # of the VAE's 248: its encoder and quant_conv
    assert len(vit.image_encoder.backbone.state_dict()) == 223


def test_a_tensor_without_a_place_is_reported_and_warned_of(checkpoints, smoke_profile, tmp_path):
    folder, vit = checkpoints
    Dinov2Model.from_pretrained(vit).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file(tensors | {"head.bias": torch.zeros(3)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    profile = starting_from(smoke_profile, folder, "vit", str(tmp_path))
    _, fates = account_for_weights(profile).values()
    assert [fate.tensor for fate in fates if fate.used_as is None] == ["head.bias"]
    with pytest.warns(UserWarning, match=r"1 of the file's tensors are not used: head\.bias"):
        build_image_encoder(profile)


def test_weights_that_lack_or_change_a_tensor_are_refused(checkpoints, smoke_profile, tmp_path):
    folder, vit = checkpoints
    Dinov2Model.from_pretrained(vit).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    name = next(name for name in tensors if name.endswith("norm1.weight"))
    profile = starting_from(smoke_profile, folder, "vit", str(tmp_path))
    save_file(
        {k: v for k, v in tensors.items() if k != name}, tmp_path / "model.safetensors", metadata={"format": "pt"}
    )
    with pytest.raises(InputError, match="lacks"):
        account_for_weights(profile)
    save_file(tensors | {name: torch.zeros(3)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"has shape \[3\], not \[16\]"):
        account_for_weights(profile)


def test_the_command_counts_and_names(checkpoints, capsys, monkeypatch):
    folder, _ = checkpoints
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    overrides = f"denoiser.pretrained={folder},image_encoder.kind=sd_vae,image_encoder.pretrained={folder}"
    assert main(["--profile", "paper", "--overrides", overrides]) == 0
    text = capsys.readouterr().out
    assert "unet: " in text and "the VAE's decoder, which is not kept" in text
    assert main(["--profile", "paper", "--overrides", f"{overrides},denoiser.pretrained={folder}/none"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "denoiser.pretrained" in error and "hf download" in error and "HF_HOME" in error


def test_a_unet_of_other_latents_is_refused_with_both_widths(smoke_profile, tmp_path):
    UNet2DConditionModel(**UNET | {"in_channels": 9}).save_pretrained(tmp_path / "unet")
    with pytest.raises(InputError, match=r"in_channels 9, but the mask latents of this profile have 4"):
        build_denoiser(starting_from(smoke_profile, str(tmp_path), "vit", ""))


def test_a_layer_that_the_vit_has_not_is_refused(checkpoints, smoke_profile):
    folder, vit = checkpoints
    profile = starting_from(smoke_profile, folder, "vit", vit)
    profile = dataclasses.replace(profile, image_encoder=dataclasses.replace(profile.image_encoder, layer=3))
    with pytest.raises(InputError, match=r"layer 3 is none of the ViT's 3 hidden states"):
        build_image_encoder(profile)


def test_an_unknown_kind_of_encoder_names_the_valid_ones(smoke_profile):
    encoder = dataclasses.replace(smoke_profile.image_encoder, kind="clip")
    with pytest.raises(InputError, match="'clip'; valid ones are small, sd_vae, vit"):
        build_image_encoder(dataclasses.replace(smoke_profile, image_encoder=encoder))
