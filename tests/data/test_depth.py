"""Pseudo depth: what a DPT model says, stored as the data folder wants it, whatever happens on the way."""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import BeitConfig, DPTConfig, DPTForDepthEstimation, DPTImageProcessorPil

from ldmseg_lib.core.errors import DatasetError, InputError
from ldmseg_lib.data import depth
from ldmseg_lib.data.check import check_dataset
from ldmseg_lib.data.depth import DepthPredictor, encode_relative_depth, main, write_depth, write_pseudo_depth
from ldmseg_lib.data.panoptic import PanopticDataset
from ldmseg_lib.data.pixels import read_depth
from tests.data.folders import Folder, make_folder

LARGEST, UNKNOWN = 65534, 65535


def save_model(folder: Path, *, beit: bool = True, keep_aspect_ratio: bool = False) -> Path:
    """A tiny model in the layout of Intel/dpt-beit-large-512 (or of Intel/dpt-large), random but never constant."""
    torch.manual_seed(0)
    shape = {
        "hidden_size": 16,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "image_size": 32,
        "patch_size": 8,
    }
    head = {"neck_hidden_sizes": [8, 8, 16, 16], "fusion_hidden_size": 16, "reassemble_factors": [4, 2, 1, 0.5]}
    if beit:
        backbone = BeitConfig(
            **shape, out_features=["stage1", "stage2", "stage3", "stage4"], reshape_hidden_states=False,
            use_relative_position_bias=True,
        )  # fmt: skip
        config = DPTConfig(backbone_config=backbone, **head, use_batch_norm_in_fusion_residual=False)
    else:
        config = DPTConfig(**shape, backbone_out_indices=[0, 1, 2, 3], **head)
    model = DPTForDepthEstimation(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.2)
        model.head.head[-2].bias.fill_(0.5)
    model.save_pretrained(folder)
    size = {"height": 32, "width": 32}
    processor = DPTImageProcessorPil(size=size, keep_aspect_ratio=keep_aspect_ratio, ensure_multiple_of=8)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("dpt"))


def mixed_folder(root: Path) -> Folder:
    """A folder whose images differ in size and shape."""
    folder = make_folder(root)
    for height, width in ((40, 20), (17, 61)):
        folder.add_image(np.full((height, width), 1000), [{"id": 1000, "category_id": 40}])
    folder.save()
    return folder


def stored(folder: Folder) -> list[np.ndarray]:
    return [np.asarray(Image.open(folder.depth_path(place))) for place in range(len(folder.document["images"]))]


@pytest.mark.parametrize("layout", ["flat", "coco"])
def test_a_folder_without_depth_gets_it_and_is_sound(tmp_path, model, layout):
    folder = make_folder(tmp_path, layout=layout)
    with pytest.raises(DatasetError, match=r"python -m ldmseg_lib\.data\.depth ROOT"):
        PanopticDataset(tmp_path, "train", depth=True)
    assert write_pseudo_depth(tmp_path, "train", model=model, progress=False) == folder.depth
    assert check_dataset(tmp_path, "train") == []
    dataset = PanopticDataset(tmp_path, "train", depth=True)
    for index in range(len(dataset)):
        truth = dataset.ground_truth(index)
        assert truth.depth.shape == truth.ids.shape
        assert truth.depth.min() >= 0 and truth.depth.max() == pytest.approx(1, abs=1e-6) and truth.depth.std() > 0
    document = json.loads(folder.annotations.read_text())
    assert document["info"]["depth_source"] == str(model)
    assert {key: document[key] for key in ("images", "annotations", "categories")} == {
        key: folder.document[key] for key in ("images", "annotations", "categories")
    }


