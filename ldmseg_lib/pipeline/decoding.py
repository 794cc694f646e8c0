"""The decoder's logits of one image, whole or tile by tile, as maps of the image's own size."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int, Int32
from torch import Tensor

from ..core.errors import InputError
from ..models.autoencoder import MaskAutoencoder
from .output import PanopticOutput
from .postprocess import assign_classes, instances_from_logits, semantic_from_logits
from .tiling import TileGrid, place_tiles

Logits = Iterable[Float[Tensor, "channels rows columns"]]
"""Those of an image's tiles in the order of its grid, or of the whole image alone; consumed one at a time."""

_KNOWN = ("instance", "semantic", "depth")


def decode_latents(
    latents: Mapping[str, Float[Tensor, "tiles channels rows columns"]],
    sizes: Sequence[tuple[int, int]],
    *,
    tile_size: int | None,
    autoencoders: Mapping[str, MaskAutoencoder],
    num_ids: int,
    categories: Sequence[Mapping[str, Any]],
    threshold: float,
    min_area: int,
) -> PanopticOutput:
    """What `LDMSegPipeline.decode` does, with the autoencoder of each task."""
    grids = [None if tile_size is None else place_tiles(size, tile_size) for size in sizes]
    counts = [1 if grid is None else len(grid) for grid in grids]
    for task, values in latents.items():
        if len(values) != sum(counts):
            raise InputError(
                f"{len(values)} latents of the task {task!r} for {len(sizes)} images with {sum(counts)} tiles; "
                "decode with the tile_size that they were sampled with"
            )
    output = PanopticOutput(categories=[dict(category) for category in categories])
    first = 0
    for size, grid, count in zip(sizes, grids, counts):
        rows = range(first, first := first + count)
        outputs = {task: _decoded(autoencoders[task], values, rows) for task, values in latents.items()}
        output.extend(
            decode_image(
                outputs, size, grid, num_ids=num_ids, categories=categories, threshold=threshold, min_area=min_area
            )
        )
    return output


def _decoded(autoencoder: MaskAutoencoder, latents: Tensor, rows: Iterable[int]) -> Logits:
    """What the decoder makes of the latents in `rows`, one after the other: all at once may not fit in memory."""
    return (autoencoder.from_latents(latents[row : row + 1])[0].float() for row in rows)


def decode_image(
    outputs: Mapping[str, Logits],
    size: tuple[int, int],
    grid: TileGrid | None,
    *,
    num_ids: int,
    categories: Sequence[Mapping[str, Any]],
    threshold: float,
    min_area: int,
) -> PanopticOutput:
    """The maps of one image from the decoder's outputs for each task.

    Args:
        outputs: by task. What other tasks than "instance", "semantic" and "depth" make is in `maps`: values of one
            channel as they are, of several channels the best label from 1.
        size: (height, width) of the image.
        grid: of the tiles; None: the whole image at once.
        num_ids: of the decoder.
        categories: of the class indices 1, 2, ...
        threshold: of the softmax.
        min_area: in pixels of the image.

    Raises:
        InputError: depth, or another map of values, in tiles.
    """
    instance = semantic = None
    num_classes = min(len(categories), num_ids - 1)
    if "semantic" in outputs and num_classes:
        semantic = class_map(outputs["semantic"], size, grid, num_classes=num_classes)
    if "instance" in outputs:
        instance = instance_map(outputs["instance"], size, grid, threshold=threshold, min_area=min_area)
        num_ids = num_ids if grid is None else int(instance.max()) + 1
    nothing = np.zeros(size, np.int32)
    ids, segments = (
        (nothing, []) if instance is None else panoptic_map(instance, semantic, num_ids=num_ids, categories=categories)
    )
    return PanopticOutput(
        ids=[ids],
        segments=[segments],
        instance_ids=[nothing if instance is None else _numpy(instance)],
        semantic=[None if semantic is None else _numpy(semantic)],
        depth=[depth_map(outputs["depth"], size, grid) if "depth" in outputs else None],
        categories=[dict(category) for category in categories],
        maps={task: [further_map(values, size, grid)] for task, values in outputs.items() if task not in _KNOWN},
    )


