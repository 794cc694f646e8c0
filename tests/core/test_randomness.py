"""Random streams depend on their key, on all of it, and on nothing else."""

import numpy as np
import pytest
import torch

from ldmseg_lib.core.randomness import derive_seed, numpy_generator, torch_generator


def test_the_seed_of_a_key_never_changes():
    """Recorded: a change would make every result of an earlier version unreachable."""
    assert derive_seed(0, "sample", 20_000_000) == 3353636909683469233
    assert derive_seed() == 724655455495936113


def test_every_part_of_a_key_its_order_and_its_type_count():
    keys = [(0,), (1,), ("0",), (0, 0), ("a", "b"), ("b", "a"), ("ab",), ("a", "b", ""), (0, "noise"), (0, "points")]
    assert len({derive_seed(*key) for key in keys}) == len(keys)


def test_seeds_have_63_bits_at_most():
    assert all(0 <= derive_seed("bits", n) < 2**63 for n in range(200))


def test_whole_numbers_of_numpy_name_the_same_stream():
    assert derive_seed(np.int64(7), "x") == derive_seed(np.uint8(7), "x") == derive_seed(7, "x")


@pytest.mark.parametrize("part", [0.5, None, b"x", np.float32(1)])
def test_a_key_of_anything_else_is_refused(part):
    with pytest.raises(TypeError):
        derive_seed(0, part)


def test_generators_start_where_their_key_says():
    assert torch.equal(
        torch.rand(5, generator=torch_generator(3, "a")), torch.rand(5, generator=torch_generator(3, "a"))
    )
    assert numpy_generator(3, "a").random() == numpy_generator(3, "a").random()
    assert torch_generator(3, "a").initial_seed() != torch_generator(3, "b").initial_seed()


def test_global_generators_are_left_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    torch.rand(9, generator=torch_generator(1))
    assert torch.equal(before, torch.get_rng_state())
