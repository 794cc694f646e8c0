"""Counts of matched, wrong and missed segments, summed exactly: no order of images or processes changes a bit."""

from collections.abc import Iterable, Mapping
from typing import Any, Self

from ..core.errors import InputError

# an IoU over one half is a whole number of these
_IOU_UNIT = 1 << 53


class MatchCounts:
    """True positives, false positives, false negatives and summed IoU of groups of segments, 0 .. num_groups - 1."""

    def __init__(self, num_groups: int) -> None:
        self.tp = [0] * num_groups
        self.fp = [0] * num_groups
        self.fn = [0] * num_groups
        self.iou_units = [0] * num_groups

    def __len__(self) -> int:
        return len(self.tp)

    def add(self, targets: Iterable[tuple[int, float]], false_positives: Iterable[int]) -> None:
        """Count targets, as (group, IoU with its match or 0 where missed), and the groups of false positives."""
        for group, iou in targets:
            if iou > 0:
                self.tp[group] += 1
                self.iou_units[group] += int(iou * _IOU_UNIT)
            else:
                self.fn[group] += 1
        for group in false_positives:
            self.fp[group] += 1

    def merge(self, other: Self) -> None:
        """Add what `other` counted, which has as many groups."""
        for mine, theirs in zip(self._lists(), other._lists(), strict=True):
            mine[:] = [a + b for a, b in zip(mine, theirs, strict=True)]

    def counts(self, group: int) -> dict[str, float]:
        """`tp`, `fp`, `fn`, and `iou_sum` over the true positives."""
        return {
            "tp": self.tp[group],
            "fp": self.fp[group],
            "fn": self.fn[group],
            "iou_sum": self.iou_units[group] / _IOU_UNIT,
        }

    def quality(self, group: int) -> dict[str, float | None]:
        """PQ = SQ x RQ in [0, 1] (Kirillov et al., CVPR 2019, eq. 1); None where the group is empty."""
        tp, fp, fn = self.tp[group], self.fp[group], self.fn[group]
        if tp + fp + fn == 0:
            return {"pq": None, "sq": None, "rq": None}
        iou_sum, denominator = self.iou_units[group] / _IOU_UNIT, tp + fp / 2 + fn / 2
        return {"pq": iou_sum / denominator, "sq": iou_sum / tp if tp else 0.0, "rq": tp / denominator}

    def state_dict(self) -> dict[str, list[int]]:
        """Everything as plain JSON values. Integers may pass 2**53."""
        return dict(zip(("tp", "fp", "fn", "iou_units"), map(list, self._lists()), strict=True))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` described, of as many groups.

        Raises:
            InputError: it is something else.
        """
        for mine, key in zip(self._lists(), ("tp", "fp", "fn", "iou_units"), strict=True):
            values = state.get(key)
            if not isinstance(values, list) or len(values) != len(mine) or not all(type(v) is int for v in values):
                raise InputError(f"{key} is not a list of {len(mine)} integers")
            mine[:] = values

    def _lists(self) -> tuple[list[int], list[int], list[int], list[int]]:
        return self.tp, self.fp, self.fn, self.iou_units
