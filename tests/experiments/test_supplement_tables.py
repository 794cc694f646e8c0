"""tables/supplement/*.csv beside the supplement's text, which lies outside the project."""

import csv
import re
from pathlib import Path

import pytest

from ldmseg_lib.core import paths
from ldmseg_lib.core.errors import InputError
from ldmseg_lib.experiments.supplement import paper_number, supplement


def rows(name: str) -> list[list[str]]:
    with open(paths.SUPPLEMENT / f"{name}.csv", newline="") as file:
        return list(csv.reader(file))


@pytest.fixture(scope="module")
def text(shared_data: Path) -> str:
    file = shared_data.parent / "paper" / "supplement.txt"
    if not file.exists():
        pytest.skip(f"{file} is not there")
    return file.read_text()


def test_table_s1(text: str) -> None:
    printed = re.findall(r"^(\w+ encoding)\t([\d.]+)\t([\d.]+)$", text, flags=re.MULTILINE)
    assert rows("table_s1") == [["encoding", "miou", "pq"], *map(list, printed)] and len(printed) == 3


def test_table_s2_digit_for_digit(text: str) -> None:
    printed = [line.split("\t") for line in text.splitlines() if re.fullmatch(r"\d+(\t[\d.]+){8}", line)]
    assert rows("table_s2")[1:] == printed
    assert len(printed) == 18 and all(len(row) == 9 for row in rows("table_s2"))


def test_table_s3(text: str) -> None:
    pattern = r"^(\d)\t(.+?) \[\d+\]\t(DD[IP]M) \[\d+\]\t(×|\\checkmark|✓|\$?\\checkmark\$?)\t([\d.]+)$"
    printed = re.findall(pattern, text, flags=re.MULTILINE)
    assert rows("table_s3")[1:] == [[n, e, s, "no" if ema == "×" else "yes", pq] for n, e, s, ema, pq in printed]
    assert len(printed) == 4


def test_shapes_and_the_rows_most_looked_at() -> None:
    """Guards the tables where the supplement's text is not at hand."""
    s2 = supplement("table_s2")
    assert s2.shape == (18, 9)
    assert s2["iters"].tolist() == [1, 2, 3, 4, 5, 10, 15, 20, 25, 30, 40, 50, 60, 70, 80, 90, 100, 200]
    assert s2.loc[s2["iters"] == 50].to_numpy().tolist() == [[50, 51.9, 82.9, 62.6, 59.9, 44.3, 81.1, 53.8, 2.548]]
    assert supplement("table_s1").shape == (3, 3) and supplement("table_s3").shape == (4, 5)
    assert supplement("table_s3")["pq"].tolist() == [40.3, 40.6, 43.7, 44.3]


# the number as the supplement's text words it: name in numbers.csv -> what stands there
STATED = {
    "training_iterations": r"trained for (100)k iterations",
    "training_gpus": r"on (8)×40 GB NVIDIA A100",
    "training_gpu_memory": r"on 8×(40) GB NVIDIA A100",
    "num_tasks": r"the (three) fundamental vision tasks",
    "depth_autoencoder_channels": r"input and output channels to (one) channel",
    "task_embedding_dim": r"\((786)-dimensional\)",
    "mask2former_decoder_layers": r"contains (6) masked attention decoder layers",
    "mask2former_queries": r"and (128) object queries",
    "mask2former_batch_size": r"batch size of (32)",
    "mask2former_learning_rate": r"learning rate of \$(1\.5)e\^\{-4\}\$",
    "mask2former_iterations": r"for (50)k iterations on 8×16",
    "mask2former_gpus": r"on (8)×16 GB V100",
    "mask2former_gpu_memory": r"on 8×(16) GB V100",
    "threshold": r"thresholding the predictions at (0\.5)",
    "min_area": r"area smaller than (512)",
    "figure_s2_timesteps": r"results with (50) timesteps on COCO val2017",
    "image_channels": r"resized to \$(3) \\times 512",
    "image_size": r"resized to \$3 \\times (512)",
    "latent_channels": r"latents of size \$(4) \\times 64",
    "latent_size": r"latents of size \$4 \\times (64)",
    "iterations_for_quality_min": r"necessitates (10) - 50 iterations",
    "iterations_for_quality_max": r"necessitates 10 - (50) iterations",
    "figure_s5_timesteps_1": r"timesteps (1), 5, 10, 20, and 50",
    "figure_s5_timesteps_2": r"timesteps 1, (5), 10, 20, and 50",
    "figure_s5_timesteps_3": r"timesteps 1, 5, (10), 20, and 50",
    "figure_s5_timesteps_4": r"timesteps 1, 5, 10, (20), and 50",
    "figure_s5_timesteps_5": r"timesteps 1, 5, 10, 20, and (50)",
    "painter_postprocessing_448": r"approximately (0\.5) and 0\.7 seconds .* of 448 and 560",
    "painter_postprocessing_560": r"approximately 0\.5 and (0\.7) seconds .* of 448 and 560",
    "postprocessing": r"only about (0\.024) seconds",
    "num_colors": r"generate (256) equidistant colors",
    "bit_channels": r"employ (8) channels",
    "max_id": r"integers from \[0, (255)\] using bits",
    "positional_channels": r"to an (8)-dimensional embedding",
    "component_timesteps": r"provided with (50) timesteps during inference",
    "ema_weight": r"weight of (0\.999)",
    "small_timesteps_below": r"j < (25)%",
    "loss_weight_gain_min": r"by (0\.3) to 0\.5% PQ",
    "loss_weight_gain_max": r"by 0\.3 to (0\.5)% PQ",
}
SCALE = {"training_iterations": 1e3, "mask2former_iterations": 1e3, "mask2former_learning_rate": 1e-4}


def test_every_stated_number_is_the_one_in_the_text(text: str) -> None:
    assert set(supplement("numbers")["name"]) == set(STATED)
    flat = " ".join(text.split())
    for name, pattern in STATED.items():
        found = re.search(pattern, flat)
        assert found, f"{name}: the text does not say {pattern!r}"
        value = {"one": 1.0, "three": 3.0}.get(found[1]) or float(found[1])
        assert paper_number(name) == pytest.approx(value * SCALE.get(name, 1), rel=1e-12), name


def test_every_number_has_its_place_and_every_table_a_caption() -> None:
    numbers = supplement("numbers")
    assert numbers["place"].str.match(r"[AB], \S").all() and numbers["meaning"].notna().all()
    assert numbers["name"].is_unique
    files = {path.stem for path in paths.SUPPLEMENT.glob("*.csv")} - {"captions"}
    assert set(supplement("captions")["file"]) == files


def test_numbers_from_second_hand_say_so() -> None:
    headline = supplement("headline")
    assert headline["source"].isin(["secondary", "README of the released code"]).all()
    assert {"UViM", "Painter"} <= set(headline.loc[headline["note"].str.contains("disputed", na=False), "method"])


def test_unknown_names_are_answered_with_the_nearest() -> None:
    with pytest.raises(InputError, match="table_s1, table_s2, table_s3"):
        supplement("table_s4")
    with pytest.raises(InputError, match="did you mean 'threshold'"):
        paper_number("treshold")
