"""What happens to a segmentation from one denoising step to the next: the supplement's claims about Figure S5.

"As the model was forced to distinguish between different instances during training, it's unlikely that different
instances will be grouped during inference"; "the model iteratively improves the predictions while not reinforcing
mistakes"; "longer sampling benefits the generation of details, such as capturing small objects" (supplement B, "Number
of Denoising Steps"). The supplement gives no numbers; these are ours.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int
from scipy.optimize import linear_sum_assignment

from ...core.errors import InputError

IdMap = Int[np.ndarray, "height width"]
Segments = Sequence[Mapping[str, Any]]


class TrajectoryStatistics:
    """Sums over images of what the id maps after each of `num_steps` denoising steps have right and wrong.

    A pixel is right after a step if its predicted segment is the one assigned to its true segment, one to one, so that
    the overlap is as large as can be; ids themselves mean nothing. Pixels that are void or crowd in truth do not count.
    """

    def __init__(self, num_steps: int) -> None:
        if num_steps < 1:
            raise InputError(f"a trajectory has at least one step, not {num_steps}")
        self.num_steps = num_steps
        self.images = 0
        # per step: pixels and segments that were counted, [of these many, so many]
        self._counts = {name: np.zeros((num_steps, 2), np.int64) for name in _SHARES}
        self._areas: list[np.ndarray] = []
        self._found: list[np.ndarray] = []

    def update(self, target_ids: IdMap, target_segments: Segments, maps: Sequence[IdMap]) -> None:
        """Add one image.

        Args:
            target_ids: true segment ids, 0 is void.
            target_segments: dicts with `id` and, where it is a crowd, `iscrowd`.
            maps: predicted ids after each step, of the same size, 0 is no segment.

        Raises:
            InputError: not as many maps as steps, or of another size.
        """
        if len(maps) != self.num_steps or any(ids.shape != target_ids.shape for ids in maps):
            raise InputError(f"give {self.num_steps} maps of {target_ids.shape}, one for each step")
        segments = [segment["id"] for segment in target_segments if not segment.get("iscrowd", 0)]
        # number of each pixel's true segment, -1 where there is none
        truth = np.full(target_ids.shape, -1)
        for number, segment_id in enumerate(segments):
            truth[target_ids == segment_id] = number
        known = truth >= 0
        areas = np.bincount(truth[known], minlength=len(segments))
        tables = [_overlaps(truth[known], ids[known], len(segments)) for ids in maps]
        assigned = [_assigned(table) for table in tables]
        wrong = [column[truth[known]] != ids[known] for column, ids in zip(assigned, maps)]
        found = np.zeros((self.num_steps, len(segments)), bool)
        for step, (table, ids) in enumerate(zip(tables, maps)):
            covering = _covered(table, areas)
            self._add("grouped", step, covering >= 1, covering >= 2)
            self._add("wrong", step, np.ones_like(wrong[step]), wrong[step])
            self._add("lasting", step, wrong[step], wrong[step] & wrong[-1])
            self._add("spoiled", step, ~wrong[step], ~wrong[step] & wrong[-1])
            if step:
                self._add("changed", step, np.ones_like(ids, bool), ids != maps[step - 1])
                self._add("kept", step, wrong[step - 1], wrong[step - 1] & wrong[step])
            found[step] = _found(table, areas, assigned[step])
        self._areas.append(areas)
        self._found.append(found)
        self.images += 1

    def compute(self) -> dict[str, Any]:
        """Shares in [0, 1] after each step, None where nothing was counted.

        Returns:
            {"images", "segments", "small_area", "steps"}: true segments, the area in pixels below which one counts as
            small (their median), and for each step a dict of its number "step", from 1, and

            "grouped": of the predicted segments that cover a true one (more than half of its pixels), those that cover
            two or more; "changed": of all pixels, those with another id than a step before; "wrong": of the known
            pixels, those that are wrong; "kept": of those wrong a step before, those still wrong; "lasting": of those
            wrong now, those that are wrong at the end; "spoiled": of those right now, those that are wrong at the end;
            "found_small" and "found_large": of the true segments, those with an IoU over 0.5.
        """
        areas = np.concatenate([*self._areas, np.zeros(0, np.int64)])
        found = np.concatenate([*self._found, np.zeros((self.num_steps, 0), bool)], axis=1)
        small_area = float(np.median(areas)) if len(areas) else None
        small = areas < (small_area or 0)
        steps = []
        for step in range(self.num_steps):
            row: dict[str, Any] = {"step": step + 1}
            for name, counts in self._counts.items():
                of, so_many = counts[step].tolist()
                row[name] = so_many / of if of else None
            for name, chosen in (("found_small", small), ("found_large", ~small)):
                row[name] = float(found[step, chosen].mean()) if chosen.any() else None
            steps.append(row)
        return {"images": self.images, "segments": len(areas), "small_area": small_area, "steps": steps}

    def _add(self, name: str, step: int, of: Bool[np.ndarray, "..."], those: Bool[np.ndarray, "..."]) -> None:
        self._counts[name][step] += (int(of.sum()), int(those.sum()))


_SHARES = ("grouped", "changed", "wrong", "kept", "lasting", "spoiled")


def _overlaps(truth: np.ndarray, ids: np.ndarray, num_segments: int) -> Int[np.ndarray, "segments ids"]:
    """Pixels of each true segment under each predicted id, 0 included."""
    width = int(ids.max(initial=0)) + 1
    return np.bincount(truth * width + ids, minlength=num_segments * width).reshape(num_segments, width)


def _assigned(table: Int[np.ndarray, "segments ids"]) -> Int[np.ndarray, " segments"]:
    """The predicted id of each true segment, -1 where none is left for it."""
    column = np.full(len(table), -1)
    rows, columns = linear_sum_assignment(table[:, 1:], maximize=True)
    overlapping = table[rows, columns + 1] > 0
    column[rows[overlapping]] = columns[overlapping] + 1
    return column


def _covered(table: Int[np.ndarray, "segments ids"], areas: np.ndarray) -> Int[np.ndarray, " ids"]:
    """How many true segments each predicted one covers, more than half of each."""
    return (2 * table[:, 1:] > areas[:, None]).sum(0)


def _found(table: np.ndarray, areas: np.ndarray, assigned: np.ndarray) -> Bool[np.ndarray, " segments"]:
    """Whether each true segment has an IoU over one half with the predicted one that is assigned to it."""
    rows = np.flatnonzero(assigned >= 0)
    common, predicted = table[rows, assigned[rows]], table.sum(0)[assigned[rows]]
    found = np.zeros(len(areas), bool)
    found[rows] = 2 * common > areas[rows] + predicted - common
    return found
