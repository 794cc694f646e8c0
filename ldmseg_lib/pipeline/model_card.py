"""Model cards: what a pipeline was trained on, how well it does, where it fails, and how to make it again."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from diffusers import DiffusionPipeline

from ..core.files import write_text

# in the text that diffusers writes for a repository without a card
_EMPTY_CARD = "has been automatically generated"

_FRONT_MATTER = """---
library_name: ldmseg_lib
pipeline_tag: image-segmentation
license: apache-2.0
tags: [panoptic-segmentation, latent-diffusion, mask-inpainting]
---
"""


@dataclass(frozen=True, kw_only=True)
class TrainingFacts:
    """What a pipeline does not know about itself. Sentences; an empty one is said to be unknown."""

    data: str = ""
    budget: str = ""
    evaluation: str = ""  # on which images, and how, `metrics` were measured
    metrics: Mapping[str, float | None] = field(default_factory=dict)  # name to a fraction in [0, 1]
    recipe: str = ""  # commands that make the model again


def model_card(pipeline: DiffusionPipeline, facts: TrainingFacts | None = None, *, title: str = "LDMSeg") -> str:
    """The card of a pipeline as Markdown with the hub's front matter.

    Args:
        pipeline: its parts and settings are described.
        facts: of its training and evaluation; None: unknown.
        title: of the card.
    """
    facts = facts or TrainingFacts()
    sections = {
        "What it is": _description(pipeline),
        "Training data": facts.data or "Unknown to whoever made this card.",
        "Training budget": facts.budget or "Unknown to whoever made this card.",
        "Quality": _quality(facts),
        "Limits": _limits(pipeline),
        "Biases and hallucination": _biases(pipeline),
        "Use": _USE,
        "How to make it again": facts.recipe or "Train with this project's notebooks 01, 02 and 04.",
    }
    body = "\n\n".join(f"## {name}\n\n{text.strip()}" for name, text in sections.items())
    return f"{_FRONT_MATTER}\n# {title}\n\n{body}\n"


def complete_card(folder: str | os.PathLike, pipeline: DiffusionPipeline) -> None:
    """Put a card into `folder`, where there is none or only diffusers' empty one.

    A pipeline that was loaded from a folder with a card keeps that card; any other one is described by `model_card`.
    """
    card = Path(folder) / "README.md"
    if card.exists() and _EMPTY_CARD not in card.read_text(encoding="utf-8"):
        return
    source = pipeline.config.get("_name_or_path")
    own = Path(source) / "README.md" if source else None
    write_text(card, own.read_text(encoding="utf-8") if own and own.is_file() else model_card(pipeline))


_USE = """
```python
from ldmseg_lib import LDMSegPipeline

pipeline = LDMSegPipeline.from_pretrained("FOLDER_OR_HUB_NAME")
output = pipeline(images, num_inference_steps=20)
```
"""


def _description(pipeline: DiffusionPipeline) -> str:
    parts = {
        "autoencoder": pipeline.autoencoder,
        "denoiser": pipeline.denoiser,
        "image encoder": pipeline.image_encoder,
    }
    sizes = ", ".join(f"{name} {sum(p.numel() for p in part.parameters()) / 1e6:.2f} M" for name, part in parts.items())
    side = pipeline.config.image_size
    tiles = f" Larger images are cut into tiles of {pipeline.config.tile_size} px." if pipeline.config.tile_size else ""
    names = ", ".join(str(category.get("name")) for category in pipeline.config.categories)
    return (
        "A latent diffusion model for panoptic segmentation and mask inpainting, after Van Gansbeke and De Brabandere, "
        "*A Simple Latent Diffusion Approach for Panoptic Segmentation and Mask Inpainting* (arXiv 2401.10227); an "
        "independent reproduction, without code or weights of the authors.\n\n"
        f"Parameters: {sizes}. Images are resized to {side} x {side} px.{tiles} A map has at most "
        f"{pipeline.num_ids - 1} segments. Tasks: {', '.join(pipeline.denoiser.config.tasks)}. "
        f"Classes: {names or 'none'}."
    )


def _quality(facts: TrainingFacts) -> str:
    if not facts.metrics:
        return "Not measured."
    rows = [f"| {name} | {'' if value is None else f'{100 * value:.1f}'} |" for name, value in facts.metrics.items()]
    return "\n".join([facts.evaluation, "", "| metric | % |", "| --- | ---: |", *rows])


def _limits(pipeline: DiffusionPipeline) -> str:
    factor, side = pipeline.autoencoder.factor, pipeline.config.image_size
    lines = [
        f"A latent cell covers {factor} x {factor} of the {side} x {side} px that the model sees; smaller segments are "
        f"missed (supplement, section C). By default segments under {pipeline.config.min_area} px of the image's own "
        "size are dropped too (min_area).",
        "Sampling takes tens of network evaluations an image; specialised segmenters take one.",
        f"The classes are closed: what is none of the {len(pipeline.config.categories)} is given one of them, or left "
        "void.",
    ]
    if not pipeline.trained_on_photographs:
        lines.append("It was trained on drawn scenes alone and promises nothing on photographs.")
    return "\n".join(f"* {line}" for line in lines)


def _biases(pipeline: DiffusionPipeline) -> str:
    source = (
        "Its training images decide what it takes for a segment, and which classes and sizes it finds; parts that "
        "began from published weights, if it has any, bring the biases of those data too (supplement, section D)."
        if pipeline.trained_on_photographs
        else "No weights pretrained on photographs went into it, so it has no biases of theirs (supplement, section "
        "D); it has those of the drawn scenes: their shapes, colours, sizes and numbers of things."
    )
    return (
        f"{source}\n\nThe model is generative and can hallucinate: it may draw segments where there is nothing, most "
        "of all when it completes a mask of which much is hidden, and other noise gives another answer. Look at "
        "several samples before relying on one; a segment is no measurement."
    )
