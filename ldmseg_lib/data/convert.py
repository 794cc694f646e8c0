"""Make a COCO panoptic folder of what you have: `python -m ldmseg_lib.data.convert FORMAT ... TARGET`.

    ... coco instances_train.json IMAGES TARGET --split train    COCO instances: polygons or RLE
    ... voc VOCdevkit/VOC2012 TARGET                             Pascal VOC, or a folder of id PNGs like its own
    ... masks stage1_train TARGET --class-name nucleus           one mask per instance (2018 Data Science Bowl)

The result is checked at once by `check_dataset`. Exit code 2 for faulty input, with the file, image and annotation.
"""

import argparse
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..core.errors import DatasetError, InputError
from .annotations import Unlabelled
from .check import check_dataset
from .folder_writer import LabelledImage, Written, removed_on_failure, write_splits
from .instance_sources import VOC_CLASSES, Source, coco_instances, in_validation, mask_folders, voc


def convert(
    source: Source,
    target: str | os.PathLike,
    split: str,
    *,
    unlabelled: Unlabelled,
    val_share: float = 0.0,
    skip_faulty: bool = False,
    info: Mapping[str, Any] | None = None,
    workers: int = 1,
    progress: bool = True,
) -> dict[str, Written]:
    """Write what one of `instance_sources` found as a data folder, and check it.

    Args:
        source: images and categories.
        target: the data folder; it may hold other splits.
        split: of the images.
        unlabelled: what a pixel without segment means: "void" (unknown) or "background" (nothing of these classes).
        val_share: share of the images that go to the split "val" instead, chosen by their names.
        skip_faulty: leave faulty images and objects out; the pixels of such an object are unlabelled.
        info: further entries of the JSON's `info`.
        workers: threads.
        progress: show progress bars.

    Returns:
        What was written, by split.

    Raises:
        DatasetError: faulty input, a split that is there already, or (which would be our fault) a faulty result;
            nothing is left in `target` then.
    """
    images = source.images
    if not 0 <= val_share < 1:
        raise DatasetError(f"the validation share is {val_share}; it must lie in 0..1, below 1")
    parts: dict[str, list[LabelledImage]] = {split: images}
    if val_share:
        chosen = [in_validation(image.name, val_share) for image in images]
        parts = {
            split: [i for i, val in zip(images, chosen) if not val],
            "val": [i for i, val in zip(images, chosen) if val],
        }
        for name, part in parts.items():
            if not part or len(parts) < 2:
                source.findings.require_none()
                raise DatasetError(
                    f"{len(images)} images with a validation share of {val_share} leave split {name!r} empty"
                )
    with removed_on_failure() as files:
        written = write_splits(
            target,
            parts,
            source.categories,
            unlabelled=unlabelled,
            files=files,
            listed=source.findings,
            skip_faulty=skip_faulty,
            info=info,
            workers=workers,
            progress=progress,
        )
        for name in parts:
            _require_sound(target, name, workers=workers, progress=progress)
    return written


