"""The baseline's network: what the supplement says of it, where a patch ends up, and its way to disk."""

import json

import pytest
import torch
from torch import nn
from transformers import Dinov2Config, Dinov2Model, ViTMAEConfig, ViTMAEModel

from ldmseg_lib.core.errors import InputError
from ldmseg_lib.core.profiles import Profile
from ldmseg_lib.experiments.supplement import paper_number
from ldmseg_lib.models.autoencoder import MaskAutoencoder
from ldmseg_lib.models.mask2former import SimpleFeaturePyramid, ViTMask2Former, build_mask2former
from ldmseg_lib.pipeline.ldmseg import LDMSegPipeline
from tests.models.tiny_mask2former import CATEGORIES, SHAPE, tiny_backbone, tiny_mask2former

KINDS = ("mae", "dinov2")


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_paper_profile_is_the_supplements():
    settings = Profile.load("paper").mask2former
    assert settings.layers == paper_number("mask2former_decoder_layers") == 6
    assert settings.queries == paper_number("mask2former_queries") == 128
    assert settings.training.batch_size == paper_number("mask2former_batch_size") == 32
    assert settings.training.learning_rate == paper_number("mask2former_learning_rate") == 1.5e-4
    assert settings.training.steps == paper_number("mask2former_iterations") == 50_000


@pytest.mark.parametrize(("kind", "parameters"), [("mae", 85_647_360), ("dinov2", 86_579_712)])
def test_the_paper_profile_builds_vit_b_with_six_layers_and_128_queries(kind, parameters):
    """On the meta device: no memory, all shapes. ViT-B's own counts are those of its published configurations,
    without the fixed positions of MAE and the mask token of DINOv2.
    """
    settings = Profile.load("paper").mask2former
    categories = [{"id": i, "name": str(i), "isthing": int(i <= 80)} for i in range(1, 134)]
    with torch.device("meta"):
        if kind == "mae":
            backbone, side = ViTMAEModel(ViTMAEConfig(image_size=224, patch_size=16)), settings.mae.input_size
        else:
            backbone = Dinov2Model(Dinov2Config(image_size=518, patch_size=14))
            side = settings.self_distilled.input_size
        model = build_mask2former(settings, backbone, categories=categories, image_size=512, input_size=side)
        classes, masks = model(torch.zeros(2, 3, 512, 512))
    cells = side // backbone.config.patch_size
    assert classes.shape == (7, 2, 128, 134)
    assert masks.shape == (7, 2, 128, 4 * cells, 4 * cells)
    assert len(model.decoder.decoder.layers) == 6
    assert count(model.backbone) == count(backbone)
    learned = sum(p.numel() for p in model.backbone.parameters() if p.requires_grad)
    assert learned == parameters


