"""A COCO panoptic JSON as compact arrays, with every fault in it found."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Int, Shaped

from ..core.errors import DatasetError, InputError
from ..core.files import inside, read_json
from .layout import SplitFiles, is_plain
from .pixels import ID_LIMIT
from .problems import Problem
from .values import as_flag, is_id, is_image_id, other_spelling

Unlabelled = Literal["void", "background"]
ImageId = int | str
_COUNT_LIMIT = 1 << 62
_Image = tuple[str, tuple[int, int]]
_NO_CLAIMS = (-1, -1, -1, -1, -1)


@dataclass(frozen=True)
class Annotations:
    """The images of a split and their segments; image i owns the segments `offsets[i]` to `offsets[i + 1]`.

    Arrays rather than dicts, because loader workers share them with their parent: 118,000 images have 1.3 million
    segments. Areas and boxes are what the JSON claims (-1 where it says nothing, or no whole number of pixels); nothing
    but the check reads them. Image ids are numbers or texts.
    """

    categories: list[dict[str, Any]]
    unlabelled: Unlabelled | None
    depth_scale: float | None
    image_ids: Shaped[np.ndarray, " images"]
    sizes: Int[np.ndarray, "images 2"]
    image_files: np.ndarray
    segment_files: np.ndarray
    offsets: Int[np.ndarray, " bounds"]
    segment_ids: Int[np.ndarray, " segments"]
    category_ids: Int[np.ndarray, " segments"]
    crowd: Bool[np.ndarray, " segments"]
    areas: Int[np.ndarray, " segments"]
    boxes: Int[np.ndarray, "segments 4"]

    def __len__(self) -> int:
        return len(self.image_ids)

    def image_id(self, index: int) -> ImageId:
        """The id of image `index`, as Python's own int or str."""
        return self.image_ids[index : index + 1].tolist()[0]

    def segments(self, index: int) -> slice:
        """The places of image `index`'s segments in the arrays of segments."""
        return slice(int(self.offsets[index]), int(self.offsets[index + 1]))


def load_annotations(files: SplitFiles) -> Annotations:
    """The annotations of a split.

    Raises:
        DatasetError: the file is missing, not JSON, or has a fault; the message names the first fault, with image and
            segment, and says how many there are.
    """
    try:
        document = read_json(files.annotations)
    except InputError as error:
        raise DatasetError(str(error)) from None
    annotations, problems = parse_annotations(document, files)
    errors = [problem for problem in problems if problem.level == "error"]
    if errors:
        more = f" (and {len(errors) - 1} more; `python -m ldmseg_lib.data.check` lists them)" if len(errors) > 1 else ""
        raise DatasetError(f"{errors[0]}{more}")
    return annotations


def parse_annotations(document: Any, files: SplitFiles) -> tuple[Annotations, list[Problem]]:
    """What is usable in a COCO panoptic document, in the order of its images, and every fault in it."""
    parser = _Parser(files)
    return parser.parse(document), parser.problems


