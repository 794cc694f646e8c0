"""The state of a segmentation under edit, with unlimited undo and redo. Pure NumPy; no widget."""

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from ..core.errors import InputError
from .raster import pack, unpack

Segments = tuple[dict[str, Any], ...]
Size = tuple[int, int]  # height and width


@dataclass(frozen=True)
class Edit:
    """One edit as a compressed XOR difference: applied once it makes the edit, applied again it undoes it."""

    label: str
    region: bytes
    ids: bytes
    segments: tuple[Segments, Segments] | None
    picture: tuple[str, str] | None
    size: tuple[Size, Size] | None


class EditHistory:
    """Ids, hidden region, segments and picture under edit, and every edit that led there.

    `ids` is int32 [height, width]; `region` is bool [height, width], true where the segmentation is hidden. Both are
    read-only: an edit replaces them. `picture` names the image ("" is the first one).
    """

    def __init__(
        self, ids: Int[np.ndarray, "height width"], segments: Sequence[dict[str, Any]] = (), picture: str = ""
    ) -> None:
        self.ids = np.array(ids, np.int32)
        self.region = np.zeros(self.ids.shape, bool)
        self.segments: Segments = tuple(segments)
        self.picture = picture
        self.edits: list[Edit] = []
        self.done = 0
        self._packed_ids: tuple[np.ndarray, bytes] | None = None
        self._freeze()

    @property
    def size(self) -> Size:
        """Height and width."""
        height, width = self.ids.shape
        return height, width

    def _freeze(self) -> None:
        self.ids.flags.writeable = False
        self.region.flags.writeable = False

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
        new_region = self.region if region is None else region
        new_ids = self.ids if ids is None else np.asarray(ids, np.int32)
        new_segments = self.segments if segments is None else tuple(segments)
        new_picture = self.picture if picture is None else picture
        edit = Edit(
            label,
            b"" if np.array_equal(new_region, self.region) else _difference(pack(self.region), pack(new_region)),
            b"" if np.array_equal(new_ids, self.ids) else _difference(self.ids.tobytes(), new_ids.tobytes()),
            None if new_segments == self.segments else (self.segments, new_segments),
            None if new_picture == self.picture else (self.picture, new_picture),
            None if new_ids.shape == self.ids.shape else (self.size, (new_ids.shape[0], new_ids.shape[1])),
        )
        if not (edit.region or edit.ids or edit.segments or edit.picture):
            return False
        del self.edits[self.done :]
        self.edits.append(edit)
        self.done += 1
        self._apply(edit, forward=True)
        return True

    def _apply(self, edit: Edit, *, forward: bool) -> None:
        height, width = edit.size[forward] if edit.size else self.size
        if edit.region:
            bits = _apply_difference(pack(self.region), edit.region, -(-height * width // 8))
            self.region = unpack(bits, (height, width))
        if edit.ids:
            words = _apply_difference(self.ids.tobytes(), edit.ids, 4 * height * width)
            self.ids = np.frombuffer(words, np.int32).reshape(height, width)
        if edit.segments:
            self.segments = edit.segments[forward]
        if edit.picture:
            self.picture = edit.picture[forward]
        self._freeze()

    @property
    def undo_label(self) -> str | None:
        """The edit that `undo` would revert, or None."""
        return self.edits[self.done - 1].label if self.done else None

    @property
    def redo_label(self) -> str | None:
        """The edit that `redo` would repeat, or None."""
        return self.edits[self.done].label if self.done < len(self.edits) else None

    def undo(self) -> bool:
        """Revert the last edit; false when there is none."""
        if not self.done:
            return False
        self.done -= 1
        self._apply(self.edits[self.done], forward=False)
        return True

    def redo(self) -> bool:
        """Repeat the edit that was undone last; false when there is none."""
        if self.done == len(self.edits):
            return False
        self._apply(self.edits[self.done], forward=True)
        self.done += 1
        return True

    def pictures(self) -> set[str]:
        """Every picture that the state, an undo or a redo can need."""
        return {self.picture} | {name for edit in self.edits if edit.picture for name in edit.picture}

    def to_arrays(self) -> dict[str, np.ndarray]:
        """The whole history as uint8 arrays: `ids` (zlib of int32), `region` (zlib of bits), `edits` and `header`."""
        if self._packed_ids is None or self._packed_ids[0] is not self.ids:
            self._packed_ids = self.ids, zlib.compress(self.ids.tobytes(), 1)
        header = {
            "shape": self.ids.shape,
            "done": self.done,
            "picture": self.picture,
            "segments": self.segments,
            "edits": [
                {"label": e.label, "lengths": [len(e.region), len(e.ids)]}
                | {"segments": e.segments, "picture": e.picture, "size": e.size}
                for e in self.edits
            ],
        }
        files = {
            "ids": self._packed_ids[1],
            "region": zlib.compress(pack(self.region), 1),
            "edits": b"".join(e.region + e.ids for e in self.edits),
            "header": json.dumps(header).encode(),
        }
        return {name: np.frombuffer(data, np.uint8) for name, data in files.items()}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> "EditHistory":
        """The history that `to_arrays` described.

        Raises:
            InputError: the arrays do not fit together.
        """
        try:
            header = json.loads(arrays["header"].tobytes())
            height, width = header["shape"]
            ids = np.frombuffer(zlib.decompress(arrays["ids"].tobytes()), np.int32).reshape(height, width)
            history = cls(ids, header["segments"], header["picture"])
            history.region = unpack(zlib.decompress(arrays["region"].tobytes()), (height, width))
            data, at = arrays["edits"].tobytes(), 0
            for entry in header["edits"]:
                middle, end = at + entry["lengths"][0], at + sum(entry["lengths"])
                before_after = entry["segments"] and (tuple(entry["segments"][0]), tuple(entry["segments"][1]))
                picture = entry["picture"] and (entry["picture"][0], entry["picture"][1])
                size = None
                if entry["size"]:
                    (old_height, old_width), (new_height, new_width) = entry["size"]
                    size = (old_height, old_width), (new_height, new_width)
                edit = Edit(entry["label"], data[at:middle], data[middle:end], before_after, picture, size)
                history.edits.append(edit)
                at = end
            if at != len(data) or not 0 <= header["done"] <= len(history.edits):
                raise ValueError("lengths differ")
            history.done = header["done"]
        except (KeyError, IndexError, TypeError, ValueError, zlib.error) as error:
            raise InputError(f"not a session of the editor ({error})") from None
        history._freeze()
        return history


def _difference(before: bytes, after: bytes) -> bytes:
    """Compressed XOR of two strings of bytes, the shorter one padded with zeros."""
    result = np.zeros(max(len(before), len(after)), np.uint8)
    for part in (before, after):
        result[: len(part)] ^= np.frombuffer(part, np.uint8)
    return zlib.compress(result.tobytes(), 1)


def _apply_difference(state: bytes, difference: bytes, length: int) -> bytes:
    """The one of the two strings that `state` is not, which has `length` bytes."""
    result = np.frombuffer(zlib.decompress(difference), np.uint8).copy()
    result[: len(state)] ^= np.frombuffer(state, np.uint8)
    return result[:length].tobytes()
