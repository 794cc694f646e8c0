"""The order of images: each once an epoch, the same for any number of processes and from any step on."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ldmseg_lib.core.errors import ProfileError
from ldmseg_lib.training.epoch_stream import EpochStream


def flat(stream: EpochStream) -> list[tuple[int, int]]:
    return [pair for batch in stream for pair in batch]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 30), st.integers(1, 12), st.integers(1, 12))
def test_every_image_comes_once_an_epoch(length, batch_size, steps):
    pairs = flat(EpochStream(length, batch_size=batch_size, micro_batch_size=batch_size, steps=steps, seed=3))
    assert len(pairs) == batch_size * steps
    assert len(set(pairs)) == len(pairs)
    for start in range(0, len(pairs) - length + 1, length):
        epoch = pairs[start : start + length]
        assert {index for index, _ in epoch} == set(range(length))
        assert {visit for _, visit in epoch} == {start // length}


@pytest.mark.parametrize(("processes", "micro"), [(1, 12), (1, 3), (2, 6), (2, 3), (3, 2), (4, 1), (6, 2)])
def test_processes_and_micro_batches_share_the_same_batches(processes, micro):
    whole = list(EpochStream(7, batch_size=12, micro_batch_size=12, steps=5, seed=1))
    parts = [
        list(EpochStream(7, batch_size=12, micro_batch_size=micro, steps=5, seed=1, rank=rank, processes=processes))
        for rank in range(processes)
    ]
    assert all(len(batch) == micro for part in parts for batch in part)
    a_step = 12 // processes // micro
    for step in range(5):
        mine = [pair for part in parts for batch in part[step * a_step : (step + 1) * a_step] for pair in batch]
        assert mine == whole[step]


@pytest.mark.parametrize("start", range(7))
def test_it_goes_on_from_any_step(start):
    whole = list(EpochStream(5, batch_size=4, micro_batch_size=2, steps=6, seed=2))
    rest = EpochStream(5, batch_size=4, micro_batch_size=2, steps=6, start=start, seed=2)
    assert list(rest) == whole[2 * start :] and len(rest) == len(whole[2 * start :])


def test_epochs_and_seeds_differ_in_order():
    first, second = (flat(EpochStream(50, batch_size=50, micro_batch_size=50, steps=2, seed=s)) for s in (0, 1))
    orders = [[index for index, _ in part] for part in (first[:50], first[50:], second[:50])]
    assert orders[0] != orders[1] and orders[0] != orders[2] and orders[0] != sorted(orders[0])


def test_it_can_be_gone_through_again():
    stream = EpochStream(5, batch_size=3, micro_batch_size=3, steps=4)
    assert list(stream) == list(stream)


@pytest.mark.parametrize(("processes", "micro"), [(5, 1), (1, 8), (4, 2)])
def test_a_batch_that_does_not_divide_is_named(processes, micro):
    with pytest.raises(ProfileError, match=f"batch of 12 .* {processes} processes of micro-batches of {micro}"):
        EpochStream(7, batch_size=12, micro_batch_size=micro, steps=5, processes=processes)
