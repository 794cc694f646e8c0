"""The pipeline: any image in, maps of its own size out, and nothing else of the call changes them."""

import copy
import json
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from ldmseg_lib.core.errors import InputError
from ldmseg_lib.core.randomness import torch_generator
from ldmseg_lib.data.pixels import read_image
from ldmseg_lib.pipeline.images import as_rgb, size_of
from ldmseg_lib.pipeline.ldmseg import LDMSegPipeline
from ldmseg_lib.widgets.mask_editor import MaskEditor

SIZES = [(32, 32), (20, 50), (61, 33), (7, 9)]


def pictures() -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (*size, 3), dtype=np.uint8) for size in SIZES]


def streams(count: int = len(SIZES)) -> list[torch.Generator]:
    return [torch_generator("pipeline", i) for i in range(count)]


def agreement(first: list[np.ndarray], second: list[np.ndarray]) -> float:
    """Share of equal pixels. Floating point depends on the batch (1e-6 in the UNet): tests ask for 99.9 % of them."""
    return float(np.mean(np.concatenate([(a == b).ravel() for a, b in zip(first, second, strict=True)])))


@pytest.fixture(scope="module")
def segment(smoke_pipeline):
    """Calls the smoke pipeline with three steps, arg max alone."""

    def segment(images=None, **settings):
        settings = {"num_inference_steps": 3, "threshold": 0.0, "min_area": 0} | settings
        return smoke_pipeline(pictures() if images is None else images, **settings)

    return segment


@pytest.fixture(scope="module")
def reference(segment):
    return segment(generator=streams())


def test_maps_have_the_sizes_of_their_images(reference, smoke_pipeline):
    assert len(reference) == len(SIZES)
    for maps in (reference.ids, reference.instance_ids, reference.semantic):
        assert [ids.shape for ids in maps] == SIZES
        assert all(ids.dtype == np.int32 for ids in maps)
    assert reference.depth == [None] * len(SIZES)
    assert all(ids.max() < smoke_pipeline.num_ids and ids.min() >= 0 for ids in reference.instance_ids)


def test_segments_are_those_of_the_map(reference, smoke_pipeline):
    category_ids = {category["id"]: category["isthing"] for category in smoke_pipeline.config.categories}
    for ids, segments in zip(reference.ids, reference.segments):
        assert [s["id"] for s in segments] == sorted(set(np.unique(ids).tolist()) - {0})
        assert all(s["area"] == int((ids == s["id"]).sum()) for s in segments)
        assert all(category_ids[s["category_id"]] == s["isthing"] for s in segments)
        stuff = [s["category_id"] for s in segments if not s["isthing"]]
        assert len(stuff) == len(set(stuff))


def test_pil_images_arrays_and_tensors_agree(segment, reference):
    as_pil = segment([Image.fromarray(image) for image in pictures()], generator=streams())
    as_tensors = segment(
        [torch.from_numpy(image).permute(2, 0, 1).float() / 255 for image in pictures()], generator=streams()
    )
    for other in (as_pil, as_tensors):
        assert all(np.array_equal(a, b) for a, b in zip(other.ids, reference.ids))
        assert other.segments == reference.segments


def test_grey_and_transparent_images_are_taken_as_rgb(segment):
    grey = pictures()[0][..., 0]
    opaque = np.dstack([grey, grey, grey, np.full_like(grey, 255)])
    rgb = np.dstack([grey] * 3)
    found = segment([grey, opaque, rgb, Image.fromarray(grey)], generator=[torch_generator(1)] * 4)
    assert all(agreement([ids], [found.ids[0]]) > 0.999 for ids in found.ids)


def ramp() -> np.ndarray:
    """16-bit grey with every level that 8 bits have."""
    return np.linspace(0, 65535, 64 * 48).reshape(64, 48).astype(np.uint16)


