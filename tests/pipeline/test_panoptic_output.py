"""Predictions come back from disk as they went, and what is no prediction is named."""

import json

import numpy as np
import pytest
import torch

from ldmseg_lib.core.errors import InputError
from ldmseg_lib.diffusion.tasks import relative_depth
from ldmseg_lib.pipeline.output import PanopticOutput

CATEGORIES = [{"id": 7, "name": "ball", "isthing": 1}, {"id": 9, "name": "floor", "isthing": 0}]


def output() -> PanopticOutput:
    """Three images of different sizes; ids of one, two and three bytes; the last has no segment."""
    ids = [np.zeros((5, 7), np.int32), np.zeros((3, 4), np.int32), np.zeros((2, 2), np.int32)]
    ids[0][1:3], ids[0][4] = 3, 300
    ids[1][:, 2] = 70_000
    segments = [
        [
            {"id": 3, "category_id": 7, "isthing": 1, "area": 14},
            {"id": 300, "category_id": 9, "isthing": 0, "area": 7},
        ],
        [{"id": 70_000, "category_id": 9, "isthing": 0, "area": 3}],
        [],
    ]
    return PanopticOutput(
        ids=ids, segments=segments, instance_ids=ids, semantic=[None] * 3, depth=[None] * 3, categories=CATEGORIES
    )


def test_predictions_come_back_as_they_went(tmp_path):
    output().save_coco(tmp_path / "p.json", tmp_path / "png")
    loaded = PanopticOutput.load_coco(tmp_path / "p.json", tmp_path / "png")
    assert len(loaded) == 3 and loaded.categories == CATEGORIES
    for found, expected in zip(loaded.ids, output().ids):
        assert found.dtype == np.int32 and np.array_equal(found, expected)
    stripped = [[{k: v for k, v in s.items() if k != "iscrowd"} for s in segments] for segments in loaded.segments]
    assert stripped == output().segments


def test_files_are_those_of_coco(tmp_path):
    output().save_coco(tmp_path / "p.json", tmp_path / "png", image_ids=[5, 8, 2])
    document = json.loads((tmp_path / "p.json").read_text())
    assert [(a["image_id"], a["file_name"]) for a in document["annotations"]] == [
        (5, "000000000005.png"),
        (8, "000000000008.png"),
        (2, "000000000002.png"),
    ]
    assert document["annotations"][1]["segments_info"] == [{"id": 70_000, "category_id": 9, "area": 3, "iscrowd": 0}]
    assert {path.name for path in (tmp_path / "png").iterdir()} == {a["file_name"] for a in document["annotations"]}


def test_areas_of_another_tool_are_counted_anew(tmp_path):
    output().save_coco(tmp_path / "p.json", tmp_path / "png")
    document = json.loads((tmp_path / "p.json").read_text())
    for annotation in document["annotations"]:
        annotation["segments_info"] = [{"id": s["id"], "category_id": 123} for s in annotation["segments_info"]]
    del document["categories"]
    (tmp_path / "p.json").write_text(json.dumps(document))
    loaded = PanopticOutput.load_coco(tmp_path / "p.json", tmp_path / "png")
    assert [s["area"] for s in loaded.segments[0]] == [14, 7] and loaded.segments[0][0]["isthing"] is None


@pytest.mark.parametrize("names", [{"image_ids": [1, 2]}, {"file_names": ["a.png"]}])
def test_as_many_names_as_images(tmp_path, names):
    with pytest.raises(InputError, match="for 3 images"):
        output().save_coco(tmp_path / "p.json", tmp_path / "png", **names)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("document", "named"),
    [
        ([], "annotations"),
        ({"annotations": 3}, "annotations"),
        ({"annotations": [{"file_name": "a.png"}]}, r"annotations\[0\]"),
        ({"annotations": [{"segments_info": []}]}, r"annotations\[0\]"),
        ({"annotations": ["a.png"]}, r"annotations\[0\]"),
        ({"annotations": [{"file_name": "../a.png", "segments_info": []}]}, "leaves the folder"),
        ({"annotations": [{"file_name": "a.png", "segments_info": [{"area": 3}]}]}, r"annotations\[0\]"),
        ({"annotations": [{"file_name": "none.png", "segments_info": []}]}, r"none\.png"),
    ],
)
def test_what_is_no_prediction_is_named(tmp_path, document, named):
    (tmp_path / "p.json").write_text(json.dumps(document))
    (tmp_path / "png").mkdir()
    with pytest.raises(InputError, match=named):
        PanopticOutput.load_coco(tmp_path / "p.json", tmp_path / "png")


