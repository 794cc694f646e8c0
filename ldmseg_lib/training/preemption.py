"""Being asked to stop (SIGTERM: a batch system wants the machine back) without losing what was done."""

import contextlib
import signal
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader

# The exit code of a run that was asked to stop and can go on: EX_TEMPFAIL, which batch systems take as "retry".
EXIT_RESUMABLE = 75


class StopRequest:
    """Remembers a SIGTERM, so that the training loop can save before it leaves."""

    def __enter__(self) -> "StopRequest":
        self.asked = False
        with contextlib.suppress(ValueError):  # signals can be handled in the main thread only
            self.before = signal.signal(signal.SIGTERM, self._ask)
        return self

    def _ask(self, *_: object) -> None:
        self.asked = True

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ValueError, AttributeError):
            signal.signal(signal.SIGTERM, self.before)


@contextlib.contextmanager
def batches_of(loader: DataLoader) -> Iterator[Iterator[Any]]:
    """The loader's batches, from processes that outlive a SIGTERM: batch systems signal them too, and the last steps
    need them. They end with the block.

    Left to themselves they would be joined at the exit of this process, which first asks them by a SIGTERM.
    """
    loader.worker_init_fn = _ignore_stop_request
    batches = iter(loader)
    try:
        yield batches
    finally:
        # torch ends them when the iterator is collected, for which an exception's frames can keep one waiting
        if loader.num_workers:
            batches._shutdown_workers()  # type: ignore[attr-defined]


def _ignore_stop_request(_worker: int) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
