"""Training the baseline: what its targets are, what its loss does not depend on, and that it learns."""

import dataclasses

import numpy as np
import pytest
import torch
from transformers import ViTMAEModel

from ldmseg_lib.core.errors import CheckpointError, InputError
from ldmseg_lib.data.panoptic import PanopticDataset, collate
from ldmseg_lib.data.splits import training_split
from ldmseg_lib.experiments.mask2former.judging import evaluate_mask2former
from ldmseg_lib.models.mask2former import ViTMask2Former, build_mask2former
from ldmseg_lib.training.mae import MAEObjective, build_mae, train_mae
from ldmseg_lib.training.mask2former import Mask2FormerObjective, train_mask2former
from ldmseg_lib.training.objective import Objective
from tests.models.tiny_mask2former import tiny_backbone


@pytest.fixture(scope="module")
def dataset(smoke_profile, smoke_data):
    return training_split(smoke_profile, smoke_data)


@pytest.fixture
def objective(smoke_profile, dataset) -> Mask2FormerObjective:
    settings = smoke_profile.mask2former
    model = build_mask2former(settings, tiny_backbone(), categories=dataset.categories, image_size=32, input_size=32)
    return Mask2FormerObjective(model, dataset.class_index, settings)


@pytest.fixture
def mae(smoke_profile) -> MAEObjective:
    torch.manual_seed(0)
    return MAEObjective(build_mae(smoke_profile.mask2former.mae))


def changed(profile, section: str, **changes):
    """`profile` with other values in mask2former.training or mask2former.mae.training."""
    settings = profile.mask2former
    if section == "mae":
        settings = dataclasses.replace(
            settings,
            mae=dataclasses.replace(settings.mae, training=dataclasses.replace(settings.mae.training, **changes)),
        )
    else:
        settings = dataclasses.replace(settings, training=dataclasses.replace(settings.training, **changes))
    return dataclasses.replace(profile, mask2former=settings)


def test_both_are_objectives_of_the_one_loop(objective, mae):
    assert isinstance(objective, Objective) and isinstance(mae, Objective)


def test_targets_are_the_segments_and_their_classes(objective, dataset):
    batch = collate([dataset[i, 1] for i in range(4)])
    masks, labels = objective.targets(batch)
    for image, (true, wanted) in enumerate(zip(masks, labels, strict=True)):
        assert torch.equal(true.sum(0), (batch["ids"][image] > 0).long())
        for mask, label in zip(true, wanted, strict=True):
            assert (batch["semantic"][image][mask] == label + 1).all() and mask.any()


@pytest.mark.parametrize("kind", ["objective", "mae"])
def test_a_loss_is_the_sum_of_its_parts_whatever_the_micro_batches(kind, dataset, request):
    """Totals come from the whole batch, and points and hidden patches from each image and visit."""
    model = request.getfixturevalue(kind).eval()
    samples = [dataset[i, 3] for i in range(6)]
    totals = model.normalisers(collate(samples))
    with torch.no_grad():
        whole = model(collate(samples), totals)
        parts = [model(collate(part), totals) for part in (samples[4:], samples[:1], samples[1:4])]
    for name, value in whole.items():
        assert torch.isclose(value, sum(part[name] for part in parts), rtol=1e-4), name


@pytest.mark.parametrize("kind", ["objective", "mae"])
def test_other_visits_draw_other_points_and_patches(kind, dataset, request):
    model = request.getfixturevalue(kind).eval()
    batch = collate([dataset[0, 0]])
    with torch.no_grad():
        losses = [model(batch | {"visit": [visit]}, model.normalisers(batch))["loss"].item() for visit in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]


def test_an_image_without_segments_gives_a_finite_loss_and_teaches_no_object(objective, dataset):
    sample = dict(dataset[0, 0], segments=[])
    sample["ids"] = torch.zeros_like(sample["ids"])
    batch = collate([sample])
    terms = objective(batch, objective.normalisers(batch))
    assert terms["loss"].isfinite() and terms["masks"] == terms["dice"] == 0 and terms["classes"] > 0
    terms["loss"].backward()
    assert all(p.grad.isfinite().all() for p in objective.trained.parameters() if p.requires_grad)


def test_the_loss_weighs_its_parts_as_the_profile_says(objective, dataset):
    batch = collate([dataset[i, 0] for i in range(2)])
    terms = objective(batch, objective.normalisers(batch))
    expected = 2 * terms["classes"] + 5 * terms["masks"] + 5 * terms["dice"]
    assert torch.isclose(terms["loss"], expected)


def test_it_learns_a_handful_of_scenes(smoke_profile, smoke_data, tmp_path):
    """On the images that it was trained on, without flips: classes and masks of most segments are right."""
    profile = changed(smoke_profile, "baseline", steps=150, batch_size=4, log_every=50, checkpoint_every=1000)
    few = PanopticDataset(smoke_data, "train", image_size=32, num_ids=16, max_images=4)
    model, record = train_mask2former(profile, few, tiny_backbone(), tmp_path, input_size=32)
    scores, predictions = evaluate_mask2former(model, few, batch_size=4, progress=False)
    assert record.steps == 150 and record.parameters == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert scores["panoptic"]["All"]["pq"] > 0.5 and scores["miou"] > 0.5
    assert scores["class_agnostic"]["All"]["pq"] > 0.5
    assert len(predictions) == 4


