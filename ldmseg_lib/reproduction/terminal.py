"""What a person sees in a terminal while a notebook runs elsewhere: lines of text and progress bars in words."""

import html
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from typing import IO, Any


class Terminal:
    """Lines of text and, below them, one progress line.

    On a terminal the progress line changes in place; a log file gets a line when a bar begins and ends, and one every
    half minute between.

    Args:
        stream: where to write.
        every: least seconds between two states of one bar; None: as fits the stream.
    """

    def __init__(self, stream: IO[str], *, every: float | None = None):
        self.stream = stream
        self.in_place = stream.isatty()
        self.every = every if every is not None else (0.2 if self.in_place else 30.0)
        self._open = ""  # the progress line that the cursor stands on
        self._shown: dict[str, float] = {}

    def line(self, text: str) -> None:
        """Write `text` for good."""
        if self._open:
            self.stream.write("\r" + " " * len(self._open) + "\r")
            self._open = ""
        self.stream.write(text.rstrip() + "\n")
        self.stream.flush()

    def progress(self, bar: str, text: str, *, finished: bool = False) -> None:
        """Show `text` as the state of `bar`, unless something was shown a moment ago."""
        now = time.monotonic()
        if finished:
            if self._shown.get(bar) != float("inf"):
                self.line(text)
            self._shown[bar] = float("inf")
        elif now - self._shown.get(bar, -float("inf")) >= self.every:
            self._shown[bar] = now
            if self.in_place:
                text = text[: shutil.get_terminal_size().columns - 1]
                self.stream.write("\r" + text.ljust(len(self._open)))
                self.stream.flush()
                self._open = text
            else:
                self.line(text)

    def close(self) -> None:
        """Leave the cursor on a line of its own."""
        if self._open:
            self.stream.write("\n")
            self._open = ""


def bar_text(states: Mapping[str, Mapping[str, Any]], changed: str) -> tuple[str, str, bool] | None:
    """The tqdm bar to which the widget `changed` belongs.

    Args:
        states: model id to state, of all widgets of the kernel. A bar is a box of (label, bar, label).
        changed: a model id.

    Returns:
        The box's id, the bar's state in words, whether it is full; None when the widget is part of no bar.
    """
    for box, state in states.items():
        children = [str(child).removeprefix("IPY_MODEL_") for child in state.get("children", ())]
        if changed not in children or len(children) != 3:
            continue
        left, bar, right = (states.get(child, {}) for child in children)
        words = [re.sub(r"<[^>]*>", "", html.unescape(str(label.get("value", "")))) for label in (left, right)]
        text = " ".join(" ".join(words).replace("\u2007", " ").split())
        return box, text, bar.get("bar_style") == "success"
    return None


def headings(cells: Sequence[Any]) -> list[str]:
    """For every notebook cell the heading that it stands under, without its marks."""
    found, current = [], ""
    for cell in cells:
        if cell.cell_type == "markdown":
            marks = re.findall(r"^#+\s+(.+)$", cell.source, flags=re.MULTILINE)
            current = marks[-1].strip() if marks else current
        found.append(current)
    return found
