"""Converters: the segments of what people have come out pixel by pixel, and what is wrong with it is said."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle

from ldmseg_lib.data.check import check_dataset
from ldmseg_lib.data.convert import main
from ldmseg_lib.data.instance_sources import VOC_CLASSES, in_validation
from ldmseg_lib.data.panoptic import PanopticDataset
from ldmseg_lib.data.scenes.scene import draw_scene

SIZE = (40, 48)


def photograph(path: Path, size: tuple[int, int] = SIZE, mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(len(path.name)).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(values).convert(mode).save(path)
    return path


def box(top: int, left: int, bottom: int, right: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[top:bottom, left:right] = True
    return mask


def polygon(top: int, left: int, bottom: int, right: int) -> list[float]:
    return [left, top, right, top, right, bottom, left, bottom]


def counts(mask: np.ndarray) -> list[int]:
    flat = np.concatenate([[0], mask.ravel(order="F"), [2]])
    edges = np.flatnonzero(np.diff(flat)) if flat[1] == 0 else np.concatenate([[0], np.flatnonzero(np.diff(flat))])
    return np.diff(np.concatenate([[0], edges])).tolist()


class CocoFolder:
    """A COCO instance JSON beside its photographs."""

    def __init__(self, root: Path) -> None:
        self.root, self.json = root, root / "instances.json"
        self.document = {
            "images": [],
            "annotations": [],
            "categories": [{"id": 3, "name": "cell"}, {"id": 9, "name": "dust"}],
        }

    def image(self, name: str, size: tuple[int, int] = SIZE, **extra) -> int:
        photograph(self.root / "photos" / name, size)
        number = 100 + len(self.document["images"])
        self.document["images"].append({"id": number, "file_name": name, "height": size[0], "width": size[1], **extra})
        return number

    def annotate(self, image_id: int, segmentation, category_id: int = 3, **extra) -> dict:
        entry = {"id": len(self.document["annotations"]) + 1, "image_id": image_id, "category_id": category_id}
        self.document["annotations"].append({**entry, "segmentation": segmentation, **extra})
        return self.document["annotations"][-1]

    def convert(self, target: Path, *options: str) -> int:
        self.json.write_text(json.dumps(self.document))
        return main(["coco", str(self.json), str(self.root / "photos"), str(target), "--workers", "1", *options])


@pytest.fixture
def coco(tmp_path: Path) -> CocoFolder:
    return CocoFolder(tmp_path / "coco")


def masks_of(target: Path, index: int = 0, split: str = "train") -> list[tuple[int, int, np.ndarray]]:
    truth = PanopticDataset(target, split).ground_truth(index)
    return [(s["category_id"], s["iscrowd"], truth.ids == s["id"]) for s in truth.segments]


def test_polygons_and_both_kinds_of_rle_give_the_same_pixels(coco: CocoFolder, tmp_path: Path) -> None:
    image = coco.image("a.jpg", license=4, flickr_url="http://somewhere")
    shapes = [(2, 3, 10, 12), (15, 5, 30, 20), (12, 25, 38, 44)]
    compressed = rle.encode(np.asfortranarray(box(*shapes[2]), np.uint8))["counts"].decode()
    coco.annotate(image, [polygon(*shapes[0])])
    coco.annotate(image, {"size": list(SIZE), "counts": counts(box(*shapes[1]))}, 9)
    coco.annotate(image, {"size": list(SIZE), "counts": compressed})
    assert coco.convert(tmp_path / "out") == 0
    found = masks_of(tmp_path / "out")
    assert [(category, crowd) for category, crowd, _ in found] == [(3, 0), (9, 0), (3, 0)]
    assert all(np.array_equal(mask, box(*shape)) for (_, _, mask), shape in zip(found, shapes, strict=True))
    assert check_dataset(tmp_path / "out", "train") == []
    record = json.loads((tmp_path / "out" / "panoptic_train.json").read_text())["images"][0]
    assert record["license"] == 4 and record["flickr_url"] == "http://somewhere"


def test_scenes_survive_compressed_rle_exactly(coco: CocoFolder, tmp_path: Path) -> None:
    """Shapes with holes and several parts, whose differences of runs are negative too."""
    scenes = [draw_scene(70_000_000 + k, size=48, min_things=4, max_things=6) for k in range(4)]
    for number, scene in enumerate(scenes):
        image = coco.image(f"{number}.jpg", scene.ids.shape)
        for segment in scene.segments:
            encoded = rle.encode(np.asfortranarray(scene.ids == segment["id"], np.uint8))
            coco.annotate(image, {"size": list(scene.ids.shape), "counts": encoded["counts"].decode()})
    assert coco.convert(tmp_path / "out") == 0
    for number, scene in enumerate(scenes):
        found = masks_of(tmp_path / "out", number)
        expected = [scene.ids == segment["id"] for segment in scene.segments]
        assert all(np.array_equal(mask, other) for (_, _, mask), other in zip(found, expected, strict=True))


def test_the_smaller_segment_wins_and_a_crowd_gives_way(coco: CocoFolder, tmp_path: Path, capsys) -> None:
    image = coco.image("a.jpg")
    coco.annotate(image, [polygon(5, 5, 15, 15)])
    coco.annotate(image, [polygon(2, 2, 30, 30)])
    coco.annotate(image, {"size": list(SIZE), "counts": counts(box(3, 3, 8, 40))}, iscrowd=1)
    coco.annotate(image, {"size": list(SIZE), "counts": counts(box(5, 5, 6, 6))}, iscrowd=1)
    assert coco.convert(tmp_path / "out") == 0
    small, large, crowd = (mask for _, _, mask in masks_of(tmp_path / "out"))
    assert np.array_equal(small, box(5, 5, 15, 15))
    assert np.array_equal(large, box(2, 2, 30, 30) & ~small)
    assert np.array_equal(crowd, box(3, 3, 8, 40) & ~small & ~large)
    assert "1 more are covered by others entirely" in capsys.readouterr().out


def test_splits_share_a_folder_and_a_validation_share_goes_by_name(coco: CocoFolder, tmp_path: Path) -> None:
    for number in range(20):
        coco.annotate(coco.image(f"deep/{number}.jpg"), [polygon(2, 2, 9, 9)])
    assert coco.convert(tmp_path / "out", "--val-share", "0.3", "--unlabelled", "background") == 0
    train, val = (PanopticDataset(tmp_path / "out", split) for split in ("train", "val"))
    assert len(train) + len(val) == 20 and 0 < len(val) < 14 and not set(train.image_ids) & set(val.image_ids)
    assert train.unlabelled == "background" and val.ground_truth(0).file_name.startswith("deep/")
    assert all(in_validation(val.ground_truth(i).file_name, 0.3) for i in range(len(val)))
    names = [f"{k}.jpg" for k in range(2000)]
    assert 0.27 < np.mean([in_validation(name, 0.3) for name in names]) < 0.33
    assert coco.convert(tmp_path / "out", "--split", "test", "--unlabelled", "background") == 0


def test_names_that_differ_only_in_their_suffix_do_not_meet(coco: CocoFolder, tmp_path: Path) -> None:
    for name, shape in (("a.jpg", (2, 2, 9, 9)), ("a.png", (12, 12, 30, 30))):
        coco.annotate(coco.image(name), [polygon(*shape)])
    assert coco.convert(tmp_path / "out") == 0
    assert [int(masks_of(tmp_path / "out", k)[0][2].sum()) for k in (0, 1)] == [49, 324]


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([[1, 2, 3, 4]], "at least three points"),
        ([[1, 2, 3, 4, 5, 6, 7]], "at least three points"),
        ([["a"] * 6], "at least three points"),
        ([[1e9, 0, 0, 1e9, 5, 5]], "far outside"),
        ([[float("nan")] * 6], "far outside"),
        ([], "no segmentation"),
        ([[]], "no segmentation"),
        (None, "no segmentation"),
        ({"size": [9, 9], "counts": [81]}, "of size \\[9, 9\\], the image of \\[40, 48\\]"),
        ({"size": [40, 48], "counts": [5, 7]}, "do not add up"),
        ({"size": [40, 48], "counts": [-5, 1925]}, "do not add up"),
        ({"size": [40, 48], "counts": ""}, "do not add up"),
        ({"size": [40, 48], "counts": "zzzz"}, "do not add up"),
        ({"size": [40, 48], "counts": "\u20ac"}, "do not add up"),
        ({"size": [40, 48]}, "do not add up"),
    ],
)
def test_a_bad_segmentation_names_image_and_annotation(
    coco: CocoFolder, tmp_path: Path, capsys: pytest.CaptureFixture, segmentation, message: str
) -> None:
    """Several of these crash pycocotools, or make it return memory that is not its own."""
    coco.annotate(coco.image("a.jpg"), [polygon(2, 2, 9, 9)])
    coco.annotate(100, segmentation)
    assert coco.convert(tmp_path / "out") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "instances.json, image id 100, annotation id 2: " in error
    assert re.search(message, error), error
    assert not (tmp_path / "out" / "panoptic_train.json").exists()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda c: c.document["annotations"][0].update(image_id=7), "image_id 7 is not among the images"),
        (lambda c: c.document["annotations"][0].update(category_id=5), "category_id 5 is not among the categories"),
        (lambda c: c.document.pop("categories"), "no list 'categories'"),
        (lambda c: c.document["categories"][0].pop("name"), "a category has no 'name'"),
        (lambda c: c.document["images"][0].pop("height"), "needs id, file_name, height and width"),
        (lambda c: c.document["images"][0].update(file_name="../secret.jpg"), "leaves the folder"),
        (lambda c: c.document["images"][0].update(file_name="gone.jpg"), "gone.jpg"),
        (lambda c: c.document["images"][0].update(width=50), "its JSON says 50x40"),
        (lambda c: c.document.update(images=[], annotations=[]), "no image to write"),
        (lambda c: (c.root / "photos" / "a.jpg").write_bytes(b"nothing"), "cannot be read as an image"),
    ],
)
def test_faulty_input_is_one_line(coco: CocoFolder, tmp_path: Path, capsys, fault, message: str) -> None:
    coco.annotate(coco.image("a.jpg"), [polygon(2, 2, 9, 9)])
    fault(coco)
    assert coco.convert(tmp_path / "out") == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out" / "panoptic_train.json").exists()


def test_a_split_is_never_written_over_nor_mixed_with_another_data_set(
    coco: CocoFolder, tmp_path: Path, capsys
) -> None:
    coco.annotate(coco.image("a.jpg"), [polygon(2, 2, 9, 9)])
    assert coco.convert(tmp_path / "out") == 0
    for options, message in (
        ((), "is there already"),
        (("--split", "val", "--unlabelled", "background"), "another meaning of 0"),
        (("--split", "../val"), "must be a plain word"),
        (("--split", "val", "--val-share", "0.5"), "leave split 'val' empty"),
        (("--split", "val", "--val-share", "1.5"), "must lie in 0..1"),
    ):
        assert coco.convert(tmp_path / "out", *options) == 2
        assert message in capsys.readouterr().err
    coco.document["categories"].append({"id": 50, "name": "fibre"})
    assert coco.convert(tmp_path / "out", "--split", "val") == 2
    assert "other categories" in capsys.readouterr().err


def test_all_faults_are_told_at_once_and_nothing_is_left(coco: CocoFolder, tmp_path: Path, capsys) -> None:
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        image = coco.image(name)
        coco.annotate(image, [polygon(2, 2, 9, 9)])
        coco.annotate(image, [])
    (coco.root / "photos" / "c.jpg").unlink()
    coco.annotate(100, [polygon(2, 2, 9, 9)], category_id=77)
    for options in ((), ("--val-share", "0.5")):
        assert coco.convert(tmp_path / "out", *options) == 2
        error = capsys.readouterr().err
        for words in ("4 faults", "2 objects without segmentation", "c.jpg: no such file", "category_id 77"):
            assert words in error
        assert not (tmp_path / "out").exists()
    assert coco.convert(tmp_path / "out", "--skip-faulty") == 0
    summary = capsys.readouterr().out
    assert "2 images, 2 segments" in summary
    assert "1 photographs that are missing" in summary and "1 annotations of no category" in summary
    assert len(PanopticDataset(tmp_path / "out", "train")) == 2


def test_a_failed_conversion_leaves_what_was_there(coco: CocoFolder, tmp_path: Path) -> None:
    coco.annotate(coco.image("a.jpg"), [polygon(2, 2, 9, 9)])
    assert coco.convert(tmp_path / "out") == 0
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    coco.annotate(coco.image("b.jpg"), [])
    assert coco.convert(tmp_path / "out", "--split", "val") == 2
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(("value", "expected"), [("0", 0), ("1", 1), (False, 0), (True, 1), (1.0, 1), (None, 0)])
def test_flags_of_instances_are_read_by_their_meaning(coco: CocoFolder, tmp_path: Path, value, expected: int) -> None:
    image = coco.image("a.jpg")
    coco.annotate(image, [polygon(2, 2, 9, 9)], iscrowd=value)
    coco.annotate(image, [polygon(12, 12, 19, 19)], 9)
    coco.document["categories"][1]["isthing"] = value
    assert coco.convert(tmp_path / "out") == 0
    assert [crowd for _, crowd, _ in masks_of(tmp_path / "out")] == [expected, 0]
    things = [category["isthing"] for category in PanopticDataset(tmp_path / "out", "train").categories]
    assert things == [1, 1 if value is None else expected]


@pytest.mark.parametrize("value", ["no", 2, [0], -1, 0.5])
def test_a_flag_that_is_none_is_refused(coco: CocoFolder, tmp_path: Path, capsys, value) -> None:
    coco.annotate(coco.image("a.jpg"), [polygon(2, 2, 9, 9)], iscrowd=value)
    assert coco.convert(tmp_path / "out") == 2
    assert f"iscrowd is {value!r}" in capsys.readouterr().err


def test_stuff_is_kept_or_named(coco: CocoFolder, tmp_path: Path, capsys) -> None:
    coco.annotate(coco.image("a.jpg"), [polygon(2, 2, 9, 9)])
    assert coco.convert(tmp_path / "named", "--stuff", "dust") == 0
    coco.document["categories"][1]["isthing"] = 0
    assert coco.convert(tmp_path / "kept") == 0
    for folder in ("named", "kept"):
        assert [c["isthing"] for c in PanopticDataset(tmp_path / folder, "train").categories] == [1, 0]
    assert coco.convert(tmp_path / "out", "--stuff", "dirt") == 2
    assert "no category 'dirt'" in capsys.readouterr().err


def test_numbers_as_floats_and_texts_and_ids_as_texts(coco: CocoFolder, tmp_path: Path, capsys) -> None:
    coco.annotate(coco.image("a.jpg"), [polygon(2, 2, 9, 9)], 3.0)["image_id"] = 100.0
    coco.annotate(coco.image("b.jpg"), [polygon(2, 2, 9, 9)], "9")["image_id"] = "town_1"
    coco.document["images"][0]["height"] = float(SIZE[0])
    coco.document["images"][1]["id"] = "town_1"
    assert coco.convert(tmp_path / "out") == 0
    dataset = PanopticDataset(tmp_path / "out", "train")
    assert dataset.image_ids == [100, "town_1"]
    assert [masks_of(tmp_path / "out", k)[0][0] for k in (0, 1)] == [3, 9]
    coco.document["annotations"][0]["image_id"] = "100"
    assert coco.convert(tmp_path / "other") == 2
    assert "have 100: write both as number or both as text" in capsys.readouterr().err


def test_what_is_lost_is_counted_by_its_kind(coco: CocoFolder, tmp_path: Path, capsys) -> None:
    image = coco.image("a.jpg")
    coco.annotate(image, [polygon(2, 2, 9, 9), [5.0], [1, 1, 1, 1]])  # slips of one and two points
    coco.annotate(image, [polygon(2, 2, 9, 9)], 9)  # covers the one before
    coco.annotate(image, [[20, 20, 20, 20, 20, 20]])
    coco.annotate(image, [polygon(-20, -20, -5, -5)])
    coco.annotate(image, [polygon(30, 30, 60, 60)])
    coco.annotate(image, [polygon(0, 0, *SIZE)])
    assert coco.convert(tmp_path / "out") == 0
    summary = capsys.readouterr().out
    for words in (
        "3 segments, checked; 1 more are covered by others entirely",
        "2 parts of fewer than three points",
        "1 objects without a single pixel",
        "1 objects wholly outside",
        "1 objects that reach outside",
        "1 objects that fill their image",
    ):
        assert words in summary


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        (polygon(2, 2, 9, 9), "a list of polygons"),
        ([[0.1, 0.1, 0.9, 0.1, 0.9, 0.9]], "not shares of the image's sides"),
        ({"size": [40, 48], "counts": "b'o8'"}, "counts.decode()"),
        ({"size": 40, "counts": [1920]}, "of size 40"),
        ("[[1, 2, 3]]", "is a text"),
    ],
)
def test_slips_of_tools_are_named(coco: CocoFolder, tmp_path: Path, capsys, segmentation, message: str) -> None:
    coco.annotate(coco.image("a.jpg"), segmentation)
    assert coco.convert(tmp_path / "out") == 2
    assert message in capsys.readouterr().err


def test_polygons_on_the_upright_photograph_at_the_stored_size_are_found_out(
    coco: CocoFolder, tmp_path: Path, capsys
) -> None:
    """A phone's photograph: the size in the JSON is the stored one, the polygons were drawn upright."""
    image = coco.image("a.jpg", (40, 64))
    exif = Image.Exif()
    exif[0x0112] = 6
    photograph = Image.open(coco.root / "photos" / "a.jpg")
    photograph.save(coco.root / "photos" / "a.jpg", exif=exif)
    coco.annotate(image, [polygon(45, 5, 60, 30)])
    assert coco.convert(tmp_path / "out") == 2
    assert "fit the upright photograph of 40x64 px" in capsys.readouterr().err
    coco.document["images"][0].update(height=64, width=40)
    assert coco.convert(tmp_path / "out") == 0
    assert np.array_equal(masks_of(tmp_path / "out")[0][2], box(45, 5, 60, 30, (64, 40)))


