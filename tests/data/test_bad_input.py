"""One good folder, broken in one way at a time: the reader stops with a clear line, the check lists every fault."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image

from ldmseg_lib.core.errors import DatasetError
from ldmseg_lib.data.check import check_dataset, main
from ldmseg_lib.data.panoptic import PanopticDataset
from tests.data.folders import Folder, empty_folder, make_folder

# Everything is broken in the second of three images: its id, and the id of its first segment
IMAGE, BALL = 101, 70001


@dataclass(frozen=True)
class Fault:
    """How to break a folder, and what each line about it must say; `words` of the errors, in any order."""

    name: str
    do: Callable[[Folder], None]
    words: tuple[tuple[str, ...], ...]
    level: str = "error"


FAULTS: list[Fault] = []


def fault(*words: tuple[str, ...], level: str = "error"):
    def register(do: Callable[[Folder], None]) -> Callable[[Folder], None]:
        FAULTS.append(Fault(do.__name__, do, words, level))
        return do

    return register


@fault(("images/000101.jpg", "image id 101", "no such file"))
def missing_image(folder):
    folder.image_path(1).unlink()


@fault(("images/000101.jpg", "image id 101", "runcated"))
def truncated_image(folder):
    data = folder.image_path(1).read_bytes()
    folder.image_path(1).write_bytes(data[: len(data) // 2])


@fault(("images/000101.jpg", "image id 101", "cannot be read as an image"))
def image_that_is_text(folder):
    folder.image_path(1).write_text("404 not found")


@fault(("images/000101.jpg", "image id 101", "30x20", "32x24"))
def image_of_another_size(folder):
    Image.new("RGB", (30, 20)).save(folder.image_path(1))


@fault(("panoptic/000101.png", "image id 101", "no such file"))
def missing_png(folder):
    folder.png_path(1).unlink()


@fault(("panoptic/000101.png", "image id 101", "truncated"))
def truncated_png(folder):
    data = folder.png_path(1).read_bytes()
    folder.png_path(1).write_bytes(data[: len(data) - 30])


@fault(("panoptic/000101.png", "image id 101", "32x20", "32x24"))
def png_of_another_size(folder):
    folder.write_ids(1, folder.ids(1)[:20])


@fault(("panoptic/000101.png", "image id 101", "segment id 4242", "the PNG has this id, but the JSON does not"))
def id_in_the_png_alone(folder):
    ids = folder.ids(1)
    ids[:3, 0] = 4242
    folder.write_ids(1, ids)


@fault(("panoptic/000101.png", "image id 101", "segment id 4243", "the JSON has this id, but the PNG does not"))
def id_in_the_json_alone(folder):
    folder.segments(1).append({"id": 4243, "category_id": 1, "iscrowd": 0, "area": 4, "bbox": [0, 0, 2, 2]})


@fault(("panoptic_train.json", "image id 101", f"segment id {BALL}", "two segments"))
def duplicate_segment_id(folder):
    folder.segments(1).append(dict(folder.segments(1)[0]))


@fault(("panoptic_train.json", "image id 101", "two images have this id"))
def duplicate_image_id(folder):
    folder.document["images"].append({**folder.document["images"][1], "file_name": "another.jpg"})


@fault(("panoptic_train.json", "image id 103", "000101.jpg is also the file of image id 101"))
def image_listed_twice(folder):
    folder.document["images"].append({**folder.document["images"][1], "id": 103})
    folder.document["annotations"].append({**folder.document["annotations"][1], "image_id": 103, "file_name": "c.png"})
    (folder.panoptic / "c.png").write_bytes(folder.png_path(1).read_bytes())


@fault(("panoptic_train.json", "image id 101", "two annotations"))
def duplicate_annotation(folder):
    folder.document["annotations"].append(dict(folder.document["annotations"][1]))


@fault(("panoptic_train.json", "image id 101", "000100.png is also the PNG of image id 100"))
def png_used_twice(folder):
    folder.document["annotations"][1]["file_name"] = "000100.png"
    folder.document["annotations"][1]["segments_info"] = folder.segments(0)


@fault(("panoptic_train.json", "image id 101", "no annotation"))
def image_without_annotation(folder):
    del folder.document["annotations"][1]


@fault(("panoptic_train.json", "image id 555", "does not list"))
def annotation_without_image(folder):
    folder.document["annotations"].append({"image_id": 555, "file_name": "555.png", "segments_info": []})


@fault(("panoptic_train.json", "image id 101", f"segment id {BALL}", "category id 99"))
def unknown_category(folder):
    folder.segments(1)[0]["category_id"] = 99


@fault(("panoptic_train.json", "category id 7 stands there twice"))
def duplicate_category(folder):
    folder.document["categories"].append(dict(folder.document["categories"][1]))


@fault(("panoptic_train.json", "image id 101", "../../secret.jpg", "leaves the folder"))
def image_path_that_leaves_the_folder(folder):
    folder.document["images"][1]["file_name"] = "../../secret.jpg"


@fault(("panoptic_train.json", "image id 101", "/etc/passwd", "leaves the folder"))
def png_path_that_leaves_the_folder(folder):
    folder.document["annotations"][1]["file_name"] = "/etc/passwd"


@fault(("image id 101", "000101.jpg", "leaves the folder"))
def link_that_leaves_the_folder(folder):
    outside = folder.root.parent / "outside.jpg"
    os.replace(folder.image_path(1), outside)
    folder.image_path(1).symlink_to(outside)


@fault(("panoptic_train.json", "image id 101", "segment id 0 must be"))
def segment_id_of_void(folder):
    folder.segments(1)[0]["id"] = 0
    ids = folder.ids(1)
    ids[ids == BALL] = 0
    folder.write_ids(1, ids)


@fault(
    ("panoptic_train.json", "image id 101", "16777217 must be an integer from 1 to 16777215"),
    ("panoptic/000101.png", f"segment id {BALL}", "the PNG has this id"),
)
def segment_id_beyond_24_bits(folder):
    folder.segments(1)[0]["id"] = (1 << 24) + 1


@fault(("panoptic_train.json", "image id 101", "height and width", "-24"))
def negative_size(folder):
    folder.document["images"][1]["height"] = -24


@fault(("panoptic_train.json", "image id 101", f"segment id {BALL}", "iscrowd is 'no'"))
def crowd_that_is_text(folder):
    folder.segments(1)[0]["iscrowd"] = "no"


@fault(("panoptic_train.json", "image id 101", "segments_info must be a list"))
def segments_that_are_no_list(folder):
    folder.document["annotations"][1]["segments_info"] = "none"


@fault(
    ("panoptic_train.json", '"annotations" must be a list'),
    *[(f"image id {k}", "no annotation") for k in (100, 101, 102)],
)
def no_annotations_at_all(folder):
    del folder.document["annotations"]


@fault(("panoptic_train.json", "info.unlabelled is 'sky'"))
def unlabelled_means_nothing(folder):
    folder.document["info"]["unlabelled"] = "sky"


@fault(("panoptic_train.json", "no images"))
def no_images(folder):
    folder.document["images"] = folder.document["annotations"] = []


@fault(
    ("panoptic_train.json", "the JSON value must be an object"),
    *[(f'"{key}"',) for key in ("images", "annotations", "categories")],
)
def json_that_is_a_list(folder):
    folder.document = [1, 2]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
@pytest.mark.parametrize("unlabelled", ["void", "background"])
def test_each_fault_is_one_clear_line_of_the_reader_and_of_the_check(tmp_path, fault, unlabelled):
    folder = make_folder(tmp_path / "data", unlabelled=unlabelled)
    assert check_dataset(folder.root, "train") == []
    fault.do(folder)
    folder.save()
    problems = check_dataset(folder.root, "train")
    assert len(problems) == len(fault.words), [str(problem) for problem in problems]
    for words in fault.words:
        assert any(all(word in str(problem) for word in words) for problem in problems), (words, problems)
    assert {problem.level for problem in problems} == {fault.level}
    assert all("\n" not in str(problem) for problem in problems)

    with pytest.raises(DatasetError) as raised:
        dataset = PanopticDataset(folder.root, "train")
        for place in range(len(dataset)):
            dataset.ground_truth(place)
    assert any(all(word in str(raised.value) for word in words) for words in fault.words), raised.value


@pytest.mark.parametrize("content", ["", "{", '{"images": [}', "<html>not found</html>", "\x00"])
def test_what_is_not_json_is_said_to_be_none(tmp_path, content):
    folder = make_folder(tmp_path)
    folder.annotations.write_text(content)
    with pytest.raises(DatasetError, match=r"panoptic_train\.json: not JSON"):
        PanopticDataset(tmp_path, "train")
    (problem,) = check_dataset(tmp_path, "train")
    assert problem.file.endswith("panoptic_train.json") and "not JSON" in problem.message


def _random_json(rng, depth=0):
    kind = rng.integers(8 if depth < 3 else 6)
    if kind == 6:
        return [_random_json(rng, depth + 1) for _ in range(rng.integers(3))]
    if kind == 7:
        keys = [
            "id",
            "file_name",
            "image_id",
            "segments_info",
            "categories",
            "images",
            "annotations",
            "info",
            "isthing",
        ]
        return {str(rng.choice(keys)): _random_json(rng, depth + 1) for _ in range(rng.integers(5))}
    return [None, True, -1, 3.5, "a/../..", 10**30][kind]


def test_no_json_value_in_any_place_makes_the_check_raise(tmp_path):
    """Each value of a good document is replaced by something else in turn."""
    folder = make_folder(tmp_path, images=1)
    good = json.dumps(folder.document)
    rng = np.random.default_rng(0)

    def places(value, path=()):
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, inner in items:
            yield (*path, key)
            yield from places(inner, (*path, key))

    for path in list(places(json.loads(good))):
        for _ in range(4):
            folder.document = json.loads(good)
            target = folder.document
            for key in path[:-1]:
                target = target[key]
            target[path[-1]] = _random_json(rng)
            folder.save()
            problems = check_dataset(tmp_path, "train")
            try:
                dataset = PanopticDataset(tmp_path, "train")
                [dataset.ground_truth(place) for place in range(len(dataset))]
            except DatasetError:
                assert any(problem.level == "error" for problem in problems), path


def test_every_fault_of_a_folder_is_listed_at_once(tmp_path):
    folder = make_folder(tmp_path, images=6)
    missing_image(folder)
    folder.png_path(2).write_bytes(b"")
    ids = folder.ids(3)
    ids[0, :2] = 11
    ids[1, :1] = 12
    folder.write_ids(3, ids)
    folder.segments(4)[2]["category_id"] = 5
    folder.save()
    problems = check_dataset(tmp_path, "train")
    assert [(problem.image_id, problem.segment_id) for problem in problems] == [
        (104, 1000),
        (101, None),
        (102, None),
        (103, 11),
        (103, 12),
    ]
    assert problems == check_dataset(tmp_path, "train", workers=3)


def test_wrong_areas_and_boxes_are_warnings(tmp_path):
    folder = make_folder(tmp_path)
    area, box = folder.segments(1)[0]["area"], folder.segments(1)[0]["bbox"]
    folder.segments(1)[0]["area"] = area + 1
    folder.segments(1)[0]["bbox"] = [*box[:3], box[3] + 2]
    folder.save()
    first, second = check_dataset(tmp_path, "train")
    assert (first.image_id, first.segment_id, first.level) == (second.image_id, second.segment_id, second.level)
    assert (first.image_id, first.segment_id, first.level) == (IMAGE, BALL, "warning")
    assert first.message == f"area is {area} px, but the JSON says {area + 1}"
    assert str(box) in second.message


def test_more_segments_than_ids_is_a_warning_with_both_numbers(tmp_path):
    make_folder(tmp_path, images=1)
    (problem,) = check_dataset(tmp_path, "train", num_ids=3)
    assert problem.level == "warning" and problem.image_id == 100 and "3 segments, but 2 ids" in problem.message
    assert check_dataset(tmp_path, "train", num_ids=4) == []


def test_the_background_takes_an_id_too(tmp_path):
    make_folder(tmp_path, images=1, unlabelled="background")
    (problem,) = check_dataset(tmp_path, "train", num_ids=4)
    assert "4 segments, but 3 ids" in problem.message


def test_a_folder_without_any_segment_is_an_error_and_one_such_image_a_warning(tmp_path):
    folder = make_folder(tmp_path / "some", images=1)
    folder.add_image(np.zeros((12, 12), dtype=np.int64), [])
    folder.save()
    (problem,) = check_dataset(tmp_path / "some", "train")
    assert (problem.level, problem.image_id) == ("warning", 101) and "no segments" in problem.message

    folder = empty_folder(tmp_path / "none")
    folder.add_image(np.zeros((12, 12), dtype=np.int64), [])
    folder.save()
    assert [p.level for p in check_dataset(tmp_path / "none", "train")] == ["error", "warning"]
    with pytest.raises(DatasetError, match=r"panoptic_train\.json: no image has a segment"):
        PanopticDataset(tmp_path / "none", "train", augment=True)
    assert len(PanopticDataset(tmp_path / "none", "train")) == 1


def _eight_bits(folder):
    Image.new("L", (32, 24)).save(folder.depth_path(1))


def _other_size(folder):
    Image.fromarray(np.zeros((24, 30), dtype=np.uint16)).save(folder.depth_path(1))


def _missing(folder):
    folder.depth_path(1).unlink()


@pytest.mark.parametrize(
    "do, words",
    [(_eight_bits, "8 bits"), (_other_size, "30x24 px, but its JSON says 32x24"), (_missing, "no such file")],
)
def test_faults_of_depth_are_named_with_file_and_image(tmp_path, do, words):
    folder = make_folder(tmp_path, depth=True)
    do(folder)
    (problem,) = check_dataset(tmp_path, "train")
    assert problem.file.endswith("depth/000101.png") and problem.image_id == IMAGE and words in problem.message
    with pytest.raises(DatasetError, match=rf"depth/000101\.png, image id 101: .*{words}"):
        PanopticDataset(tmp_path, "train", depth=True)[1]
    PanopticDataset(tmp_path, "train")[1]


def test_depth_without_scale_or_wholly_unknown_is_reported(tmp_path):
    folder = make_folder(tmp_path, depth=True)
    Image.fromarray(np.full((24, 32), 65535, dtype=np.uint16)).save(folder.depth_path(2))
    (problem,) = check_dataset(tmp_path, "train")
    assert (problem.level, problem.image_id) == ("warning", 102) and "unknown at every pixel" in problem.message
    del folder.document["info"]["depth_scale"]
    folder.save()
    assert "depth_scale is missing" in check_dataset(tmp_path, "train")[0].message
    with pytest.raises(DatasetError, match="depth_scale"):
        PanopticDataset(tmp_path, "train", depth=True)


def test_the_command_passes_a_good_folder_with_one_line(tmp_path, capsys):
    make_folder(tmp_path)
    make_folder(tmp_path, split="val")
    assert main([str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path} (train, val): 0 errors, 0 warnings\n"


def test_the_command_lists_faults_of_all_splits_and_exits_with_2(tmp_path, capsys):
    make_folder(tmp_path)
    folder = make_folder(tmp_path, split="val")
    missing_image(folder)
    unknown_category(folder)
    folder.save()
    assert main([str(tmp_path), "--workers", "2"]) == 2
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("error: ") and "image id 101" in line] == lines[:-1]
    # both splits share the folder of images, so the missing file is a fault of both
    assert lines[-1] == f"{tmp_path} (train, val): 3 errors, 0 warnings"


def test_the_command_accepts_warnings(tmp_path, capsys):
    make_folder(tmp_path, images=1)
    assert main([str(tmp_path), "--num-ids", "3"]) == 0
    assert capsys.readouterr().out.startswith("warning: ")


@pytest.mark.parametrize("make", [lambda path: path.mkdir(), lambda path: None])
def test_the_command_says_what_a_wrong_folder_lacks(tmp_path, capsys, make):
    make(tmp_path / "data")
    assert main([str(tmp_path / "data")]) == 2
    assert "data" in capsys.readouterr().err
    (problem,) = check_dataset(tmp_path / "data", "train")
    assert problem.level == "error"


def test_the_check_does_not_wait_for_torch():
    import subprocess
    import sys

    code = "import sys, ldmseg_lib.data.check; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_areas_and_boxes_that_nothing_reads_are_one_warning(tmp_path):
    """COCO's own converter writes fractions."""
    folder = make_folder(tmp_path)
    for place in range(3):
        folder.segments(place)[0].update(area=1535.52, bbox=[0.37, 0.0, 63.21, 23.55])
    folder.segments(1)[1].update(area=None, bbox="none")
    folder.save()
    (problem,) = check_dataset(tmp_path, "train")
    assert problem.level == "warning" and "3 more segments" in problem.message and problem.image_id == 100
    assert len(PanopticDataset(tmp_path, "train")) == 3


