"""The pipeline and the hub: what is uploaded, with the hub's client replaced by a recorder, loads again."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest
from diffusers.utils import hub_utils
from huggingface_hub.errors import EntryNotFoundError

from ldmseg_lib.core import paths
from ldmseg_lib.core.errors import InputError
from ldmseg_lib.core.randomness import torch_generator
from ldmseg_lib.pipeline.ldmseg import LDMSegPipeline
from ldmseg_lib.pipeline.model_card import TrainingFacts, model_card
from ldmseg_lib.pipeline.pretrained import embedded_folder


class Recorder:
    """Stands for the hub: keeps what is uploaded, and has a card where a test wrote one."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.created, self.uploads = folder, [], []
        self.card: str | None = None

    def create_repo(self, repo_id: str, **settings):
        self.created.append((repo_id, settings))
        return SimpleNamespace(repo_id=f"someone/{repo_id.rpartition('/')[2]}")

    def load_card(self, repo_id: str, **_):
        if self.card is None:
            raise EntryNotFoundError("no README.md")
        return huggingface_hub.ModelCard(self.card)

    def upload_folder(self, *, repo_id: str, folder_path, **settings) -> str:
        shutil.copytree(folder_path, self.folder)
        self.uploads.append((repo_id, settings))
        return f"https://hub/{repo_id}/commit/1"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder(tmp_path / "uploaded")
    monkeypatch.setattr(hub_utils, "create_repo", recorder.create_repo)
    monkeypatch.setattr("diffusers.pipelines.pipeline_utils.create_repo", recorder.create_repo)
    monkeypatch.setattr(hub_utils, "upload_folder", recorder.upload_folder)
    monkeypatch.setattr(huggingface_hub.ModelCard, "load", recorder.load_card)
    return recorder


def assert_same(first: LDMSegPipeline, second: LDMSegPipeline) -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    second.set_progress_bar_config(disable=True)
    one, other = (p(image, num_inference_steps=2, generator=torch_generator(3)) for p in (first, second))
    assert np.array_equal(one.ids[0], other.ids[0]) and one.segments == other.segments


def test_push_to_hub_uploads_a_folder_that_loads_again(smoke_pipeline, hub: Recorder) -> None:
    address = smoke_pipeline.push_to_hub("someone/scenes", commit_message="First", private=True, token="t")
    assert address == "https://hub/someone/scenes/commit/1"
    ((name, created),) = hub.created
    assert name == "someone/scenes" and created["private"] is True and created["exist_ok"] is True
    ((repo_id, settings),) = hub.uploads
    assert repo_id == "someone/scenes" and settings["commit_message"] == "First" and settings["token"] == "t"
    assert {path.suffix for path in hub.folder.rglob("*") if path.is_file()} == {".json", ".safetensors", ".md"}
    assert_same(smoke_pipeline, LDMSegPipeline.from_pretrained(hub.folder))


def test_save_pretrained_uploads_too_under_the_folder_s_name(smoke_pipeline, hub: Recorder, tmp_path: Path) -> None:
    smoke_pipeline.save_pretrained(tmp_path / "scenes", push_to_hub=True)
    assert [name for name, _ in hub.created] == ["scenes"] and hub.uploads[0][0] == "someone/scenes"
    assert_same(smoke_pipeline, LDMSegPipeline.from_pretrained(hub.folder))


def test_pickles_are_neither_saved_nor_uploaded(smoke_pipeline, hub: Recorder, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="safetensors alone"):
        smoke_pipeline.save_pretrained(tmp_path / "pipe", safe_serialization=False)
    with pytest.raises(InputError, match="safetensors alone"):
        smoke_pipeline.push_to_hub("someone/scenes", safe_serialization=False)
    assert hub.uploads == [] and not (tmp_path / "pipe").exists()


def test_an_uploaded_card_says_what_the_model_is(smoke_pipeline, hub: Recorder) -> None:
    smoke_pipeline.push_to_hub("scenes")
    text = (hub.folder / "README.md").read_text()
    assert "More Information Needed" not in text
    first = smoke_pipeline.config.categories[0]["name"]
    for part in ("pipeline_tag: image-segmentation", "hallucination", "promises nothing on photographs", first):
        assert part in text


