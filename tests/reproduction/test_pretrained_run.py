"""Notebooks 10 to 12 before any training use the pretrained model, in a folder that no reproduction uses as its own."""

from pathlib import Path

import pytest

from ldmseg_lib.core import paths
from ldmseg_lib.core.errors import InputError, StageError
from ldmseg_lib.core.files import read_json, write_json
from ldmseg_lib.pipeline.ldmseg import LDMSegPipeline
from ldmseg_lib.reproduction import pretrained_run
from ldmseg_lib.reproduction.results import build_table, load_results, provenance, publish
from ldmseg_lib.reproduction.stage_keys import STAGES, check_run_folder
from ldmseg_lib.reproduction.stages import open_stage

SCORES = {"pq": 0.5, "sq": 0.5, "rq": 0.5}
CONDITION = {
    "block": 2,
    "pixels": 8,
    "rate": 0.5,
    "dropped": 0.5,
    "scores": {"inpainting": {"whole": SCORES, "hidden": SCORES}},
}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory, smoke_pipeline) -> Path:
    """A package folder that holds a pretrained model."""
    package = tmp_path_factory.mktemp("package")
    smoke_pipeline.save_pretrained(package / "pipeline" / "weights" / "embedded")
    return package


@pytest.fixture
def pretrained(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = pretrained_run.embedded_folder
    monkeypatch.setattr(pretrained_run, "embedded_folder", lambda: _at(original, installed))


def _at(find, package: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "PACKAGE", package)
        return find()


def opened(run: Path, profile, name: str = "10_mask_inpainting"):
    return open_stage(name, profile=profile, run_dir=run)


def test_a_notebook_opens_on_the_pretrained_model_and_records_beside_the_run(
    pretrained: None, smoke_profile, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    stage = opened(tmp_path / "demo", smoke_profile)
    assert stage.run_dir == tmp_path / "demo-pretrained"
    assert "has no trained model yet; the notebook uses the pretrained one" in capsys.readouterr().out
    LDMSegPipeline.from_pretrained(stage.input("04_diffusion") / "pipeline")
    assert (stage.input("02_autoencoder") / "autoencoder" / "config.json").is_file()
    assert (stage.data_root / "panoptic_val.json").is_file()
    stage.compute(lambda stage: {"conditions": [CONDITION], "weights": "notebook 04 of this run"})
    stage.finish()
    results = load_results(stage.run_dir)
    build_table("mask_inpainting", results)
    assert "pretrained model of the embedded scenes" in provenance(results)
    assert not (tmp_path / "demo" / "04_diffusion").exists()
    assert not (tmp_path / "demo" / "10_mask_inpainting").exists()
    again = opened(tmp_path / "demo", smoke_profile)
    assert again.result is not None


def test_no_reproduction_uses_it_and_nothing_of_it_is_published(
    pretrained: None, smoke_profile, tmp_path: Path
) -> None:
    stage = opened(tmp_path / "demo", smoke_profile, "11_mask_editor")
    with pytest.raises(StageError, match="uses the pretrained model and trains nothing"):
        check_run_folder(stage.run_dir, "smoke", 0)
    with pytest.raises(StageError, match="uses the pretrained model"):
        opened(stage.run_dir, smoke_profile, "05_panoptic_evaluation")
    with pytest.raises(InputError, match="not published"):
        publish(stage.run_dir)


def test_only_those_notebooks_use_it_and_only_where_nothing_was_trained(
    pretrained: None, smoke_profile, tmp_path: Path
) -> None:
    assert [name for name, stage in STAGES.items() if stage.uses_pretrained] == [
        "10_mask_inpainting",
        "11_mask_editor",
        "12_few_steps",
    ]
    with pytest.raises(StageError, match="needs the data folder"):
        opened(tmp_path / "demo", smoke_profile, "05_panoptic_evaluation")
    begun = tmp_path / "begun" / "02_autoencoder"
    begun.mkdir(parents=True)
    (begun / "key.json").write_text("{}")
    with pytest.raises(StageError, match="needs the data folder"):
        opened(tmp_path / "begun", smoke_profile)
    assert list(tmp_path.glob("*-pretrained")) == []


def test_without_a_pretrained_model_the_missing_notebook_is_named(smoke_profile, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(paths, "PACKAGE", paths.PACKAGE / "nowhere")
    assert not pretrained_run.can_use_pretrained(tmp_path / "demo")


def test_the_mark_is_in_the_folder_itself(pretrained: None, smoke_profile, tmp_path: Path) -> None:
    stage = opened(tmp_path / "demo", smoke_profile, "12_few_steps")
    assert read_json(stage.run_dir / "run.json") == {"profile": "smoke", "seed": 0, "pretrained": True}


@pytest.mark.parametrize("mark", ["pretrained", "ready"])
def test_older_folders_are_recognised_by_their_own_mark(mark: str, tmp_path: Path) -> None:
    write_json(tmp_path / "run.json", {"profile": "smoke", "seed": 0, mark: True})
    with pytest.raises(StageError, match="uses the pretrained model"):
        check_run_folder(tmp_path, "smoke", 0)
    with pytest.raises(InputError, match="not published"):
        publish(tmp_path)
