"""Result tables: what they show, where the paper's numbers come from, and what publishing touches."""

import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from ldmseg_lib.core import paths
from ldmseg_lib.core.errors import InputError
from ldmseg_lib.core.files import write_json
from ldmseg_lib.reproduction import results, tables
from ldmseg_lib.reproduction.__main__ import main
from ldmseg_lib.reproduction.results import (
    as_latex,
    as_markdown,
    as_text,
    load_results,
    provenance,
    publish,
    update_page,
)

AUTOENCODER, EVALUATION = "02_autoencoder", "05_panoptic_evaluation"


def record(stage: str, metrics: dict[str, Any], *, profile: str = "demo", steps: int = 20) -> dict[str, Any]:
    training = {"steps": 800, "batch_size": 32}
    return {
        "stage": stage,
        "key": "0" * 64,
        "profile": profile,
        "seed": 4,
        "data": None,
        "device": "a processor, 2 cores",
        "date": "2024-01-01T00:00:00+00:00",
        "metrics": metrics,
        "weights": "trained by this notebook",
        "inputs": {},
        "parameters": {
            "data": {"image_size": 64, "train_scenes": 40, "val_scenes": 8},
            "autoencoder": {"training": training},
            "diffusion": {"training": training},
            "evaluation": {"num_inference_steps": steps},
        },
    }


def quality(pq: float | None) -> dict[str, Any]:
    return {"pq": pq, "sq": 0.75, "rq": 0.5, "n": 3}


def records(profile: str = "demo", steps: int = 20) -> dict[str, dict[str, Any]]:
    variants = [
        {
            "name": name,
            "class_agnostic": {"All": quality(0.4 + step / 100)},
            "panoptic": {"All": quality(0.3), "Things": quality(0.2), "Stuff": quality(None)},
            "miou": 0.6,
        }
        for step, name in enumerate(("arg max", "+ threshold", "+ area", "+ both"))
    ]
    reconstruction = {"pq": 0.912, "sq": 0.95, "rq": 0.96, "miou": 0.943}
    return {
        AUTOENCODER: record(AUTOENCODER, {"reconstruction": reconstruction}, profile=profile),
        EVALUATION: record(EVALUATION, {"variants": variants, "num_images": 8}, profile=profile, steps=steps),
    }


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty repository in place of the real one."""
    for name in ("RUNS", "TABLES", "FIGURES"):
        monkeypatch.setattr(paths, name, tmp_path / name.lower())
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    for name, marks in (("README", "summary"), ("RESULTS", "demo")):
        monkeypatch.setattr(paths, name, tmp_path / f"{name}.md")
        page = f"before\n<!-- generated: {marks} -->\noutdated\n<!-- end -->\nafter\n"
        (tmp_path / f"{name}.md").write_text(page)
    return tmp_path


def make_run(run_dir: Path, profile: str = "demo") -> Path:
    for stage, value in records(profile).items():
        write_json(run_dir / stage / "result.json", value)
    (run_dir / "figures").mkdir()
    (run_dir / "figures" / "figure_s3.png").write_bytes(b"picture")
    return run_dir


# the tables


def test_post_processing_table_has_our_four_rows_and_the_papers_at_as_many_steps() -> None:
    table = tables.panoptic_quality(records(steps=20))
    assert table["predictions"].tolist() == [
        "arg max", "+ threshold", "+ area", "+ both", "paper, COCO, + both, 20 steps",
    ]  # fmt: skip
    assert table["class-agn. PQ"].tolist() == pytest.approx([40, 41, 42, 43, 51.4])
    assert table["PQ"].tolist() == pytest.approx([30] * 4 + [44.1])
    assert table["PQ things"].tolist()[:4] == pytest.approx([20] * 4) and table["PQ stuff"].isna().all()


def test_a_step_count_that_the_paper_lacks_takes_the_nearest_row() -> None:
    assert tables.paper_steps(records(steps=22)[EVALUATION])["iters"] == 20
    assert tables.paper_steps(records(steps=1000)[EVALUATION])["iters"] == 200


def test_overview_puts_each_quantity_beside_the_supplements() -> None:
    table = tables.ours_and_paper(records()).set_index("quantity")
    assert table.loc["autoencoder, class-agnostic PQ", "ours"] == pytest.approx(91.2)
    assert table.loc["autoencoder, class-agnostic PQ", "paper"] == 89.9
    assert table.loc["panoptic PQ"].tolist() == [pytest.approx(30), 44.1, "Table S2, 20 iterations"]
    assert len(tables.ours_and_paper({AUTOENCODER: records()[AUTOENCODER]})) == 2


def test_the_papers_numbers_are_read_from_its_csv_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = shutil.copytree(paths.SUPPLEMENT, tmp_path / "supplement")
    text = (folder / "table_s2.csv").read_text()
    (folder / "table_s2.csv").write_text(text.replace("51.4", "12.3"))
    monkeypatch.setattr(paths, "SUPPLEMENT", folder)
    assert tables.panoptic_quality(records())["class-agn. PQ"].iloc[-1] == 12.3


def test_no_number_of_table_s2_is_typed_into_the_library() -> None:
    numbers = {"51.4", "51.9", "44.3", "44.1", "2.548", "1.071", "89.9", "0.024"}
    for file in paths.PACKAGE.rglob("*.py"):
        assert not numbers & set(re.findall(r"(?<![\w.])\d+\.\d+(?![\w.])", file.read_text())), file


def test_a_table_without_its_results_names_the_notebook() -> None:
    with pytest.raises(InputError, match=r"run notebooks/05_panoptic_evaluation\.ipynb"):
        results.build_table("panoptic_quality", {})


# where the weights come from


def weighted(source: str | None, **inputs: str) -> dict[str, dict[str, Any]]:
    """The records with those of the evaluation's weights changed."""
    known = records()
    known["04_diffusion"] = record("04_diffusion", {}) | {"key": "4" * 64}
    known[EVALUATION] |= {"weights": source, "inputs": {"04_diffusion": "4" * 64} | inputs}
    return known


