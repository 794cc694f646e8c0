"""Exports are read back by the formats' own rules."""

import json

import numpy as np
import pytest
from PIL import Image

from ldmseg_lib.core.errors import InputError


def test_every_format_holds_the_same_ids(make_editor, ids, tmp_path):
    editor = make_editor()
    editor.drop_segment(3)
    paths = editor.export(tmp_path / "out")
    np.testing.assert_array_equal(np.asarray(Image.open(paths["ids_png"])), ids)
    np.testing.assert_array_equal(np.load(paths["ids_npy"], allow_pickle=False), ids)
    np.testing.assert_array_equal(np.load(paths["region_npy"], allow_pickle=False), ids == 3)
    np.testing.assert_array_equal(np.asarray(Image.open(paths["image"])), editor.photo)
    coco = np.asarray(Image.open(paths["panoptic_png"])).astype(int)
    np.testing.assert_array_equal(coco[..., 0] + 256 * coco[..., 1] + 65536 * coco[..., 2], ids)


def test_coco_names_areas_and_boxes(make_editor, ids, tmp_path):
    document = json.loads(make_editor().export(tmp_path)["panoptic_json"].read_text())
    (annotation,) = document["annotations"]
    entries = {entry["id"]: entry for entry in annotation["segments_info"]}
    assert set(entries) == {1, 2, 3}
    assert entries[3] == {"id": 3, "category_id": 20, "area": 400, "bbox": [40, 10, 20, 20], "iscrowd": 0}
    assert document["images"] == [{"id": annotation["image_id"], "file_name": "image.png", "height": 48, "width": 64}]
    assert [c["id"] for c in document["categories"]] == [10, 20]


def test_segments_of_no_known_category_get_one_of_their_own(make_editor, tmp_path):
    editor = make_editor(segments=[{"id": 1, "category_id": 10}])
    document = json.loads(editor.export(tmp_path)["panoptic_json"].read_text())
    assert document["categories"][-1] == {
        "id": 21,
        "name": "unnamed segment",
        "supercategory": "unnamed",
        "isthing": 1,
    }
    categories = {e["id"]: e["category_id"] for e in document["annotations"][0]["segments_info"]}
    assert categories == {1: 10, 2: 21, 3: 21}


def test_large_ids_are_coloured_as_in_coco(make_editor, tmp_path):
    large = np.full((48, 64), 3_226_956)
    paths = make_editor(ids=large, pipeline=None).export(tmp_path)
    np.testing.assert_array_equal(np.asarray(Image.open(paths["ids_png"])).astype(int) @ [1, 256, 65536], large)


def test_by_default_it_goes_beside_the_session(make_editor, tmp_path):
    paths = make_editor().export()
    assert paths["ids_npy"] == tmp_path / "run" / "mask_editor" / "export" / "ids.npy"
    with pytest.raises(InputError, match="Nowhere to export to"):
        make_editor(run_dir=None).export()


def test_a_folder_that_cannot_be_written_is_named(make_editor, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        make_editor().export(tmp_path / "file" / "out")
