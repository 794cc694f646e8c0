"""The state of a segmentation under edit, with unlimited undo and redo. Pure NumPy; no widget."""

import itertools
import json
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from ..core.errors import InputError
from .raster import pack, unpack

Segments = tuple[dict[str, Any], ...]
Size = tuple[int, int]  # height and width


class State(NamedTuple):
    """One state, and the name of the edit that led to it; `ids` (int32) and `region` (bits) compressed by zlib."""

    label: str
    picture: str
    size: Size
    ids: bytes
    region: bytes
    segments: Segments


class EditHistory:
    """Ids, hidden region, segments and picture under edit, and every state before and after.

    `ids` is int32 [height, width]; `region` is bool [height, width], true where the segmentation is hidden. Both are
    read-only: an edit replaces them. `picture` names the image ("" is the first one).
    """

    def __init__(
        self, ids: Int[np.ndarray, "height width"], segments: Sequence[dict[str, Any]] = (), picture: str = ""
    ) -> None:
        region = zlib.compress(pack(np.zeros(ids.shape, bool)), 1)
        size = ids.shape[0], ids.shape[1]
        self.states = [State("", picture, size, _zip_ids(ids), region, tuple(segments))]
        self.done = 0
        self._load()

    def _load(self) -> None:
        state = self.states[self.done]
        self.ids = np.frombuffer(zlib.decompress(state.ids), np.int32).reshape(state.size)
        self._load_region()

    def _load_region(self) -> None:
        state = self.states[self.done]
        self.region = unpack(zlib.decompress(state.region), state.size)
        self.region.flags.writeable = False

    @property
    def segments(self) -> Segments:
        """What is known of the segments."""
        return self.states[self.done].segments

    @property
    def picture(self) -> str:
        """The name of the image."""
        return self.states[self.done].picture

    def change(
        self,
        label: str,
        *,
        region: Bool[np.ndarray, "height width"] | None = None,
        ids: Int[np.ndarray, "height width"] | None = None,
        segments: Sequence[dict[str, Any]] | None = None,
        picture: str | None = None,
    ) -> bool:
        """Make one edit and discard what could be redone; false, and nothing is recorded, when it changes nothing.

        `ids` and `region` together may have another size than before.
        """
        changes: dict[str, Any] = {}
        if region is not None:
            changes["region"] = zlib.compress(pack(region), 1)
        if ids is not None:
            changes |= {"ids": _zip_ids(ids), "size": ids.shape}
        if segments is not None:
            changes["segments"] = tuple(segments)
        if picture is not None:
            changes["picture"] = picture
        now = self.states[self.done]
        if now._replace(**changes) == now:
            return False
        self.states[self.done + 1 :] = [now._replace(label=label, **changes)]
        return self._move(1)

    def _move(self, step: int) -> bool:
        if not 0 <= self.done + step < len(self.states):
            return False
        before = self.states[self.done]
        self.done += step
        now = self.states[self.done]
        # an array that stays the same stays the same object: by that its users see what changed
        if (now.ids, now.size) != (before.ids, before.size):
            self._load()
        elif now.region != before.region:
            self._load_region()
        return True

    @property
    def undo_label(self) -> str | None:
        """The edit that `undo` would revert, or None."""
        return self.states[self.done].label if self.done else None

    @property
    def redo_label(self) -> str | None:
        """The edit that `redo` would repeat, or None."""
        return self.states[self.done + 1].label if self.done + 1 < len(self.states) else None

    def undo(self) -> bool:
        """Revert the last edit; false when there is none."""
        return self._move(-1)

    def redo(self) -> bool:
        """Repeat the edit that was undone last; false when there is none."""
        return self._move(1)

    def pictures(self) -> set[str]:
        """Every picture that the state, an undo or a redo can need."""
        return {state.picture for state in self.states}

    def to_arrays(self) -> dict[str, np.ndarray]:
        """The whole history as uint8 arrays: `header`, and `blobs`, each distinct array of the states once."""
        blobs = {blob: place for place, blob in enumerate(dict.fromkeys(b for s in self.states for b in s[3:5]))}
        entries, previous = [], None
        for state in self.states:
            # null: the same segments as in the state before
            segments = None if state.segments == previous else state.segments
            previous = state.segments
            entries.append([*state[:3], blobs[state.ids], blobs[state.region], segments])
        header = {"done": self.done, "lengths": [len(blob) for blob in blobs], "states": entries}
        files = {"header": json.dumps(header).encode(), "blobs": b"".join(blobs)}
        return {name: np.frombuffer(data, np.uint8) for name, data in files.items()}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> "EditHistory":
        """The history that `to_arrays` described.

        Raises:
            InputError: the arrays do not fit together.
        """
        history = cls(np.zeros((1, 1), np.int32))
        try:
            header = json.loads(arrays["header"].tobytes())
            data, ends = arrays["blobs"].tobytes(), np.cumsum([0, *header["lengths"]]).tolist()
            if ends[-1] != len(data) or not 0 <= header["done"] < len(header["states"]):
                raise ValueError("lengths differ")
            blobs = [data[start:end] for start, end in itertools.pairwise(ends)]
            history.states, segments = [], ()
            for label, picture, (height, width), ids, region, changed in header["states"]:
                segments = segments if changed is None else tuple(changed)
                history.states.append(State(label, picture, (height, width), blobs[ids], blobs[region], segments))
            history.done = header["done"]
            history._load()
        except (KeyError, IndexError, TypeError, ValueError, zlib.error) as error:
            raise InputError(f"not a session of the editor ({error})") from None
        return history


def _zip_ids(ids: Int[np.ndarray, "height width"]) -> bytes:
    return zlib.compress(np.asarray(ids, np.int32).tobytes(), 1)