def test_the_trained_model_is_the_saved_one(smoke_profile, dataset, tmp_path):
    model, _ = train_mask2former(smoke_profile, dataset, tiny_backbone("dinov2"), tmp_path, input_size=32)
    loaded = ViTMask2Former.from_pretrained(tmp_path / "model")
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)
    again, _ = train_mask2former(smoke_profile, dataset, tiny_backbone("dinov2"), tmp_path, input_size=32)
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)


def test_a_checkpoint_of_another_kind_of_features_is_refused(smoke_profile, dataset, tmp_path):
    profile = changed(smoke_profile, "baseline", steps=2, checkpoint_every=1)
    train_mask2former(profile, dataset, tiny_backbone("mae"), tmp_path, input_size=32)
    with pytest.raises(CheckpointError, match="belong to another training"):
        train_mask2former(profile, dataset, tiny_backbone("dinov2"), tmp_path, input_size=32)
    with pytest.raises(CheckpointError, match="belong to another training"):
        train_mae(smoke_profile, dataset, tmp_path)


def test_averaged_weights_are_saved_where_the_profile_has_an_ema(smoke_profile, dataset, tmp_path):
    trained = {}
    for name, decay in (("a", None), ("b", 0.9)):
        profile = changed(smoke_profile, "baseline", steps=4, checkpoint_every=100, ema_decay=decay)
        trained[name], _ = train_mask2former(profile, dataset, tiny_backbone(), tmp_path / name, input_size=32)
    plain, averaged = trained.values()
    saved = ViTMask2Former.from_pretrained(tmp_path / "b" / "model").state_dict()
    differ = [not torch.equal(value, plain.state_dict()[name]) for name, value in averaged.state_dict().items()]
    assert any(differ)
    assert all(torch.equal(saved[name], value) for name, value in averaged.state_dict().items())


def test_masked_autoencoding_judges_hidden_patches_alone(mae, dataset):
    """An answer that is right on hidden patches and wild on the others costs nothing."""
    model = mae.trained["mae"]
    batch = collate([dataset[i, 0] for i in range(3)])
    pixels = (batch["image"] - mae.mean) / mae.std
    patches = model.patchify(pixels)
    truth = (patches - patches.mean(-1, keepdim=True)) / (patches.var(-1, keepdim=True) + 1e-6).sqrt()
    seen = []

    def answer(_, arguments, output):
        seen.append(arguments[1] >= 4)  # the place of each patch in the shuffled order, of which four are shown
        output.logits = torch.where(seen[0][..., None], truth, 1e3)
        return output

    model.decoder.register_forward_hook(answer)
    loss = mae(batch, mae.normalisers(batch))["loss"]
    assert loss < 1e-6
    assert (seen[0].sum(1) == 12).all(), "three quarters of 16 patches"
    assert len({tuple(row.tolist()) for row in seen[0]}) > 1


def test_masked_autoencoding_learns_and_leaves_a_plain_vit(smoke_profile, dataset, tmp_path):
    profile = changed(smoke_profile, "mae", steps=60, batch_size=8, log_every=10, checkpoint_every=1000)
    losses = []
    vit, record = train_mae(profile, dataset, tmp_path, on_log=lambda entry: losses.append(entry["loss"]))
    assert losses[-1] < 0.95 * losses[0] and record.steps == 60
    loaded, info = ViTMAEModel.from_pretrained(tmp_path / "vit", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    for name, value in vit.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)


def test_pretraining_needs_a_shape_and_images_of_its_size(smoke_profile, dataset, tmp_path):
    settings = smoke_profile.mask2former
    other = dataclasses.replace(settings, mae=dataclasses.replace(settings.mae, input_size=64))
    with pytest.raises(InputError, match=r"input_size 64 must be data.image_size 32"):
        train_mae(dataclasses.replace(smoke_profile, mask2former=other), dataset, tmp_path)
    with pytest.raises(InputError, match="nothing to pretrain"):
        build_mae(dataclasses.replace(settings.mae, patch_size=None))


def test_predictions_are_judged_as_they_are_saved(smoke_profile, dataset, tmp_path):
    model, _ = train_mask2former(smoke_profile, dataset, tiny_backbone(), tmp_path, input_size=32)
    scores, predictions = evaluate_mask2former(model, dataset, batch_size=5, progress=False)
    assert set(scores) == {"class_agnostic", "panoptic", "miou", "iou"}
    assert len(predictions) == len(dataset)
    for index, ids in enumerate(predictions.ids):
        assert ids.shape == dataset.ground_truth(index).ids.shape
        assert {s["id"] for s in predictions.segments[index]} == set(np.unique(ids[ids > 0]).tolist())
