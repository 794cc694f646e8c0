"""Average precision of instances, by COCO's own evaluator (pycocotools' COCOeval) on masks."""

import contextlib
import io
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Int
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ..core.errors import InputError
from .matching import Segments, match_segments
from .streaming import StreamingMetric


class InstanceAP(StreamingMetric):
    """AP50, AP75 and AP over IoU 0.50:0.95 of segments, averaged over classes.

    AP ranks predictions by a score. A panoptic map has none of its own: give each predicted segment a `score` (such as
    its mean softmax value); without one all rank alike, in the order in which they are listed, and AP is then a lower
    bound. COCO's AP knows no void: a prediction on unlabelled pixels is an error, other than in PQ. Crowd targets
    forgive, as in COCO.

    Args:
        categories: COCO categories; only things are evaluated.
        class_agnostic: evaluate all segments, things and stuff, as one class.
        max_detections: the best so many predictions of an image count; None counts all (COCO's tables use 100).

    Example:
        >>> import numpy as np
        >>> from ldmseg_lib.evaluation import InstanceAP
        >>> metric = InstanceAP([{"id": 1, "name": "ball", "isthing": 1}])
        >>> target = np.repeat([[1, 1, 1, 1, 0, 0, 0, 0]], 8, axis=0)
        >>> predicted = np.repeat([[2, 2, 2, 0, 0, 0, 0, 0]], 8, axis=0)  # IoU 0.75
        >>> segment = {"id": 2, "category_id": 1, "score": 0.9}
        >>> metric.update(target, [{"id": 1, "category_id": 1}], predicted, [segment])
        >>> result = metric.compute()
        >>> round(result["ap50"], 3), round(result["ap"], 3)
        (1.0, 0.6)
    """

    sums = ("_sizes", "_targets", "_predictions")

    def __init__(
        self,
        categories: Iterable[Mapping[str, Any]],
        class_agnostic: bool = False,
        *,
        max_detections: int | None = None,
    ) -> None:
        self.class_agnostic = class_agnostic
        self.max_detections = max_detections
        self.categories = [dict(category) for category in categories]
        self._evaluated = {1} if class_agnostic else {c["id"] for c in self.categories if c["isthing"]}
        self._sizes: list[tuple[int, int]] = []
        self._targets: list[list[dict[str, Any]]] = []
        self._predictions: list[list[dict[str, Any]]] = []

    def update(
        self,
        target_ids: Int[np.ndarray, "height width"],
        target_segments: Segments,
        predicted_ids: Int[np.ndarray, "height width"],
        predicted_segments: Segments,
    ) -> None:
        """Add one image; predicted segments may have a `score`.

        Raises:
            InputError: maps and lists disagree (see `match_segments`), or a score is not finite; nothing is added then.
        """
        # for its checks of maps against lists
        class_of = None if self.class_agnostic else {c["id"]: k for k, c in enumerate(self.categories)}
        match_segments(target_ids, target_segments, predicted_ids, predicted_segments, class_of=class_of)
        targets = self._annotations(target_ids, target_segments)
        predictions = self._annotations(predicted_ids, predicted_segments)
        for annotation in predictions:
            if not np.isfinite(annotation["score"]):
                raise InputError(f"predicted segment {annotation['segment_id']} has score {annotation['score']}")
        self._sizes.append((target_ids.shape[0], target_ids.shape[1]))
        self._targets.append(targets)
        self._predictions.append(predictions)

    def compute(self) -> dict[str, Any]:
        """`ap50`, `ap75` and `ap` in [0, 1] with `n` evaluated classes, and `per_class`: {category id: AP50}.

        Values are None where no class has a target.
        """
        truth, found = COCO(), COCO()
        classes = [{"id": k} for k in sorted(self._evaluated)]
        images = [{"id": i, "height": height, "width": width} for i, (height, width) in enumerate(self._sizes)]
        most = max([1, *map(len, self._predictions)])
        # pycocotools reports its progress by printing
        with contextlib.redirect_stdout(io.StringIO()):
            for coco, listed in ((truth, self._targets), (found, self._predictions)):
                annotations = [{"image_id": i, **a} for i, image in enumerate(listed) for a in image]
                # pycocotools takes id 0 for "not matched"
                numbered = [{"id": number, **annotation} for number, annotation in enumerate(annotations, 1)]
                coco.dataset = {"images": images, "annotations": numbered, "categories": classes}
                coco.createIndex()
            evaluation = COCOeval(truth, found, "segm")
            evaluation.params.maxDets = [self.max_detections or most]
            evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
            evaluation.evaluate()
            evaluation.accumulate()
        # thresholds x recalls x classes x areas x limits of detections
        precision = evaluation.eval["precision"][:, :, :, 0, 0]
        occurs = precision[0, 0] > -1
        average = precision.mean(1)
        thresholds = evaluation.params.iouThrs
        return {
            "ap50": _mean(average[np.isclose(thresholds, 0.5)][:, occurs]),
            "ap75": _mean(average[np.isclose(thresholds, 0.75)][:, occurs]),
            "ap": _mean(average[:, occurs]),
            "n": int(occurs.sum()),
            "per_class": {c["id"]: float(average[0, k]) if occurs[k] else None for k, c in enumerate(classes)},
        }

    def _annotations(self, ids: np.ndarray, segments: Segments) -> list[dict[str, Any]]:
        annotations = []
        for segment in segments:
            category = 1 if self.class_agnostic else segment["category_id"]
            if category not in self._evaluated:
                continue
            encoded = rle.encode(np.asfortranarray(ids == segment["id"], np.uint8))
            annotations.append(
                {
                    "segment_id": int(segment["id"]),
                    "category_id": category,
                    "segmentation": encoded,
                    "area": float(rle.area(encoded)),
                    "bbox": rle.toBbox(encoded).tolist(),
                    "iscrowd": int(segment.get("iscrowd", 0)),
                    "score": float(segment.get("score", 1.0)),
                }
            )
        return annotations


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if values.size else None
