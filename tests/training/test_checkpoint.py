"""A checkpoint is whole or not there, and a damaged one costs no more than the steps since the one before."""

import errno
import hashlib
import json
import os
import pickle
import random
import resource

import numpy as np
import pytest
import torch
from torch import nn

from ldmseg_lib.core.errors import CheckpointError
from ldmseg_lib.training import checkpoint
from ldmseg_lib.training.checkpoint import (
    CheckpointFolder,
    flatten_optimizer,
    load_part,
    random_states,
    restore_optimizer,
    restore_random_states,
)

TENSORS = {
    "model": {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.tensor(5)},
    "ema": {"0": torch.ones(3).half()},
}


@pytest.fixture
def folder(tmp_path) -> CheckpointFolder:
    """Checkpoints of steps 10 and 20."""
    folder = CheckpointFolder(tmp_path / "checkpoints")
    for step in (10, 20):
        folder.save(step, TENSORS, {"note": step})
    return folder


def test_what_was_saved_is_loaded(folder):
    parts, state = folder.load()
    assert state["step"] == 20 and state["note"] == 20
    assert {part: set(values) for part, values in parts.items()} == {part: set(v) for part, v in TENSORS.items()}
    for part, values in TENSORS.items():
        for name, value in values.items():
            assert torch.equal(parts[part][name], value) and parts[part][name].dtype == value.dtype


def test_nothing_but_safetensors_and_json_is_written(folder):
    files = [path for path in folder.folder.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".safetensors", ".json"}
    for path in files:
        assert not path.read_bytes().startswith((b"PK", b"\x80"))


def test_the_last_so_many_are_kept(folder):
    for step in (30, 40):
        folder.save(step, TENSORS, {})
    assert folder.steps() == [30, 40]


def test_the_best_is_kept_beside_the_last(tmp_path):
    folder = CheckpointFolder(tmp_path, keep=2)
    for step, metric in ((10, 0.2), (20, 0.5), (30, 0.4), (40, None), (50, 0.1), (60, 0.5)):
        folder.save(step, TENSORS, {}, metric=metric)
        expected = {30: [20, 30], 40: [20, 30, 40], 50: [20, 40, 50], 60: [50, 60]}.get(step)
        assert expected is None or folder.steps() == expected
    assert folder.metrics() == {50: 0.1, 60: 0.5} and folder.load()[1]["step"] == 60


def test_the_best_of_a_stretch_that_is_done_again_is_forgotten(tmp_path):
    """Gone on from step 10 because 20 was damaged, what 20 was worth says nothing of the new 20."""
    folder = CheckpointFolder(tmp_path, keep=1)
    folder.save(20, TENSORS, {}, metric=0.9)
    folder.save(15, TENSORS, {}, metric=0.1)
    assert folder.steps() == [15]


def test_a_pickle_in_a_checkpoints_place_is_never_read(folder, tmp_path):
    """It would make a file when it is read."""
    mark = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return (open, (str(mark), "w"))

    newest = folder.folder / "step-00000020"
    (newest / "tensors.safetensors").write_bytes(pickle.dumps(Evil()))
    state = json.loads((newest / "state.json").read_text())
    state["sha256"] = hashlib.sha256((newest / "tensors.safetensors").read_bytes()).hexdigest()
    (newest / "state.json").write_text(json.dumps(state))
    with pytest.warns(UserWarning, match="damaged checkpoint"):
        assert folder.load()[1]["step"] == 10
    assert not mark.exists()


def test_every_generators_state_is_restored():
    def draw():
        return (
            torch.rand(3).tolist(),
            np.random.rand(3).tolist(),  # noqa: NPY002
            np.random.randn(),  # noqa: NPY002
            random.random(),
            random.gauss(0, 1),
        )

    draw()
    states = random_states()
    first = draw()
    assert draw() != first
    restore_random_states(states)
    assert draw() == first


def test_an_empty_folder_has_none(tmp_path):
    assert CheckpointFolder(tmp_path / "none").load() is None


@pytest.mark.parametrize(
    "damage", ["cut", "flipped", "no tensors", "no state", "half a state", "a list", "no checksum"]
)
def test_a_damaged_checkpoint_is_passed_over_with_a_warning(folder, damage):
    newest = folder.folder / "step-00000020"
    tensors, state = newest / "tensors.safetensors", newest / "state.json"
    content = tensors.read_bytes()
    if damage == "cut":
        tensors.write_bytes(content[:-5])
    elif damage == "flipped":
        tensors.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "no tensors":
        tensors.unlink()
    elif damage == "no state":
        state.unlink()
    elif damage == "half a state":
        state.write_text(state.read_text()[:30])
    elif damage == "a list":
        state.write_text("[1, 2]")
    else:
        state.write_text(json.dumps({"step": 20}))
    with pytest.warns(UserWarning, match=r"step-00000020: damaged checkpoint .* before it is used"):
        _, found = folder.load()
    assert found["step"] == 10


