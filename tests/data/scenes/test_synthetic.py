"""The embedded data set on disk."""

import hashlib
import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ldmseg_lib.core.errors import DatasetError, InputError
from ldmseg_lib.data.scenes import dataset as synthetic
from ldmseg_lib.data.scenes.dataset import DEPTH_SCALE, SCENE_SEEDS, encode_depth, main, scene_seed, write_dataset
from ldmseg_lib.data.scenes.scene import CATEGORIES, draw_scene

SMALL = {"size": 32, "train_scenes": 30, "val_scenes": 4, "min_things": 2, "max_things": 4}
DRAWING = {"size": 32, "min_things": 2, "max_things": 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "scenes", **SMALL, workers=1, progress=False)


def _hashes(folder: Path) -> dict[str, str]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def _load(folder: Path, split: str = "train") -> dict:
    return json.loads((folder / f"panoptic_{split}.json").read_text())


def _read_ids(path: Path) -> np.ndarray:
    red, green, blue = np.moveaxis(np.asarray(Image.open(path)).astype(int), -1, 0)
    return red + 256 * green + 65536 * blue


def test_splits_never_share_a_scene():
    for one, other in itertools.combinations(SCENE_SEEDS.values(), 2):
        assert not range(max(one.start, other.start), min(one.stop, other.stop))
    assert {"train", "val", "test", "ready_train", "ready_val"} <= set(SCENE_SEEDS)
    assert scene_seed("train", 0) in SCENE_SEEDS["train"] and scene_seed("val", 7) in SCENE_SEEDS["val"]


@pytest.mark.parametrize(("split", "index"), [("trian", 0), ("train", -1), ("val", 10_000_000)])
def test_a_seed_outside_its_split_is_refused(split, index):
    with pytest.raises(DatasetError, match=f"{split}"):
        scene_seed(split, index)


def test_the_files_hold_the_scenes_of_the_split_in_order(folder):
    for split, count in (("train", 30), ("val", 4)):
        data = _load(folder, split)
        assert [image["id"] for image in data["images"]] == [scene_seed(split, index) for index in range(count)]
        assert [annotation["image_id"] for annotation in data["annotations"]] == [i["id"] for i in data["images"]]
    assert {path.name for path in folder.iterdir()} == {
        "images", "panoptic", "depth", "panoptic_train.json", "panoptic_val.json",
    }  # fmt: skip
    assert all(len(list((folder / name).iterdir())) == 34 for name in ("images", "panoptic", "depth"))


def test_the_json_describes_the_id_pngs_exactly(folder):
    data = _load(folder)
    assert data["categories"] == CATEGORIES
    for image, annotation in zip(data["images"], data["annotations"]):
        ids = _read_ids(folder / "panoptic" / annotation["file_name"])
        assert ids.shape == (image["height"], image["width"]) == (32, 32)
        np.testing.assert_array_equal(ids, draw_scene(image["id"], **DRAWING).ids)
        segments = annotation["segments_info"]
        assert sorted(segment["id"] for segment in segments) == np.unique(ids).tolist()
        for segment in segments:
            rows, columns = np.nonzero(ids == segment["id"])
            assert segment["area"] == len(rows) and segment["iscrowd"] == 0
            assert segment["bbox"] == [
                columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1,
            ]  # fmt: skip


def test_the_pictures_are_close_to_what_was_drawn(folder):
    for image in _load(folder)["images"][:10]:
        stored = np.asarray(Image.open(folder / "images" / image["file_name"])).astype(int)
        assert np.abs(stored - draw_scene(image["id"], **DRAWING).image).mean() < 4


def test_depth_comes_back_within_half_a_step(folder):
    data = _load(folder)
    assert data["info"]["depth_scale"] == DEPTH_SCALE and data["info"]["unlabelled"] == "void"
    for image in data["images"]:
        steps = np.asarray(Image.open(folder / "depth" / image["file_name"].replace(".jpg", ".png")))
        assert steps.max() < 65535
        exact = draw_scene(image["id"], **DRAWING).inverse_depth
        np.testing.assert_array_equal(steps == 0, exact == 0)
        far = exact < DEPTH_SCALE
        assert np.abs(steps * DEPTH_SCALE - exact)[~far].max() <= DEPTH_SCALE / 2 * 1.001


