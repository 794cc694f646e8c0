"""Multi-task: one network, many questions; what is new changes nothing of what was there, and depth comes aligned."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ldmseg_lib.core.errors import DatasetError, InputError
from ldmseg_lib.core.profiles import Profile
from ldmseg_lib.core.randomness import torch_generator
from ldmseg_lib.data.panoptic import PanopticDataset, collate
from ldmseg_lib.diffusion.tasks import TASKS, Task
from ldmseg_lib.experiments.multitask import scores as task_scores
from ldmseg_lib.experiments.multitask.scores import LabelScores
from ldmseg_lib.experiments.multitask.study import MultitaskStudy, evaluate_depth_reconstruction, load_maps, save_maps
from ldmseg_lib.pipeline.ldmseg import LDMSegPipeline
from tests.data.folders import make_folder

THREE = ("instance", "semantic", "depth")


@pytest.fixture(scope="module")
def profile(smoke_overrides):
    return Profile.load(
        "smoke", {**smoke_overrides, "multitask.training.steps": 6, "multitask.depth_autoencoder.steps": 6}
    )


@pytest.fixture(scope="module")
def study(profile, smoke_run, smoke_data, tmp_path_factory):
    """Depth autoencoder, a model of depth alone and one of all tasks, trained on from `smoke_run`'s."""
    folder = tmp_path_factory.mktemp("multitask")
    before = {name: value.clone() for name, value in smoke_run.pipeline.denoiser.state_dict().items()}
    study = MultitaskStudy(profile, smoke_data, folder, start=smoke_run.pipeline)
    autoencoder = study.train_depth_autoencoder()
    study.take("before")
    records = {"alone": study.train("alone", ("depth",)), "all": study.train("all")}
    return SimpleNamespace(study=study, folder=folder, autoencoder=autoencoder, records=records, before=before)


@pytest.fixture(scope="module")
def pipeline(study) -> LDMSegPipeline:
    loaded = LDMSegPipeline.from_pretrained(study.study.folder_of("all") / "pipeline")
    loaded.set_progress_bar_config(disable=True)
    return loaded


def pictures() -> list[np.ndarray]:
    draw = np.random.default_rng(0)
    return [draw.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((32, 32), (20, 50), (61, 33))]


def streams() -> list[torch.Generator]:
    return [torch_generator("multitask", i) for i in range(3)]


# one network, asked for many maps


def test_all_tasks_are_one_batch_and_the_image_is_encoded_once(pipeline, monkeypatch):
    calls, encoded = [], []
    real, encode = pipeline.denoiser.forward, pipeline.image_encoder.forward
    monkeypatch.setattr(pipeline.denoiser, "forward", lambda *a: (calls.append(a[4].tolist()), real(*a))[1])
    monkeypatch.setattr(pipeline.image_encoder, "forward", lambda *a: (encoded.append(len(a[0])), encode(*a))[1])
    pipeline(pictures(), tasks=THREE, num_inference_steps=2, generator=streams())
    assert encoded == [3] and calls == [[0, 0, 0, 1, 1, 1, 2, 2, 2]] * 2


def test_a_task_is_answered_the_same_whatever_else_is_asked(pipeline):
    settings = {"num_inference_steps": 2, "threshold": 0.0, "min_area": 0}
    together = pipeline(pictures(), tasks=THREE, generator=streams(), **settings)
    depth = pipeline(pictures(), tasks=["depth"], generator=streams(), **settings).depth
    instance = pipeline(pictures(), tasks=["instance"], generator=streams(), **settings).instance_ids
    assert all(np.allclose(a, b, atol=1e-3) for a, b in zip(together.depth, depth, strict=True))
    agree = [float((a == b).mean()) for a, b in zip(together.instance_ids, instance, strict=True)]
    assert min(agree) > 0.99
    assert [values.shape for values in depth] == [image.shape[:2] for image in pictures()]
    assert all(values.dtype == np.float32 and np.isfinite(values).all() for values in depth)


def test_the_output_says_what_its_depth_means(pipeline):
    output = pipeline(pictures()[:1], tasks=THREE, num_inference_steps=1, generator=streams()[:1])
    assert output.depth_convention is not None and output.depth_convention.nearest > output.depth_convention.farthest
    output = pipeline(pictures()[:1], num_inference_steps=1, generator=streams()[:1])
    assert output.depth == [None] and output.depth_convention is None


