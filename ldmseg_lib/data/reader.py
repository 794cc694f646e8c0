"""The images of a split, decoded and checked against their annotations."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int, Shaped, UInt, UInt8, UInt16

from ..core.errors import DatasetError, InputError
from .annotations import Annotations, Unlabelled
from .layout import SplitFiles, file_in
from .pixels import ID_LIMIT, UNKNOWN_DEPTH, read_depth, read_ids, read_image
from .problems import FileFault, Problem
from .segment_maps import index_segments

UNKNOWN_ID = "the PNG has this id, but the JSON does not"
ABSENT_ID = "the JSON has this id, but the PNG does not"


@dataclass(frozen=True)
class SegmentTable:
    """Category id, crowd and PNG id of an image's segments; entry 0 is void, the background comes last."""

    category_ids: Int[np.ndarray, " entries"]
    crowd: Bool[np.ndarray, " entries"]
    ids: Int[np.ndarray, " entries"]


@dataclass(frozen=True)
class Decoded:
    """One image's pixels. `index` holds entries of the image's table, `areas` their pixels at the original size.

    `depth` has the stored values (`FolderReader.inverse_depth` gives them their unit), None where none was asked for.
    """

    image: UInt8[np.ndarray, "height width 3"]
    index: UInt[np.ndarray, "height width"]
    areas: Int[np.ndarray, " entries"]
    depth: UInt16[np.ndarray, "height width"] | None

    def map(self, image: Callable, index: Callable, depth: Callable) -> "Decoded":
        """The same segments, with one function applied to each of `image`, `index` and `depth`."""
        return replace(
            self,
            image=image(self.image),
            index=index(self.index),
            depth=None if self.depth is None else depth(self.depth),
        )


class FolderReader:
    """Reads images of a split by their place in its annotations.

    Attributes: `categories` (the extra one of the background included), `unlabelled`, `depth_folder` (None without).

    Raises:
        DatasetError: `depth` is asked for, and the folder has no depth PNGs or no scale for them.
    """

    def __init__(
        self, files: SplitFiles, annotations: Annotations, *, unlabelled: Unlabelled | None = None, depth: bool = False
    ) -> None:
        self.files, self.annotations = files, annotations
        self.depth_folder: Path | None = files.depth if depth else None
        self.unlabelled: Unlabelled = unlabelled or annotations.unlabelled or "void"
        self.categories: list[dict[str, Any]] = list(annotations.categories)
        if self.unlabelled == "background":
            extra_id = max(category["id"] for category in self.categories) + 1
            self.categories.append({"id": extra_id, "name": "background", "isthing": 0})
        if depth and files.depth is None:
            raise DatasetError(
                f"{files.images.parent}: no folder depth/ with depth PNGs beside {files.images.name}/;"
                " `python -m ldmseg_lib.data.depth ROOT` makes it"
            )
        if depth and annotations.depth_scale is None:
            raise DatasetError(
                f"{files.annotations}: depth needs info.depth_scale, inverse depth of one PNG step;"
                " `python -m ldmseg_lib.data.depth ROOT` writes it when all depth PNGs are there"
            )

    def read(self, place: int) -> Decoded:
        """Decode the files of the image at `place`.

        Raises:
            DatasetError: a file is missing, broken or of another size, or ids of PNG and JSON differ; the message names
                file, image and segment.
        """
        annotations, image_id = self.annotations, self.annotations.image_id(place)
        size = tuple(annotations.sizes[place].tolist())
        segment_ids = annotations.segment_ids[annotations.segments(place)]
        png_name = str(annotations.segment_files[place])
        try:
            image = read_image(file_in(self.files.images, str(annotations.image_files[place])), size)
            png = file_in(self.files.panoptic, png_name)
            found = index_segments(
                read_ids(png, size, segment_ids), segment_ids, index_zero=self.unlabelled == "background"
            )
            depth = None if self.depth_folder is None else read_depth(file_in(self.depth_folder, png_name), size)
        except FileFault as error:
            raise DatasetError(str(Problem(error.path, error.reason, image_id))) from None
        except InputError as error:
            raise DatasetError(str(Problem(os.fspath(self.files.annotations), str(error), image_id))) from None
        for ids, message in ((found.unknown, UNKNOWN_ID), (found.absent, ABSENT_ID)):
            if len(ids):
                raise DatasetError(str(Problem(png, message, image_id, int(ids[0]))))
        return Decoded(image, found.index, found.areas, depth)

    def table(self, place: int, entries: int) -> SegmentTable:
        """The segments of the image at `place`, for a decoded image whose `areas` have `entries` entries."""
        annotations, owned = self.annotations, self.annotations.segments(place)
        category_ids, ids = np.zeros(entries, dtype=np.int64), np.zeros(entries, dtype=np.int32)
        crowd = np.zeros(entries, dtype=bool)
        inner = slice(1, 1 + owned.stop - owned.start)
        category_ids[inner] = annotations.category_ids[owned]
        ids[inner] = annotations.segment_ids[owned]
        crowd[inner] = annotations.crowd[owned]
        if entries > inner.stop:
            category_ids[-1], ids[-1] = self.categories[-1]["id"], _unused_id(ids)
        return SegmentTable(category_ids, crowd, ids)

    def inverse_depth(self, stored: Shaped[np.ndarray, "height width"]) -> Float32[np.ndarray, "height width"]:
        """Stored depth values in the folder's unit of inverse depth: NaN where unknown, 0 infinitely far."""
        depth = stored.astype(np.float32) * np.float32(self.annotations.depth_scale)
        depth[stored == UNKNOWN_DEPTH] = np.nan
        return depth


def _unused_id(segment_ids: np.ndarray) -> int:
    """An id that the PNG format has and the image has not."""
    largest = int(segment_ids.max(initial=0))
    if largest + 1 < ID_LIMIT:
        return largest + 1
    return int(np.setdiff1d(np.arange(1, len(segment_ids) + 2), segment_ids)[0])