@pytest.mark.parametrize("kind", ["grey16", "cmyk", "alpha", "palette", "exif"])
def test_dataset_pipeline_and_editor_see_the_same_picture(tmp_path, kind):
    path = tmp_path / ("picture.jpg" if kind in ("cmyk", "exif") else "picture.png")
    colours = Image.fromarray(pictures()[0])
    if kind == "grey16":
        Image.fromarray(ramp()).save(path)
    elif kind == "cmyk":
        colours.convert("CMYK").save(path)
    elif kind == "alpha":
        colours.putalpha(Image.fromarray(ramp().astype(np.uint8)).resize(colours.size))
        colours.save(path)
    elif kind == "palette":
        colours.quantize(16).save(path, transparency=3)
    else:
        exif = Image.Exif()
        exif[0x0112] = 6
        colours.resize((48, 32)).save(path, exif=exif)
    expected = read_image(path)
    with Image.open(path) as opened:
        assert size_of(opened) == expected.shape[:2]
        assert np.array_equal(np.asarray(as_rgb(opened)), expected)
        editor = MaskEditor(opened, np.ones(expected.shape[:2], int))
    assert np.array_equal(editor.photo, expected)
    editor.open_photo(path)
    assert np.array_equal(editor.photo, expected)
    if kind == "grey16":
        assert len(np.unique(expected)) == 256
        assert np.array_equal(np.asarray(as_rgb(ramp())), expected)


def test_a_batch_is_an_array_or_tensor_of_four_dimensions(smoke_pipeline):
    array = np.stack([pictures()[0]] * 2)
    tensor = torch.from_numpy(array).permute(0, 3, 1, 2).float() / 255
    for batch in (array, tensor):
        assert len(smoke_pipeline.encode_image(batch)) == 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("part", ["all", "autoencoder", "denoiser", "image_encoder"])
def test_pipelines_in_16_bits_run(smoke_pipeline, dtype, part):
    pipeline = copy.deepcopy(smoke_pipeline)
    (pipeline if part == "all" else getattr(pipeline, part)).to(dtype)
    found = pipeline(pictures()[0], num_inference_steps=2, generator=torch_generator(1), round_estimates=True)
    assert found.ids[0].shape == pictures()[0].shape[:2]
    known = np.zeros(pictures()[0].shape[:2], bool)
    known[:20] = True
    ids = np.ones(known.shape, int)
    pipeline.inpaint(
        pipeline.encode_image(pictures()[0]), ids, known, num_inference_steps=1, generator=torch_generator(1)
    )


def test_an_empty_batch_size_is_refused(smoke_pipeline):
    with pytest.raises(InputError, match="batch_size is 0"):
        smoke_pipeline(pictures(), batch_size=0)


def test_one_image_needs_no_list(segment, reference):
    alone = segment(pictures()[1], generator=streams()[1:2])
    assert len(alone) == 1 and agreement(alone.ids, reference.ids[1:2]) >= 0.999


def test_no_images_give_no_maps(segment):
    assert len(segment([])) == 0


@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_batch_changes_nothing(segment, reference, batch_size):
    found = segment(generator=streams(), batch_size=batch_size)
    assert agreement(found.ids, reference.ids) >= 0.999
    assert agreement(found.semantic, reference.semantic) >= 0.999


def test_the_batch_does_not_change_the_noise(smoke_pipeline, monkeypatch):
    """Exactly equal, whatever the batch: the first step's noisy latents are the noise itself."""

    def noise(batch_size: int, sampler: str) -> dict:
        seen = []
        real = smoke_pipeline.denoiser.forward
        with monkeypatch.context() as patch:
            patch.setattr(
                smoke_pipeline.denoiser,
                "forward",
                lambda z, *rest: (seen.append((z, rest[2], rest[3])), real(z, *rest))[1],
            )
            smoke_pipeline(
                pictures(), num_inference_steps=2, generator=streams(), batch_size=batch_size, sampler=sampler
            )
        first = [(z, tasks) for z, t, tasks in seen if int(t[0]) == 999]
        return {task: torch.cat([z[tasks == task] for z, tasks in first]) for task in (0, 1)}

    whole = noise(4, "ddim")
    for batch_size, sampler in ((1, "ddim"), (2, "ddpm")):
        parts = noise(batch_size, sampler)
        assert all(torch.equal(parts[task], whole[task]) for task in (0, 1))
    assert not torch.equal(whole[0], whole[1]) and not torch.equal(whole[0][0], whole[0][1])


