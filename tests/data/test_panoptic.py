import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from ldmseg_lib.core.errors import DatasetError, InputError
from ldmseg_lib.data.panoptic import PanopticDataset, collate
from tests.data.folders import empty_folder, make_folder


def _crowded(root, *, crowd_too=True, **options):
    """One image of 40x40: a large thing, one of 9 pixels, one of 10, a crowd; the rest unlabelled."""
    folder = empty_folder(root, **options)
    ids = np.zeros((40, 40), dtype=np.int64)
    ids[:20, :20] = 1 << 23
    ids[25:28, 0:3] = 9
    ids[30:35, 0:2] = 10
    segments = [{"id": 1 << 23, "category_id": 1}, {"id": 9, "category_id": 7}, {"id": 10, "category_id": 7}]
    if crowd_too:
        ids[20:, 20:] = 77
        segments.append({"id": 77, "category_id": 1, "iscrowd": 1})
    folder.add_image(ids, segments)
    folder.save()
    return folder


def _grid(root, side=20):
    """One image in which every pixel of a grid of `side` x `side` is a segment of its own."""
    folder = empty_folder(root)
    ids = np.arange(1, side * side + 1).reshape(side, side)
    folder.add_image(ids, [{"id": int(k), "category_id": 1} for k in ids.ravel()])
    folder.save()
    return folder


@pytest.mark.parametrize("layout", ["flat", "coco"])
def test_ground_truth_is_the_folder_itself(tmp_path, layout):
    folder = make_folder(tmp_path, layout=layout)
    dataset = PanopticDataset(tmp_path, "train")
    assert dataset.image_ids == [100, 101, 102]
    for place in range(3):
        truth = dataset.ground_truth(place)
        np.testing.assert_array_equal(truth.ids, folder.ids(place))
        assert truth.ids.dtype == np.int32 and truth.image.shape == (24, 32, 3)
        written = np.asarray(Image.open(folder.image_path(place)))
        np.testing.assert_array_equal(truth.image, written)
        measured = {s["id"]: (s["category_id"], s["area"], s["iscrowd"]) for s in truth.segments}
        assert measured == {s["id"]: (s["category_id"], s["area"], 0) for s in folder.segments(place)}
        assert [s["isthing"] for s in truth.segments] == [1, 1, 0]
        assert truth.depth is None


def test_areas_come_from_the_png_whatever_the_json_says(tmp_path):
    folder = make_folder(tmp_path, images=1)
    true_area = folder.segments(0)[0]["area"]
    folder.segments(0)[0]["area"] = 3
    folder.save()
    assert PanopticDataset(tmp_path, "train", augment=True).ground_truth(0).segments[0]["area"] == true_area
    sample = PanopticDataset(tmp_path, "train", augment=True)[0]
    assert true_area in [segment["area"] for segment in sample["segments"]]


@pytest.mark.parametrize("size", [None, 16])
def test_a_sample_agrees_with_itself(tmp_path, size):
    make_folder(tmp_path, depth=True)
    dataset = PanopticDataset(tmp_path, "train", image_size=size, num_ids=16, depth=True)
    for place in range(3):
        sample = dataset[place]
        shape = (size, size) if size else (24, 32)
        assert sample["image"].shape == (3, *shape) and sample["image"].dtype == torch.float32
        assert sample["image"].min() >= 0 and sample["image"].max() <= 1
        assert sample["ids"].shape == sample["semantic"].shape == sample["depth"].shape == shape
        assert sample["ids"].dtype == sample["semantic"].dtype == torch.int64
        assert sample["size"] == (24, 32) and sample["file_name"] == f"{100 + place:06d}.jpg"
        assert sample["segments_file_name"] == f"{100 + place:06d}.png" and sample["image_id"] == 100 + place
        assert {s["id"] for s in sample["segments"]} == set(sample["ids"].unique().tolist()) - {0}
        for segment in sample["segments"]:
            mask = sample["ids"] == segment["id"]
            assert int(mask.sum()) == segment["area"]
            assert set(sample["semantic"][mask].tolist()) == {dataset.class_index[segment["category_id"]]}
        assert (sample["semantic"][sample["ids"] == 0] == 0).all()


