"""What is known of a segmentation that is to be inpainted: which segments, under which ids, in which latent cells."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from scipy.ndimage import distance_transform_edt

from ..core.errors import InputError
from ..data.transforms import resize_nearest

IdMap = Int[np.ndarray, "height width"]
KnownMap = Bool[np.ndarray, "height width"]


@dataclass(frozen=True)
class Prompt:
    """The known part of one image's segmentation, in the model's ids. Made by `read_prompt`.

    Attributes:
        ids: int64 [H, W] at the image's own size: the model's ids, 0 where hidden or void.
        known: bool [H, W].
        given_ids: {model's id: id as it was given} of the known segments.
        classes: int64 [num_ids], the class index of each of the model's ids, 0 where none was given.
        segments: {id as it was given: its dict} of the known segments, as far as given.
    """

    ids: IdMap
    known: KnownMap
    given_ids: dict[int, int]
    classes: Int[np.ndarray, " num_ids"]
    segments: dict[int, Mapping[str, Any]] = field(default_factory=dict)

    def names(self, ids: IdMap) -> Int[np.ndarray, " num_ids"]:
        """What each of the model's ids on a completed map is called: as given, or the lowest unused ids from 1."""
        new = [int(i) for i in np.unique(ids) if i and int(i) not in self.given_ids]
        taken = set(self.given_ids.values())
        unused = (i for i in range(1, len(self.classes)) if i not in taken)
        names = np.zeros(len(self.classes), np.int32)
        for model_id, name in [*self.given_ids.items(), *zip(new, unused)]:
            names[model_id] = name
        return names


def read_prompt(
    ids: IdMap,
    known: KnownMap,
    *,
    num_ids: int,
    generator: torch.Generator,
    segments: Sequence[Mapping[str, Any]] = (),
    class_index: Mapping[int, int] | None = None,
) -> Prompt:
    """The known part of `ids` in the model's own ids, which are drawn at random as in training.

    They are drawn in the order in which the known segments first appear, so that other names of the same segments give
    the same result under these names.

    Args:
        ids: segment ids in 0 .. 2**31 - 1, 0 is void; what stands at hidden pixels is not read.
        known: False where the model is to answer.
        num_ids: of the model, void included.
        generator: for the draw.
        segments: dicts of `id` and `category_id` (may be None) of known segments, as far as they are known.
        class_index: the model's class index of each category id, below `num_ids`.

    Raises:
        InputError: wrong types or shapes, ids out of range, or more known segments than the model has ids.
    """
    ids, known = np.asarray(ids), np.asarray(known)
    if ids.ndim != 2 or ids.dtype.kind not in "iu":
        raise InputError(f"ids are {ids.dtype} of shape {ids.shape}; give whole numbers of shape (height, width)")
    if known.dtype != bool or known.shape != ids.shape:
        raise InputError(f"known is {known.dtype} of shape {known.shape}; give bools of the ids' shape {ids.shape}")
    visible = np.where(known, ids, 0).astype(np.int64)
    if visible.min() < 0 or visible.max() >= 2**31:
        raise InputError(f"ids reach from {visible.min()} to {visible.max()}; they must lie in 0 .. 2**31 - 1")
    found, first, place = np.unique(visible, return_index=True, return_inverse=True)
    order = [k for k in np.argsort(first) if found[k] != 0]
    if len(order) > num_ids - 1:
        raise InputError(
            f"{len(order)} segments are known, but the model has room for {num_ids - 1}; hide, merge or void some"
        )
    drawn = torch.randperm(num_ids - 1, generator=generator)[: len(order)].numpy() + 1
    model_ids = np.zeros(len(found), np.int64)
    model_ids[order] = drawn
    given = {int(drawn[n]): int(found[k]) for n, k in enumerate(order)}
    by_id = {int(segment["id"]): segment for segment in segments}
    by_id = {given_id: by_id[given_id] for given_id in given.values() if given_id in by_id}
    classes = np.zeros(num_ids, np.int64)
    for model_id, given_id in given.items():
        category = by_id.get(given_id, {}).get("category_id")
        if category is not None:
            classes[model_id] = (class_index or {}).get(category, 0)
    return Prompt(model_ids[place].reshape(ids.shape), known, given, classes, by_id)


def cells_of_pixels(length: int, cells: int) -> Int[np.ndarray, " length"]:
    """In which of `cells` equal parts of a side the centre of each of its `length` pixels lies."""
    return (2 * np.arange(length) + 1) * cells // (2 * length)


def whole_cells(labelled: KnownMap, *, side: int, factor: int) -> Bool[np.ndarray, "rows columns"]:
    """The latent cells whose whole block is labelled.

    Args:
        labelled: the pixels at the image's own size.
        side: of the square in pixels to which the model resizes maps, by nearest neighbour.
        factor: pixels of that square a cell and side.

    Returns:
        bool [side / factor, side / factor]: no pixel that is not labelled has its centre in the cell, nor is one among
        the pixels that the resizing takes for the cell's block.
    """
    cells = side // factor
    sampled = resize_nearest(labelled, side).reshape(cells, factor, cells, factor).all(axis=(1, 3))
    rows, columns = (cells_of_pixels(length, cells) for length in labelled.shape)
    places = (rows[:, None] * cells + columns)[~labelled]
    return sampled & (np.bincount(places, minlength=cells * cells) == 0).reshape(cells, cells)


def nearest_label(ids: IdMap, known: KnownMap) -> IdMap:
    """Each pixel with the label of the known pixel nearest to it; void where nothing is known.

    A baseline of inpainting that needs no model.
    """
    if not known.any():
        return np.zeros_like(ids)
    rows, columns = distance_transform_edt(~known, return_distances=False, return_indices=True)
    return ids[rows, columns]
