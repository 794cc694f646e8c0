"""Ground truth and predictions in COCO's panoptic format: one JSON and a folder of id PNGs each."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..core.errors import InputError
from ..core.files import read_json
from ..data.layout import file_in
from ..data.values import as_flag, other_spelling

Unlabelled = Literal["void", "background"]
PREDICTED = "predicted"
"""The subset of images that the predictions list."""


@dataclass(frozen=True)
class PanopticFile:
    """A panoptic JSON, its folder of PNGs, and its entries as they stand: those of one image by its id, unchecked."""

    path: Path
    folder: Path
    entries: dict[Any, list[dict[str, Any]]]
    categories: list[dict[str, Any]] = field(default_factory=list)
    sizes: dict[Any, tuple[int, int]] = field(default_factory=dict)
    unlabelled: Unlabelled = "void"


@dataclass(frozen=True)
class ImagePair:
    """What evaluating one image needs; a fault found while pairing stands in `fault`."""

    image_id: Any
    target: dict[str, Any]
    prediction: dict[str, Any]
    size: tuple[int, int] | None
    fault: str = ""


def read_ground_truth(path: Path, folder: Path | None = None) -> PanopticFile:
    """Read a ground-truth JSON. `folder` defaults to the JSON's path without ".json", as COCO has it, or to the folder
    `panoptic` beside it.

    Raises:
        InputError: the file, its categories or the folder are missing or of another form.
    """
    document = _document(path)
    categories = _list_of_dicts(document, "categories", path)
    for category in categories:
        if not {"id", "name", "isthing"} <= category.keys():
            raise InputError(f"{path}: category {category!r} lacks id, name or isthing")
        flag = as_flag(category["isthing"])
        if flag is None:
            raise InputError(f"{path}: category {category!r}: isthing must be 0 or 1")
        category["isthing"] = flag
    sizes = {}
    for image in _list_of_dicts(document, "images", path) if "images" in document else []:
        height, width = image.get("height"), image.get("width")
        if isinstance(height, int) and isinstance(width, int):
            sizes[_hashable(image.get("id"), "images", path)] = (height, width)
    info = document.get("info")
    unlabelled: Any = info.get("unlabelled", "void") if isinstance(info, dict) else "void"
    if unlabelled not in ("void", "background"):
        raise InputError(f'{path}: info.unlabelled is {unlabelled!r}; write "void" or "background"')
    folder = folder or _folder_of(path, "--gt-folder")
    return PanopticFile(path, _existing(folder, "--gt-folder"), _entries(document, path), categories, sizes, unlabelled)


def read_predictions(path: Path, folder: Path | None = None) -> PanopticFile:
    """Read a prediction JSON; of it only `annotations` is used. `folder` defaults as for the ground truth.

    Raises:
        InputError: the file or the folder is missing or of another form.
    """
    document = _document(path)
    folder = folder or _folder_of(path, "--pred-folder")
    return PanopticFile(path, _existing(folder, "--pred-folder"), _entries(document, path))


def choose_images(truth: PanopticFile, predictions: PanopticFile, subset: str | None) -> list[Any]:
    """The image ids to evaluate, in the order of the ground truth.

    Args:
        subset: None for all; `predicted`; or the path of a text file with one image a line, by id or file name (with or
            without suffix).

    Raises:
        InputError: the subset's file is missing or names an image that the ground truth lacks, or nothing is left.
    """
    if subset is None:
        chosen = list(truth.entries)
    elif subset == PREDICTED:
        chosen = [image_id for image_id in truth.entries if image_id in predictions.entries]
    else:
        chosen = _listed_images(truth, Path(subset))
    if not chosen:
        what = f"of the subset {subset!r}" if subset else f"in {truth.path}"
        raise InputError(f"there is no image to evaluate {what}")
    return chosen


def pair_images(truth: PanopticFile, predictions: PanopticFile, image_ids: Sequence[Any]) -> list[ImagePair]:
    """Ground truth and prediction of each image; what is wrong with an entry becomes its pair's fault."""
    missing = [image_id for image_id in image_ids if image_id not in predictions.entries]
    pairs = []
    for image_id in image_ids:
        size = truth.sizes.get(image_id)
        try:
            target = _checked_entry(truth, image_id)
            if image_id not in predictions.entries:
                more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
                other = other_spelling(image_id)
                advice = "name a subset with --subset to evaluate fewer images"
                if other in predictions.entries:
                    advice = f"it has {other!r} where the ground truth has {image_id!r}: write both as number or text"
                raise InputError(
                    f"{predictions.path}: no prediction for image id {image_id} ({target['file_name']}){more}; {advice}"
                )
            pairs.append(ImagePair(image_id, target, _checked_entry(predictions, image_id), size))
        except InputError as error:
            pairs.append(ImagePair(image_id, {}, {}, size, str(error)))
    return pairs