def test_the_card_of_a_loaded_pipeline_and_one_on_the_hub_are_kept(smoke_pipeline, hub: Recorder, tmp_path: Path):
    smoke_pipeline.save_pretrained(tmp_path / "pipe")
    (tmp_path / "pipe" / "README.md").write_text("# Mine")
    LDMSegPipeline.from_pretrained(tmp_path / "pipe").push_to_hub("scenes")
    assert (hub.folder / "README.md").read_text() == "# Mine"
    shutil.rmtree(hub.folder)
    hub.card = "---\nlicense: mit\n---\n# Edited on the hub"
    smoke_pipeline.push_to_hub("scenes")
    assert "# Edited on the hub" in (hub.folder / "README.md").read_text()


def test_a_card_states_facts_and_admits_what_it_does_not_know(smoke_pipeline) -> None:
    facts = TrainingFacts(
        data="200 scenes.",
        budget="Ten steps on a CPU.",
        evaluation="On 40 scenes.",
        metrics={"class-agnostic PQ": 0.4567, "mIoU": None},
        recipe="python -m ldmseg_lib.experiments.pretrained_weights",
    )
    text = model_card(smoke_pipeline, facts, title="Scenes")
    for part in (
        "# Scenes",
        "200 scenes.",
        "Ten steps",
        "| class-agnostic PQ | 45.7 |",
        "| mIoU |  |",
        "pretrained_weights",
    ):
        assert part in text
    count = sum(p.numel() for p in smoke_pipeline.denoiser.parameters()) / 1e6
    assert f"denoiser {count:.2f} M" in text and "at most 15 segments" in text
    bare = model_card(smoke_pipeline)
    assert bare.count("Unknown") == 2 and "Not measured." in bare


def test_a_card_of_photographs_warns_of_other_biases(smoke_pipeline) -> None:
    parts = {name: getattr(smoke_pipeline, name) for name in ("autoencoder", "denoiser", "image_encoder")}
    real = LDMSegPipeline(**parts, image_size=32, trained_on_photographs=True)
    text = model_card(real)
    assert "drawn scenes" not in text and "published weights" in text and "hallucinate" in text


def test_embedded_is_found_by_its_name(smoke_pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "PACKAGE", tmp_path)
    with pytest.raises(InputError, match=r"weights/embedded: the pretrained model .* make it with"):
        LDMSegPipeline.from_pretrained("embedded")
    smoke_pipeline.save_pretrained(tmp_path / "pipeline" / "weights" / "embedded")
    assert_same(smoke_pipeline, LDMSegPipeline.from_pretrained("embedded"))
    # a folder of that name in the working folder is another thing
    monkeypatch.chdir(tmp_path / "pipeline" / "weights")
    (tmp_path / "pipeline" / "weights" / "embedded" / "model_index.json").unlink()
    with pytest.raises(InputError, match="the pretrained model"):
        LDMSegPipeline.from_pretrained("embedded")
    with pytest.raises(InputError, match="no pipeline can be loaded"):
        LDMSegPipeline.from_pretrained("./embedded")


def shipped() -> Path:
    try:
        return embedded_folder()
    except InputError as error:
        pytest.skip(str(error))


def test_the_shipped_model_is_small_safe_loads_and_has_its_card() -> None:
    folder = shipped()
    found = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.suffix for path in found} <= {".json", ".safetensors", ".md"}
    assert sum(path.stat().st_size for path in found if path.suffix == ".safetensors") <= 20 * 2**20
    pipeline = LDMSegPipeline.from_pretrained("embedded")
    pipeline.set_progress_bar_config(disable=True)
    assert {"instance", "semantic"} <= set(pipeline.denoiser.config.tasks)
    assert not pipeline.trained_on_photographs
    image = np.full((64, 64, 3), 128, np.uint8)
    assert pipeline(image, num_inference_steps=1, generator=torch_generator(0)).ids[0].shape == (64, 64)
    card = (folder / "README.md").read_text()
    for part in ("## Training data", "ready_train", "## Quality", "class-agnostic PQ", "hallucinate", "## How to make"):
        assert part in card
    for path in folder.rglob("*.json"):
        assert "_name_or_path" not in json.loads(path.read_text()), "a path of the machine that trained it"


def test_a_wheel_has_room_for_the_shipped_model() -> None:
    import tomllib

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    assert "pipeline/weights/embedded/**/*" in project["tool"]["setuptools"]["package-data"]["ldmseg_lib"]
