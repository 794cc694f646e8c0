"""Tasks are data: what each one's target is, and which of its cells count."""

import pytest
import torch

from ldmseg_lib.core.errors import InputError
from ldmseg_lib.diffusion.tasks import get_tasks, known_cells, relative_depth


def test_targets_are_the_batch_s_own_maps():
    batch = {"ids": torch.tensor([[[1]]]), "semantic": torch.tensor([[[2]]]), "depth": torch.tensor([[[0.0, 1.0]]])}
    instance, semantic, depth = (task.target(batch) for task in get_tasks(["instance", "semantic", "depth"]))
    assert instance is batch["ids"] and semantic is batch["semantic"]
    assert depth.tolist() == [[[-1.0, 1.0]]]


def test_an_unknown_task_is_named_with_the_known_ones():
    with pytest.raises(InputError, match="'normals'; known ones are instance, semantic, depth"):
        get_tasks(["instance", "normals"])


def test_data_without_depth_say_what_would_make_it():
    with pytest.raises(InputError, match="no depth"):
        get_tasks(["depth"])[0].target({"depth": None})


def test_relative_depth_spans_the_range_of_each_image():
    """The target is relative: scale and shift of an image's inverse depth do not change it; unknown stays unknown."""
    depth = torch.rand(3, 5, 5, generator=torch.Generator().manual_seed(0))
    depth[:, 0, 0] = torch.nan
    scaled = relative_depth(depth)
    known = scaled[:, 1:]
    assert torch.equal(scaled.isnan(), depth.isnan())
    assert known.amin() == -1 and known.amax() == 1
    assert torch.allclose(relative_depth(depth * 7 + 3)[:, 1:], known, atol=1e-5)


@pytest.mark.parametrize("value", [0.0, 2.5])
def test_constant_or_unknown_depth_gives_no_infinities(value):
    flat = relative_depth(torch.full((1, 2, 2), value))
    assert flat.isfinite().all() and flat.abs().max() <= 1
    assert relative_depth(torch.full((1, 2, 2), torch.nan)).isnan().all()


def test_a_cell_is_known_where_its_first_pixel_is():
    """Method 3.3: torch's nearest down-sampling, which takes rows and columns 0, f, 2 f, ..."""
    target = torch.zeros(1, 8, 8, dtype=torch.long)
    target[0, 0, 4], target[0, 5, 5] = 3, 2
    reference = torch.nn.functional.interpolate((target[:, None] != 0).float(), size=(2, 2), mode="nearest")
    assert torch.equal(known_cells(target, 4), reference)
    assert known_cells(target, 4).sum() == 1
    depth = torch.zeros(1, 8, 8)
    depth[0, 4, 4] = torch.nan
    assert known_cells(depth, 4).flatten().tolist() == [1, 1, 1, 0]