def test_asking_for_one_task_gives_the_same_as_asking_for_two(segment, reference):
    instance, semantic = (segment(generator=streams(), tasks=[task]) for task in ("instance", "semantic"))
    assert agreement(instance.instance_ids, reference.instance_ids) >= 0.999
    assert agreement(semantic.semantic, reference.semantic) >= 0.999
    assert agreement(segment(generator=streams(), tasks=["semantic", "instance"]).ids, reference.ids) >= 0.999


def test_instances_alone_have_no_class_and_classes_alone_no_segment(segment):
    instance, semantic = (segment(generator=streams(), tasks=[task]) for task in ("instance", "semantic"))
    assert instance.semantic == [None] * 4
    assert all(np.array_equal(a, b) for a, b in zip(instance.ids, instance.instance_ids))
    assert all(s["category_id"] is None for segments in instance.segments for s in segments)
    assert all((ids == 0).all() for ids in semantic.ids) and semantic.segments == [[]] * 4


def test_one_generator_makes_one_for_each_image(segment):
    def call(images, seed=3):
        return segment(images, generator=torch.Generator().manual_seed(seed))

    whole, fewer = call(pictures()), call(pictures()[:2])
    assert agreement(fewer.ids, whole.ids[:2]) >= 0.999
    same = call([pictures()[0]] * 2)
    assert agreement(same.ids[:1], same.ids[1:]) < 0.999
    assert agreement(call(pictures(), 4).ids, whole.ids) < 0.999


def test_a_used_generator_gives_other_samples(segment):
    generator = torch.Generator().manual_seed(0)
    first, second = (segment(pictures()[:1], generator=generator) for _ in range(2))
    assert agreement(first.ids, second.ids) < 0.999


def test_without_a_generator_torch_s_global_one_counts(segment):
    ends = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        ends.append(segment(pictures()[:1]).ids)
    assert agreement(ends[0], ends[1]) == 1 and agreement(ends[0], ends[2]) < 0.999


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "dpmsolver++", "unipc", "consistency"])
def test_every_sampler_runs_and_repeats(segment, sampler):
    first, second = (segment(pictures()[:2], generator=streams(2), sampler=sampler) for _ in range(2))
    assert agreement(first.ids, second.ids) == 1


def test_classes_are_the_arg_max_of_the_resized_logits(smoke_pipeline):
    """Void is no answer: it is no positive in training. Compared with plain resizing, at every pixel."""
    latents = {"semantic": torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))}
    sizes = [(32, 32), (45, 27), (9, 70)]
    output = smoke_pipeline.decode(latents, sizes)
    classes = len(smoke_pipeline.config.categories)
    for row, size in enumerate(sizes):
        with torch.no_grad():
            logits = smoke_pipeline.autoencoder.from_latents(latents["semantic"][row : row + 1])
        resized = F.interpolate(logits, size, mode="bilinear", align_corners=False)[0, 1 : classes + 1]
        assert np.mean(output.semantic[row] == resized.argmax(0).numpy() + 1) > 0.999
        assert output.semantic[row].min() >= 1