def test_the_token_alone_makes_the_difference(pipeline):
    """Same noise, same image: another token, another prediction; the same token, the same."""
    denoiser = pipeline.denoiser
    z, image = torch.randn(1, 4, 8, 8), torch.randn(1, denoiser.config.image_channels, 8, 8)
    with torch.no_grad():
        found = [
            denoiser(z, image, torch.zeros_like(z), torch.tensor([500]), denoiser.task_ids([task])) for task in THREE
        ]
        denoiser_tokens = denoiser.task_tokens.weight.clone()
        denoiser.task_tokens.weight[2] = denoiser.task_tokens.weight[0]
        same = denoiser(z, image, torch.zeros_like(z), torch.tensor([500]), denoiser.task_ids(["depth"]))
        denoiser.task_tokens.weight.copy_(denoiser_tokens)
    assert not torch.allclose(found[0], found[2], atol=1e-4) and not torch.allclose(found[0], found[1], atol=1e-4)
    assert torch.allclose(same, found[0], atol=1e-6)


def test_a_task_that_the_checkpoint_does_not_know_names_those_it_knows(pipeline, smoke_pipeline):
    with pytest.raises(InputError, match="no task 'depth'; it was trained for instance, semantic"):
        smoke_pipeline(pictures(), tasks=THREE)
    with pytest.raises(InputError, match="no task 'normals'; it was trained for instance, semantic, depth"):
        pipeline(pictures(), tasks=["normals"])


# training


def test_data_without_depth_say_which_command_makes_it(profile, smoke_pipeline, tmp_path):
    make_folder(tmp_path)
    with pytest.raises(DatasetError, match=r"python -m ldmseg_lib\.data\.depth ROOT"):
        MultitaskStudy(profile, tmp_path, tmp_path / "run", start=smoke_pipeline)


def test_training_on_leaves_the_first_model_as_it_was(study, smoke_run):
    now = smoke_run.pipeline.denoiser.state_dict()
    assert all(torch.equal(value, now[name]) for name, value in study.before.items())
    assert smoke_run.pipeline.denoiser.config.tasks == ["instance", "semantic"]


def test_a_model_of_fewer_tasks_has_as_many_samples_of_each(study, profile):
    """The comparison is fair by samples of a task: fewer tasks, fewer steps."""
    joint, _ = study.study.judge("all")
    alone, _ = study.study.judge("alone", ["depth"])
    assert alone["samples"]["depth"] == pytest.approx(joint["samples"]["depth"], rel=0.35)  # of six steps only
    assert study.records["alone"]["steps"] == round(6 * 0.5) and study.records["all"]["steps"] == 6
    before = profile.diffusion.training.steps * profile.diffusion.training.batch_size
    assert alone["samples"]["instance"] == before * 0.5
    assert joint["samples"]["instance"] == before * 0.5 + round(6 * 8 * 0.3)


def test_depth_latents_have_the_deviation_of_those_of_masks(study, profile):
    autoencoder = study.study.autoencoders["depth"]
    assert autoencoder.config.encoding == "scalar"
    batch = collate([study.study.train_set[index] for index in range(len(study.study.train_set))])
    with torch.no_grad():
        std = autoencoder.to_latents(TASKS["depth"].target(batch)).std().item()
    assert std == pytest.approx(profile.autoencoder.latent_std, rel=0.05)


def test_what_was_saved_knows_all_tasks(study, pipeline):
    assert pipeline.denoiser.config.tasks == list(THREE) and pipeline.depth_autoencoder is not None
    ours = study.study._pipelines["all"].denoiser.state_dict()
    assert all(torch.equal(value, ours[name]) for name, value in pipeline.denoiser.state_dict().items())


# judging


def test_scores_of_every_task_and_of_the_panoptic_map(study):
    joint, output = study.study.judge("all", examples=2)
    assert set(joint["scores"]) == {"instance", "semantic", "depth", "panoptic"} and joint["tasks"] == list(THREE)
    depth = joint["scores"]["depth"]
    assert depth["n"] == len(study.study.val_set) and depth["abs_rel"] > 0
    assert depth["constant"]["abs_rel"] > 0 and 0 <= depth["delta1"] <= 1
    assert len(output) >= 2 and output.depth[0] is not None
    before, _ = study.study.judge("before")
    assert set(before["scores"]) == {"instance", "semantic", "panoptic"}


def test_the_autoencoder_is_judged_by_what_it_reproduces(study):
    class Faithful:
        device = torch.device("cpu")

        def encode(self, target):
            return SimpleNamespace(mean=target.nan_to_num()[:, None])

        def decode(self, latents, size):
            return latents * 3 - 1

    perfect = evaluate_depth_reconstruction(Faithful(), study.study.val_set, batch_size=3)
    assert perfect["abs_rel"] == pytest.approx(0, abs=1e-4) and perfect["delta1"] == 1
    assert study.autoencoder["reconstruction"]["abs_rel"] > perfect["abs_rel"]