class _Parser:
    def __init__(self, files: SplitFiles) -> None:
        self.files = files
        self.problems: list[Problem] = []
        self.unread: list[tuple[ImageId, int]] = []  # image and segment whose area or box is no number of pixels

    def fault(self, message: str, image_id: ImageId | None = None, segment_id: int | None = None) -> None:
        self.problems.append(Problem(os.fspath(self.files.annotations), message, image_id, segment_id))

    def parse(self, document: Any) -> Annotations:
        if not isinstance(document, dict):
            self.fault("not a COCO panoptic file: the JSON value must be an object")
            document = {}
        info = document.get("info", {})
        if not isinstance(info, dict):
            self.fault('"info" must be an object')
            info = {}
        categories = self.categories(self.list_of(document, "categories"))
        images = self.images(self.list_of(document, "images"))
        annotated = self.annotations(self.list_of(document, "annotations"), images, {c["id"] for c in categories})
        if not images and not self.problems:
            self.fault("no images")
        if self.unread:
            self.problems.append(
                Problem(
                    os.fspath(self.files.annotations),
                    f"area or bbox is no whole number of pixels, here and at {len(self.unread) - 1} more segments;"
                    " nothing reads them",
                    *self.unread[0],
                    level="warning",
                )
            )
        rows: list[tuple[ImageId, str, tuple[int, int], str, list[tuple[int, ...]]]] = []
        for image_id, image in images.items():
            annotation = annotated.get(image_id)
            if image_id not in annotated:
                self.fault("the image has no annotation; give it one, its segments_info empty if need be", image_id)
            if image is not None and annotation is not None:
                rows.append((image_id, *image, *annotation))
        ids, names, sizes, segment_files, segments = zip(*rows, strict=True) if rows else ((), (), (), (), ())
        table = np.array([segment for found in segments for segment in found], dtype=np.int64).reshape(-1, 8)
        return Annotations(
            categories=categories,
            unlabelled=self.unlabelled(info),
            depth_scale=self.depth_scale(info),
            image_ids=_id_array(ids),
            sizes=np.array(sizes, dtype=np.int64).reshape(-1, 2),
            image_files=np.array(names, dtype=np.str_),
            segment_files=np.array(segment_files, dtype=np.str_),
            offsets=np.cumsum([0, *map(len, segments)], dtype=np.int64),
            segment_ids=table[:, 0].astype(np.int32),
            category_ids=table[:, 1].copy(),
            crowd=table[:, 2] != 0,
            areas=table[:, 3].copy(),
            boxes=table[:, 4:].copy(),
        )

    def list_of(self, document: dict, key: str) -> Iterator[Any]:
        values = document.get(key)
        if not isinstance(values, list):
            self.fault(f'not a COCO panoptic file: "{key}" must be a list of objects')
            return
        for place, value in enumerate(values):
            if isinstance(value, dict):
                yield value
            else:
                self.fault(f"{key}[{place}] must be an object")

    def unlabelled(self, info: dict) -> Unlabelled | None:
        value = info.get("unlabelled")
        if value not in (None, "void", "background"):
            self.fault(f'info.unlabelled is {value!r}; write "void" or "background"')
            return None
        return value

    def depth_scale(self, info: dict) -> float | None:
        value = info.get("depth_scale")
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            self.fault(f"info.depth_scale is {value!r}; write a positive number")
            return None
        return float(value)

    def categories(self, values: Iterator[Any]) -> list[dict[str, Any]]:
        found: dict[int, dict[str, Any]] = {}
        missing: list[str] = []
        for value in values:
            category_id, name = value.get("id"), value.get("name")
            if not is_id(category_id) or not isinstance(name, str):
                self.fault(f"category {category_id!r} needs an integer id and a name")
            elif category_id in found:
                self.fault(f"category id {category_id} stands there twice")
            else:
                isthing = as_flag(value.get("isthing"))
                if value.get("isthing") is None:
                    missing.append(f"{category_id} ({name})")
                elif isthing is None:
                    self.fault(f"category id {category_id} ({name}): isthing must be 0 or 1")
                # the segments of a faulty category are not to blame
                found[category_id] = value | {"isthing": 1 if isthing is None else isthing}
        if missing:
            more = f" and {len(missing) - 1} more categories" if len(missing) > 1 else ""
            self.fault(f"category id {missing[0]}{more}: isthing must be 0 or 1, and is missing")
        if not found and not self.problems:
            self.fault("no categories")
        return list(found.values())

    def images(self, values: Iterator[Any]) -> dict[ImageId, _Image | None]:
        """The images by id; None stands for a faulty one, so that its annotation is not reported as stray."""
        found: dict[ImageId, _Image | None] = {}
        names: dict[str, ImageId] = {}
        for value in values:
            image_id, name = value.get("id"), value.get("file_name")
            size = (value.get("height"), value.get("width"))
            if not is_image_id(image_id):
                self.fault(f"image {name!r}: id {image_id!r} must be an integer of at least 0, or a text")
                continue
            if image_id in found:
                self.fault("two images have this id", image_id)
                continue
            found[image_id] = None
            if not all(is_id(side) and 0 < side < ID_LIMIT for side in size):
                self.fault(f"height and width must be positive integers, not {size[0]!r} and {size[1]!r}", image_id)
            elif self.good_name(name, self.files.images, image_id):
                if name in names:
                    self.fault(f"{name} is also the file of image id {names[name]}", image_id)
                names[name] = image_id
                found[image_id] = (name, size)
        return found

    def good_name(self, name: Any, folder: Path, image_id: ImageId) -> bool:
        if not isinstance(name, str) or not 0 < len(name) < 1024 or "\0" in name:
            self.fault(f"file_name {name!r} must be the name of a file", image_id)
            return False
        try:
            # links are checked when the file is read: to look at every file first takes minutes on a network disk
            if not is_plain(name):
                inside(folder, name)
        except InputError as error:
            self.fault(str(error), image_id)
            return False
        return True

    def annotations(
        self, values: Iterator[Any], images: dict[ImageId, _Image | None], categories: set[int]
    ) -> dict[ImageId, tuple[str, list[tuple[int, ...]]] | None]:
        """PNG and segments by image id; None stands for a faulty one, so that its image is not said to lack one."""
        found: dict[ImageId, tuple[str, list[tuple[int, ...]]] | None] = {}
        names: dict[str, ImageId] = {}
        for value in values:
            image_id, name, segments = value.get("image_id"), value.get("file_name"), value.get("segments_info")
            if not is_image_id(image_id):
                self.fault(f"annotation {name!r}: image_id {image_id!r} must be an integer of at least 0, or a text")
                continue
            if image_id in found:
                self.fault("two annotations are of this image", image_id)
                continue
            found[image_id] = None
            if image_id not in images:
                other = other_spelling(image_id)
                hint = f"; it lists {other!r}, not {image_id!r}: write both as number or both as text"
                self.fault(
                    f"the annotation {name!r} is of an image that the file does not list{hint * (other in images)}",
                    image_id,
                )
            if not isinstance(segments, list):
                self.fault("segments_info must be a list", image_id)
                continue
            checked = self.segments(segments, image_id, categories)
            if self.good_name(name, self.files.panoptic, image_id):
                if name in names:
                    self.fault(f"{name} is also the PNG of image id {names[name]}", image_id)
                names[name] = image_id
                found[image_id] = (name, checked)
        return found

    def segments(self, values: list[Any], image_id: ImageId, categories: set[int]) -> list[tuple[int, ...]]:
        found: dict[int, tuple[int, ...]] = {}
        for value in values:
            if not isinstance(value, dict):
                self.fault(f"segment {value!r} must be an object", image_id)
                continue
            segment_id: Any = value.get("id")
            category_id, crowd = value.get("category_id"), as_flag(value.get("iscrowd"), 0)
            if not is_id(segment_id) or not 0 < segment_id < ID_LIMIT:
                self.fault(f"segment id {segment_id!r} must be an integer from 1 to {ID_LIMIT - 1}", image_id)
                continue
            if segment_id in found:
                self.fault("two segments of the image have this id", image_id, segment_id)
                continue
            if not is_id(category_id) or category_id not in categories:
                self.fault(f"category id {category_id!r} is not among the categories", image_id, segment_id)
                category_id = -1
            if crowd is None:
                self.fault(f"iscrowd is {value['iscrowd']!r}; write 0 or 1", image_id, segment_id)
                crowd = 0
            found[segment_id] = (segment_id, category_id, crowd, *self.claims(value, image_id, segment_id))
        return list(found.values())

    def claims(self, value: dict, image_id: ImageId, segment_id: int) -> tuple[int, ...]:
        """Area and box as the JSON has them; -1 where it has none, or has no whole number of pixels."""
        area, box = value.get("area", -1), value.get("bbox", [-1, -1, -1, -1])
        # the usual case at once: COCO has a million segments
        numbers = (area, *box) if isinstance(box, list) and len(box) == 4 else (None,)
        if {*map(type, numbers)} == {int} and min(numbers) >= -1 and max(numbers) < _COUNT_LIMIT:
            return numbers
        if len(numbers) == 5 and all(map(_is_count, numbers)):
            return tuple(int(number) for number in numbers)
        self.unread.append((image_id, segment_id))
        return _NO_CLAIMS


def _id_array(ids: Sequence[ImageId]) -> np.ndarray:
    """Numbers or texts in their own type; both among each other as objects, which NumPy would turn into texts."""
    kinds = {type(image_id) for image_id in ids}
    return np.array(ids, dtype=np.int64 if str not in kinds else np.str_ if kinds == {str} else object)


def _is_count(value: Any) -> bool:
    """Whole numbers also as 12.0, which some exporters write; -1 stands for none."""
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and value == value // 1
        and -1 <= value < _COUNT_LIMIT
    )
