"""Results are cached by key: computed once, resumed after a crash, recomputed when an ingredient changes."""

import pytest

from ldmseg_lib.experiments.cache import cached_result


def work(folder):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "weights").write_text("made")
    return {"loss": 0.5, "pair": (1, 2)}


def cached(root, name="training", function=work, source="1", **ingredients):
    return cached_result(root, name, ingredients=ingredients, sources={"training.loop": source}, work=function)


def test_a_finished_result_is_not_computed_again(tmp_path):
    first = cached(tmp_path, steps=3)
    again = cached(tmp_path, function=pytest.fail, steps=3)
    assert again == first and again.record == {"loss": 0.5, "pair": [1, 2]}
    assert (again.folder / "weights").read_text() == "made"


def test_the_name_is_not_part_of_the_key(tmp_path):
    """Two rows of a table that are trained alike share one training."""
    assert cached(tmp_path, "one", steps=3).folder == cached(tmp_path, "other", function=pytest.fail, steps=3).folder


def test_every_ingredient_changes_the_key(tmp_path):
    keys = [cached(tmp_path, steps=3).key, cached(tmp_path, steps=4).key]
    keys += [cached(tmp_path, steps=3, seed=1).key, cached(tmp_path, source="2", steps=3).key]
    assert len(set(keys)) == 4 and len(list(tmp_path.iterdir())) == 4


def test_an_interrupted_computation_resumes_in_its_folder(tmp_path):
    def crash(folder):
        work(folder)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        cached(tmp_path, function=crash, steps=3)

    def resume(folder):
        return {"found": (folder / "weights").read_text()}

    assert cached(tmp_path, function=resume, steps=3).record == {"found": "made"}
    assert len(list(tmp_path.iterdir())) == 1


def test_checkpoints_of_a_finished_training_are_removed(tmp_path):
    def train(folder):
        work(folder / "checkpoints")
        return work(folder)

    result = cached(tmp_path, function=train)
    assert {file.name for file in result.folder.iterdir()} == {"weights", "finished.json"}
