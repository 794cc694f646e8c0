"""Mean intersection over union of class maps."""

from typing import Any

import numpy as np
from jaxtyping import Int

from ..core.errors import InputError
from .streaming import StreamingMetric


class SemanticIoU(StreamingMetric):
    """Streaming mIoU over a data set: one confusion matrix, which any number of processes can add up.

    Class indices are 0 .. num_classes. Target pixels of `ignore_index` are left out; a prediction of `ignore_index`
    elsewhere misses the target's class and counts against no other. The mean is over the classes that occur in the
    targets.

    The autoencoder's mIoU of Table S1 is the same with one class an id (`num_classes=num_ids - 1`, void 0 ignored). The
    released code also averages in the void channel, which always scores 0, so its ceiling is 255/256 at 8 bits; here
    a perfect reconstruction is 1.

    Args:
        num_classes: the largest class index.
        ignore_index: the index of void.

    Example:
        >>> import numpy as np
        >>> from ldmseg_lib.evaluation import SemanticIoU
        >>> metric = SemanticIoU(num_classes=2)
        >>> metric.update(np.array([1, 1, 2, 2, 0]), np.array([1, 1, 2, 1, 1]))
        >>> result = metric.compute()
        >>> round(result["miou"], 3), result["pixel_accuracy"]
        (0.583, 0.75)
    """

    settings = ("num_classes", "ignore_index")
    sums = ("confusion",)

    def __init__(self, num_classes: int, ignore_index: int = 0) -> None:
        if num_classes < 1:
            raise InputError(f"num_classes={num_classes}; give at least 1")
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.confusion: Int[np.ndarray, "classes+1 classes+1"] = np.zeros((num_classes + 1,) * 2, np.int64)

    def update(self, target: Int[np.ndarray, "*shape"], predicted: Int[np.ndarray, "*shape"]) -> None:
        """Add one class map, or a batch of any shape; `confusion[i, j]` counts pixels of class i predicted as j.

        Raises:
            InputError: shapes differ, or an index is not in 0 .. num_classes; nothing is added then.
        """
        target, predicted = np.asarray(target), np.asarray(predicted)
        if target.shape != predicted.shape:
            raise InputError(
                f"the target has shape {target.shape} and the prediction {predicted.shape}; give equal ones"
            )
        for array, what in ((target, "target"), (predicted, "prediction")):
            if array.dtype.kind not in "iu":
                raise InputError(f"the {what} is {array.dtype}; give class indices as integers")
            if array.size and (array.min() < 0 or array.max() > self.num_classes):
                raise InputError(
                    f"the {what} has class indices from {array.min()} to {array.max()}; "
                    f"they lie in 0 .. {self.num_classes}"
                )
        side = self.num_classes + 1
        keys = target.ravel().astype(np.intp)
        keys *= side
        keys += predicted.ravel()
        self.confusion += np.bincount(keys, minlength=side * side).reshape(side, side)

    def compute(self) -> dict[str, Any]:
        """`{"miou", "n", "pixel_accuracy", "per_class": {index: IoU}}`, in [0, 1].

        `n` classes occur in the targets; for the others the IoU is None, and with none at all the means are None too.
        """
        counted = np.delete(self.confusion, self.ignore_index, axis=0)
        occurrences = counted.sum(1)
        hits = np.delete(np.diagonal(self.confusion), self.ignore_index)
        predictions = np.delete(counted.sum(0), self.ignore_index)
        classes = np.delete(np.arange(self.num_classes + 1), self.ignore_index)
        union = occurrences + predictions - hits
        per_class = {
            int(k): float(hit / all_) if there else None
            for k, hit, all_, there in zip(classes, hits, union, occurrences, strict=True)
        }
        occurring = [iou for iou in per_class.values() if iou is not None]
        total = int(occurrences.sum())
        return {
            "miou": sum(occurring) / len(occurring) if occurring else None,
            "n": len(occurring),
            "pixel_accuracy": int(hits.sum()) / total if total else None,
            "per_class": per_class,
        }
