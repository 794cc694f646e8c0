"""Evaluation shared out over processes, as torchrun starts them: the counts add up to a single process's, to the bit.

Each process judges every n-th image. Counts travel as JSON, in which whole numbers have any length.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate.state import PartialState

from ..data.panoptic import PanopticDataset
from ..pipeline.ldmseg import LDMSegPipeline
from .segmentation import Cleaning, SegmentationScores, SemanticScores, sample_split


def process_share(indices: Sequence[int]) -> Sequence[int]:
    """This process's part of `indices`: every n-th, from its own number on. All of them when it is alone."""
    state = PartialState()
    return indices[state.process_index :: state.num_processes]


def of_every_process(value: Any) -> list[Any]:
    """The JSON values of all processes, in their order. Every process must call it."""
    state = PartialState()
    if state.num_processes == 1:
        return [json.loads(json.dumps(value))]
    text = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8).to(state.device)
    lengths = [torch.zeros(1, dtype=torch.int64, device=state.device) for _ in range(state.num_processes)]
    torch.distributed.all_gather(lengths, torch.tensor([len(text)], device=state.device))
    longest = int(max(lengths))
    texts = [torch.zeros(longest, dtype=torch.uint8, device=state.device) for _ in lengths]
    torch.distributed.all_gather(texts, torch.nn.functional.pad(text, (0, longest - len(text))))
    return [json.loads(bytes(found[: int(length)].tolist())) for found, length in zip(texts, lengths, strict=True)]


def merge_processes(scores: SegmentationScores) -> SegmentationScores:
    """`scores` with what all processes counted; the same on every process, and the same as one would have counted."""
    for part in scores.parts:
        name = "overlap" if isinstance(part, SemanticScores) else "quality"
        mine = getattr(part, name)
        first, *others = map(type(mine).from_state_dict, of_every_process(mine.state_dict()))
        for other in others:
            first.merge(other)
        setattr(part, name, first)
    return scores


def evaluate_on_all_processes(
    pipeline: LDMSegPipeline,
    dataset: PanopticDataset,
    *,
    seed: int,
    num_inference_steps: int,
    batch_size: int,
    cleanings: Mapping[str, Cleaning],
    sampler: str | None = None,
    tile_size: int | None = None,
    max_images: int | None = None,
    progress: bool = True,
) -> dict[str, dict[str, Any]]:
    """Scores of every way of cleaning, as `evaluate_segmentation` gives them, from the first `max_images` images.

    Every process must call it and gets the scores of all. An image's noise comes from (seed, image id), so that a
    prediction does not depend on the process; but its neighbours in the batch differ, and with them the last bits of
    what a network computes.
    """
    scores = {name: SegmentationScores(dataset) for name in cleanings}
    indices = process_share(range(len(dataset) if max_images is None else min(max_images, len(dataset))))
    for group in sample_split(
        pipeline,
        dataset,
        seed=seed,
        num_inference_steps=num_inference_steps,
        batch_size=batch_size,
        sampler=sampler,
        tile_size=tile_size,
        indices=indices,
        progress=progress and PartialState().is_main_process,
    ):
        for name, cleaning in cleanings.items():
            output = group.decode(pipeline, cleaning)
            for index, truth in enumerate(group.truths):
                scores[name].update(truth, output, index)
    return {name: merge_processes(score).compute() for name, score in scores.items()}
