"""The optimisers that a profile can name: AdamW, and Muon with AdamW for what Muon does not suit.

Muon (Jordan et al., 2024; Liu et al., arXiv 2502.16982) steps along the nearest orthogonal matrix of the momentum, so
that every direction of a weight learns at the same rate. torch's own takes matrices alone; here a convolution is a
matrix of [first dimension, all others] too.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from ..core.sections import TrainingProfile
from .sharding import laid_out_as

# Jordan's quintic, which brings all singular values near 1 in five rounds.
_QUINTIC = (3.4445, -4.7750, 2.0315)
_ROUNDS = 5
# Root mean square of an update, that of AdamW, so that both share a learning rate (arXiv 2502.16982, section 2.2).
_UPDATE_RMS = 0.2


def build_optimizer(networks: nn.ModuleDict, settings: TrainingProfile) -> torch.optim.Optimizer:
    """The profile's optimiser for what learns of `networks`."""
    muon = settings.optimizer == "muon"
    suited = {id(p) for network in networks.values() for p in hidden_matrices(network)} if muon else set()
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for parameter in networks.parameters():
        if parameter.requires_grad:
            kind = id(parameter) in suited, settings.decay_norms or parameter.ndim > 1
            groups.setdefault(kind, []).append(parameter)
    kinds = sorted(groups, reverse=True)
    split = [{"params": groups[kind], "weight_decay": settings.weight_decay * kind[1]} for kind in kinds]
    if not muon:
        return torch.optim.AdamW(split, lr=settings.learning_rate, betas=(0.9, 0.999), fused=True)
    chosen = [group | {"muon": suits} for group, (suits, _) in zip(split, kinds, strict=True)]
    return Muon(chosen, lr=settings.learning_rate)


class Muon(torch.optim.Optimizer):
    """Groups of parameters with `muon` true by Muon, the others by AdamW, at one learning rate.

    Args:
        groups: dicts of "params", "muon" and "weight_decay".
        lr: learning rate of both.
        momentum: of Muon, with Nesterov's look ahead.
        betas: of AdamW.
        eps: of AdamW.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        *,
        lr: float,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "betas": betas, "eps": eps, "muon": False, "weight_decay": 0.0}
        super().__init__(groups, defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                update = self._muon(parameter, group) if group["muon"] else self._adam(parameter, group)
                parameter.add_(update, alpha=-group["lr"])

    def _muon(self, parameter: Tensor, group: dict[str, Any]) -> Tensor:
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        state["momentum"].lerp_(gradient, 1 - group["momentum"])
        update = gradient.lerp(state["momentum"], group["momentum"])
        # singular values are those of the whole matrix, wherever its parts lie
        matrix = update.full_tensor() if isinstance(update, DTensor) else update
        direction = orthogonalised(matrix.reshape(len(matrix), -1)).reshape(matrix.shape)
        scale = _UPDATE_RMS * max(len(matrix), matrix[0].numel()) ** 0.5
        return laid_out_as(direction * scale, parameter)

    def _adam(self, parameter: Tensor, group: dict[str, Any]) -> Tensor:
        state, gradient, (first, second) = self.state[parameter], parameter.grad, group["betas"]
        assert gradient is not None
        if not state:
            state["step"] = torch.tensor(0.0)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        state["step"] += 1
        step = state["step"].item()
        state["exp_avg"].lerp_(gradient, 1 - first)
        state["exp_avg_sq"].mul_(second).addcmul_(gradient, gradient, value=1 - second)
        spread = (state["exp_avg_sq"] / (1 - second**step)).sqrt().add_(group["eps"])
        return state["exp_avg"] / (1 - first**step) / spread


def orthogonalised(matrix: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
    """The matrix with all its singular values near 1 (0.7 to 1.2), by Newton-Schulz rounds; zero stays zero."""
    wide = matrix if len(matrix) <= matrix.shape[1] else matrix.T
    x = wide.float() / (wide.float().norm() + 1e-7)
    a, b, c = _QUINTIC
    for _ in range(_ROUNDS):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return (x if wide is matrix else x.T).to(matrix.dtype)


def hidden_matrices(module: nn.Module) -> Iterator[nn.Parameter]:
    """The weights of a network that Muon suits: matrices and convolutions between its first and its last one.

    Tables of embeddings, and weights that do not learn, are not among them.
    """
    tables = {id(part.weight) for part in module.modules() if isinstance(part, nn.Embedding)}
    matrices = [p for p in module.parameters() if p.ndim > 1 and id(p) not in tables]
    yield from (p for p in matrices[1:-1] if p.requires_grad)