def test_maps_come_back_as_they_were_saved(study, tmp_path):
    _, output = study.study.judge("all", examples=3)
    save_maps(tmp_path / "maps.npz", output)
    for index, found in enumerate(load_maps(tmp_path / "maps.npz")):
        assert np.array_equal(found["panoptic"], output.ids[index])
        assert np.array_equal(found["instance"], output.instance_ids[index])
        assert np.array_equal(found["semantic"], output.semantic[index])
        assert np.array_equal(found["depth"], output.depth[index])
    with pytest.raises(InputError, match=r"nothing\.npz"):
        load_maps(tmp_path / "nothing.npz")
    (tmp_path / "bad.npz").write_bytes(b"no zip")
    with pytest.raises(InputError, match=r"bad\.npz"):
        load_maps(tmp_path / "bad.npz")


# a fourth task


@pytest.fixture
def registries():
    """The registries as they are, whatever a test adds."""
    tasks, scores = dict(TASKS), dict(task_scores.SCORES)
    yield
    for registry, before in ((TASKS, tasks), (task_scores.SCORES, scores)):
        registry.clear()
        registry.update(before)


def test_a_fourth_task_is_a_name_a_target_an_autoencoder_and_a_metric(study, registries):
    things = torch.tensor([0, *(1 + category["isthing"] for category in study.study.train_set.categories)])
    task = Task("foreground", lambda batch: things[batch["semantic"]], "mask")
    record = study.study.add(
        task, score=lambda dataset: LabelScores(dataset, "foreground", labels=2), to="all", name="all + foreground"
    )
    assert record["steps"] == 4
    judged, output = study.study.judge("all + foreground", ["depth", "foreground"], examples=1)
    assert set(judged["scores"]) == {"depth", "foreground"}
    assert 0 <= judged["scores"]["foreground"]["miou"] <= 1
    assert output.maps["foreground"][0].dtype == np.int32 and output.maps["foreground"][0].min() >= 1
    assert judged["samples"]["foreground"] == round(4 * 8 * 0.7)
    loaded = LDMSegPipeline.from_pretrained(study.study.folder_of("all + foreground") / "pipeline")
    loaded.set_progress_bar_config(disable=True)
    found = loaded(pictures(), tasks=["foreground"], num_inference_steps=1, generator=streams())
    assert [labels.shape for labels in found.maps["foreground"]] == [image.shape[:2] for image in pictures()]


def test_a_label_task_is_judged_against_its_own_target(study, registries):
    """A perfect map scores 1, an exchanged one 0, and labels that the task does not have count as wrong."""
    things = torch.tensor([0, *(1 + category["isthing"] for category in study.study.train_set.categories)])
    TASKS["foreground"] = Task("foreground", lambda batch: things[batch["semantic"]], "mask")
    dataset = study.study.val_set

    def scored(change):
        scores = LabelScores(dataset, "foreground", labels=2)
        for index in range(len(dataset)):
            truth = dataset.ground_truth(index)
            labels = task_scores.true_labels("foreground", truth, dataset.class_index)
            scores.update(truth, SimpleNamespace(maps={"foreground": [change(labels)]}), 0)
        return scores.compute()["miou"]

    assert scored(lambda labels: labels) == 1
    assert scored(lambda labels: 3 - labels) == 0
    assert scored(lambda labels: np.full_like(labels, 9)) == 0


def test_depth_of_a_whole_split_can_be_unknown(profile, smoke_data, study):
    """An image without known depth teaches nothing and disturbs nothing."""
    dataset: PanopticDataset = study.study.train_set
    sample = dict(dataset[0]) | {"depth": torch.full_like(dataset[0]["depth"], torch.nan)}
    batch = collate([sample, dataset[1]])
    target = TASKS["depth"].target(batch)
    assert target[0].isnan().all() and not target[1].isnan().all()
    settings = dataclasses.replace(profile.diffusion, tasks={"depth": 1.0})
    from ldmseg_lib.training.diffusion import DiffusionObjective

    start = study.study.start
    model = DiffusionObjective(
        start.denoiser.with_tasks(["depth"]), start.image_encoder, study.study.autoencoders, settings
    )
    both = model(batch, {"images": 2})["loss"]
    assert both.isfinite() and both > 0
    assert model(collate([sample]), {"images": 1})["loss"] == 0