def test_all_crowds_are_remarked_on_and_may_be_segments(coco: CocoFolder, tmp_path: Path, capsys) -> None:
    coco.annotate(coco.image("a.jpg"), {"size": list(SIZE), "counts": counts(box(3, 3, 8, 40))}, iscrowd=1)
    assert coco.convert(tmp_path / "out") == 0
    assert "all of them crowds" in capsys.readouterr().out
    assert coco.convert(tmp_path / "segments", "--crowds-are-segments") == 0
    assert masks_of(tmp_path / "segments")[0][1] == 0


@pytest.mark.parametrize(
    ("name", "file"), [("left\\a.jpg", "left/a.jpg"), (" a.jpg", "a.jpg"), ("e\u0301.jpg", "\u00e9.jpg")]
)
def test_names_in_other_spellings_find_their_file(coco: CocoFolder, tmp_path: Path, name: str, file: str) -> None:
    coco.annotate(coco.image(file), [polygon(2, 2, 9, 9)])
    coco.document["images"][0]["file_name"] = name
    assert coco.convert(tmp_path / "out") == 0
    assert PanopticDataset(tmp_path / "out", "train").ground_truth(0).file_name == file


# Pascal VOC


def palette_png(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values.astype(np.uint8), mode="P")
    image.putpalette([(7 * k) % 256 for k in range(768)])
    image.save(path)