def test_instances_are_the_confident_arg_max_of_the_resized_logits(smoke_pipeline):
    latents = {"instance": 3 * torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))}
    with torch.no_grad():
        logits = smoke_pipeline.autoencoder.from_latents(latents["instance"])
    resized = F.interpolate(logits, (45, 27), mode="bilinear", align_corners=False)
    level = resized.softmax(1).amax(1).median().item()
    output = smoke_pipeline.decode(latents, [(45, 27)] * 2, threshold=level, min_area=0)
    expected = torch.where(resized.softmax(1).amax(1) >= level, resized.argmax(1), 0)
    assert np.mean(np.stack(output.instance_ids) == expected.numpy()) > 0.998
    cleaned = smoke_pipeline.decode(latents, [(45, 27)] * 2, threshold=level, min_area=40)
    for before, after in zip(output.instance_ids, cleaned.instance_ids):
        areas = np.bincount(before.ravel(), minlength=16)
        assert np.array_equal(after, np.where(areas[before] >= 40, before, 0))


def test_the_pipeline_s_own_cleaning_is_the_default(smoke_pipeline):
    latents = {"instance": torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))}
    own = smoke_pipeline.decode(latents, [(32, 32)])
    config = smoke_pipeline.config
    same = smoke_pipeline.decode(latents, [(32, 32)], threshold=config.threshold, min_area=config.min_area)
    assert np.array_equal(own.ids[0], same.ids[0])


def test_features_are_encoded_once_and_used_often(smoke_pipeline, reference):
    features = smoke_pipeline.encode_image(pictures())
    assert len(features) == 4 and features.sizes == SIZES
    latents = smoke_pipeline.predict(features, num_inference_steps=3, generators=streams())
    again = smoke_pipeline.predict(features, num_inference_steps=3, generators=streams())
    assert all(torch.equal(latents[task], again[task]) for task in latents)
    output = smoke_pipeline.decode(latents, features.sizes, threshold=0.0, min_area=0)
    assert agreement(output.ids, reference.ids) >= 0.999


def test_estimates_end_with_the_answer(smoke_pipeline):
    features, estimates = smoke_pipeline.encode_image(pictures()[:2]), []
    latents = smoke_pipeline.predict(
        features,
        num_inference_steps=4,
        generators=streams(2),
        on_estimate=lambda step, by_task: estimates.append((step, by_task)),
    )
    assert [step for step, _ in estimates] == [0, 1, 2, 3]
    assert all(torch.equal(latents[task], estimates[-1][1][task]) for task in ("instance", "semantic"))


def test_speeding_up_compiles_one_graph_of_16_bits_and_keeps_the_latents_in_32(smoke_pipeline):
    """Traced without a graph break; the code generation itself is torch's."""
    quick = copy.deepcopy(smoke_pipeline).speed_up(backend="eager")
    assert {p.dtype for p in quick.denoiser.parameters()} == {torch.bfloat16}
    settings = {"num_inference_steps": 3, "tasks": ["instance"]}
    features = smoke_pipeline.encode_image(pictures())
    plain = smoke_pipeline.predict(features, generators=streams(), **settings)["instance"]
    quickly = quick.predict(features, generators=streams(), **settings)["instance"]
    assert quickly.dtype == torch.float32
    assert (quickly - plain).abs().max() > 0 and (quickly - plain).pow(2).mean() < 0.01 * plain.pow(2).mean()


def test_what_was_saved_is_loaded(smoke_pipeline, tmp_path):
    smoke_pipeline.save_pretrained(tmp_path)
    loaded = LDMSegPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    ours, theirs = (
        pipeline(pictures(), num_inference_steps=3, generator=streams()) for pipeline in (smoke_pipeline, loaded)
    )
    assert all(np.array_equal(a, b) for a, b in zip(ours.ids, theirs.ids))
    assert all(np.array_equal(a, b) for a, b in zip(ours.semantic, theirs.semantic))
    assert ours.segments == theirs.segments and ours.categories == theirs.categories
    plain = {key: value for key, value in smoke_pipeline.config.items() if not key.startswith("_")}
    assert {key: loaded.config[key] for key in plain} == plain
    assert loaded.depth_autoencoder is None and loaded.trained_on_photographs is False