def test_unresized_pixels_are_those_of_the_files(tmp_path):
    folder = make_folder(tmp_path)
    dataset = PanopticDataset(tmp_path, "train")
    sample, truth = dataset[1], dataset.ground_truth(1)
    np.testing.assert_array_equal(
        (sample["image"] * 255).round().numpy().astype(np.uint8), truth.image.transpose(2, 0, 1)
    )
    for segment in folder.segments(1):
        mask = truth.ids == segment["id"]
        assert len(np.unique(sample["ids"].numpy()[mask])) == 1


def test_images_are_resized_as_pillow_does(tmp_path):
    folder = make_folder(tmp_path, images=1)
    sample = PanopticDataset(tmp_path, "train", image_size=16)[0]
    expected = Image.open(folder.image_path(0)).resize((16, 16), Image.Resampling.BICUBIC)
    np.testing.assert_allclose(sample["image"].numpy(), np.asarray(expected).transpose(2, 0, 1) / 255, atol=1e-6)


@pytest.mark.parametrize("augment", [False, True])
def test_ids_are_fresh_at_every_visit_and_the_same_for_the_same_one(tmp_path, augment):
    make_folder(tmp_path)
    first, second = (PanopticDataset(tmp_path, "train", augment=augment, seed=3) for _ in range(2))
    drawn = set()
    for visit in range(12):
        a, b = first[1, visit], second[1, visit]
        assert (
            torch.equal(a["ids"], b["ids"]) and torch.equal(a["image"], b["image"]) and a["segments"] == b["segments"]
        )
        assert a["visit"] == visit
        drawn.add(tuple(segment["id"] for segment in a["segments"]))
    assert len(drawn) == 12
    assert first[1]["visit"] == 0 and torch.equal(first[1]["ids"], first[1, 0]["ids"])
    assert not torch.equal(first[0]["ids"].unique(), first[2]["ids"].unique())
    other_seed = PanopticDataset(tmp_path, "train", augment=augment, seed=4)
    assert [s["id"] for s in other_seed[1]["segments"]] != [s["id"] for s in first[1]["segments"]]