def further_map(
    values: Logits, size: tuple[int, int], grid: TileGrid | None
) -> Int32[np.ndarray, "height width"] | Float32[np.ndarray, "height width"]:
    """The map of a task that was added: labels from 1 of several channels, or the values of one channel.

    Raises:
        InputError: values in tiles, as for `depth_map`.
    """
    first, *rest = values
    if len(first) == 1:
        return depth_map([first, *rest], size, grid)
    return _numpy(class_map([first, *rest], size, grid, num_classes=len(first) - 1))


def instance_map(
    logits: Logits, size: tuple[int, int], grid: TileGrid | None, *, threshold: float, min_area: int
) -> Int[Tensor, "height width"]:
    """Segment ids, 0 is void: arg max and threshold, tile by tile, then the minimum area on the whole map.

    Args:
        logits: one channel an id.
        size: (height, width) of the image.
        grid: of the tiles; None: the whole image at once.
        threshold: of the softmax.
        min_area: in pixels of the image.
    """
    if grid is None:
        (whole,) = logits
        return instances_from_logits(whole, size=size, threshold=threshold, min_area=min_area)
    tile = (grid.tile_size, grid.tile_size)
    maps = [instances_from_logits(part, size=tile, threshold=threshold, min_area=0).cpu().numpy() for part in logits]
    return torch.from_numpy(grid.stitch_ids(maps, min_area=min_area)).long()


def class_map(
    logits: Logits, size: tuple[int, int], grid: TileGrid | None, *, num_classes: int
) -> Int[Tensor, "height width"]:
    """Class indices 1..num_classes. Void is no answer: in training it is no positive of any loss."""
    classes = (part[1 : num_classes + 1] for part in logits)
    if grid is None:
        (whole,) = classes
        return semantic_from_logits(whole, size=size) + 1
    tile = (grid.tile_size, grid.tile_size)
    maps = [semantic_from_logits(part, size=tile).cpu().numpy() for part in classes]
    return torch.from_numpy(grid.stitch(maps)) + 1


def depth_map(values: Logits, size: tuple[int, int], grid: TileGrid | None) -> Float32[np.ndarray, "height width"]:
    """Relative inverse depth, larger is nearer.

    Raises:
        InputError: there are tiles; the scale and the shift of each are its own.
    """
    if grid is not None:
        raise InputError(
            "depth is relative within each tile, so tiles do not join; predict it without tile_size, or leave the task"
        )
    (whole,) = values
    return F.interpolate(whole[None].float(), size=size, mode="bilinear", align_corners=False)[0, 0].cpu().numpy()


def panoptic_map(
    instance: Int[Tensor, "height width"],
    semantic: Int[Tensor, "height width"] | None,
    *,
    num_ids: int,
    categories: Sequence[Mapping[str, Any]],
) -> tuple[Int32[np.ndarray, "height width"], list[dict[str, Any]]]:
    """Ids after the majority vote and the merging of equal stuff, and their segments, as in `PanopticOutput`.

    Args:
        instance: ids below `num_ids`, 0 is void.
        semantic: class indices; None: segments get no class.
        categories: of the class indices 1, 2, ...
    """
    if semantic is None:
        ids = _numpy(instance)
        classes: dict[int, int | None] = dict.fromkeys((int(i) for i in np.unique(ids) if i), None)
    else:
        voted, found = assign_classes(
            instance,
            semantic,
            num_ids=num_ids,
            num_classes=len(categories) + 1,
            stuff_ids=stuff_indices(categories),
        )
        ids, classes = _numpy(voted), dict(found)
    areas = np.bincount(ids.ravel(), minlength=1)
    segments = []
    for segment_id, index in sorted(classes.items()):
        category = {} if index is None else categories[index - 1]
        segments.append(
            {
                "id": int(segment_id),
                "category_id": category.get("id"),
                "isthing": category.get("isthing"),
                "area": int(areas[segment_id]),
            }
        )
    return ids, segments


def stuff_indices(categories: Sequence[Mapping[str, Any]]) -> tuple[int, ...]:
    """Class indices of the stuff categories; one that does not say is a thing."""
    return tuple(i for i, category in enumerate(categories, start=1) if not category.get("isthing", 1))


def _numpy(ids: Int[Tensor, "height width"]) -> Int32[np.ndarray, "height width"]:
    return ids.cpu().numpy().astype(np.int32)
