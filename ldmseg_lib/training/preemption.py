"""Being asked to stop (SIGTERM: a batch system wants the machine back) without losing what was done."""

import contextlib
import signal

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


def outlive_stop_request(_worker: int) -> None:
    """For loader processes: batch systems signal them too, and the last steps need them. They end with their parent."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