@pytest.fixture
def pascal(tmp_path: Path) -> Path:
    """Two images: an aeroplane (1) and a dog (12) on background with a border of 255; and an empty one."""
    root = tmp_path / "VOC2012"
    objects, classes = np.zeros((2, *SIZE), np.uint8)
    for shape, number, kind in (((3, 3, 15, 20), 1, 1), ((18, 8, 36, 30), 2, 12)):
        outer = (shape[0] - 1, shape[1] - 1, shape[2] + 1, shape[3] + 1)
        objects[box(*outer)] = classes[box(*outer)] = 255
        objects[box(*shape)], classes[box(*shape)] = number, kind
    for name, values in (("2007_000032", (objects, classes)), ("2007_000033", (objects * 0, classes * 0))):
        photograph(root / "JPEGImages" / f"{name}.jpg")
        palette_png(root / "SegmentationObject" / f"{name}.png", values[0])
        palette_png(root / "SegmentationClass" / f"{name}.png", values[1])
    photograph(root / "JPEGImages" / "2008_000001.jpg")  # without a segmentation, as most of VOC
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("2007_000032\n")
    (lists / "val.txt").write_text("2007_000033\n")
    return root


def test_voc_keeps_objects_classes_background_and_the_unknown_border(pascal: Path, tmp_path: Path) -> None:
    for split in ("train", "val"):
        assert main(["voc", str(pascal), str(tmp_path / "out"), "--split", split]) == 0
    names = [*VOC_CLASSES, "background"]
    found = {names[category - 1]: mask for category, _, mask in masks_of(tmp_path / "out")}
    assert set(found) == {"aeroplane", "dog", "background"}
    assert np.array_equal(found["aeroplane"], box(3, 3, 15, 20)) and np.array_equal(found["dog"], box(18, 8, 36, 30))
    border = box(2, 2, 16, 21) | box(17, 7, 37, 31)
    assert np.array_equal(found["background"], ~border)
    dataset = PanopticDataset(tmp_path / "out", "train")
    assert dataset.unlabelled == "void" and [c["isthing"] for c in dataset.categories] == [1] * 20 + [0]
    assert (dataset[0]["semantic"].numpy()[border & ~found["aeroplane"] & ~found["dog"]] == 0).all()


