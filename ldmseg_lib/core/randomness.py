"""One random stream for one purpose, named by a key such as (seed, "noise", image id, visit).

Streams depend on their key alone, so results depend neither on the batch size nor on the number of workers or
processes.
"""

import hashlib
import operator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def derive_seed(*key: int | str) -> int:
    """A 63-bit seed that depends on every part of `key` and on their order, the same on every machine.

    NumPy's whole numbers count as Python's.

    Raises:
        TypeError: a part is neither a whole number nor text.
    """
    text = "\x1f".join(f"str:{part}" if isinstance(part, str) else f"int:{operator.index(part)}" for part in key)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def numpy_generator(*key: int | str) -> np.random.Generator:
    """A NumPy generator for the stream `key`."""
    return np.random.default_rng(derive_seed(*key))


def torch_generator(*key: int | str) -> "torch.Generator":
    """A CPU generator of torch for the stream `key`; draw on the CPU and move, so that devices agree."""
    import torch

    return torch.Generator().manual_seed(derive_seed(*key))