def _require_sound(target: str | os.PathLike, split: str, *, workers: int, progress: bool) -> None:
    problems = check_dataset(target, split, workers=workers, progress=progress)
    errors = [problem for problem in problems if problem.level == "error"]
    if errors:
        raise DatasetError(f"{errors[0]} ({len(errors)} faults; `python -m ldmseg_lib.data.check {target}` lists them)")
    for warning in problems[:5]:
        print(f"warning: {warning}", file=sys.stderr)
    if len(problems) > 5:
        print(f"... and {len(problems) - 5} more warnings; `python -m ldmseg_lib.data.check {target}`", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ldmseg_lib.data.convert",
        description="Make a COCO panoptic folder of COCO instances, Pascal VOC, or one mask per instance.",
    )
    formats = parser.add_subparsers(dest="format", required=True, metavar="FORMAT")

    def add(name: str, text: str, *, unlabelled: str) -> argparse.ArgumentParser:
        one = formats.add_parser(name, help=text, description=text)
        one.add_argument(
            "--unlabelled",
            choices=("void", "background"),
            default=unlabelled,
            help="what pixels without segment mean: unknown, or fully annotated background (default %(default)s)",
        )
        return one

    coco = add("coco", "COCO instance JSON: polygons or RLE", unlabelled="void")
    coco.add_argument("annotations", type=Path, help="such as instances_train2017.json")
    coco.add_argument("images", type=Path, help="folder of its photographs")
    coco.add_argument("--stuff", nargs="+", default=[], metavar="NAME", help="categories that are stuff, not things")
    coco.add_argument("--crowds-are-segments", action="store_true", help="take iscrowd 1 for ordinary segments")
    pascal = add("voc", "Pascal VOC's layout, or id PNGs like its own", unlabelled="background")
    pascal.add_argument("root", type=Path, help="holds JPEGImages, SegmentationObject, SegmentationClass")
    pascal.add_argument("--images", default="JPEGImages", help="folder of the photographs in it (default %(default)s)")
    pascal.add_argument("--objects", default="SegmentationObject", help="folder of the id PNGs (default %(default)s)")
    pascal.add_argument(
        "--classes", default="SegmentationClass", help="folder of the class PNGs; '' for a single class"
    )
    pascal.add_argument("--class-names", nargs="+", default=list(VOC_CLASSES), help="of classes 1, 2, ... (VOC's 20)")
    masks = add("masks", "a folder per image with images/ and masks/: one mask per instance", unlabelled="background")
    masks.add_argument("root", type=Path, help="holds one folder per image")
    masks.add_argument("--class-name", default="object", help="of the instances (default %(default)s)")
    for one in (coco, pascal, masks):
        one.add_argument("target", type=Path, help="the new data folder; it may hold other splits")
        one.add_argument("--split", default="train", help="name of the split (default %(default)s)")
        one.add_argument("--val-share", type=float, default=0.0, help="share of the images for a split val, by name")
        one.add_argument("--skip-faulty", action="store_true", help="leave faulty images and objects out; count them")
        one.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="threads (default: the cores)")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    options = _parser().parse_args(arguments)
    # in VOC's PNGs 255 is unknown and 0 is not, so a background there is a segment of its own
    unlabelled: Unlabelled = "void" if options.format == "voc" else options.unlabelled
    try:
        written = convert(
            _source(options),
            options.target,
            options.split,
            unlabelled=unlabelled,
            val_share=options.val_share,
            skip_faulty=options.skip_faulty,
            info={"description": f"converted from {options.format}"},
            workers=options.workers,
        )
    except (InputError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; nothing was left of this; run the same command again", file=sys.stderr)
        return 130
    print("\n".join(_summary(options.target, written.items())))
    return 0


def _source(options: argparse.Namespace) -> Source:
    if options.format == "coco":
        return coco_instances(
            options.annotations,
            options.images,
            stuff=options.stuff,
            crowds_are_segments=options.crowds_are_segments,
        )
    if options.format == "masks":
        return mask_folders(options.root, class_name=options.class_name)
    return voc(
        options.root,
        options.split,
        images=options.images,
        objects=options.objects,
        classes=options.classes or None,
        class_names=options.class_names if options.classes else options.class_names[:1],
        background=options.unlabelled == "background",
    )


def _summary(target: Path, written: Iterable[tuple[str, Written]]) -> Iterable[str]:
    for split, counts in written:
        hidden = f"; {counts.covered} more are covered by others entirely" if counts.covered else ""
        yield f"{target} ({split}): {counts.images} images, {counts.segments} segments, checked{hidden}"
        if counts.findings.faults:
            yield f"  left out as faulty: {counts.findings.by_reason}"
        for remark, count in counts.findings.remarks.items():
            yield f"  warning: {count} {remark}"


if __name__ == "__main__":
    sys.exit(main())