def test_samples_do_not_depend_on_workers_order_or_cache(tmp_path):
    make_folder(tmp_path, images=5)
    options = {"image_size": 12, "crop_size": 20, "augment": True, "num_ids": 16}
    dataset = PanopticDataset(tmp_path, "train", **options, cache=False)
    cached = PanopticDataset(tmp_path, "train", **options, cache=True)
    backwards = [cached[place] for place in range(4, -1, -1)][::-1]
    loader = DataLoader(cached, batch_size=2, num_workers=2, collate_fn=collate)
    batches = list(loader)
    for again in range(2):
        for place in range(5):
            expected, found = dataset[place], cached[place]
            for key in ("image", "ids", "semantic"):
                assert torch.equal(expected[key], found[key]), (again, place, key)
                assert torch.equal(expected[key], backwards[place][key])
                assert torch.equal(expected[key], batches[place // 2][key][place % 2])


def test_things_and_stuff_alike_draw_from_all_ids_but_void(tmp_path):
    make_folder(tmp_path, images=1)
    dataset = PanopticDataset(tmp_path, "train", num_ids=4)
    drawn = [[segment["id"] for segment in dataset[0, visit]["segments"]] for visit in range(60)]
    assert all(sorted(ids) == [1, 2, 3] for ids in drawn)
    assert {ids[2] for ids in drawn} == {1, 2, 3}


def test_position_order_counts_from_the_left(tmp_path):
    make_folder(tmp_path, images=1, size=(24, 64))
    dataset = PanopticDataset(tmp_path, "train", id_order="position")
    by_category = {segment["category_id"]: segment["id"] for segment in dataset[0]["segments"]}
    # centroids x + y/4: ball about 18, floor about 36, box about 51
    assert by_category == {1: 1, 40: 2, 7: 3}
    assert torch.equal(dataset[0, 0]["ids"], dataset[0, 5]["ids"])


def test_position_order_follows_the_mirrored_picture(tmp_path):
    make_folder(tmp_path, images=1, size=(24, 64))
    dataset = PanopticDataset(tmp_path, "train", id_order="position", augment=True)
    orders = {tuple(segment["id"] for segment in dataset[0, visit]["segments"]) for visit in range(20)}
    assert orders == {(1, 3, 2), (3, 1, 2)}


def test_training_voids_crowd_and_segments_under_ten_pixels(tmp_path):
    _crowded(tmp_path)
    sample = PanopticDataset(tmp_path, "train", augment=True)[0]
    assert sorted(segment["area"] for segment in sample["segments"]) == [10, 400]
    assert int((sample["ids"] > 0).sum()) == int((sample["semantic"] > 0).sum()) == 410
    kept = PanopticDataset(tmp_path, "train", augment=True, min_train_area=11)[0]
    assert [segment["area"] for segment in kept["segments"]] == [400]


def test_evaluation_keeps_crowd_and_the_smallest(tmp_path):
    _crowded(tmp_path)
    dataset = PanopticDataset(tmp_path, "train")
    assert sorted(segment["area"] for segment in dataset[0]["segments"]) == [9, 10, 400, 400]
    assert sum(segment["iscrowd"] for segment in dataset[0]["segments"]) == 1
    assert [segment["area"] for segment in dataset.ground_truth(0).segments] == [400, 9, 10, 400]


def test_the_area_limit_is_measured_at_original_resolution(tmp_path):
    _crowded(tmp_path)
    sample = PanopticDataset(tmp_path, "train", augment=True, image_size=20)[0]
    assert min(segment["area"] for segment in sample["segments"]) < 10


def test_images_with_nothing_but_crowd_are_left_out_of_training_alone(tmp_path):
    folder = make_folder(tmp_path, images=2)
    ids = np.zeros((24, 32), dtype=np.int64)
    folder.add_image(ids, [])
    ids[:9] = 5
    folder.add_image(ids, [{"id": 5, "category_id": 1, "iscrowd": 1}])
    folder.save()
    assert PanopticDataset(tmp_path, "train", augment=True).image_ids == [100, 101]
    dataset = PanopticDataset(tmp_path, "train")
    assert dataset.image_ids == [100, 101, 102, 103]
    assert dataset[2]["segments"] == [] and int(dataset[2]["ids"].sum()) == 0
    assert dataset.ground_truth(2).segments == []
    # fully annotated folders have a background to learn there
    assert len(PanopticDataset(tmp_path, "train", augment=True, unlabelled="background")) == 4


def test_max_images_takes_the_first_of_those_in_use(tmp_path):
    make_folder(tmp_path, images=4)
    assert PanopticDataset(tmp_path, "train", max_images=2).image_ids == [100, 101]


def test_background_is_one_more_stuff_segment(tmp_path):
    make_folder(tmp_path, unlabelled="background")
    dataset = PanopticDataset(tmp_path, "train", num_ids=8)
    assert dataset.unlabelled == "background" and dataset.num_classes == 4
    extra = dataset.categories[-1]
    assert extra["name"] == "background" and extra["isthing"] == 0 and dataset.class_index[extra["id"]] == 4
    plain = PanopticDataset(tmp_path, "train", unlabelled="void")
    assert plain.num_classes == 3
    truth, without = dataset.ground_truth(1), plain.ground_truth(1)
    background = truth.segments[-1]
    assert background["category_id"] == extra["id"] and background["id"] not in np.unique(without.ids)
    assert 0 < background["id"] < 1 << 24
    np.testing.assert_array_equal(truth.ids == background["id"], without.ids == 0)
    assert background["area"] == int((without.ids == 0).sum())
    sample = dataset[1]
    assert (sample["ids"] > 0).all() and (sample["semantic"] > 0).all()
    assert len(sample["segments"]) == 4


def test_background_finds_an_id_beside_the_largest_one(tmp_path):
    folder = empty_folder(tmp_path, unlabelled="background")
    ids = np.zeros((12, 12), dtype=np.int64)
    ids[:6], ids[6:9] = (1 << 24) - 1, 1
    folder.add_image(ids, [{"id": (1 << 24) - 1, "category_id": 1}, {"id": 1, "category_id": 7}])
    folder.save()
    truth = PanopticDataset(tmp_path, "train").ground_truth(0)
    assert sorted(np.unique(truth.ids).tolist()) == [1, 2, (1 << 24) - 1]


def test_training_filters_give_void_and_never_background(tmp_path):
    _crowded(tmp_path, unlabelled="background")
    sample = PanopticDataset(tmp_path, "train", augment=True)[0]
    assert int((sample["ids"] == 0).sum()) == 400 + 9
    assert sorted(segment["area"] for segment in sample["segments"]) == [10, 400, 1600 - 819]


def test_padding_is_void_black_and_of_unknown_depth_even_with_background(tmp_path):
    make_folder(tmp_path, images=1, size=(24, 32), unlabelled="background", depth=True)
    sample = PanopticDataset(tmp_path, "train", crop_size=40, depth=True)[0]
    outside = torch.ones(40, 40, dtype=torch.bool)
    outside[8:32, 4:36] = False
    assert torch.equal(sample["ids"] == 0, outside)
    assert torch.equal(sample["depth"].isnan(), outside)
    assert (sample["image"][:, outside] == 0).all() and (sample["image"][:, ~outside] > 0).any()


def test_more_segments_than_ids_keeps_the_largest_and_counts_the_rest(tmp_path):
    folder = _crowded(tmp_path)
    dataset = PanopticDataset(tmp_path, "train", num_ids=3)
    sample = dataset[0]
    assert sorted(segment["area"] for segment in sample["segments"]) == [400, 400]
    assert sample["dropped_segments"] == 2
    assert set(sample["ids"].unique().tolist()) == {0, 1, 2}
    # their class is known all the same, and the score must miss them
    assert int((sample["semantic"] > 0).sum()) == 819
    assert len(dataset.ground_truth(0).segments) == len(folder.segments(0)) == 4


def test_more_than_255_segments_are_read_whole(tmp_path):
    _grid(tmp_path)
    dataset = PanopticDataset(tmp_path, "train", num_ids=512)
    sample = dataset[0]
    assert len(sample["segments"]) == 400 and len(sample["ids"].unique()) == 400
    assert sample["dropped_segments"] == 0
    few = PanopticDataset(tmp_path, "train", num_ids=256)[0]
    assert few["dropped_segments"] == 145 and len(few["segments"]) == 255


def test_segments_that_vanish_in_the_resize_are_not_listed(tmp_path):
    _grid(tmp_path)
    sample = PanopticDataset(tmp_path, "train", image_size=10)[0]
    assert len(sample["segments"]) == 100 and sample["dropped_segments"] == 0
    assert all(segment["area"] == 1 for segment in sample["segments"])


def test_mirroring_turns_image_ids_semantic_and_depth_together(tmp_path):
    make_folder(tmp_path, images=1, depth=True)
    options = {"image_size": 16, "depth": True, "id_order": "random"}
    plain = PanopticDataset(tmp_path, "train", **options)[0]
    dataset = PanopticDataset(tmp_path, "train", augment=True, **options)
    mirrored = 0
    for visit in range(40):
        sample = dataset[0, visit]
        turned = torch.equal(sample["image"], plain["image"].flip(-1))
        assert turned or torch.equal(sample["image"], plain["image"])
        mirrored += turned
        expected = plain["semantic"].flip(-1) if turned else plain["semantic"]
        assert torch.equal(sample["semantic"], expected)
        depth = plain["depth"].flip(-1) if turned else plain["depth"]
        assert torch.equal(sample["depth"].nan_to_num(-1), depth.nan_to_num(-1))
    assert 10 < mirrored < 30


def test_random_crops_move_and_central_ones_do_not(tmp_path):
    make_folder(tmp_path, images=1, size=(48, 64))
    training = PanopticDataset(tmp_path, "train", crop_size=16, augment=True, cache=True)
    crops = {training[0, visit]["image"].numpy().tobytes() for visit in range(10)}
    assert len(crops) > 5
    central = PanopticDataset(tmp_path, "train", crop_size=16)
    truth = central.ground_truth(0)
    np.testing.assert_array_equal(
        (central[0]["image"] * 255).round().numpy(), truth.image[16:32, 24:40].transpose(2, 0, 1)
    )


def test_depth_is_scaled_and_unknown_is_nan(tmp_path):
    folder = make_folder(tmp_path, images=1, depth=True)
    stored = np.full((24, 32), 2000, dtype=np.uint16)
    stored[0, 0], stored[0, 1] = 0, 65535
    Image.fromarray(stored).save(folder.depth_path(0))
    dataset = PanopticDataset(tmp_path, "train", depth=True)
    for depth in (dataset[0]["depth"].numpy(), dataset.ground_truth(0).depth):
        assert depth.dtype == np.float32
        assert depth[0, 0] == 0 and np.isnan(depth[0, 1]) and depth[1, 1] == pytest.approx(2.0)
        assert np.isnan(depth).sum() == 1
    assert PanopticDataset(tmp_path, "train")[0]["depth"] is None


def test_a_batch_stacks_arrays_and_lists_the_rest(tmp_path):
    make_folder(tmp_path, depth=True)
    dataset = PanopticDataset(tmp_path, "train", image_size=8, depth=True)
    batch = collate([dataset[0], dataset[1]])
    assert batch["image"].shape == (2, 3, 8, 8) and batch["ids"].shape == batch["depth"].shape == (2, 8, 8)
    assert batch["image_id"] == [100, 101] and len(batch["segments"][1]) == 3 and batch["dropped_segments"] == [0, 0]
    assert collate([PanopticDataset(tmp_path, "train")[0]])["depth"] is None


def test_samples_of_different_sizes_are_no_batch(tmp_path):
    make_folder(tmp_path / "a", images=1)
    make_folder(tmp_path / "b", images=1, size=(20, 20))
    samples = [PanopticDataset(tmp_path / name, "train")[0] for name in "ab"]
    with pytest.raises(InputError, match="image_size"):
        collate(samples)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"unlabelled": "nothing"}, "unlabelled is 'nothing'; choose from"),
        ({"id_order": "size"}, "id_order is 'size'"),
        ({"num_ids": 1}, "num_ids is 1; it must be at least 2"),
        ({"image_size": 0}, "image_size is 0"),
        ({"depth": True}, "no folder depth/"),
    ],
)
def test_wrong_options_are_named(tmp_path, options, words):
    make_folder(tmp_path)
    with pytest.raises(InputError, match=words):
        PanopticDataset(tmp_path, "train", **options)


def test_a_missing_split_names_those_there_are(tmp_path):
    make_folder(tmp_path, split="val", layout="coco")
    with pytest.raises(DatasetError, match=r"panoptic_train\.json .* it has val"):
        PanopticDataset(tmp_path, "train")
    assert len(PanopticDataset(tmp_path, "val2017")) == 3


def test_an_index_beyond_the_end_stops_a_loop(tmp_path):
    make_folder(tmp_path)
    assert len(list(iter(PanopticDataset(tmp_path, "train")))) == 3
    with pytest.raises(IndexError):
        PanopticDataset(tmp_path, "train")[3]