def test_only_what_is_infinitely_far_is_stored_as_zero():
    depth = np.array([[0, 1e-9, DEPTH_SCALE, 1.0, 1.9999, 7.0]], dtype=np.float32)
    assert encode_depth(depth).tolist() == [[0, 1, 1, 32768, 65533, 65534]]


def test_the_bytes_do_not_depend_on_the_number_of_workers(folder, tmp_path):
    again = write_dataset(tmp_path / "again", **SMALL, workers=2, progress=False)
    assert _hashes(again) == _hashes(folder)


def test_splits_may_be_drawn_one_by_one(folder, tmp_path):
    for split in ("val", "train"):
        write_dataset(tmp_path, **SMALL, splits=(split,), workers=1, progress=False)
    assert _hashes(tmp_path) == _hashes(folder)


def test_a_finished_folder_is_left_alone(folder, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    monkeypatch.setattr(synthetic, "draw_scene", lambda *_, **__: pytest.fail("drawn again"))
    assert write_dataset(folder, **SMALL, progress=False) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"size": 48}, "size 32 instead of 48"),
        ({"train_scenes": 31}, "scenes 30 instead of 31"),
        ({"max_things": 5}, "max_things 4 instead of 5"),
        ({"size": 48, "splits": ("test",)}, "size 32 instead of 48"),
    ],
)
def test_a_folder_of_other_parameters_is_refused(folder, changes, named):
    before = _hashes(folder)
    with pytest.raises(DatasetError, match=named) as caught:
        write_dataset(folder, **(SMALL | changes), progress=False)
    assert "panoptic_train.json" in str(caught.value)
    assert _hashes(folder) == before


def test_a_folder_of_another_origin_is_refused(tmp_path):
    (tmp_path / "panoptic_train.json").write_text('{"info": {}, "images": [], "annotations": [], "categories": []}')
    with pytest.raises(DatasetError, match="not written by the embedded data set"):
        write_dataset(tmp_path, **SMALL, progress=False)


def test_an_interrupted_run_continues(folder, tmp_path, monkeypatch):
    drawn = []

    def stop_at_the_28th(seed, **options):
        if len(drawn) == 27:
            raise KeyboardInterrupt
        drawn.append(seed)
        return draw_scene(seed, **options)

    monkeypatch.setattr(synthetic, "draw_scene", stop_at_the_28th)
    with pytest.raises(KeyboardInterrupt):
        write_dataset(tmp_path, **SMALL, workers=1, progress=False)
    assert not (tmp_path / "panoptic_train.json").exists(), "the JSON says that a split is complete"
    with pytest.raises(DatasetError, match="size 32 instead of 48"):
        write_dataset(tmp_path, **(SMALL | {"size": 48}), workers=1, progress=False)

    first = set(drawn)
    drawn.clear()
    write_dataset(tmp_path, **SMALL, workers=1, progress=False)
    assert len(drawn) < 20, "finished scenes are not drawn again"
    assert first | set(drawn) == {scene_seed("train", i) for i in range(30)} | {scene_seed("val", i) for i in range(4)}
    assert _hashes(tmp_path) == _hashes(folder)


def test_a_file_lost_in_an_interrupted_run_is_drawn_again(folder, tmp_path, monkeypatch):
    def power_failure():
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(synthetic.os, "sync", power_failure)
        with pytest.raises(KeyboardInterrupt):
            write_dataset(tmp_path, **SMALL, workers=1, progress=False)
    paths = sorted((tmp_path / "panoptic").iterdir())
    paths[3].write_bytes(b"")
    paths[-1].unlink()
    write_dataset(tmp_path, **SMALL, workers=1, progress=False)
    assert _hashes(tmp_path) == _hashes(folder)


def test_an_error_in_a_worker_process_comes_through(tmp_path):
    crowded = SMALL | {"size": 8}
    with pytest.raises(InputError, match="8 pixels"):
        write_dataset(tmp_path, **crowded, workers=2, progress=False)


def test_the_command_draws_a_folder_and_refuses_bad_input_in_one_line(folder, tmp_path, capsys):
    options = ["--size", "32", "--train-scenes", "30", "--val-scenes", "4", "--max-things", "4"]
    command = [
        sys.executable,
        "-m",
        "ldmseg_lib.data.scenes",
        str(tmp_path / "scenes"),
        *options,
        "--workers",
        "2",
    ]
    subprocess.run(command, check=True, capture_output=True)
    assert _hashes(tmp_path / "scenes") == _hashes(folder)

    assert main([str(folder), "--size", "40"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "size 32 instead of 40" in error