@pytest.mark.parametrize("kind", [{"beit": True}, {"beit": False}, {"keep_aspect_ratio": True}])
def test_values_are_those_of_transformers_own_post_processing(tmp_path, kind):
    source = save_model(tmp_path / "model", **kind)
    folder = mixed_folder(tmp_path / "data")
    write_pseudo_depth(tmp_path / "data", "train", model=source, batch_size=2, progress=False)
    reference, processor = DPTForDepthEstimation.from_pretrained(source), DPTImageProcessorPil.from_pretrained(source)
    for place, found in enumerate(stored(folder)):
        image = Image.open(folder.image_path(place)).convert("RGB")
        with torch.no_grad():
            output = reference(**processor(images=image, return_tensors="pt"))
        (expected,) = processor.post_process_depth_estimation(output, target_sizes=[image.size[::-1]])
        expected = expected["predicted_depth"].clamp(min=0).numpy()
        assert expected.std() / expected.mean() > 1e-3
        assert np.abs(found / LARGEST - expected / expected.max()).max() < 1e-3


def test_the_batch_changes_nothing(tmp_path, model):
    one, four = (mixed_folder(tmp_path / name) for name in ("one", "four"))
    for folder, batch_size in ((one, 1), (four, 4)):
        write_pseudo_depth(folder.root, "train", model=model, batch_size=batch_size, progress=False)
    for a, b in zip(stored(one), stored(four), strict=True):
        assert np.abs(a.astype(int) - b.astype(int)).max() <= 2


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path, model, monkeypatch):
    folder = make_folder(tmp_path)
    whole = make_folder(tmp_path / "whole")
    count = len(folder.document["images"])
    write_pseudo_depth(whole.root, "train", model=model, batch_size=1, progress=False)
    real, predicted = DepthPredictor.predict, []

    def counting(self, prepared, sizes):
        if len(predicted) == 2:
            raise KeyboardInterrupt
        predicted.extend(sizes)
        return real(self, prepared, sizes)

    with monkeypatch.context() as patch:
        patch.setattr(DepthPredictor, "predict", counting)
        with pytest.raises(KeyboardInterrupt):
            write_pseudo_depth(tmp_path, "train", model=model, batch_size=1, progress=False)
    assert sorted(path.name for path in folder.depth.glob("*.png")) == ["000100.png", "000101.png"]
    assert any("depth_scale is missing" in problem.message for problem in check_dataset(tmp_path, "train"))
    dates = {path: path.stat().st_mtime_ns for path in folder.depth.glob("*.png")}
    with monkeypatch.context() as patch:
        predicted.clear()
        patch.setattr(DepthPredictor, "predict", lambda self, p, s: predicted.extend(s) or real(self, p, s))
        write_pseudo_depth(tmp_path, "train", model=model, batch_size=1, progress=False)
    assert len(predicted) == count - 2
    assert all(path.stat().st_mtime_ns == date for path, date in dates.items())
    assert all(np.array_equal(a, b) for a, b in zip(stored(folder), stored(whole), strict=True))


def test_a_finished_split_needs_no_model_and_keeps_its_bytes(tmp_path, model):
    folder = make_folder(tmp_path)
    write_pseudo_depth(tmp_path, "train", model=model, progress=False)
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.rglob("*") if path.is_file()}
    moved = model.rename(model.with_name("moved"))
    try:
        write_pseudo_depth(tmp_path, "train", model=model, progress=False)
    finally:
        moved.rename(model)
    after = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.rglob("*") if path.is_file()}
    assert before == after and folder.depth.is_dir()


def test_depth_of_another_origin_is_not_mixed_in(tmp_path, model):
    exact = make_folder(tmp_path / "exact", depth=True)
    before = [path.read_bytes() for path in sorted(exact.depth.glob("*.png"))]
    with pytest.raises(DatasetError, match="there is depth from another source already"):
        write_pseudo_depth(exact.root, "train", model=model, progress=False)
    assert [path.read_bytes() for path in sorted(exact.depth.glob("*.png"))] == before
    pseudo = make_folder(tmp_path / "pseudo")
    write_pseudo_depth(pseudo.root, "train", model=model, progress=False)
    other = save_model(tmp_path / "other", beit=False)
    with pytest.raises(DatasetError, match=r"there is depth from .* already; to have it from .*other"):
        write_pseudo_depth(pseudo.root, "train", model=other, progress=False)


