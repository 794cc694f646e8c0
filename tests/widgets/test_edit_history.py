"""Undo and redo of any depth, and the same after a journey through files."""

import json
import zlib

import numpy as np
import pytest

from ldmseg_lib.core.errors import InputError
from ldmseg_lib.widgets.edit_history import EditHistory


def state(history: EditHistory) -> tuple:
    return history.ids.shape, history.ids.tobytes(), history.region.tobytes(), history.segments, history.picture


def random_edit(history: EditHistory, draw: np.random.Generator) -> None:
    other_size = draw.random() < 0.2
    size = (int(draw.integers(5, 13)), int(draw.integers(5, 13))) if other_size else history.ids.shape
    change = {"region": draw.random(size) < 0.5}
    if other_size or draw.random() < 0.4:
        change["ids"] = draw.integers(0, 2**20, size)
        change["segments"] = [{"id": int(draw.integers(9)), "category_id": 1}]
    if draw.random() < 0.2:
        change["picture"] = f"photo{draw.integers(3)}"
    assert history.change("edit", **change)


def test_every_state_comes_back_in_order():
    draw = np.random.default_rng(1)
    history = EditHistory(draw.integers(0, 5, (7, 11)))
    states = [state(history)]
    for _ in range(120):
        random_edit(history, draw)
        states.append(state(history))
    for expected in reversed(states[:-1]):
        assert history.undo() and state(history) == expected
    assert not history.undo() and history.undo_label is None
    for expected in states[1:]:
        assert history.redo() and state(history) == expected
    assert not history.redo() and history.redo_label is None


def test_an_edit_after_undo_ends_what_could_be_redone():
    history = EditHistory(np.zeros((3, 3), int))
    history.change("first", region=np.eye(3, dtype=bool))
    history.undo()
    history.change("second", region=np.ones((3, 3), bool))
    assert history.redo_label is None and history.undo_label == "second"


def test_an_edit_that_changes_nothing_is_not_kept():
    history = EditHistory(np.zeros((3, 3), int))
    history.change("first", region=np.eye(3, dtype=bool))
    history.undo()
    assert not history.change("nothing", region=np.zeros((3, 3), bool), ids=np.zeros((3, 3), int))
    assert history.redo_label == "first"


def test_arrays_hold_the_whole_history():
    draw = np.random.default_rng(2)
    history = EditHistory(draw.integers(0, 5, (7, 11)), [{"id": 1, "category_id": 2}])
    for _ in range(9):
        random_edit(history, draw)
    history.undo()
    restored = EditHistory.from_arrays(history.to_arrays())
    assert state(restored) == state(history)
    for move in ["redo", "undo", "undo", "undo", "redo"]:
        assert getattr(restored, move)() == getattr(history, move)()
        assert state(restored) == state(history)


@pytest.mark.parametrize("name", ["ids", "region", "edits", "header"])
def test_arrays_that_do_not_fit_are_refused(name):
    history = EditHistory(np.ones((7, 11), int))
    history.change("edit", region=np.ones((7, 11), bool))
    arrays = history.to_arrays()
    with pytest.raises(InputError, match="not a session"):
        EditHistory.from_arrays(arrays | {name: arrays[name][:-3]})
    del arrays[name]
    with pytest.raises(InputError, match="not a session"):
        EditHistory.from_arrays(arrays)


def test_nothing_outside_can_write_into_the_state():
    history = EditHistory(np.ones((2, 2), int))
    with pytest.raises(ValueError, match="read-only"):
        history.region[0, 0] = True


def test_a_session_file_of_the_first_version_is_read():
    before, after = np.arange(12, dtype=np.int32).reshape(3, 4), np.full((3, 4), 5, np.int32)
    difference = zlib.compress((before ^ after).tobytes(), 1)
    edit = {"label": "Inpaint", "lengths": [0, len(difference)], "segments": None, "picture": None, "size": None}
    header = {"shape": [3, 4], "done": 1, "picture": "", "segments": [], "edits": [edit]}
    files = {
        "ids": zlib.compress(after.tobytes(), 1),
        "region": zlib.compress(bytes(2), 1),
        "edits": difference,
        "header": json.dumps(header).encode(),
    }
    history = EditHistory.from_arrays({name: np.frombuffer(data, np.uint8) for name, data in files.items()})
    np.testing.assert_array_equal(history.ids, after)
    assert history.undo() and history.redo_label == "Inpaint"
    np.testing.assert_array_equal(history.ids, before)


def test_a_small_edit_of_noisy_ids_costs_little_in_the_file():
    history = EditHistory(np.random.default_rng(0).integers(0, 2**20, (256, 256)))
    start = sum(len(array) for array in history.to_arrays().values())
    for k in range(20):
        ids = history.ids.copy()
        ids[k * 10 : k * 10 + 8, :8] = 1
        history.change("edit", ids=ids)
    assert sum(len(array) for array in history.to_arrays().values()) < 1.3 * start
