"""Muon: orthogonal steps for matrices, AdamW for the rest, and a training that can be cut anywhere."""

import pytest
import torch
from torch import nn

from ldmseg_lib.models.autoencoder import MaskAutoencoder
from ldmseg_lib.training.loop import train
from ldmseg_lib.training.optimizers import Muon, build_optimizer, hidden_matrices, orthogonalised
from tests.training.toy import Pictures, Smoothing, collate, settings, weights


class Deep(Smoothing):
    """The toy with a convolution between its first and its last."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        net = self.trained["net"]
        self.trained["net"] = nn.Sequential(net[0], net[1], nn.Conv2d(4, 4, 3, padding=1), nn.SiLU(), net[2])


@pytest.mark.parametrize("shape", [(8, 8), (4, 36), (36, 4), (1, 7)])
def test_steps_are_orthogonal(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalised(matrix))
    assert values.min() > 0.6 and values.max() < 1.3
    found = orthogonalised(1000 * matrix)
    assert torch.allclose(found, orthogonalised(matrix), atol=1e-4)


def test_no_gradient_no_step():
    assert torch.equal(orthogonalised(torch.zeros(3, 5)), torch.zeros(3, 5))


def test_an_update_is_as_large_as_adamws():
    """Root mean square 0.2 of the learning rate, whatever the gradient's scale."""
    for scale in (1e-4, 1e4):
        parameter = nn.Parameter(torch.zeros(32, 16, 3, 3))
        optimizer = Muon([{"params": [parameter], "muon": True}], lr=0.1)
        parameter.grad = scale * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
        optimizer.step()
        assert parameter.detach().square().mean().sqrt().item() == pytest.approx(0.1 * 0.2, rel=0.25)


def test_its_adamw_is_torchs():
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (nn.Parameter(torch.ones(5)) for _ in range(2))
    first = Muon([{"params": [ours], "weight_decay": 0.1}], lr=0.01)
    second = torch.optim.AdamW([theirs], lr=0.01, weight_decay=0.1)
    for _ in range(20):
        ours.grad = torch.randn(5, generator=generator)
        theirs.grad = ours.grad.clone()
        first.step()
        second.step()
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_it_is_for_what_lies_between_the_first_and_the_last_layer():
    autoencoder = MaskAutoencoder(encoding="bits", num_ids=16, channels=(16, 16, 32), num_upscalers=1)
    suited = {id(p) for p in hidden_matrices(autoencoder)}
    names = [name for name, p in autoencoder.named_parameters() if p.ndim > 1 and id(p) not in suited]
    assert names == ["encoder.0.weight", "decoder.6.weight"]
    assert not any(p.ndim < 2 for p in hidden_matrices(autoencoder))
    assert [*hidden_matrices(nn.Sequential(nn.Embedding(3, 4), nn.Linear(4, 4), nn.Linear(4, 4)))] == []


def test_adamw_is_torchs_own():
    assert isinstance(build_optimizer(Smoothing().trained, settings()), torch.optim.AdamW)


class Stop(Exception):
    """A power cut."""


def run(folder, **changes):
    objective = Deep()
    _, ema = train(
        objective, Pictures(), settings(optimizer="muon"), folder, seed=0, collate=collate, on_log=changes.get("on_log")
    )
    return weights(objective), ema


@pytest.mark.parametrize("step", [1, 4, 7])
def test_a_cut_training_ends_with_the_same_weights(tmp_path, step):
    def cut(entry):
        if entry["step"] == step:
            raise Stop

    expected, average = run(tmp_path / "whole")
    with pytest.raises(Stop):
        run(tmp_path / "cut", on_log=cut)
    found, found_average = run(tmp_path / "cut")
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert all(torch.equal(a, b) for a, b in zip(found_average.shadow_params, average.shadow_params, strict=True))