@pytest.mark.parametrize("kind", KINDS)
def test_a_patch_of_the_image_is_a_cell_of_the_grid(kind):
    model = tiny_mask2former(kind)
    torch.manual_seed(1)
    image = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        before = model.grid(image)
        assert before.shape == (1, 32, 4, 4)
        for row, column in ((0, 3), (2, 1), (3, 3)):
            changed = image.clone()
            changed[..., 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = torch.rand(3, 8, 8)
            difference = (model.grid(changed) - before).square().sum(1)[0]
            assert divmod(difference.argmax().item(), 4) == (row, column)


def test_mae_features_are_those_of_the_pretrained_model_unmasked():
    """The encoder of MAE shuffles and drops patches; here it keeps all of them in their order."""
    backbone, model = tiny_backbone(), tiny_mask2former()
    images = torch.rand(2, 3, 32, 32)
    pixels = (images - model.mean) / model.std
    backbone.config.mask_ratio = backbone.embeddings.config.mask_ratio = 0.0
    with torch.no_grad():
        shuffled = backbone(pixels)
        tokens = shuffled.last_hidden_state[:, 1:]
        order = shuffled.ids_restore[..., None].expand(-1, -1, tokens.shape[-1])
        expected = tokens.gather(1, order).transpose(1, 2).unflatten(2, (4, 4))
        assert torch.allclose(model.grid(images), expected, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_pretrained_backbone_keeps_its_weights_and_learns(kind):
    backbone = tiny_backbone(kind)
    model = build_mask2former(
        Profile.load("smoke").mask2former, backbone, categories=CATEGORIES, image_size=32, input_size=32
    )
    for name, value in backbone.state_dict().items():
        assert torch.equal(model.backbone.state_dict()[name], value)
    classes, masks = model(torch.rand(2, 3, 32, 32))
    (classes.square().mean() + masks.square().mean()).backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name


@pytest.mark.parametrize(("finest", "cells"), [(4, 16), (2, 8)])
def test_mask_features_have_the_resolution_that_was_asked_for(finest, cells):
    classes, masks = tiny_mask2former(finest=finest)(torch.rand(1, 3, 32, 32))
    assert masks.shape[-2:] == (cells, cells) and masks.shape[:3] == classes.shape[:3] == (4, 1, 16)


def test_the_pyramid_has_a_map_for_each_multiple():
    grid = torch.rand(2, 32, 6, 6)
    maps = SimpleFeaturePyramid(width=32, channels=16, finest_channels=24)(grid)
    assert [tuple(m.shape[1:]) for m in maps] == [(16, 3, 3), (16, 6, 6), (16, 12, 12), (24, 24, 24)]
    assert len(SimpleFeaturePyramid(width=32, channels=16)(grid)) == 3


def test_images_of_another_size_are_resized_for_the_vit():
    model = tiny_mask2former()
    assert model.grid(torch.rand(1, 3, 50, 50)).shape == (1, 32, 4, 4)


def test_a_vit_may_see_more_patches_than_in_pretraining():
    for kind in KINDS:
        settings = Profile.load("smoke").mask2former
        model = build_mask2former(settings, tiny_backbone(kind), categories=CATEGORIES, image_size=32, input_size=64)
        assert model.grid(torch.rand(1, 3, 32, 32)).shape == (1, 32, 8, 8)


@pytest.mark.parametrize("kind", KINDS)
def test_a_loaded_model_predicts_as_the_saved_one(kind, tmp_path):
    model, images = tiny_mask2former(kind), torch.rand(1, 3, 32, 32)
    model.save_pretrained(tmp_path)
    assert not [file for file in tmp_path.iterdir() if file.suffix not in (".json", ".safetensors")]
    loaded = ViTMask2Former.from_pretrained(tmp_path)
    assert loaded.config.categories == CATEGORIES
    with torch.no_grad():
        for mine, other in zip(model(images), loaded.eval()(images), strict=True):
            assert torch.equal(mine, other)


def test_a_folder_of_another_kind_says_so(tmp_path):
    tiny_mask2former().save_pretrained(tmp_path / "baseline")
    tiny_backbone("dinov2").save_pretrained(tmp_path / "vit")
    for kind in (MaskAutoencoder, LDMSegPipeline):
        with pytest.raises(InputError, match=f"baseline: holds a ViTMask2Former, not a {kind.__name__}"):
            kind.from_pretrained(tmp_path / "baseline")
    with pytest.raises(InputError, match="vit: holds a Dinov2Model, not a ViTMask2Former"):
        ViTMask2Former.from_pretrained(tmp_path / "vit")


def test_the_pipelines_folder_is_no_baseline(smoke_pipeline, tmp_path):
    smoke_pipeline.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="holds a LDMSegPipeline, not a ViTMask2Former"):
        ViTMask2Former.from_pretrained(tmp_path)
    with pytest.raises(InputError, match="holds a MaskAutoencoder, not a ViTMask2Former"):
        ViTMask2Former.from_pretrained(tmp_path / "autoencoder")


def test_weights_that_are_missing_damaged_or_of_another_shape_are_refused(tmp_path):
    with pytest.raises(InputError, match="nowhere"):
        ViTMask2Former.from_pretrained(tmp_path / "nowhere")
    model = tiny_mask2former()
    model.save_pretrained(tmp_path / "other")
    config = json.loads((tmp_path / "other" / "config.json").read_text())
    (tmp_path / "other" / "config.json").write_text(json.dumps(config | {"queries": 5}))
    with pytest.raises(InputError, match="other"):
        ViTMask2Former.from_pretrained(tmp_path / "other")
    model.save_pretrained(tmp_path / "damaged")
    (weights,) = (tmp_path / "damaged").glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InputError, match="damaged"):
        ViTMask2Former.from_pretrained(tmp_path / "damaged")


def test_an_input_size_that_patches_do_not_fill_is_named():
    with pytest.raises(InputError, match=r"input_size 40 of the mae backbone .* patch size 8; give 32"):
        ViTMask2Former(backbone_kind="mae", backbone_config=SHAPE, categories=CATEGORIES, input_size=40)
    with pytest.raises(InputError, match="'mae' or 'dinov2', not 'swin'"):
        ViTMask2Former(backbone_kind="swin")
