"""Result records as tables read them, and the check that their weights come from the run itself."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from ..core.errors import InputError

Records = Mapping[str, Mapping[str, Any]]  # stage name to result record, as `StageRun.finish` writes it

TRAINED_HERE = "trained by this notebook"
RANDOM = "random weights"
PRETRAINED = "the pretrained model of the embedded scenes"  # only in a run folder that uses it
# the fourth is what older records call the pretrained model
_KNOWN = (TRAINED_HERE, RANDOM, PRETRAINED, "the ready model of the embedded scenes", "none: ", "notebook ")
_EARLIER = re.compile(r"notebook (\d\d) of this run")


def percent(fraction: float | None) -> float | None:
    """A fraction as percent; None stays None."""
    return None if fraction is None else 100.0 * fraction


def quality_columns(
    scores: Mapping[str, Any], keys: Iterable[str] = ("pq", "sq", "rq"), *, things_and_stuff: bool = False
) -> dict[str, float | None]:
    """Table columns, in percent, of {"class_agnostic", "panoptic", "miou"} as `SegmentationScores.compute` returns."""
    keys, panoptic = tuple(keys), scores["panoptic"]
    return {
        **{f"class-agn. {key.upper()}": percent(scores["class_agnostic"]["All"][key]) for key in keys},
        "mIoU": percent(scores["miou"]),
        **{key.upper(): percent(panoptic["All"][key]) for key in keys},
        **{f"PQ {name.lower()}": percent(panoptic[name]["pq"]) for name in ("Things", "Stuff") if things_and_stuff},
    }


def check_weights(results: Records, stages: Iterable[str]) -> None:
    """Raise InputError unless the weights behind the results of `stages` were made by the run that `results` are of.

    A record's "weights" says who trained them: the notebook itself, or "notebook NN of this run", whose own record must
    then be there, be the very one that was used (by its key), and stand this check too. Weights from elsewhere, such as
    a test's tiny checkpoint, make no table.
    """
    for name in stages:
        record = results[name]
        source = record.get("weights")
        if not source or not str(source).startswith(_KNOWN):
            raise InputError(
                f"the result of {name} has weights of unknown origin ({source!r}); run notebooks/{name}.ipynb again"
            )
        for number in _EARLIER.findall(source):
            earlier = next((other for other in results if other.startswith(number)), None)
            if earlier is None:
                raise InputError(f"{name} used weights of notebook {number}, whose result is not there; run it first")
            if record.get("inputs", {}).get(earlier) != results[earlier].get("key"):
                raise InputError(
                    f"{name} used weights of another {earlier} than this run's; run notebooks/{name}.ipynb again"
                )
            check_weights(results, [earlier])