def test_nothing_but_safetensors_and_json_is_saved(smoke_pipeline, tmp_path):
    smoke_pipeline.save_pretrained(tmp_path)
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} == {".json", ".safetensors"}


@pytest.mark.parametrize("damage", ["no index", "no folder", "no weights", "a pickle", "cut weights", "another width"])
def test_a_damaged_pipeline_is_named(smoke_pipeline, tmp_path, damage):
    smoke_pipeline.save_pretrained(tmp_path / "pipe")
    part = tmp_path / "pipe" / "denoiser"
    weights = part / "diffusion_pytorch_model.safetensors"
    if damage == "no index":
        (tmp_path / "pipe" / "model_index.json").unlink()
    elif damage == "no folder":
        shutil.rmtree(tmp_path / "pipe")
    elif damage == "no weights":
        weights.unlink()
    elif damage == "a pickle":
        torch.save(smoke_pipeline.denoiser.state_dict(), weights.with_suffix(".bin"))
        weights.unlink()
    elif damage == "cut weights":
        weights.write_bytes(weights.read_bytes()[:-100])
    else:
        config = json.loads((part / "config.json").read_text())
        config["unet_config"]["block_out_channels"] = [32, 64]
        (part / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="no pipeline can be loaded") as error:
        LDMSegPipeline.from_pretrained(tmp_path / "pipe")
    assert str(tmp_path / "pipe") in str(error.value)


@pytest.mark.parametrize(
    ("picture", "named"),
    [
        (np.zeros((4, 4, 3), np.float32), "uint8 .* not float32"),
        (np.zeros((4, 4, 2), np.uint8), r"\(4, 4, 2\)"),
        (np.zeros((1, 4, 4, 3), np.uint8), r"\(1, 4, 4, 3\)"),
        (np.zeros((0, 4, 3), np.uint8), r"\(0, 4, 3\)"),
        (torch.zeros(4, 4, 3), r"\[4, 4, 3\]"),
        (torch.zeros(3, 4, 4, dtype=torch.uint8), "not torch.uint8"),
        (torch.full((3, 4, 4), 200.0), "from 200 to 200"),
        (torch.full((3, 4, 4), -1.0), "from -1 to -1"),
        (torch.full((3, 4, 4), torch.nan), "from nan"),
        ("photo.jpg", "not str"),
        (None, "not NoneType"),
    ],
)
def test_what_is_no_image_is_named(segment, picture, named):
    with pytest.raises(InputError, match=named):
        segment([pictures()[0], picture])


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"tasks": ["depth"]}, "no task 'depth'; it was trained for instance, semantic"),
        ({"tasks": "instance"}, "give a list"),
        ({"tasks": []}, "give a list"),
        ({"sampler": "dimm"}, "'dimm'; valid ones are ddim"),
        ({"num_inference_steps": 0}, "num_inference_steps is 0"),
        ({"num_inference_steps": 1001}, "1 to 1000"),
        ({"generator": [torch.Generator()]}, "1 generators for 4"),
    ],
)
def test_settings_that_cannot_be_are_named(segment, settings, named):
    with pytest.raises(InputError, match=named):
        segment(**settings)


def test_no_image_to_encode_is_an_error(smoke_pipeline):
    with pytest.raises(InputError, match="no image"):
        smoke_pipeline.encode_image([])


def test_a_model_without_categories_predicts_segments_without_classes(smoke_pipeline):
    parts = {name: getattr(smoke_pipeline, name) for name in ("autoencoder", "denoiser", "image_encoder")}
    nameless = LDMSegPipeline(**parts, image_size=32, prediction_type="sample", threshold=0.0, min_area=0)
    nameless.set_progress_bar_config(disable=True)
    output = nameless(pictures()[:1], num_inference_steps=2, generator=streams(1))
    assert output.semantic == [None] and all(s["category_id"] is None for s in output.segments[0])
