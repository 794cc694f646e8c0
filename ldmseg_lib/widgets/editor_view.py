"""The editor's page side: what is sent to the browser, and what the browser asks for."""

import contextlib
import os
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anywidget
import numpy as np
import traitlets
from jaxtyping import Int

from ..core.errors import InputError
from .pictures import photo_file
from .raster import pack

_FOLDER = Path(__file__).parent
# one module in parts, in this order
_SCRIPTS = [_FOLDER / f"mask_editor{part}.js" for part in ("_raster", "_canvas", "_tools", "_panel", "_help", "")]
UPLOAD_PARTS = 64
MAX_CLIENTS = 64


def browser_behind() -> bool:
    """Whether the cell that runs now was sent by a page that can show a widget.

    Papermill and nbconvert send cells through jupyter_client, whose messages are numbered ("session_pid_count"), and
    say nothing of the cell; JupyterLab, Notebook, VS Code and Colab do neither. Voila uses jupyter_client for a page.
    """
    try:
        from IPython import get_ipython

        parent = get_ipython().kernel.get_parent()  # type: ignore[no-untyped-call, union-attr]
    except (ImportError, AttributeError):
        return False
    numbered = re.search(r"_\d+_\d+$", str(parent.get("header", {}).get("msg_id", "")))
    return not numbered or bool(parent.get("metadata")) or os.environ.get("SERVER_SOFTWARE", "").startswith("voila")


class EditorView(anywidget.AnyWidget):
    """The widget. All state flows from Python to the page in these traits; the page answers in messages alone.

    An edit comes as {"client", "seq", "op", ...}: each view is a client that numbers its edits, keeps them until
    `acks[client]` has reached their number, and draws them meanwhile on top of what Python sent. JupyterLab may
    deliver messages on two threads and out of order, so that edits are put in order here.
    """

    _esm = "\n".join(script.read_text("utf-8") for script in _SCRIPTS)
    _css = (_FOLDER / "mask_editor.css").read_text("utf-8")

    photo = traitlets.Bytes(b"").tag(sync=True)
    ids_z = traitlets.Bytes(b"").tag(sync=True)
    region_z = traitlets.Bytes(b"").tag(sync=True)
    candidates_z = traitlets.Bytes(b"").tag(sync=True)
    state = traitlets.Dict().tag(sync=True)
    progress = traitlets.Dict().tag(sync=True)
    acks = traitlets.Dict().tag(sync=True)
    rev = traitlets.Int(0).tag(sync=True)

    def __init__(self, request: Callable[[dict[str, Any]], None], open_photo: Callable[..., None], lock: Any) -> None:
        self._request, self._open_photo, self._lock = request, open_photo, lock
        self._shown: dict[str, Any] = {}
        self._next: dict[str, int] = {}
        self._waiting: dict[str, dict[int, dict[str, Any]]] = {}
        self._uploads: dict[str, list[bytes | None]] = {}
        super().__init__()
        self.on_msg(self._receive)

    def show(self, arrays: dict[str, Any], state: dict[str, Any], progress: dict[str, Any]) -> None:
        """Send what changed, in one message. Arrays are compared by identity: the editor never writes into them."""
        with self.hold_sync():
            for name, value in arrays.items():
                if self._shown.get(name) is not value:
                    self._shown[name] = value
                    setattr(self, name, _ENCODERS[name](value))
            self.state, self.progress = state, progress
            self.acks = {client: number - 1 for client, number in self._next.items()}
            self.rev += 1

    def _receive(self, _: Any, content: dict[str, Any], buffers: list[Any]) -> None:
        # whatever is wrong has been shown on the page, where the request came from
        with contextlib.suppress(InputError):
            if content.get("type") == "upload":
                self._collect(content, buffers)
            elif content.get("type") == "edit":
                with self._lock:
                    self._in_order(content)
            else:
                self._request(content)

    def _in_order(self, content: dict[str, Any]) -> None:
        client, number = str(content["client"]), int(content["seq"])
        if client not in self._next:
            for old in list(self._next)[: len(self._next) + 1 - MAX_CLIENTS]:
                del self._next[old]
                self._waiting.pop(old, None)
            self._next[client] = 1
        waiting = self._waiting.setdefault(client, {})
        if number >= self._next[client]:
            waiting[number] = content
        while (edit := waiting.pop(self._next[client], None)) is not None:
            self._next[client] += 1
            with contextlib.suppress(InputError):
                self._request(edit)
        if self.acks.get(client) != self._next[client] - 1:
            # the edit changed nothing, or was refused: the page must still learn that it was seen
            with self.hold_sync():
                self.acks = {**self.acks, client: self._next[client] - 1}
                self.rev += 1

    def _collect(self, content: dict[str, Any], buffers: list[Any]) -> None:
        """A file arrives in parts of 1 MiB, because servers close connections that carry large messages."""
        key, part, parts = str(content["upload"]), int(content["part"]), int(content["parts"])
        if not 0 <= part < parts <= UPLOAD_PARTS:
            return
        with self._lock:
            received = self._uploads.setdefault(key, [None] * parts)
            received[part] = bytes(buffers[0])
            if None in received:
                return
            del self._uploads[key]
        self._open_photo(b"".join(data for data in received if data), name=str(content["name"]))


def _zip_ids(ids: list[Int[np.ndarray, "height width"]]) -> bytes:
    return zlib.compress(b"".join(entry.astype("<i4").tobytes() for entry in ids), 1)


_ENCODERS: dict[str, Callable[[Any], bytes]] = {
    "photo": photo_file,
    "ids_z": lambda ids: _zip_ids([ids]),
    "region_z": lambda region: zlib.compress(pack(region), 1),
    "candidates_z": lambda candidates: _zip_ids([candidate.ids for candidate in candidates]),
}
