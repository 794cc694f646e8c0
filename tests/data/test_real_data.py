import json

import numpy as np
import pytest
from PIL import Image

from ldmseg_lib.data.check import check_dataset
from ldmseg_lib.data.panoptic import PanopticDataset

SPLITS = [
    ("nuclei", "train", 531),
    ("nuclei", "val", 133),
    ("coco_permissive", "train", 92),
    ("coco_permissive", "val", 66),
]


@pytest.mark.parametrize("name, split, count", SPLITS)
def test_every_image_is_read_with_exact_ids_and_areas(shared_data, name, split, count):
    root = shared_data / name
    document = json.loads((root / f"panoptic_{split}.json").read_text())
    annotations = {value["image_id"]: value for value in document["annotations"]}
    dataset = PanopticDataset(root, split, unlabelled="void")
    assert dataset.image_ids == [value["id"] for value in document["images"]]
    assert len(dataset) == count
    for place, image in enumerate(document["images"]):
        truth = dataset.ground_truth(place)
        annotation = annotations[image["id"]]
        rgb = np.asarray(Image.open(root / "panoptic" / annotation["file_name"])).astype(np.int64)
        np.testing.assert_array_equal(truth.ids, rgb[..., 0] + 256 * rgb[..., 1] + 65536 * rgb[..., 2])
        assert truth.image.shape == (image["height"], image["width"], 3)
        assert [(s["id"], s["category_id"], s["iscrowd"], s["area"]) for s in truth.segments] == [
            (s["id"], s["category_id"], s["iscrowd"], s["area"]) for s in annotation["segments_info"]
        ]


@pytest.mark.parametrize("name, split, count", SPLITS)
def test_real_folders_pass_the_check(shared_data, name, split, count):
    problems = check_dataset(shared_data / name, split, workers=2)
    assert [str(problem) for problem in problems if problem.level == "error"] == []
    assert all("segments" in problem.message for problem in problems)


def test_what_unlabelled_means_is_taken_from_the_folder(shared_data):
    assert PanopticDataset(shared_data / "nuclei", "val").unlabelled == "background"
    assert PanopticDataset(shared_data / "coco_permissive", "val").unlabelled == "void"


def test_crops_of_microscopy_train_with_few_ids(shared_data):
    dataset = PanopticDataset(
        shared_data / "nuclei", "train", image_size=64, crop_size=64, num_ids=32, augment=True, max_images=100
    )
    dropped = 0
    for place in range(100):
        sample = dataset[place, 1]
        assert int(sample["ids"].max()) < 32 and sample["image"].shape == (3, 64, 64)
        dropped += sample["dropped_segments"]
    assert dropped > 0
