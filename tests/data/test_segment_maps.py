import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ldmseg_lib.data.segment_maps import index_segments, segment_boxes

ID_MAPS = hnp.arrays(
    np.int32,
    hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9),
    elements=st.sampled_from([0, 1, 2, 300, (1 << 24) - 1]),
)
LISTS = st.lists(st.sampled_from([1, 2, 300, (1 << 24) - 1, 77]), unique=True)


@settings(deadline=None)
@given(ids=ID_MAPS, segment_ids=LISTS, index_zero=st.booleans())
def test_the_index_is_the_place_of_each_pixels_id_in_the_list(ids, segment_ids, index_zero):
    found = index_segments(ids, np.array(segment_ids, dtype=np.int32), index_zero=index_zero)
    places = {segment_id: k for k, segment_id in enumerate(segment_ids, start=1)}
    if index_zero and (ids == 0).any():
        places[0] = len(segment_ids) + 1
    expected = np.vectorize(lambda value: places.get(value, 0))(ids)
    np.testing.assert_array_equal(found.index, expected)
    np.testing.assert_array_equal(
        found.areas, np.bincount(expected.ravel(), minlength=1 + max([len(segment_ids), *places.values()]))
    )
    present = set(ids.ravel().tolist()) - {0}
    assert sorted(found.unknown.tolist()) == sorted(present - set(segment_ids))
    assert found.absent.tolist() == [value for value in segment_ids if value not in present]


def test_ten_thousand_segments_do_not_overflow():
    ids = np.arange(1, 90001, dtype=np.int32).reshape(300, 300)
    found = index_segments(ids, np.arange(90000, 0, -1, dtype=np.int32))
    np.testing.assert_array_equal(found.index, 90001 - ids)
    assert (found.areas[1:] == 1).all()


@settings(deadline=None)
@given(ids=ID_MAPS)
def test_boxes_are_the_extents_of_the_pixels(ids):
    index = index_segments(ids, np.array([1, 2, 300], dtype=np.int32)).index
    boxes = segment_boxes(index, 3)
    for k in range(4):
        rows, columns = np.nonzero(index == k)
        expected = [0, 0, 0, 0]
        if len(rows):
            expected = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
        assert boxes[k].tolist() == expected
