"""FLOPs and memory of a training step, counted operation by operation on tensors that have a shape and no content.

FLOPs are those of matrix products, convolutions and attention (2 a multiply-add), recomputation included. Memory is
that of live tensors, as an allocator without gaps would have it, under autocast as on a GPU.
"""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count
from transformers.initialization import no_init_weights

FLOAT32 = 4


@contextlib.contextmanager
def without_content() -> Iterator[None]:
    """Within, tensors have a shape and a device but no content: networks of any size are built in no memory."""
    # initial values that are looked at are no values here
    with FakeTensorMode(), no_init_weights():
        yield


@dataclass(frozen=True)
class StepCost:
    """Of one step on one device: FLOPs, and bytes beyond weights and optimiser state (gradients included)."""

    flops: int
    peak_bytes: int


class LiveBytes(TorchDispatchMode):
    """Bytes of the tensors that were made since it was entered, and are alive; `peak` is right to one percent.

    Args:
        known: tensors from before, which do not count.
    """

    def __init__(self, known: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known = {tensor.untyped_storage()._cdata for tensor in known}
        # not Python's weak references: the storages of tensors without content have fleeting Python objects
        self._live: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._count(leaf.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._known or key in self._live:
            return
        self._live[key] = StorageWeakRef(storage), storage.nbytes()
        self.now += storage.nbytes()
        if self.now > 1.01 * self.peak:
            self._live = {key: entry for key, entry in self._live.items() if not entry[0].expired()}
            self.now = sum(size for _, size in self._live.values())
            self.peak = max(self.peak, self.now)


def step_cost(
    networks: nn.ModuleDict, step: Callable[[], Any], *, precision: str = "fp32", inputs: Iterable[Tensor] = ()
) -> StepCost:
    """What `step`, a forward and backward pass of `networks`, costs. To be called `without_content`.

    Args:
        networks: all that take part; their weights do not count as memory.
        step: called once.
        precision: "fp32", or autocast's "fp16" or "bf16", which cost the same.
        inputs: tensors that are there before.
    """
    half = precision != "fp32"
    hooks = [
        # on GPUs autocast does norms in fp32, on CPUs, whose rules these tensors follow, in what they are given
        module.register_forward_pre_hook(lambda _, given: (given[0].float(), *given[1:]))
        for module in networks.modules()
        if half and isinstance(module, nn.GroupNorm | nn.LayerNorm)
    ]
    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    formulas = {attention: _attention_flops, backward: _attention_backward_flops}
    live = LiveBytes([*networks.parameters(), *networks.buffers(), *inputs])
    counter = FlopCounterMode(display=False, custom_mapping=formulas)
    with counter, live, torch.autocast("cpu", torch.bfloat16, enabled=half):
        step()
    for hook in hooks:
        hook.remove()
    for parameter in networks.parameters():
        parameter.grad = None
    return StepCost(flops=counter.get_total_flops(), peak_bytes=live.peak)


def _attention_flops(query: Any, key: Any, value: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _attention_backward_flops(grad: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return sdpa_backward_flop_count(grad, query, key, value)


def checkpoint_blocks(network: Any) -> None:
    """Gradient checkpointing for a diffusers model, without the random state, which fake tensors have none of."""
    network.enable_gradient_checkpointing(functools.partial(checkpoint, use_reentrant=False, preserve_rng_state=False))
