"""One fault of a data folder, named by file, image and segment."""

import os
from dataclasses import dataclass
from typing import Literal

from ..core.errors import DatasetError


@dataclass(frozen=True)
class Problem:
    """A fault of a data folder; `str(problem)` is one line. Warnings leave the folder usable, errors do not."""

    file: str
    message: str
    image_id: int | str | None = None
    segment_id: int | None = None
    level: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        where = [self.file]
        if self.image_id is not None:
            where.append(f"image id {self.image_id}")
        if self.segment_id is not None:
            where.append(f"segment id {self.segment_id}")
        return f"{', '.join(where)}: {self.message}"


class FileFault(DatasetError):
    """A file that cannot be used; `path` names it and `reason` is the message without it."""

    def __init__(self, path: str | os.PathLike, reason: str = "") -> None:
        super().__init__(f"{path}: {reason}" if reason else str(path))
        self.path = os.fspath(path)
        self.reason = reason