def test_outputs_are_appended_image_by_image():
    both = PanopticOutput()
    both.extend(output())
    both.extend(output())
    assert len(both) == 6 and both.categories == CATEGORIES
    assert both.segments[3] == output().segments[0]
    both.extend(PanopticOutput())
    assert both.categories == CATEGORIES


def test_depth_comes_with_what_its_numbers_mean():
    """A reader of the output alone can align it: nearest is 1, farthest -1, linear in inverse depth."""
    both = output()
    assert both.depth_convention is None
    both.depth[1] = np.zeros((2, 3), np.float32)
    convention = both.depth_convention
    assert convention is not None and convention.quantity == "inverse depth"
    near_and_far = torch.tensor([[[1 / 2.0, 1 / 8.0]]])  # inverse depth of 2 m and of 8 m
    assert relative_depth(near_and_far).flatten().tolist() == [convention.nearest, convention.farthest]


def test_maps_of_further_tasks_are_appended_too():
    both = PanopticOutput()
    for label in (1, 2):
        one = output()
        one.maps = {"foreground": [np.full((2, 3), label, np.int32)] * len(one)}
        both.extend(one)
    assert [int(labels[0, 0]) for labels in both.maps["foreground"]] == [1, 1, 1, 2, 2, 2]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"file_names": ["a.png", "photo.jpg", "b.png"]}, "must end in .png"),
        ({"file_names": ["a.png", "photo", "b.png"]}, "must end in .png"),
        ({"file_names": ["a.png", "../b.png", "c.png"]}, "leaves the folder"),
        ({"file_names": ["a.png", "b.png", "a.png"]}, "'a.png' is given to more than one"),
        ({"file_names": ["a.png", "b.png", "./a.png"]}, "'a.png' is given to more than one"),
        ({"image_ids": [1, 2, 1]}, "image id 1 is given to more than one"),
        ({"image_ids": [1, 2, None]}, "image id None"),
    ],
)
def test_names_and_ids_are_checked_before_anything_is_written(tmp_path, settings, message):
    with pytest.raises(InputError, match=message):
        output().save_coco(tmp_path / "p.json", tmp_path / "png", **settings)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "ids", [np.full((2, 2), 1 << 24), np.full((2, 2), -1), np.ones((2, 2)), np.ones((1, 2, 2), int)]
)
def test_maps_that_no_png_holds_are_refused_before_anything_is_written(tmp_path, ids):
    predictions = output()
    predictions.ids[2] = ids
    with pytest.raises(InputError, match="image id 2"):
        predictions.save_coco(tmp_path / "p.json", tmp_path / "png")
    assert list(tmp_path.iterdir()) == []


def test_text_ids_and_scalars_of_numpy_and_torch_are_written(tmp_path):
    predictions = output()
    predictions.segments[0][0].update(id=np.int32(3), category_id=torch.tensor(7), area=np.int64(14))
    predictions.save_coco(
        tmp_path / "p.json", tmp_path / "png", image_ids=["town_000000_000019", np.int64(5), torch.tensor(6)]
    )
    entries = json.loads((tmp_path / "p.json").read_text())["annotations"]
    assert [entry["image_id"] for entry in entries] == ["town_000000_000019", 5, 6]
    assert entries[0]["file_name"] == "town_000000_000019.png"
    assert entries[0]["segments_info"][0] == {"id": 3, "category_id": 7, "area": 14, "iscrowd": 0}
    assert len(PanopticOutput.load_coco(tmp_path / "p.json", tmp_path / "png")) == 3
