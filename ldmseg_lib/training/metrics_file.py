"""metrics.jsonl: what a training says of itself while it runs."""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path

from ..core.errors import CheckpointError
from ..core.files import write_text


class MetricsFile:
    """One JSON object a line; on resume, lines of steps that will be done again are dropped."""

    def __init__(self, path: Path, *, start: int) -> None:
        self.path = path
        lines = path.read_text().splitlines() if path.exists() else []
        kept = []
        for line in lines:
            # a killed process can leave half a line
            with contextlib.suppress(json.JSONDecodeError):
                kept += [line] if json.loads(line)["step"] <= start else []
        write_text(path, "".join(f"{line}\n" for line in kept))

    def add(self, values: Mapping[str, float]) -> None:
        try:
            with open(self.path, "a") as file:
                file.write(json.dumps(values) + "\n")
        except OSError as error:
            raise CheckpointError(
                f"{self.path}: cannot be written ({error.strerror}); start again when it can, the training goes on from"
                " its last checkpoint"
            ) from error
