"""What an objective does after each step of the loop: once a step, and resumed with what it changed."""

import shutil

import pytest
import torch

from ldmseg_lib.training.loop import train
from tests.training.toy import Pictures, Smoothing, collate, settings, weights


class Follower(Smoothing):
    """Keeps a running mean of its weights in a second network that does not learn."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.trained["mean"] = torch.nn.Conv2d(3, 4, 3, padding=1).requires_grad_(False)
        self.calls = 0

    @torch.no_grad()
    def after_step(self) -> None:
        self.calls += 1
        self.trained["mean"].weight.lerp_(self.trained["net"][0].weight, 0.5)


def trained(folder, **changes) -> Follower:
    objective = Follower()
    train(objective, Pictures(), settings(**changes), folder, seed=0, collate=collate)
    return objective


@pytest.mark.parametrize("micro", [None, 1, 2])
def test_it_is_called_once_a_step_however_the_batch_is_cut(tmp_path, micro):
    assert trained(tmp_path, micro_batch_size=micro).calls == 8


def test_it_comes_after_the_weights_have_changed(tmp_path):
    objective = trained(tmp_path, steps=1, warmup_steps=0)
    fresh = Follower()
    expected = (fresh.trained["mean"].weight + objective.trained["net"][0].weight) / 2
    assert torch.allclose(objective.trained["mean"].weight, expected, atol=1e-6)
    assert not torch.allclose(objective.trained["net"][0].weight, fresh.trained["net"][0].weight)


def test_what_it_changed_is_resumed(tmp_path):
    whole = trained(tmp_path / "whole", keep_checkpoints=9)
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    for step in (6, 8):
        shutil.rmtree(tmp_path / "cut" / "checkpoints" / f"step-{step:08d}")
    again = trained(tmp_path / "cut", keep_checkpoints=9)
    assert again.calls == 4
    for name, value in weights(again).items():
        assert torch.allclose(value, weights(whole)[name], atol=1e-6), name
