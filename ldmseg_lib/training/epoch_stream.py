"""The order in which a training sees its images, the same whatever the number of processes."""

from collections.abc import Iterator

import torch

from ..core.errors import ProfileError
from ..core.randomness import torch_generator


class EpochStream:
    """Batches of (index, visit) for one process: every image once an epoch, a new order each epoch.

    The stream is the concatenation of the epochs' permutations, cut into effective batches; process r of n takes the
    r-th part of each. A position is a number of steps, so nothing needs to be stored to go on.

    Args:
        length: images in the data set.
        batch_size: images a step, over all processes and micro-batches.
        micro_batch_size: images of each list that is yielded.
        steps: the last step, exclusive.
        start: the first step.
        seed: of the orders.
        rank: this process.
        processes: how many there are.

    Raises:
        ProfileError: the batch does not divide into processes and micro-batches.
    """

    def __init__(
        self,
        length: int,
        *,
        batch_size: int,
        micro_batch_size: int,
        steps: int,
        start: int = 0,
        seed: int = 0,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        if batch_size % (processes * micro_batch_size):
            raise ProfileError(
                f"a batch of {batch_size} does not divide into {processes} processes of micro-batches of"
                f" {micro_batch_size}; change training.batch_size or training.micro_batch_size"
            )
        self.length, self.batch_size, self.micro_batch_size = length, batch_size, micro_batch_size
        self.steps, self.start, self.seed, self.rank, self.processes = steps, start, seed, rank, processes

    def __len__(self) -> int:
        return (self.steps - self.start) * self.batch_size // (self.processes * self.micro_batch_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        orders: dict[int, list[int]] = {}
        share = self.batch_size // self.processes
        for step in range(self.start, self.steps):
            first = step * self.batch_size + self.rank * share
            places = []
            for position in range(first, first + share):
                epoch, place = divmod(position, self.length)
                if epoch not in orders:
                    generator = torch_generator(self.seed, "epoch order", epoch)
                    orders = {k: v for k, v in orders.items() if k >= epoch - 1}
                    orders[epoch] = torch.randperm(self.length, generator=generator).tolist()
                places.append((orders[epoch][place], epoch))
            for cut in range(0, share, self.micro_batch_size):
                yield places[cut : cut + self.micro_batch_size]
