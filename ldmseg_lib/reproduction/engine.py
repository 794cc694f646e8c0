"""A papermill engine that shows a notebook's progress in the terminal: headings, printed text and progress bars.

In a notebook tqdm draws its bars as widgets, which papermill does not show: ten minutes of training would be silent.
Used by `papermill --engine terminal …`, which finds it as an entry point of this package.
"""

import sys
from typing import Any

from nbformat import NotebookNode
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, NotebookExecutionManager
from papermill.log import logger

from .terminal import Terminal, bar_text, headings


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