def test_weights_of_an_earlier_notebook_are_those_of_this_run() -> None:
    assert len(results.build_table("panoptic_quality", weighted("notebook 04 of this run, averaged"))) == 5


@pytest.mark.parametrize(
    ("source", "inputs", "message"),
    [
        (None, {}, "weights of unknown origin"),
        ("tests/checkpoints/tiny.safetensors", {}, r"weights of unknown origin \('tests/checkpoints/tiny"),
        (
            "notebook 04 of this run",
            {"04_diffusion": "5" * 64},
            "another 04_diffusion than this run's; run notebooks/05",
        ),
        ("notebook 09 of this run", {}, "notebook 09, whose result is not there"),
    ],
)
def test_no_table_is_made_from_weights_of_elsewhere(
    source: str | None, inputs: dict[str, str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    known = weighted(source, **inputs)
    with pytest.raises(InputError, match=message):
        results.build_table("panoptic_quality", known)
    written = {file.stem for file in results.write_tables(known, tmp_path)}
    assert written == {"ours_and_paper"}
    assert "table panoptic_quality is left out: " in capsys.readouterr().err


def test_what_an_earlier_study_says_of_its_own_numbers_is_not_said_of_others() -> None:
    known = records()
    known["07_components"] = record("07_components", {"notes": ["Images at 32 px."]})
    known["04_diffusion"] = record("04_diffusion", {"notes": ["The pretrained model."]})
    assert "Images at 32 px." in provenance(known)
    text = provenance(known, shown=(EVALUATION,))
    assert "Images at 32 px." not in text and "The pretrained model." in text


def test_a_result_of_an_older_form_costs_its_own_tables_alone(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    known = weighted("notebook 04 of this run")
    variants = known[EVALUATION]["metrics"].pop("variants")
    known[EVALUATION]["metrics"]["rows"] = variants
    written = {file.stem for file in results.write_tables(known, tmp_path)}
    assert "panoptic_quality" not in written
    assert f"the result of {EVALUATION} is of an older form; run it" in capsys.readouterr().err
    with pytest.raises(KeyError):
        results.build_table("panoptic_quality", known)


def test_the_weights_of_an_earlier_notebook_must_be_known_too() -> None:
    known = weighted("notebook 04 of this run")
    known["04_diffusion"]["weights"] = None
    with pytest.raises(InputError, match="the result of 04_diffusion has weights of unknown origin"):
        results.build_table("panoptic_quality", known)


# how they are written


def test_values_are_printed_with_fixed_decimals_and_undefined_ones_empty() -> None:
    frame = pd.DataFrame({"name": ["a", "b"], "pq": [1.25, None], "s": [0.1234, float("nan")], "n": [3, 4]})
    assert as_text(frame, {"s": 3}).to_numpy().tolist() == [["a", "1.2", "0.123", "3"], ["b", "", "", "4"]]


def test_markdown_and_latex_hold_every_cell_and_escape_what_they_must() -> None:
    text = as_text(pd.DataFrame({"a|b": ["50 %", "x_1"], "PQ": [1.0, 2.0]}))
    markdown, latex = as_markdown(text), as_latex(text, caption="5 % & more", label="t")
    assert markdown.splitlines() == ["| a\\|b | PQ |", "| --- | ---: |", "| 50 % | 1.0 |", "| x_1 | 2.0 |"]
    assert r"50 \% & 1.0 \\" in latex and r"x\_1 & 2.0 \\" in latex and r"\caption{5 \% \& more}" in latex
    assert latex.count(r"\begin{tabular}{lr}") == 1


def test_every_format_says_where_its_numbers_come_from(tmp_path: Path) -> None:
    written = results.write_tables(records(), tmp_path)
    assert {file.suffix for file in written} == {".csv", ".md", ".tex"} and len(written) == 6
    for file in written:
        for part in ("embedded scenes at 64 px", "800 steps of batch 32", "seed 4", "a processor, 2 cores"):
            assert part in file.read_text(), file
    read = pd.read_csv(tmp_path / "panoptic_quality.csv", comment="#")
    assert read["class-agn. PQ"].tolist() == [40.0, 41.0, 42.0, 43.0, 51.4]


def test_smoke_tables_say_that_they_mean_nothing(tmp_path: Path) -> None:
    for file in results.write_tables(records("smoke"), tmp_path):
        assert "these numbers mean nothing" in file.read_text()
    assert "mean nothing" not in provenance(records())


def test_provenance_names_a_given_data_folder_and_repeats_the_notes_of_results() -> None:
    known = records()
    known["01_dataset"] = record("01_dataset", {}) | {"data": {"path": "../shared/data/nuclei", "files": {}}}
    known[EVALUATION]["metrics"]["notes"] = ["Predictions on void are forgiven."]
    assert "Data: nuclei at 64 px" in provenance(known) and provenance(known).endswith("on void are forgiven.")


def test_tables_do_not_depend_on_time_or_memory(tmp_path: Path) -> None:
    other = records()
    for value in other.values():
        value |= {"seconds": 99.0, "date": "2030-01-01T00:00:00+00:00", "peak_memory_mib": 1}
    results.write_tables(records(), tmp_path / "a")
    results.write_tables(other, tmp_path / "b")
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


# publishing


def test_publishing_demo_brings_tables_figures_records_and_readme(repository: Path) -> None:
    run = make_run(repository / "runs" / "demo")
    publish(run)
    published = repository / "tables" / "demo"
    assert {f.name for f in published.glob("*.*")} == {f.name for f in (run / "tables").iterdir()}
    assert load_results(run)[EVALUATION] == results.files.read_json(published / "results" / f"{EVALUATION}.json")
    assert (repository / "figures" / "demo" / "figure_s3.png").read_bytes() == b"picture"
    readme = (repository / "RESULTS.md").read_text()
    assert readme.startswith("before\n<!-- generated: demo -->\n") and readme.endswith("<!-- end -->\nafter\n")
    assert "| + both | 43.0 |" in readme and "](figures/demo/figure_s3.png)" in readme
    assert "**Figure S3. Held-out scenes" in readme
    assert "outdated" not in readme
    assert "| this run, one sample of 20 steps | 8 | 43.0 |" in (repository / "README.md").read_text()


def test_publishing_twice_changes_nothing(repository: Path) -> None:
    run = make_run(repository / "runs" / "demo")
    publish(run)
    before = {f: f.read_bytes() for f in repository.rglob("*.*") if f.is_file()}
    publish(run)
    assert {f: f.read_bytes() for f in repository.rglob("*.*") if f.is_file()} == before


def test_other_profiles_leave_the_readme_alone(repository: Path) -> None:
    pages = [repository / name for name in ("README.md", "RESULTS.md")]
    before = [page.read_text() for page in pages]
    publish(make_run(repository / "runs" / "smoke", "smoke"))
    assert [page.read_text() for page in pages] == before and (repository / "tables" / "smoke").is_dir()


def test_another_run_comes_into_the_readme_where_that_has_marks_for_it(repository: Path) -> None:
    readme = repository / "RESULTS.md"
    readme.write_text(readme.read_text() + "<!-- generated: mine -->\n<!-- end -->\nlast\n")
    publish(make_run(repository / "runs" / "mine"))
    first, _, second = readme.read_text().partition("<!-- generated: mine -->\n")
    assert "outdated" in first and "| + both | 43.0 |" in second and second.endswith("<!-- end -->\nlast\n")
    assert "](figures/mine/figure_s3.png)" in second


def test_a_run_outside_the_runs_folder_stays_there(repository: Path) -> None:
    run = make_run(repository / "elsewhere" / "demo")
    publish(run)
    assert (run / "tables" / "ours_and_paper.md").exists()
    assert not (repository / "tables").exists() and not (repository / "figures").exists()


def test_what_cannot_be_published_is_said_in_one_line(repository: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["publish", str(repository / "runs" / "empty")]) == 2
    (repository / "README.md").write_text("no marks")
    with pytest.raises(InputError, match="generated: demo"):
        update_page(repository / "README.md", "demo", "block")
    assert capsys.readouterr().err.count("\n") == 1