def test_a_broken_image_is_named_and_the_others_stay(tmp_path, model):
    folder = make_folder(tmp_path)
    folder.image_path(2).write_bytes(folder.image_path(2).read_bytes()[:-40])
    with pytest.raises(DatasetError, match=r"000102\.jpg, image id 102"):
        write_pseudo_depth(tmp_path, "train", model=model, batch_size=1, progress=False)
    assert len(list(folder.depth.glob("*.png"))) >= 1
    assert "depth_scale" not in json.loads(folder.annotations.read_text())["info"]


@pytest.mark.parametrize("lost", ["config.json", "model.safetensors", "preprocessor_config.json"])
def test_a_model_that_cannot_be_loaded_is_named(tmp_path, lost):
    source = save_model(tmp_path / "model")
    (source / lost).unlink()
    with pytest.raises(InputError, match=str(source)):
        DepthPredictor(source)


def test_published_weights_may_lack_what_never_runs_and_nothing_else(tmp_path):
    """Intel's checkpoints have no residual block in the first fusion layer (transformers issue 28292)."""
    source, image = save_model(tmp_path / "model"), np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    whole = DepthPredictor(source)
    (expected,) = whole.predict([whole.prepare(image)], [(24, 32)])
    weights = load_file(source / "model.safetensors")
    idle = "neck.fusion_stage.layers.0.residual_layer1."
    kept = {name: value for name, value in weights.items() if not name.startswith(idle)}
    assert len(weights) - len(kept) == 4
    save_file(kept, source / "model.safetensors", {"format": "pt"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        published = DepthPredictor(source)
    (found,) = published.predict([published.prepare(image)], [(24, 32)])
    assert np.array_equal(found, expected)
    del kept["neck.fusion_stage.layers.1.residual_layer1.convolution1.weight"]
    save_file(kept, source / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"layers\.1\.residual_layer1"):
        DepthPredictor(source)


def test_pickled_weights_are_not_read(tmp_path):
    source = save_model(tmp_path / "model")
    (source / "model.safetensors").unlink()
    torch.save({}, source / "pytorch_model.bin")
    with pytest.raises(InputError, match="MiDaS weights were not found"):
        DepthPredictor(source)


def test_stored_values_keep_order_and_tell_far_from_unknown(tmp_path):
    values = np.array([[0.0, 1e-9, 5.0], [np.nan, 20.0, -3.0]], np.float32)
    found = encode_relative_depth(values)
    assert found.dtype == np.uint16
    assert found.tolist() == [[0, 1, round(LARGEST / 4)], [UNKNOWN, LARGEST, 0]]
    rng = np.random.default_rng(0).random((9, 9))
    assert (np.argsort(encode_relative_depth(rng), axis=None) == np.argsort(rng, axis=None)).all()
    assert (encode_relative_depth(rng * 1e-7) == encode_relative_depth(rng * 1e5)).all()
    assert (encode_relative_depth(np.zeros((2, 2))) == UNKNOWN).all()
    write_depth(tmp_path / "a.png", found)
    assert np.array_equal(read_depth(tmp_path / "a.png", (2, 3)), found)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_the_command(tmp_path, model, capsys):
    folder = make_folder(tmp_path)
    assert main([str(tmp_path), "--model", str(model), "--device", "cpu", "--batch-size", "3"]) == 0
    assert str(folder.depth) in capsys.readouterr().out
    assert check_dataset(tmp_path, "train") == []
    assert main([str(tmp_path / "nowhere")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert main([str(tmp_path), "--model", "no/such-model-here", "--split", "train"]) == 2
    assert "there is depth from" in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--batch-size", "0"], ["--device", "abacus"], ["--workers", "many"]])
def test_options_that_cannot_be_are_refused_before_anything_is_written(tmp_path, model, option, capsys):
    folder = make_folder(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main([str(tmp_path), "--model", str(model), *option])
    assert stopped.value.code == 2 and option[0] in capsys.readouterr().err
    assert not folder.depth.exists()


@pytest.mark.slow
def test_the_command_in_a_process_of_its_own(tmp_path, model):
    make_folder(tmp_path)
    command = [sys.executable, "-m", "ldmseg_lib.data.depth", str(tmp_path), "--model", str(model)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    assert done.returncode == 0, done.stderr
    assert depth.DEFAULT_MODEL not in done.stderr