@pytest.mark.parametrize("mixed", [False, True])
def test_image_ids_may_be_texts(tmp_path, mixed):
    """As in Cityscapes."""
    folder = make_folder(tmp_path)
    names = ["town_000000_000019", "7", 8 if mixed else "8"]
    for image, annotation, name in zip(folder.document["images"], folder.document["annotations"], names, strict=True):
        image["id"] = annotation["image_id"] = name
    folder.save()
    assert check_dataset(tmp_path, "train") == []
    dataset = PanopticDataset(tmp_path, "train", augment=True)
    assert dataset.image_ids == names and dataset[0]["image_id"] == names[0]
    assert [type(dataset.ground_truth(k).image_id) for k in range(3)] == [type(name) for name in names]
    assert not torch.equal(dataset[1]["ids"], dataset[1, 1]["ids"])


def test_a_text_for_a_number_is_named(tmp_path):
    folder = make_folder(tmp_path)
    folder.document["annotations"][1]["image_id"] = "101"
    folder.save()
    messages = [str(problem) for problem in check_dataset(tmp_path, "train")]
    assert any("it lists 101, not '101'" in message for message in messages)


@pytest.mark.parametrize(("value", "expected"), [("0", 0), ("1", 1), (True, 1), (False, 0), (1.0, 1), (None, 0)])
def test_flags_are_read_by_their_meaning(tmp_path, value, expected):
    folder = make_folder(tmp_path)
    folder.segments(0)[0]["iscrowd"] = value
    if value is not None:
        folder.document["categories"][0]["isthing"] = value
    folder.save()
    dataset = PanopticDataset(tmp_path, "train")
    segment = next(s for s in dataset.ground_truth(0).segments if s["category_id"] == 1)
    assert segment["iscrowd"] == expected and segment["isthing"] == (1 if value is None else expected)


def test_missing_isthing_is_one_fault(tmp_path):
    folder = make_folder(tmp_path)
    for category in folder.document["categories"]:
        del category["isthing"]
    folder.save()
    (problem,) = check_dataset(tmp_path, "train")
    assert "and 2 more categories" in problem.message and "isthing" in problem.message


@pytest.mark.parametrize(("written", "stored"), [("\u00e9.png", "e\u0301.png"), ("e\u0301.png", "\u00e9.png")])
def test_accents_may_be_composed_in_either_way(tmp_path, written, stored):
    folder = make_folder(tmp_path)
    folder.png_path(0).rename(folder.panoptic / stored)
    folder.document["annotations"][0]["file_name"] = written
    folder.save()
    assert check_dataset(tmp_path, "train") == []
