"""Panoptic quality of predictions in COCO's format, as COCO's own evaluator counts it.

    python -m ldmseg_lib.evaluation --ground-truth panoptic.json --predictions predictions.json --pred-folder DIR

prints PQ, SQ and RQ in percent and the number N of categories that occur. Exit code 0: every image was evaluated;
2: bad input, named in one line on stderr; the images before it are still reported, marked as partial.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ..core.errors import InputError

if TYPE_CHECKING:
    from .coco_panoptic import Evaluation

_HEADER = f"{'':<10}|{'PQ':>7}{'SQ':>7}{'RQ':>7}{'N':>6}"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, as for every other fault; argparse would print the usage too."""
        self.exit(2, f"error: {message} (see --help)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    options = _parser().parse_args(arguments)
    try:
        evaluation, notes = _evaluate(options)
        report = _report(evaluation, notes, options)
        try:
            _print(report, options)
        finally:
            if options.json:
                _write(options.json, report)
    except InputError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    return _fail(evaluation.fault) if evaluation.fault else 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m ldmseg_lib.evaluation",
        description="Panoptic quality of predictions in COCO's format, as COCO's own evaluator counts it.",
        allow_abbrev=False,
    )
    parser.add_argument("--ground-truth", type=Path, required=True, metavar="JSON", help="COCO panoptic annotations")
    parser.add_argument("--predictions", type=Path, required=True, metavar="JSON", help="predictions, same format")
    parser.add_argument(
        "--pred-folder", type=Path, metavar="DIR", help="PNGs of the predictions (default: beside JSON)"
    )
    parser.add_argument("--gt-folder", type=Path, metavar="DIR", help="PNGs of the ground truth (default: beside JSON)")
    parser.add_argument("--class-agnostic", action="store_true", help="treat all segments as one class")
    parser.add_argument(
        "--crowd",
        choices=("official", "corrected"),
        default="official",
        help="official: as COCO's evaluator, which remembers one crowd region a category; corrected: all of them",
    )
    parser.add_argument(
        "--unlabelled",
        choices=("void", "background"),
        help="what 0 means in the ground truth (default: its info.unlabelled, else void)",
    )
    parser.add_argument("--per-class", action="store_true", help="print every category too")
    parser.add_argument("--by-size", action="store_true", help="print PQ by segment area too")
    parser.add_argument(
        "--subset",
        metavar="NAMES",
        help="evaluate fewer images: a text file with one id or file name a line, or `predicted` for those predicted",
    )
    parser.add_argument("--workers", type=_positive, default=1, metavar="N", help="processes (default 1)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write all numbers to this file")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of processes; give 1 or more")
    return int(text)


def _evaluate(options: argparse.Namespace) -> tuple["Evaluation", list[str]]:
    """The counts, and what a reader of them must know."""
    # imported here so that --help and a mistyped option answer at once
    from .coco_files import choose_images, pair_images, read_ground_truth, read_predictions
    from .coco_panoptic import evaluate, make_rules

    if options.json and options.json.is_dir():
        raise InputError(f"--json {options.json}: is a folder; give the name of a file")
    truth = read_ground_truth(options.ground_truth, options.gt_folder)
    predictions = read_predictions(options.predictions, options.pred_folder)
    image_ids = choose_images(truth, predictions, options.subset)
    notes = []
    if surplus := len(predictions.entries.keys() - truth.entries.keys()):
        notes.append(f"{surplus:,} predictions are of images that the ground truth lacks; they are ignored")
    rules = make_rules(
        truth,
        predictions,
        class_agnostic=options.class_agnostic,
        crowd=options.crowd,
        unlabelled=options.unlabelled,
    )
    if rules.background_category is not None:
        of_predictions = "likewise in predictions" if rules.fill_predictions else "in predictions, which list it, void"
        notes.append(f"0 is background, one stuff segment, in the ground truth; {of_predictions}")
    elif all(category["isthing"] for category in truth.categories):
        notes.append("no stuff: unlabelled pixels are void, and predictions on them are forgiven, which flatters")
    return evaluate(pair_images(truth, predictions, image_ids), rules, workers=options.workers), notes


def _report(evaluation: "Evaluation", notes: list[str], options: argparse.Namespace) -> dict[str, Any]:
    return {
        "partial": bool(evaluation.fault),
        "fault": evaluation.fault or None,
        "images": evaluation.quality.images,
        "images_total": evaluation.images_total,
        "subset": options.subset,
        "class_agnostic": options.class_agnostic,
        "crowd": options.crowd,
        **evaluation.quality.compute(),
        "by_size": evaluation.by_size.compute(),
        "notes": notes,
    }


def _print(report: dict[str, Any], options: argparse.Namespace) -> None:
    try:
        _print_tables(report, options)
        sys.stdout.flush()
    except OSError as error:
        # a full disk, or a reader such as `head` that has gone; what is left in the buffer must not fail at exit
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        raise InputError(f"standard output: cannot be written ({error.strerror or error})") from None


def _print_tables(report: dict[str, Any], options: argparse.Namespace) -> None:
    of_all = f"{report['images']:,} of {report['images_total']:,} images"
    if report["partial"]:
        print(f"PARTIAL: {of_all}, up to the first fault; this is not the result of the whole set")
    elif options.subset:
        print(f"subset {options.subset}: {report['images']:,} images")
    print(_HEADER)
    print("-" * len(_HEADER))
    for group in ("All", "Things", "Stuff"):
        print(_row(f"{group:<10}|", report[group], f"{report[group]['n']:>6}"))
    for note in report["notes"]:
        print(f"note: {note}")
    if options.per_class:
        width = max(len(str(entry["name"])) for entry in report["per_class"].values())
        print(f"\n{'id':>6} {'category':<{width}}|{'PQ':>7}{'SQ':>7}{'RQ':>7}{'TP':>8}{'FP':>8}{'FN':>8}")
        for category_id, entry in report["per_class"].items():
            counts = "".join(f"{entry[key]:>8}" for key in ("tp", "fp", "fn"))
            print(_row(f"{category_id:>6} {entry['name']!s:<{width}}|", entry, counts))
    if options.by_size:
        print(f"\n{'area (px)':<16}|{'PQ':>7}{'SQ':>7}{'RQ':>7}{'recall':>8}{'TP':>8}{'FP':>8}{'FN':>8}")
        for entry in report["by_size"]:
            area = f"{entry['min_area']}-{entry['max_area']}" if entry["max_area"] else f"{entry['min_area']} or more"
            counts = "".join(f"{entry[key]:>8}" for key in ("tp", "fp", "fn"))
            print(_row(f"{area:<16}|", entry, f"{_percent(entry['recall']):>8}{counts}"))


def _row(head: str, values: dict[str, Any], tail: str) -> str:
    return head + "".join(f"{_percent(values[key]):>7}" for key in ("pq", "sq", "rq")) + tail


def _percent(value: float | None) -> str:
    return "none" if value is None else f"{100 * value:.1f}"


def _write(path: Path, report: dict[str, Any]) -> None:
    from ..core.files import write_json

    try:
        write_json(path, report)
    except OSError as error:
        raise InputError(f"--json {path}: cannot be written ({error.strerror or error})") from None


def _fail(message: str, code: int = 2) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
