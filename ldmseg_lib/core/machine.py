"""The machine a result was made on, and the lock that keeps two processes from one stage."""

import fcntl
import os
import platform
import resource
import sys
from importlib import metadata
from pathlib import Path
from typing import IO, ClassVar

from .. import __version__

_PACKAGES = (
    "accelerate",
    "diffusers",
    "kornia-rs",
    "numpy",
    "opencv-python-headless",
    "pillow",
    "torch",
    "transformers",
)


def package_versions() -> dict[str, str]:
    """Versions of Python, this package and the packages that results depend on."""
    versions = {"python": platform.python_version(), "ldmseg_lib": __version__}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def device_name() -> str:
    """The GPUs when torch is loaded and sees any, else the processor and the number of cores we may use."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        return f"{len(names)} x {names[0]}" if len(names) > 1 else names[0]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{_processor()}, {cores} cores"


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    for line in cpuinfo.read_text().splitlines() if cpuinfo.exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def peak_memory() -> dict[str, float | None]:
    """Largest memory so far, in MiB: of this process or its largest child, and of the GPU (None without one)."""
    unit = 2**20 if sys.platform == "darwin" else 2**10
    largest = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    torch = sys.modules.get("torch")
    gpu = torch.cuda.max_memory_allocated() / 2**20 if torch is not None and torch.cuda.is_available() else None
    return {"peak_memory_mib": round(largest / unit), "peak_gpu_memory_mib": gpu and round(gpu)}


class StageLock:
    """A lock on a file between processes; the operating system lets go of it when its holder ends, however it ends.

    Within one process it can be taken again, so that a cell of a notebook can be run twice.
    """

    _held: ClassVar[dict[Path, IO[str]]] = {}

    def __init__(self, path: Path):
        self.path = path

    def acquire(self, waiting: str) -> None:
        """Take the lock; when another process holds it, print `waiting` and wait."""
        if self.path in self._held:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = open(self.path, "w")  # noqa: SIM115 - it stays open as long as the lock is held
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(waiting, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        self._held[self.path] = file

    @property
    def handle(self) -> int | None:
        """The file descriptor that holds the lock: a process that inherits it holds the lock too."""
        file = self._held.get(self.path)
        return None if file is None else file.fileno()

    def release(self) -> None:
        """Let go of the lock, if we hold it."""
        file = self._held.pop(self.path, None)
        if file is not None:
            file.close()