def test_all_damaged_is_said(folder):
    for step in folder.steps():
        (folder.folder / f"step-{step:08d}" / "state.json").unlink()
    with pytest.warns(UserWarning) as warned:
        assert folder.load() is None
    assert "begins anew" in str(warned[-1].message)


def test_what_a_killed_process_left_is_no_checkpoint_and_goes(folder):
    half = folder.folder / ".writing-00000030-999"
    half.mkdir()
    (half / "tensors.safetensors").write_bytes(b"half")
    assert folder.load()[1]["step"] == 20
    folder.save(30, TENSORS, {})
    assert not half.exists()


@pytest.mark.parametrize("keep", [1, 2])
def test_damaged_later_checkpoints_do_not_push_good_ones_out(tmp_path, keep):
    """Gone on from step 10 because 20 was damaged, step 15 must stay when it is written."""
    folder = CheckpointFolder(tmp_path, keep=keep)
    for step in (10, 20) if keep == 2 else (20,):
        folder.save(step, TENSORS, {})
    (tmp_path / "step-00000020" / "state.json").unlink()
    folder.save(15, TENSORS, {})
    assert folder.load()[1]["step"] == 15 and 20 not in folder.steps()


@pytest.mark.parametrize("where", ["save_file", "write_json"])
def test_a_full_disk_is_named_and_the_last_good_one_kept(folder, monkeypatch, where):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint, where, full)
    with pytest.raises(CheckpointError, match=r"No space left.*last good one is .*step-00000020"):
        folder.save(30, TENSORS, {})
    assert folder.steps() == [10, 20] and folder.load()[1]["step"] == 20
    assert {path.name for path in folder.folder.iterdir()} == {"step-00000010", "step-00000020"}


def test_a_real_limit_on_file_size_is_named(folder):
    """As a quota would do it: no file may grow above 64 KiB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, before[1]))
    try:
        with pytest.raises(CheckpointError, match=r"could not be written .*last good one is .*step-00000020"):
            folder.save(30, {"model": {"a": torch.zeros(100_000)}}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert folder.load()[1]["step"] == 20


def test_a_state_that_json_cannot_hold_is_an_error_and_nothing_is_lost(folder):
    with pytest.raises(CheckpointError, match="last good one"):
        folder.save(30, TENSORS, {"loss": float("nan")})
    assert folder.load()[1]["step"] == 20


def test_saving_a_step_again_replaces_it(folder):
    folder.save(20, TENSORS, {"note": "again"})
    assert folder.load()[1]["note"] == "again" and folder.steps() == [10, 20]


def test_other_folders_are_not_taken_for_checkpoints(folder):
    (folder.folder / "step-final").mkdir()
    (folder.folder / "notes").mkdir()
    (folder.folder / "step-00000099").touch()
    assert folder.steps() == [10, 20]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_an_optimiser_goes_on_as_if_never_saved(tmp_path, layout):
    """Fused AdamW walks through memory: moments must lie there as their parameters do."""

    def step(module, optimizer, number):
        x = torch.randn(2, 4, 7, 7, generator=torch.Generator().manual_seed(number))
        optimizer.zero_grad()
        module(x).square().sum().backward()
        optimizer.step()

    ends = []
    for interrupted in (False, True):
        torch.manual_seed(0)
        module = nn.Conv2d(4, 8, 3).to(memory_format=layout)
        optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2, fused=True)
        for number in range(4):
            if interrupted and number == 2:
                folder = CheckpointFolder(tmp_path)
                folder.save(2, {"model": module.state_dict(), "optimizer": flatten_optimizer(optimizer)}, {})
                parts, _ = folder.load()
                module = nn.Conv2d(4, 8, 3).to(memory_format=layout)
                optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2, fused=True)
                load_part(module, parts["model"], what="test")
                restore_optimizer(optimizer, parts["optimizer"])
            step(module, optimizer, number)
        ends.append([p.detach().clone() for p in module.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*ends))


def test_weights_of_another_width_are_named():
    with pytest.raises(CheckpointError, match=r"here: tensor 'bias' is \(4,\) .* and \(5,\) in the model"):
        load_part(nn.Linear(3, 5), nn.Linear(3, 4).state_dict(), what="here")


def test_missing_and_unknown_weights_are_named():
    with pytest.raises(CheckpointError, match="lacks tensor 'bias'"):
        load_part(nn.Linear(3, 4), nn.Linear(3, 4, bias=False).state_dict(), what="here")
    with pytest.raises(CheckpointError, match="has an unknown tensor 'bias'"):
        load_part(nn.Linear(3, 4, bias=False), nn.Linear(3, 4).state_dict(), what="here")


def test_refused_weights_change_nothing():
    module = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    before = [p.clone() for p in module.parameters()]
    other = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 3)).state_dict()
    with pytest.raises(CheckpointError):
        load_part(module, other, what="here")
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters()))