def _document(path: Path) -> Mapping[str, Any]:
    document = read_json(path)
    if not isinstance(document, dict):
        raise InputError(f"{path}: a {type(document).__name__} where a JSON object with `annotations` should be")
    return document


def _list_of_dicts(document: Mapping[str, Any], key: str, path: Path) -> list[dict[str, Any]]:
    values = document.get(key)
    if not isinstance(values, list):
        raise InputError(f"{path}: no list `{key}`; this is not COCO's panoptic format")
    for position, value in enumerate(values):
        if not isinstance(value, dict):
            raise InputError(f"{path}: {key}[{position}] is a {type(value).__name__}, not an object")
    return values


def _entries(document: Mapping[str, Any], path: Path) -> dict[Any, list[dict[str, Any]]]:
    entries: dict[Any, list[dict[str, Any]]] = {}
    for position, entry in enumerate(_list_of_dicts(document, "annotations", path)):
        entries.setdefault(_hashable(entry.get("image_id"), f"annotations[{position}]", path), []).append(entry)
    return entries


def _hashable(image_id: Any, where: str, path: Path) -> int | str:
    if not isinstance(image_id, (int, str)):
        raise InputError(f"{path}: {where} has image id {image_id!r}; it must be a number or a text")
    return image_id


def _checked_entry(file: PanopticFile, image_id: Any) -> dict[str, Any]:
    entries = file.entries[image_id]
    where = f"{file.path}, image id {image_id}"
    if len(entries) > 1:
        raise InputError(f"{where}: {len(entries)} annotations; give each image one")
    entry = entries[0]
    name = entry.get("file_name")
    if not isinstance(name, str) or not name or "\0" in name:
        raise InputError(f"{where}: file_name is {name!r}; give the name of its PNG")
    segments = entry.get("segments_info")
    if not isinstance(segments, list) or not all(isinstance(segment, dict) for segment in segments):
        raise InputError(f"{where}: segments_info is no list of objects")
    try:
        file_in(file.folder, name)
    except (InputError, ValueError, OSError) as error:
        raise InputError(f"{where}: {error}") from None
    return {"file_name": name, "segments_info": segments}


def _folder_of(path: Path, option: str) -> Path:
    candidates = (path.with_suffix(""), path.parent / "panoptic")
    found = [folder for folder in candidates if folder.is_dir()]
    if not found:
        raise InputError(f"{path}: no folder {candidates[0].name} or panoptic beside it; name its PNGs with {option}")
    return found[0]


def _existing(folder: Path, option: str) -> Path:
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; {option} names the folder of PNGs")
    return folder


def _listed_images(truth: PanopticFile, path: Path) -> list[Any]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise InputError(
            f"--subset {path}: {reason}; give `{PREDICTED}` or a text file with one image a line"
        ) from None
    by_name = {name: image_id for image_id, entries in truth.entries.items() for name in _names(image_id, entries)}
    wanted = set()
    for number, line in enumerate(lines, 1):
        if not (name := line.strip()):
            continue
        image_id = by_name.get(name, by_name.get(_stem(name)))
        if image_id is None:
            raise InputError(f"{path}, line {number}: {truth.path} has no image {name!r}")
        wanted.add(image_id)
    return [image_id for image_id in truth.entries if image_id in wanted]


def _names(image_id: Any, entries: list[dict[str, Any]]) -> Iterator[str]:
    yield str(image_id)
    for entry in entries:
        if isinstance(entry.get("file_name"), str):
            yield entry["file_name"]
            yield _stem(entry["file_name"])


def _stem(name: str) -> str:
    return re.sub(r"\.(png|jpe?g)$", "", name, flags=re.IGNORECASE)
