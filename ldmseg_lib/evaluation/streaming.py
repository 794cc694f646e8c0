"""What streaming metrics share: merging, states for other processes, and exact sums of matched and missed segments."""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
from jaxtyping import Float, Int

from ..core.errors import InputError

# an IoU over one half is a whole number of these
_IOU_UNIT = 1 << 53


class StreamingMetric:
    """A metric of a data set that is updated image by image; parts of the set can be counted apart and merged.

    Attributes:
        settings: the arguments that metrics must have in common to be merged, each an attribute too.
        sums: the attributes that are added up (numbers, lists or arrays).
    """

    settings: ClassVar[tuple[str, ...]] = ()
    sums: ClassVar[tuple[str, ...]] = ()

    def merge(self, other: Self) -> Self:
        """Add what `other` counted on other images; returns self.

        Raises:
            InputError: `other` has other settings.
        """
        if any(getattr(self, name) != getattr(other, name) for name in self.settings):
            names = ", ".join((*self.settings[:-2], " or ".join(self.settings[-2:])))
            raise InputError(f"these counts differ in {names}; merge counts of one evaluation")
        for name in self.sums:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        return self

    def state_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values, to be sent between processes or stored. Integers may exceed 2**53."""
        values = {name: getattr(self, name) for name in (*self.settings, *self.sums)}
        return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in values.items()}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> Self:
        """The metric described by `state_dict`.

        Raises:
            InputError: `state` is not the state of such a metric.
        """
        try:
            metric = cls(**{name: state[name] for name in cls.settings})
            for name in cls.sums:
                empty, value = getattr(metric, name), state[name]
                is_array = isinstance(empty, np.ndarray)
                setattr(metric, name, np.array(value, empty.dtype).reshape(empty.shape) if is_array else value)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise InputError(f"not a state of {cls.__name__} ({error})") from None
        return metric


class GroupedQuality(StreamingMetric):
    """PQ, SQ and RQ of groups of segments. Sums are exact: no order of images or processes changes a bit."""

    def __init__(self, num_groups: int) -> None:
        # rows: true positives, false positives, false negatives, summed IoU in units; Python's integers do not overflow
        self.totals = np.zeros((4, num_groups), object)

    def count(
        self,
        targets: Int[np.ndarray, " targets"],
        ious: Float[np.ndarray, " targets"],
        false_positives: Int[np.ndarray, " errors"],
    ) -> None:
        """Count the groups of targets, with the IoU of each one's match (0: missed), and those of false positives."""
        found = ious > 0
        for total, groups in zip(self.totals, (targets[found], false_positives, targets[~found]), strict=False):
            total += np.bincount(groups, minlength=len(total)).astype(object)
        np.add.at(self.totals[3], targets[found], (ious[found] * _IOU_UNIT).astype(np.int64).astype(object))

    def group_counts(self, group: int) -> dict[str, float]:
        """`tp`, `fp`, `fn`, and `iou_sum` over the true positives."""
        tp, fp, fn, units = self.totals[:, group].tolist()
        return {"tp": tp, "fp": fp, "fn": fn, "iou_sum": units / _IOU_UNIT}

    def group_quality(self, group: int) -> dict[str, float | None]:
        """PQ = SQ x RQ in [0, 1] (Kirillov et al., CVPR 2019, eq. 1); None where the group is empty."""
        tp, fp, fn, iou_sum = self.group_counts(group).values()
        denominator = tp + fp / 2 + fn / 2
        if denominator == 0:
            return {"pq": None, "sq": None, "rq": None}
        return {"pq": iou_sum / denominator, "sq": iou_sum / tp if tp else 0.0, "rq": tp / denominator}
