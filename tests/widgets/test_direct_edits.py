"""Edits of segments from Python: each does what it says, can be undone, and is in the saved session."""

import numpy as np
import pytest

from ldmseg_lib.core.errors import InputError
from ldmseg_lib.widgets import raster

EDITS = {
    "paint_segment": (3, [(10, 5), (30, 8)], 3.0),
    "erase_segment": (1, [(50, 5)], 4.0),
    "new_segment": ([(30, 44)], 3.0),
    "merge_segments": ([2, 3],),
    "split_segment": (2, [(17, 15), (17, 45)]),
    "assign_class": (1, 20),
    "delete_segment": (3,),
}


def state(editor):
    return editor.ids.tobytes(), editor.region.tobytes(), editor.segments


@pytest.mark.parametrize("name", EDITS)
def test_each_edit_is_undone_redone_and_restored(make_editor, name):
    editor = make_editor()
    before = state(editor)
    getattr(editor, name)(*EDITS[name])
    after = state(editor)
    assert after != before
    assert editor.undo() and state(editor) == before
    assert editor.redo() and state(editor) == after
    assert state(make_editor()) == after


def test_painted_pixels_are_known_and_the_eraser_touches_one_segment(make_editor, ids):
    editor = make_editor()
    editor.hide_all()
    editor.paint_segment(3, [(10, 5), (30, 8)], 3.0)
    covered = raster.stroke((48, 64), [(10, 5), (30, 8)], 3.0)
    np.testing.assert_array_equal(editor.ids, np.where(covered, 3, ids))
    np.testing.assert_array_equal(editor.region, ~covered)
    editor.erase_segment(2, [(5, 30)], 6.0)
    gone = raster.stroke((48, 64), [(5, 30)], 6.0) & (ids == 2)
    np.testing.assert_array_equal(editor.ids == 0, (ids == 0) | gone)


def test_new_merged_and_split_segments_keep_their_classes(make_editor, ids):
    editor = make_editor()
    assert editor.new_segment([(30, 44)], 3.0, category_id=20) == 4
    assert {"id": 4, "category_id": 20} in editor.segments
    assert editor.merge_segments([3, 2]) == 3
    assert not (editor.ids == 2).any() and [s["id"] for s in editor.segments] == [1, 3, 4]
    assert editor.split_segment(3, [(12, 15), (12, 45)]) == [3, 2]
    assert [s["category_id"] for s in editor.segments if s["id"] in (2, 3)] == [20, 20]
    merged = (ids == 2) | (ids == 3)
    np.testing.assert_array_equal((editor.ids == 2) | (editor.ids == 3), merged)
    assert (editor.ids[20:40, 5:10] == 2).all() and (editor.ids[20:40, 15:30] == 3).all()
    assert (editor.ids[ids == 3] == 3).all(), "the separate piece stays with the larger part"


def test_a_deleted_segment_goes_to_the_unknown_or_to_its_neighbours(make_editor, ids):
    editor = make_editor()
    editor.delete_segment(2)
    np.testing.assert_array_equal(editor.region, ids == 2)
    assert not editor.ids[ids == 2].any() and 2 not in [s["id"] for s in editor.segments]
    editor.undo()
    editor.delete_segment(2, to="neighbour")
    assert (editor.ids[ids == 2] == 1).all() and not editor.region.any()


def test_candidates_are_discarded_by_an_edit(make_editor):
    editor = make_editor()
    editor.box(0, 0, 20, 20)
    editor.run(steps=1)
    editor.merge_segments([2, 3])
    assert editor.candidates == []


@pytest.mark.parametrize(
    ("call", "why"),
    [
        (lambda e: e.paint_segment(32, [(1, 1)], 2), "from 1 to 31, not 32"),
        (lambda e: e.paint_segment(0, [(1, 1)], 2), "from 1 to 31, not 0"),
        (lambda e: e.erase_segment(9, [(1, 1)], 2), "There is no segment 9"),
        (lambda e: e.merge_segments([2, 2]), "two or more different"),
        (lambda e: e.split_segment(2, [(10, 25), (12, 25)]), "does not divide segment 2"),
        (lambda e: e.assign_class(2, 7), "There is no class 7; the classes are 10 sky, 20 ball"),
        (lambda e: e.new_segment([(1, 1)], 2, category_id=7), "There is no class 7"),
        (lambda e: e.delete_segment(2, to="sky"), "'unknown' or 'neighbour'"),
    ],
)
def test_bad_input_changes_nothing_and_is_shown(make_editor, call, why):
    editor = make_editor()
    before = state(editor)
    with pytest.raises(InputError, match=why):
        call(editor)
    assert state(editor) == before and editor.message and not editor.undo()
