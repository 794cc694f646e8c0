"""Self-distillation: views, a teacher that follows and does not learn, files that the image encoder reads."""

import dataclasses
import shutil

import pytest
import torch
from transformers import Dinov2Model

from ldmseg_lib.core.randomness import torch_generator
from ldmseg_lib.data.panoptic import collate
from ldmseg_lib.data.splits import training_split
from ldmseg_lib.models.image_encoders import ViTImageEncoder, build_image_encoder
from ldmseg_lib.training.image_views import random_views
from ldmseg_lib.training.self_distillation import TEACHER_MOMENTUM, SelfDistillationObjective, train_self_distilled_vit


@pytest.fixture(scope="module")
def settings(smoke_profile):
    return smoke_profile.components.vit


@pytest.fixture(scope="module")
def dataset(smoke_profile, smoke_data):
    return training_split(smoke_profile, smoke_data)


@pytest.fixture
def objective(settings):
    torch.manual_seed(0)
    return SelfDistillationObjective(settings)


def generators(count: int, visit: int = 0) -> list[torch.Generator]:
    return [torch_generator("views", index, visit) for index in range(count)]


def loss_of(objective, batch) -> torch.Tensor:
    return objective(batch, objective.normalisers(batch))["loss"]


def test_a_view_depends_on_its_own_image_and_generator_alone():
    images = torch.rand(4, 3, 32, 32)
    views = random_views(images, generators(4), 16, area=(0.4, 1.0))
    assert views.shape == (4, 3, 16, 16) and views.min() >= 0 and views.max() <= 1
    alone = random_views(images[2:3], generators(4)[2:3], 16, area=(0.4, 1.0))
    assert torch.allclose(alone[0], views[2], atol=1e-6)
    assert not torch.allclose(random_views(images, generators(4, visit=1), 16, area=(0.4, 1.0)), views, atol=0.01)


def test_a_view_shows_the_share_of_the_image_that_it_should():
    """On an image whose colours are coordinates, a view's range of colours is the size of its crop."""
    rows, columns = torch.meshgrid(torch.linspace(0, 1, 64), torch.linspace(0, 1, 64), indexing="ij")
    image = torch.stack([rows, columns, (rows + columns) / 2])[None].expand(200, -1, -1, -1) / 4 + 0.375
    views = random_views(image, generators(200), 32, area=(0.25, 0.25))
    height, width = (4 * (views[:, k, -1, -1] - views[:, k, 0, 0]).abs() for k in (0, 1))
    # colours are changed at random too, by the same factors in both directions on average
    assert (height * width).median().item() == pytest.approx(0.25, abs=0.06)
    left_is_right = (views[:, 1, 0, 0] > views[:, 1, 0, -1]).float().mean().item()
    assert left_is_right == pytest.approx(0.5, abs=0.12)


def test_the_teacher_follows_and_does_not_learn(objective, dataset):
    student, teacher = objective.trained["student"], objective.trained["teacher"]
    loss_of(objective, collate([dataset[i] for i in range(4)])).backward()
    learned = [p for p in student.parameters() if p.requires_grad]
    assert learned and all(p.grad is not None and p.grad.isfinite().all() for p in learned)
    assert not any(p.requires_grad or p.grad is not None for p in teacher.parameters())
    before = [p.clone() for p in teacher.network.parameters()]
    with torch.no_grad():
        for parameter in student.parameters():
            parameter += 1
    objective.after_step()
    for now, then in zip(teacher.network.parameters(), before, strict=True):
        assert torch.allclose(now - then, torch.full_like(then, 1 - TEACHER_MOMENTUM), atol=1e-5)
    assert teacher.centres.abs().sum() > 0 and teacher.step == 1


def test_nothing_depends_on_micro_batches(settings, dataset):
    samples, results = [dataset[i] for i in range(4)], []
    for micro in (4, 2, 1):
        torch.manual_seed(0)
        objective = SelfDistillationObjective(settings)
        losses = []
        for start in range(0, 4, micro):
            losses.append(objective(collate(samples[start : start + micro]), {"images": 4})["loss"])
            losses[-1].backward()
        gradient = objective.trained["student"].prototypes.directions.grad.clone()
        objective.after_step()
        results.append((sum(losses).item(), gradient, objective.trained["teacher"].centres.clone()))
    for loss, gradient, centres in results[1:]:
        assert loss == pytest.approx(results[0][0], rel=1e-4)
        assert torch.allclose(gradient, results[0][1], atol=1e-5)
        assert torch.allclose(centres, results[0][2], atol=1e-5)


def test_patches_are_hidden_from_the_student_in_equal_numbers(objective):
    hidden = objective._hidden_patches(generators(6), 16)
    assert (hidden.sum(1) == round(0.3 * 16)).all() and len({tuple(row.tolist()) for row in hidden}) > 1


def test_labels_are_not_looked_at(objective, dataset):
    batch = collate([dataset[i] for i in range(2)])
    unlabelled = {key: batch[key] for key in ("image", "image_id", "visit")}
    assert torch.equal(loss_of(objective, unlabelled), loss_of(objective, batch))


@pytest.fixture(scope="module")
def trained(settings, dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("vit")
    return train_self_distilled_vit(settings, dataset, folder, 3)


def test_it_is_saved_as_transformers_saves_a_dinov2(trained, settings, smoke_profile):
    folder, record = trained
    assert {file.name for file in folder.iterdir()} == {"config.json", "model.safetensors"}
    model = Dinov2Model.from_pretrained(folder)
    assert model.config.hidden_size == settings.hidden_size and record.steps == settings.training.steps
    encoder = dataclasses.replace(
        smoke_profile.image_encoder, kind="vit", pretrained=str(folder), input_size=settings.input_size, layer=-1
    )
    built = build_image_encoder(dataclasses.replace(smoke_profile, image_encoder=encoder))
    assert isinstance(built, ViTImageEncoder)
    weights = model.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in built.backbone.state_dict().items())


def test_an_interrupted_training_ends_with_the_same_teacher(settings, dataset, tmp_path):
    """Teacher and centres are part of what is resumed."""
    training = dataclasses.replace(settings.training, steps=4, checkpoint_every=2, keep_checkpoints=5)
    longer = dataclasses.replace(settings, training=training)
    whole, _ = train_self_distilled_vit(longer, dataset, tmp_path / "whole", 3)
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut" / "checkpoints" / "step-00000004")
    resumed, _ = train_self_distilled_vit(longer, dataset, tmp_path / "cut", 3)
    first, second = (Dinov2Model.from_pretrained(folder) for folder in (whole, resumed))
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)
