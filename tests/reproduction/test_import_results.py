"""Results computed elsewhere: imported if their keys are equal, refused with the differing parts if not."""

import json
import os
import shutil
from pathlib import Path

import pytest

from ldmseg_lib.core.files import read_json, write_json
from ldmseg_lib.reproduction.__main__ import main
from ldmseg_lib.reproduction.stages import open_stage

NAMES = ("01_dataset", "02_autoencoder", "04_diffusion")


def compute(run_dir: Path, names=NAMES, **parameters) -> None:
    for name in names:
        stage = open_stage(name, profile="demo", run_dir=run_dir, **parameters)

        def work(stage):
            (stage.folder / "weights").mkdir(parents=True)
            (stage.folder / "weights" / "model.safetensors").write_bytes(b"of " + stage.name.encode())
            return {"pq": 0.5}

        stage.compute(work)
        stage.finish()


@pytest.fixture
def elsewhere(tmp_path) -> Path:
    """A run that was made on another machine, as it was copied here."""
    compute(tmp_path / "made")
    return Path(shutil.move(tmp_path / "made", tmp_path / "copied"))


def imported(source: Path, run_dir: Path, *more: str) -> int:
    return main(["import", str(source), "--run-dir", str(run_dir), *more])


def test_results_with_our_keys_are_imported_and_nothing_is_computed_again(elsewhere, tmp_path, capsys):
    run = tmp_path / "run"
    assert imported(elsewhere, run) == 0
    said = capsys.readouterr().out
    assert all(f"{name}: imported from" in said for name in NAMES)
    for name in NAMES:
        stage = open_stage(name, profile="demo", run_dir=run)
        assert stage.compute(lambda _: pytest.fail("computed again"))["pq"] == 0.5
        assert (stage.folder / "weights" / "model.safetensors").read_bytes() == b"of " + name.encode()
        stage.finish()
        assert (run / "keys" / f"{name}.done").exists()
    assert imported(elsewhere, run) == 0
    assert "02_autoencoder: is finished here already" in capsys.readouterr().out


def test_one_stages_folder_is_enough(elsewhere, tmp_path):
    assert imported(elsewhere / "02_autoencoder", tmp_path / "run") == 0
    assert (tmp_path / "run" / "02_autoencoder" / "result.json").exists()
    assert not (tmp_path / "run" / "04_diffusion").exists()


def test_results_of_other_settings_are_refused_with_the_difference(elsewhere, tmp_path, capsys):
    assert imported(elsewhere, tmp_path / "run", "--overrides", "autoencoder.num_points=7") == 2
    captured = capsys.readouterr()
    assert "01_dataset: imported from" in captured.out
    assert "02_autoencoder" in captured.err and "autoencoder.num_points" in captured.err and "-> 7" in captured.err
    assert "04_diffusion" in captured.err and "02_autoencoder changed" in captured.err
    assert not (tmp_path / "run" / "02_autoencoder").exists()


def test_a_result_of_other_sources_is_refused_with_the_file(elsewhere, tmp_path, capsys):
    for file in ("key.json", "result.json"):
        record = read_json(elsewhere / "02_autoencoder" / file)
        record["sources"]["diffusion.losses"] = "0" * 64
        write_json(elsewhere / "02_autoencoder" / file, record)
    from ldmseg_lib.reproduction.stage_keys import Key

    mark = Key(read_json(elsewhere / "02_autoencoder" / "key.json"))
    record = read_json(elsewhere / "02_autoencoder" / "result.json") | {"key": mark.digest}
    write_json(elsewhere / "02_autoencoder" / "result.json", record)
    assert imported(elsewhere / "02_autoencoder", tmp_path / "run") == 2
    assert "ldmseg_lib/diffusion/losses.py changed" in capsys.readouterr().err


def test_a_record_that_claims_our_key_is_not_believed(elsewhere, tmp_path, capsys):
    mark = elsewhere / "02_autoencoder" / "key.json"
    write_json(mark, read_json(mark) | {"seed": 7})
    assert imported(elsewhere / "02_autoencoder", tmp_path / "run") == 2
    assert "are of different computations" in capsys.readouterr().err


def test_links_out_of_the_folder_are_refused(elsewhere, tmp_path, capsys):
    os.symlink("/etc/hostname", elsewhere / "02_autoencoder" / "weights" / "more.safetensors")
    assert imported(elsewhere / "02_autoencoder", tmp_path / "run") == 2
    assert "more.safetensors: a symbolic link" in capsys.readouterr().err
    assert not (tmp_path / "run" / "02_autoencoder").exists()


def test_what_stood_there_is_put_aside(elsewhere, tmp_path):
    run = tmp_path / "run"
    (run / "02_autoencoder").mkdir(parents=True)
    (run / "02_autoencoder" / "half.txt").write_text("half a training")
    assert imported(elsewhere / "02_autoencoder", run) == 0
    assert [path.name for path in run.glob("superseded/*/half.txt")] == ["half.txt"]


@pytest.mark.parametrize("content", ["", "[1]", json.dumps({"stage": "99_other", "key": "0"})])
def test_what_is_no_result_is_named(tmp_path, content, capsys):
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "result.json").write_text(content)
    assert imported(tmp_path / "odd", tmp_path / "run") == 2
    assert str(tmp_path / "odd" / "result.json") in capsys.readouterr().err


def test_a_folder_without_results_is_named(tmp_path, capsys):
    assert imported(tmp_path, tmp_path / "run") == 2
    assert "no result in it" in capsys.readouterr().err
