"""Edits of the segments themselves: paint, erase, create, merge, split, classify and delete. Each can be undone."""

import operator
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Int
from scipy import ndimage

from ..core.errors import InputError
from . import raster
from .editable import EditableSegmentation


class DirectEdits(EditableSegmentation):
    """The part of `MaskEditor` that changes ids and classes without the model.

    Pixels that an edit gives to a segment are no longer hidden. Candidates of an earlier run are discarded.
    """

    def paint_segment(self, id: int, points: raster.Points, radius: float) -> None:
        """Give what a round brush of `radius` pixels covers along `points` (x, y) to the segment `id`, new or not.

        Raises:
            InputError: `id` is not a whole number from 1 to the largest id.
        """
        with self._open():
            self._paint(f"Paint segment {id}", self._checked_id(id), points, radius)

    def erase_segment(self, id: int, points: raster.Points, radius: float) -> None:
        """Make void what a round eraser of `radius` pixels covers of the segment `id`.

        Raises:
            InputError: no pixel has that id.
        """
        with self._open():
            covered = self._pixels_of(self._checked_id(id)) & raster.stroke(self._size(), points, radius)
            self._replace(f"Erase segment {id}", np.where(covered, 0, self.ids))

    def new_segment(self, points: raster.Points, radius: float, *, category_id: int | None = None) -> int:
        """Paint a new segment, by default of unknown class; returns its id, the smallest that is free.

        Raises:
            InputError: no id is free, or there is no such class.
        """
        with self._open():
            id = self._free_id()
            added = [] if category_id is None else [{"id": id, "category_id": self._checked_category(category_id)}]
            others = [s for s in self._history.segments if s["id"] != id]
            self._paint(f"New segment {id}", id, points, radius, [*others, *added])
            return id

    def merge_segments(self, ids: Sequence[int]) -> int:
        """Make one segment of several, with the id and the class of the first one; returns that id.

        Raises:
            InputError: fewer than two different segments, or no pixel has one of the ids.
        """
        with self._open():
            numbers = list(dict.fromkeys(self._checked_id(id) for id in ids))
            if len(numbers) < 2:
                raise InputError("Merging needs two or more different segments.")
            merged = np.logical_or.reduce([self._pixels_of(number) for number in numbers])
            label = f"Merge segments {', '.join(map(str, numbers))}"
            self._replace(label, np.where(merged, numbers[0], self.ids))
            return numbers[0]

    def split_segment(self, id: int, points: raster.Points, radius: float = 1.0) -> list[int]:
        """Cut the segment `id` along `points` (x, y); returns the ids, the largest part keeps its own.

        Only the part that the cut divides is split: separate pieces of the segment stay with the largest part.

        Raises:
            InputError: no pixel has that id, the cut does not divide the segment, or no id is free.
        """
        with self._open():
            segment = self._pixels_of(self._checked_id(id))
            pieces, _ = ndimage.label(segment)
            cut = raster.stroke(self._size(), points, radius) & segment
            parts, count = ndimage.label(segment & ~cut)
            # a piece that holds two or more parts is one that the cut divides
            owner = ndimage.maximum(pieces, parts, range(1, count + 1)) if count else np.zeros(0, int)
            divided = [k + 1 for k in range(count) if (owner == owner[k]).sum() > 1]
            if not divided:
                raise InputError(f"The cut does not divide segment {id}: draw it across, from edge to edge.")
            divided.sort(key=lambda part: -int((parts == part).sum()))
            where = ndimage.distance_transform_edt(parts == 0, return_distances=False, return_indices=True)
            nearest = np.where(segment, parts[tuple(where)], 0)
            changed, numbers = self.ids.copy(), [int(id)]
            for part in divided[1:]:
                numbers.append(self._free_id(numbers))
                changed[nearest == part] = numbers[-1]
            kept = [s for s in self._history.segments if s["id"] not in numbers[1:]]
            copies = [s | {"id": number} for s in kept if s["id"] == id for number in numbers[1:]]
            self._replace(f"Split segment {id}", changed, [*kept, *copies])
            return numbers

    def assign_class(self, id: int, category_id: int) -> None:
        """Give the segment `id` the class `category_id`.

        Raises:
            InputError: no pixel has that id, or there is no such class.
        """
        with self._open():
            self._pixels_of(self._checked_id(id))
            category = self._checked_category(category_id)
            old = [s for s in self._history.segments if s["id"] == id] or [{"id": int(id)}]
            others = [s for s in self._history.segments if s["id"] != id]
            self._replace(f"Class of segment {id}", self.ids, [*others, old[0] | {"category_id": category}])

    def delete_segment(self, id: int, to: Literal["unknown", "neighbour"] = "unknown") -> None:
        """Delete a segment: its pixels become void and hidden ("unknown"), or go to the nearest segments ("neighbour").

        Raises:
            InputError: no pixel has that id, `to` is neither, or there is no other segment.
        """
        with self._open():
            gone = self._pixels_of(self._checked_id(id))
            if to == "unknown":
                self._replace(f"Delete segment {id}", np.where(gone, 0, self.ids), region=self.region | gone)
            elif to == "neighbour":
                others = (self.ids > 0) & ~gone
                if not others.any():
                    raise InputError(f"Segment {id} has no neighbour: it is the only segment.")
                where = ndimage.distance_transform_edt(~others, return_distances=False, return_indices=True)
                self._replace(f"Delete segment {id}", np.where(gone, self.ids[tuple(where)], self.ids))
            else:
                raise InputError(f"to must be 'unknown' or 'neighbour', not {to!r}")

    def _replace(
        self,
        label: str,
        ids: Int[np.ndarray, "height width"],
        segments: Sequence[dict[str, Any]] | None = None,
        *,
        region: raster.Mask | None = None,
    ) -> None:
        """Record the edit and forget segments that vanish; by default the pixels that change are no longer hidden."""
        left, before = set(np.unique(ids).tolist()), set(np.unique(self.ids).tolist())
        known = self._history.segments if segments is None else segments
        kept = [s for s in known if s["id"] in left or s["id"] not in before]
        if region is None:
            region = self.region & (ids == self.ids)
        if self._history.change(label, ids=ids, region=region, segments=kept):
            self._set_candidates([])
            self._edited()

    def _paint(
        self,
        label: str,
        id: int,
        points: raster.Points,
        radius: float,
        segments: Sequence[dict[str, Any]] | None = None,
    ) -> None:
        covered = raster.stroke(self._size(), points, radius)
        self._replace(label, np.where(covered, id, self.ids), segments, region=self.region & ~covered)

    def _size(self) -> tuple[int, int]:
        return self.ids.shape[0], self.ids.shape[1]

    def _top(self) -> int:
        return getattr(self._pipeline, "num_ids", None) or 2**24

    def _checked_id(self, id: Any) -> int:
        try:
            number = operator.index(id)
        except TypeError:
            number = -1
        if isinstance(id, bool) or not 1 <= number < self._top():
            raise InputError(f"a segment's id must be a whole number from 1 to {self._top() - 1}, not {id!r}")
        return number

    def _free_id(self, taken: Sequence[int] = ()) -> int:
        used = set(np.unique(self.ids).tolist()) | set(taken)
        free = next((number for number in range(1, self._top()) if number not in used), None)
        if free is None:
            raise InputError(f"all {self._top() - 1} ids that this model knows are in use: merge or delete a segment")
        return free

    def _checked_category(self, category_id: Any) -> int:
        known = {c["id"]: c.get("name", "") for c in self._categories}
        if isinstance(category_id, bool) or category_id not in known:
            classes = ", ".join(f"{number} {name}".strip() for number, name in list(known.items())[:20]) or "none given"
            raise InputError(f"There is no class {category_id!r}; the classes are {classes}.")
        return int(category_id)
