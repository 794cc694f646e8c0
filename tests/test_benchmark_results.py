"""What prose says of measured speed is what the committed results of the benchmarks say."""

import json
import re

from ldmseg_lib.core.paths import ROOT

_PAGES = (ROOT / "README.md", ROOT / "RESULTS.md", *(ROOT / "docs").glob("*.md"))
README = " ".join(" ".join(page.read_text() for page in _PAGES).split())


def result(name: str) -> dict:
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())


def test_the_readme_gives_the_measured_speed_of_the_metric_and_the_decoders_share():
    measured = result("panoptic_quality")["from files"]
    stated = re.search(
        r"evaluates (\d+) images of 640x480 a second from files, and spends (\d+) % of that time", README
    )
    assert stated is not None
    images, share = map(int, stated.groups())
    assert images == round(measured["whole evaluation (images/s)"])
    assert share == round(100 * measured["decoding, share of the whole"])


def test_the_metric_is_a_hundred_times_as_fast_as_torchmetrics_and_agrees_with_it():
    measured = result("panoptic_quality")["on decoded maps"]
    assert measured["ratio"] >= 100
    assert abs(measured["PQ, ours"] - measured["PQ, torchmetrics"]) < 1e-6


def test_the_decoder_in_use_is_the_fastest_of_those_measured():
    measured = result("panoptic_quality")["from files"]
    rates = {name: value for name, value in measured.items() if name.startswith("decoding with")}
    assert len(rates) >= 3
    assert max(rates, key=rates.__getitem__).startswith("decoding with kornia-rs")


def test_the_readme_gives_the_measured_speed_of_loading_and_the_cores_that_follow():
    measured = result("data_loading")
    rate = measured["measured"]["batch of 32, per image (images/s/core)"]
    stated = re.search(r"takes one core of an AMD EPYC (\d+) ms: (\d+) images a second", README)
    cores = re.search(r"if each trains (\d+) images a second, takes (\d+) such cores", README)
    assert stated is not None and cores is not None
    assert (int(stated[1]), int(stated[2])) == (round(1000 / rate), round(rate))
    assert (int(cores[1]), int(cores[2])) == (
        measured["assumed"]["images/s/GPU"],
        round(measured["cores that keep the GPUs busy"]),
    )


def test_the_readme_gives_the_measured_speed_of_sampling_and_of_training_on_two_cores():
    one, eight, training = result("sampling_cpu_demo_1"), result("sampling_cpu_demo_8"), result("training_speed_demo")
    seconds, alone, batched = re.search(
        r"instance and semantic\) in ([\d.]+) s, ([\d.]+) times as fast as a plain diffusers loop over the same"
        r" network, and ([\d.]+) times in batches of 8",
        README,
    ).groups()
    assert seconds == f"{one['seconds an image']['ours']['total']:.2f}"
    assert (alone, batched) == (f"{one['times as fast']:.2f}", f"{eight['times as fast']:.2f}")
    assert min(one["pixels that agree"], eight["pixels that agree"]) >= 0.99
    stated = re.search(
        r"on (\d+) images a second and the diffusion model on (\d+), of which waiting for data takes"
        r" (\d+) % and (\d+) % of a step",
        README,
    )
    measured = [training["autoencoder"], training["diffusion"]]
    waiting = [100 * found["share of a step"]["waiting for data"] for found in measured]
    assert list(map(int, stated.groups())) == [round(found["images a second"]) for found in measured] + list(
        map(round, waiting)
    )


def test_the_readme_gives_the_measured_overfit_of_photographs():
    measured = result("overfit_photographs")
    images, quality, samples, steps, ceiling, minutes = re.search(
        r"overfits (\d+) COCO images .* to a class-agnostic PQ of ([\d.]+), the mean of (\d+) samples of (\d+) steps,"
        r" where the autoencoder alone has ([\d.]+); (\d+) minutes",
        README,
    ).groups()
    assert float(quality) == measured["class-agnostic PQ"] > measured["goal, class-agnostic PQ"]
    assert int(images) == measured["images"] and int(steps) == measured["sampling steps"]
    assert int(samples) == len(measured["class-agnostic PQ, each sample"])
    assert float(ceiling) == measured["autoencoder, class-agnostic PQ at 64 px"]
    assert int(minutes) == round(measured["seconds of training"] / 60)
