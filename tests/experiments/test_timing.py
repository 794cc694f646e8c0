"""Timing: the parts of one batch, medians, the line through them, and precision that touches what it should."""

import time

import numpy as np
import pytest
import torch

from ldmseg_lib.core.errors import InputError
from ldmseg_lib.experiments.denoising_steps import timing
from ldmseg_lib.experiments.denoising_steps.timing import PARTS, fit_line, time_pipeline, time_samplers
from ldmseg_lib.experiments.supplement import supplement


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    return [np.full((40, 24, 3), value, np.uint8) for value in (0, 90)]


def test_the_papers_table_is_a_line_of_one_network_evaluation_a_step() -> None:
    """Method 9.4: 0.068 s + 0.0498 s per step."""
    table = supplement("table_s2")
    line = fit_line(table["iters"].tolist(), table["seconds"].tolist())
    assert line["fixed"] == pytest.approx(0.068, abs=5e-4) and line["per_step"] == pytest.approx(0.0498, abs=5e-5)


def test_a_line_is_found_again_and_needs_two_points() -> None:
    line = fit_line([1, 5, 20], [0.13, 0.25, 0.7])
    assert (line["fixed"], line["per_step"]) == pytest.approx((0.1, 0.03))
    with pytest.raises(InputError, match="two numbers of steps"):
        fit_line([4, 4], [1.0, 1.1])


def test_every_part_is_timed_and_they_make_up_the_total(smoke_pipeline, images) -> None:
    result = time_pipeline(smoke_pipeline, images, [1, 3], repeats=3, progress=False)
    assert (result["precision"], result["batch"], result["repeats"]) == ("fp32", 2, 3)
    assert result["device"] and result["image_size"] == 32 and result["sampler"] == smoke_pipeline.config.sampler
    for row in result["rows"]:
        parts = [row[part] for part in PARTS]
        assert all(part > 0 for part in parts)
        assert row["least"] <= row["total"] <= row["most"]
        assert sum(parts) == pytest.approx(row["total"], rel=0.5)
    assert [row["steps"] for row in result["rows"]] == [1, 3] and result["fit"].keys() == {"fixed", "per_step"}


class Clock:
    """A clock that a made-up pipeline advances."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clockwork(monkeypatch: pytest.MonkeyPatch, smoke_pipeline):
    """The smoke pipeline on a clock of its own: encoding takes 1 s, a step 10 s, and every third round 100 s more."""
    clock, runs = Clock(), []
    monkeypatch.setattr(timing, "time", clock)
    encode, predict = smoke_pipeline.encode_image, smoke_pipeline.predict

    def slow_encode(pictures):
        clock.now += 1
        return encode(pictures)

    def slow_predict(features, **settings):
        runs.append(settings["num_inference_steps"])
        clock.now += 10 * settings["num_inference_steps"] + (100 if len(runs) % 3 == 0 else 0)
        return predict(features, **settings)

    monkeypatch.setattr(smoke_pipeline, "encode_image", slow_encode)
    monkeypatch.setattr(smoke_pipeline, "predict", slow_predict)
    return smoke_pipeline, runs


def test_seconds_are_medians_of_an_image_without_the_warm_up(clockwork, images) -> None:
    pipeline, runs = clockwork
    result = time_pipeline(pipeline, images, [1], repeats=4, warmups=2, progress=False)
    # of the runs 3 to 6 that count, two stumbled
    assert runs == [1] * 6
    (row,) = result["rows"]
    assert row["encode"] == 0.5 and row["denoise"] == (10 + 110) / 2 / 2
    assert (row["least"], row["most"]) == (5.5, 55.5) and result["fit"] is None


def test_a_round_goes_over_all_step_counts_before_the_next(clockwork, images) -> None:
    pipeline, runs = clockwork
    time_pipeline(pipeline, images, [2, 1], repeats=2, warmups=1, progress=False)
    assert runs == [1, 2, 1, 2, 1]


def test_the_device_is_waited_for_inside_the_part(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds: dict[str, float] = {}
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: time.sleep(0.02))
    with timing._timed(seconds, "denoise", torch.device("cuda")):
        pass
    with timing._timed(seconds, "decode", torch.device("cpu")):
        pass
    assert seconds["denoise"] >= 0.02 > seconds["decode"]


def test_half_precision_reaches_the_denoiser_and_not_the_decoder(smoke_pipeline, images) -> None:
    seen = {}

    def note(name):
        return lambda module, arguments, output: seen.update({name: output.dtype})

    hooks = [
        smoke_pipeline.denoiser.unet.conv_out.register_forward_hook(note("denoiser")),
        smoke_pipeline.autoencoder.decoder[-1].register_forward_hook(note("decoder")),
    ]
    try:
        time_pipeline(smoke_pipeline, images, [1], repeats=1, warmups=0, precision="bf16", progress=False)
    finally:
        for hook in hooks:
            hook.remove()
    assert seen == {"denoiser": torch.bfloat16, "decoder": torch.float32}


def test_every_sampler_is_timed_at_its_own_counts(smoke_pipeline, images) -> None:
    result = time_samplers(smoke_pipeline, images[:1], {"ddim": [1, 2], "unipc": [1]}, repeats=1)
    assert {name: [row["steps"] for row in one["rows"]] for name, one in result.items()} == {
        "ddim": [1, 2],
        "unipc": [1],
    }
    assert result["unipc"]["sampler"] == "unipc"


def test_nothing_to_time_is_refused(smoke_pipeline, images) -> None:
    for pictures, counts, repeats in (([], [1], 1), (images, [], 1), (images, [1], 0)):
        with pytest.raises(InputError, match="at least one image"):
            time_pipeline(smoke_pipeline, pictures, counts, repeats=repeats)