def test_voc_without_background_leaves_it_unknown(pascal: Path, tmp_path: Path) -> None:
    assert main(["voc", str(pascal), str(tmp_path / "out"), "--unlabelled", "void"]) == 0
    assert len(masks_of(tmp_path / "out")) == 2


def test_id_pngs_alone_are_of_one_class_and_may_have_more_than_255_ids(tmp_path: Path) -> None:
    photograph(tmp_path / "mine" / "photos" / "a.tif")
    ids = np.arange(SIZE[0] * SIZE[1], dtype=np.uint16).reshape(SIZE) // 5
    (tmp_path / "mine" / "ids").mkdir()
    Image.fromarray(ids).save(tmp_path / "mine" / "ids" / "a.png")
    command = ["voc", str(tmp_path / "mine"), str(tmp_path / "out"), "--images", "photos", "--objects", "ids"]
    assert main([*command, "--classes", "", "--class-names", "grain", "--unlabelled", "void"]) == 0
    dataset = PanopticDataset(tmp_path / "out", "train")
    assert [c["name"] for c in dataset.categories] == ["grain"]
    assert len(dataset.ground_truth(0).segments) == int(ids.max())
    assert dataset.ground_truth(0).file_name == "a.tif.png"  # which every tool can read


def test_in_16_bits_255_is_an_object_and_lists_may_have_more_columns(pascal: Path, tmp_path: Path) -> None:
    ids = np.where(box(5, 5, 25, 25), 255, 0)
    Image.fromarray(ids.astype(np.uint16)).save(pascal / "SegmentationObject" / "2007_000032.png")
    palette_png(pascal / "SegmentationClass" / "2007_000032.png", ids > 0)
    (pascal / "ImageSets" / "Segmentation" / "train.txt").write_bytes(b"\xef\xbb\xbf2007_000032  1\r\n\r\n")
    assert main(["voc", str(pascal), str(tmp_path / "out")]) == 0
    masks = [mask for category, _, mask in masks_of(tmp_path / "out") if category == 1]
    assert len(masks) == 1 and np.array_equal(masks[0], box(5, 5, 25, 25))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda r: (r / "SegmentationObject" / "2007_000032.png").unlink(), "train.txt asks for it"),
        (lambda r: photograph(r / "SegmentationObject" / "2007_000032.png"), "has colours"),
        (lambda r: palette_png(r / "SegmentationClass" / "2007_000032.png", np.zeros((9, 9))), "is 9x9 px"),
        (lambda r: palette_png(r / "SegmentationClass" / "2007_000032.png", np.full(SIZE, 44)), "is of class 44"),
        (lambda r: (r / "SegmentationClass" / "2007_000032.png").write_bytes(b"\x89PNG"), "cannot be read"),
        (lambda r: (r / "JPEGImages" / "2007_000032.jpg").unlink(), "no such file"),
        (lambda r: (r / "JPEGImages").rename(r / "Images"), "no such folder"),
        (lambda r: (r / "ImageSets" / "Segmentation" / "train.txt").write_text("../../x"), "leaves the folder"),
    ],
)
def test_faults_of_a_voc_folder_are_named(pascal: Path, tmp_path: Path, capsys, fault, message: str) -> None:
    fault(pascal)
    assert main(["voc", str(pascal), str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


# one mask per instance


@pytest.fixture
def bowl(tmp_path: Path) -> Path:
    root = tmp_path / "stage1_train"
    for number in range(2):
        folder = root / f"image{number}"
        photograph(folder / "images" / f"image{number}.png", mode="RGBA")
        (folder / "masks").mkdir()
        for place, shape in enumerate(((2, 2, 12, 12), (20, 20, 30 + number, 40))):
            Image.fromarray(box(*shape).astype(np.uint8) * 255).save(folder / "masks" / f"{place}.png")
    return root


def test_one_mask_per_instance(bowl: Path, tmp_path: Path) -> None:
    assert main(["masks", str(bowl), str(tmp_path / "out"), "--class-name", "nucleus"]) == 0
    dataset = PanopticDataset(tmp_path / "out", "train")
    assert [(c["name"], c["isthing"]) for c in dataset.categories] == [("nucleus", 1), ("background", 0)]
    for number in range(2):
        first, second, rest = (mask for _, _, mask in masks_of(tmp_path / "out", number))
        assert np.array_equal(first, box(2, 2, 12, 12)) and np.array_equal(second, box(20, 20, 30 + number, 40))
        assert np.array_equal(rest, ~(first | second))  # pixels without a mask are background


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda r: photograph(r / "image1" / "images" / "other.png"), "it has 2"),
        (lambda r: (r / "image1" / "images" / "image1.png").unlink(), "it has 0"),
        (lambda r: photograph(r / "image1" / "masks" / "2.png", (9, 9)), "is 9x9 px, its photograph 48x40"),
        (lambda r: (r / "image1" / "masks" / "0.png").write_bytes(b""), "cannot be read"),
        (lambda r: r.rename(r.with_name("elsewhere")), "no folders with images/ and masks/"),
    ],
)
def test_faults_of_mask_folders_are_named(bowl: Path, tmp_path: Path, capsys, fault, message: str) -> None:
    fault(bowl)
    assert main(["masks", str(bowl), str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def mask_file(bowl: Path, image: Image.Image, suffix: str = ".png", **options) -> None:
    for path in (bowl / "image0" / "masks").iterdir():
        path.unlink()
    image.save(bowl / "image0" / "masks" / f"0{suffix}", **options)


SHAPE = box(5, 5, 25, 25)


@pytest.mark.parametrize("colour", [0, 255])
def test_a_mask_may_be_in_the_alpha_channel(bowl: Path, tmp_path: Path, capsys, colour: int) -> None:
    pixels = np.full((*SIZE, 4), colour, np.uint8)
    pixels[..., 3] = SHAPE * 255
    mask_file(bowl, Image.fromarray(pixels))
    assert main(["masks", str(bowl), str(tmp_path / "out")]) == 0
    assert np.array_equal(masks_of(tmp_path / "out")[0][2], SHAPE)
    assert "alpha" in capsys.readouterr().out


def test_an_opaque_alpha_channel_says_nothing(bowl: Path, tmp_path: Path) -> None:
    mask_file(bowl, Image.fromarray(SHAPE.astype(np.uint8) * 255).convert("RGBA"))
    assert main(["masks", str(bowl), str(tmp_path / "out")]) == 0
    assert np.array_equal(masks_of(tmp_path / "out")[0][2], SHAPE)


def test_a_mask_saved_as_jpeg_is_cut_at_half(bowl: Path, tmp_path: Path, capsys) -> None:
    mask_file(bowl, Image.fromarray(SHAPE.astype(np.uint8) * 255), ".jpg", quality=60)
    assert main(["masks", str(bowl), str(tmp_path / "out")]) == 0
    assert np.array_equal(masks_of(tmp_path / "out")[0][2], SHAPE)
    assert "cut at half" in capsys.readouterr().out


@pytest.mark.parametrize("high", [1, 255])
def test_a_mask_that_fills_its_jpeg(bowl: Path, tmp_path: Path, capsys, high: int) -> None:
    values = np.random.default_rng(0).integers(high - high // 50, high + 1, SIZE).astype(np.uint8)
    mask_file(bowl, Image.fromarray(values), ".jpg")
    assert main(["masks", str(bowl), str(tmp_path / "out")]) == (0 if high == 255 else 2)
    printed = capsys.readouterr()
    assert ("1 objects that fill their image" in printed.out) if high == 255 else ("from its noise" in printed.err)


@pytest.mark.parametrize("upright", [False, True])
def test_masks_may_be_of_a_photograph_as_stored_or_upright(bowl: Path, tmp_path: Path, upright: bool) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = bowl / "image0" / "images" / "image0.png"
    with Image.open(path) as photograph:
        photograph.convert("RGB").save(path.with_suffix(".jpg"), exif=exif)
    path.unlink()
    mask = SHAPE.T if upright else SHAPE
    mask_file(bowl, Image.fromarray(mask))
    assert main(["masks", str(bowl), str(tmp_path / "out")]) == 0
    assert np.array_equal(masks_of(tmp_path / "out")[0][2], mask)


@pytest.mark.parametrize("mode", ["1", "I;16", "P", "blue"])
def test_masks_of_every_mode(bowl: Path, tmp_path: Path, mode: str) -> None:
    values = SHAPE.astype(np.uint8)
    image = Image.fromarray(values)
    if mode == "1":
        image = Image.fromarray(SHAPE)
    elif mode == "I;16":
        image = Image.fromarray(values.astype(np.uint16) * 300)
    elif mode == "P":
        image.putpalette([0] * 768)
    elif mode == "blue":
        image = Image.fromarray(np.stack([values * 0, values * 0, values], -1))
    mask_file(bowl, image)
    assert main(["masks", str(bowl), str(tmp_path / "out")]) == 0
    assert np.array_equal(masks_of(tmp_path / "out")[0][2], SHAPE)


def test_a_map_of_objects_is_no_mask(bowl: Path, tmp_path: Path, capsys) -> None:
    mask_file(bowl, Image.fromarray((SHAPE + 2 * box(10, 10, 20, 20)).astype(np.uint8)))
    assert main(["masks", str(bowl), str(tmp_path / "out")]) == 2
    assert "where a mask has two" in capsys.readouterr().err


def test_hidden_files_are_no_masks(bowl: Path, tmp_path: Path) -> None:
    for path in (bowl / "image0" / "masks" / "._0.png", bowl / "image0" / "images" / "._image0.png"):
        path.write_bytes(b"Mac OS X")
    (bowl / ".ipynb_checkpoints").mkdir()
    assert main(["masks", str(bowl), str(tmp_path / "out")]) == 0
    assert len(masks_of(tmp_path / "out")) == 3


def test_threads_change_nothing(bowl: Path, tmp_path: Path) -> None:
    for workers in ("1", "3"):
        assert main(["masks", str(bowl), str(tmp_path / workers), "--workers", workers]) == 0
    files = sorted(p.relative_to(tmp_path / "1") for p in (tmp_path / "1").rglob("*") if p.is_file())
    assert len(files) == 5
    assert all((tmp_path / "1" / f).read_bytes() == (tmp_path / "3" / f).read_bytes() for f in files)
