"""Weights, gradients and optimiser state split over the processes (FSDP2: torch's `fully_shard`), for small cards.

Training sees sharded copies of the modules that learn; these wait on the CPU and get the final weights.
Checkpoints hold whole tensors, so a training may go on with or without sharding and on any number of processes.
"""

import contextlib
import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


class ShardedObjective(nn.Module):
    """An objective whose trained parameters are sharded; called like it.

    Args:
        objective: its `trained` is replaced by a sharded copy until `restore` is called.
        device: where it trains; "cuda" or "cpu".
        processes: over which parameters are split.
    """

    def __init__(self, objective: Any, *, device: torch.device, processes: int) -> None:
        super().__init__()
        self.whole = (objective.trained,)  # a tuple, so that it is no submodule
        objective.trained = copy.deepcopy(objective.trained)
        objective.to(device)
        self.objective = objective
        mesh = init_device_mesh(device.type, (processes,))
        for block in _blocks(objective.trained):
            fully_shard(block, mesh=mesh)
        learned = {id(p) for p in objective.trained.parameters()}
        fully_shard(self, mesh=mesh, ignored_params={p for p in objective.parameters() if id(p) not in learned})

    def forward(self, *arguments: Any) -> dict[str, Tensor]:
        """As the objective."""
        return self.objective(*arguments)

    def synchronise(self, wanted: bool) -> None:
        """Whether the next backward pass adds up gradients over the processes."""
        assert isinstance(self, FSDPModule)
        self.set_requires_gradient_sync(wanted)

    @contextlib.contextmanager
    def gathered(self, ema: EMAModel | None) -> Iterator[None]:
        """Within, the objective has its own whole modules, with the averaged weights if there is an `ema`."""
        split = self.objective.trained
        device = next(split.parameters()).device
        self.restore()
        if ema is not None:
            averages = whole({str(i): p for i, p in enumerate(ema.shadow_params)})
            learned = (p for p in self.objective.trained.parameters() if p.requires_grad)
            for parameter, average in zip(learned, averages.values(), strict=True):
                parameter.data.copy_(average)
        self.objective.trained.to(device).eval()
        yield
        self.objective.trained.to("cpu")
        self.objective.trained = split

    def restore(self) -> None:
        """Give the objective its own modules back, with the weights of now. Every process must call it."""
        (trained,) = self.whole
        trained.load_state_dict(whole(self.objective.trained.state_dict()))
        self.objective.trained = trained


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """What is gathered at a time: the outermost entries of lists, such as a UNet's resolutions or a ViT's layers."""
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield from child
        else:
            yield from _blocks(child)


def whole(tensors: Mapping[str, Tensor], *, keep: bool = True) -> dict[str, Tensor]:
    """`tensors` with sharded ones gathered on the CPU. Every process must call it; only those that keep get any."""
    gathered = {}
    for name, value in tensors.items():
        full = value.full_tensor() if isinstance(value, DTensor) else value
        if keep:
            gathered[name] = full.cpu() if isinstance(value, DTensor) else full
    return gathered


def laid_out_as(value: Tensor, parameter: Tensor) -> Tensor:
    """The whole tensor `value` on the device, in the memory layout and with the sharding of `parameter`."""
    if isinstance(parameter, DTensor):
        value = value.to(parameter.device)
        return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value)
