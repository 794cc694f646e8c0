"""A model's folder is data: code that lies in it is never run, and pickles in it are never read."""

import json
from pathlib import Path

import pytest

from ldmseg_lib.core.errors import InputError
from ldmseg_lib.models.autoencoder import MaskAutoencoder
from ldmseg_lib.pipeline.ldmseg import LDMSegPipeline

CODE = "from pathlib import Path\nPath({mark!r}).touch()\n\n\nclass Denoiser:\n    pass\n"


@pytest.fixture
def folder(smoke_pipeline, tmp_path) -> Path:
    smoke_pipeline.save_pretrained(tmp_path / "pipe")
    return tmp_path / "pipe"


@pytest.mark.parametrize("place", ["a part's class", "the pipeline's class", "any library"])
def test_code_in_a_pipelines_folder_is_not_run(folder, tmp_path, place, monkeypatch):
    mark = tmp_path / "ran"
    index = json.loads((folder / "model_index.json").read_text())
    if place == "a part's class":
        (folder / "denoiser" / "mine.py").write_text(CODE.format(mark=str(mark)))
        index["denoiser"] = ["mine", "Denoiser"]
    elif place == "the pipeline's class":
        (folder / "pipeline.py").write_text(CODE.format(mark=str(mark)))
        index["_class_name"] = ["pipeline", "Denoiser"]
    else:
        (tmp_path / "mine_of_another_name.py").write_text(CODE.format(mark=str(mark)))
        monkeypatch.syspath_prepend(str(tmp_path))
        index["denoiser"] = ["mine_of_another_name", "Denoiser"]
    (folder / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=str(folder)):
        LDMSegPipeline.from_pretrained(folder)
    assert not mark.exists()


def test_code_in_a_models_folder_is_not_run(folder, tmp_path):
    mark, part = tmp_path / "ran", folder / "autoencoder"
    (part / "mine.py").write_text(CODE.format(mark=str(mark)))
    config = json.loads((part / "config.json").read_text())
    config["auto_map"] = {"AutoModel": "mine.Denoiser"}
    (part / "config.json").write_text(json.dumps(config))
    MaskAutoencoder.from_pretrained(part)
    assert not mark.exists()
