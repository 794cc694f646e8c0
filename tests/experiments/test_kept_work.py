"""Finished work is kept by key: done once, gone on with after a crash, done anew when anything that counts changes."""

import pytest

from ldmseg_lib.experiments.kept_work import keep_work


def work(folder):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "weights").write_text("made")
    return {"loss": 0.5, "pair": (1, 2)}


def keep(root, name="training", function=work, source="1", **ingredients):
    return keep_work(root, name, ingredients=ingredients, sources={"training.loop": source}, work=function)


def test_finished_work_is_not_done_again(tmp_path):
    first = keep(tmp_path, steps=3)
    again = keep(tmp_path, function=pytest.fail, steps=3)
    assert again == first and again.record == {"loss": 0.5, "pair": [1, 2]}
    assert (again.folder / "weights").read_text() == "made"


def test_the_name_is_for_people_alone(tmp_path):
    """Two rows of a table that are trained alike share one training."""
    assert keep(tmp_path, "one", steps=3).folder == keep(tmp_path, "other", function=pytest.fail, steps=3).folder


def test_whatever_counts_changes_the_key(tmp_path):
    keys = [keep(tmp_path, steps=3).key, keep(tmp_path, steps=4).key]
    keys += [keep(tmp_path, steps=3, seed=1).key, keep(tmp_path, source="2", steps=3).key]
    assert len(set(keys)) == 4 and len(list(tmp_path.iterdir())) == 4


def test_a_crash_leaves_its_folder_to_the_next_try(tmp_path):
    def crash(folder):
        work(folder)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        keep(tmp_path, function=crash, steps=3)

    def go_on(folder):
        return {"found": (folder / "weights").read_text()}

    assert keep(tmp_path, function=go_on, steps=3).record == {"found": "made"}
    assert len(list(tmp_path.iterdir())) == 1


def test_checkpoints_go_when_the_training_is_finished(tmp_path):
    def train(folder):
        work(folder / "checkpoints")
        return work(folder)

    kept = keep(tmp_path, function=train)
    assert {file.name for file in kept.folder.iterdir()} == {"weights", "finished.json"}
