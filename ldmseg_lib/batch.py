"""A papermill engine that shows a notebook's progress in the terminal: headings, printed text and progress bars.

In a notebook tqdm draws its bars as widgets, which papermill does not show: ten minutes of training would be silent.
Used by `papermill --engine terminal …`. A terminal sees one line that changes in place; a log file gets a line when a
bar begins and ends, and one every half minute between.
"""

import html
import re
import shutil
import sys
import time
from collections.abc import Mapping
from typing import IO, Any

from nbformat import NotebookNode
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, NotebookExecutionManager
from papermill.log import logger


class Terminal:
    """Lines of text and, below them, one progress line."""

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


def headings(cells: list[NotebookNode]) -> list[str]:
    """For every cell the heading that it stands under, without its marks."""
    found, current = [], ""
    for cell in cells:
        if cell.cell_type == "markdown":
            marks = re.findall(r"^#+\s+(.+)$", cell.source, flags=re.MULTILINE)
            current = marks[-1].strip() if marks else current
        found.append(current)
    return found


class TerminalClient(PapermillNotebookClient):
    """papermill's client that also writes to a Terminal what passes by."""

    def __init__(self, manager: NotebookExecutionManager, *, terminal: Terminal, **settings: Any):
        super().__init__(manager, **settings)
        self.terminal, self._headings, self._heading = terminal, headings(manager.nb.cells), ""

    def process_message(self, msg: dict[str, Any], cell: NotebookNode, cell_index: int) -> NotebookNode | None:
        """Show the message, after nbclient has kept it in the notebook."""
        output = super().process_message(msg, cell, cell_index)
        if self._headings[cell_index] != self._heading:
            self._heading = self._headings[cell_index]
            self.terminal.line(f"- {self._heading}")
        content = msg["content"]
        if msg["msg_type"] == "stream":
            for line in content["text"].splitlines():
                if line.strip():
                    self.terminal.line(f"  {line}")
        elif msg["msg_type"] in ("comm_open", "comm_msg"):
            bar = bar_text(self.widget_state, content["comm_id"])
            if bar and bar[1]:
                self.terminal.progress(bar[0], f"  {bar[1]}", finished=bar[2])
        return output


class TerminalEngine(NBClientEngine):
    """The engine `terminal` of papermill."""

    @classmethod
    def execute_managed_notebook(
        cls,
        nb_man: NotebookExecutionManager,
        kernel_name: str,
        *,
        start_timeout: int = 60,
        execution_timeout: int | None = None,
        **_: Any,
    ) -> None:
        """Execute the notebook in a kernel of its own; a failing cell stops it, with the notebook kept."""
        terminal = Terminal(sys.stderr)
        client = TerminalClient(
            nb_man,
            terminal=terminal,
            kernel_name=kernel_name,
            startup_timeout=start_timeout,
            timeout=execution_timeout,
            log=logger,
            # at its usual level a kernel warns that messages between two processes of one person are not encrypted
            extra_arguments=["--log-level=ERROR"],
        )
        try:
            client.execute()
        finally:
            terminal.close()
        if any(output.output_type == "error" for cell in nb_man.nb.cells for output in cell.get("outputs", ())):
            # papermill now raises an error that holds the cell's traceback; its own frames would bury that
            sys.tracebacklimit = 0
