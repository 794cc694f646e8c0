"""The pages that are not notebooks: the first one, tables, figures, and where every number comes from."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ...experiments.records import Records
from ...experiments.supplement import supplement
from ..results import as_markdown, as_text, markdown_tables
from ..stage_keys import STAGES, flat_settings

_TITLED = re.compile(r"^\*\*(?P<title>.+?)\.\*\* ")
_SUPPLEMENT = ("table_s1", "table_s2", "table_s3", "headline")


def first_page(results: Records, run: str, figures: Sequence[str]) -> str:
    """What this site is, the headline table, and a picture."""
    first = next(iter(results.values()))
    warning = (
        "```{warning}\nA smoke run: it shows that everything works. Its numbers mean nothing.\n```\n\n"
        if first["profile"] == "smoke"
        else ""
    )
    missing = [name for name in STAGES if name not in results]
    left = f"Not run here: {', '.join(missing)}.\n\n" if missing else ""
    headline = next(
        (text for text in markdown_tables(results) if "beside the supplement" in text.partition("\n")[0]), ""
    )
    picture = f"![{figure_title(figures[0])}](figures/{figures[0]})\n\n" if figures else ""
    return (
        f"# LDMSeg, reproduced: the run {run}\n\n{warning}"
        "What this run of the companion to *A Simple Latent Diffusion Approach for Panoptic Segmentation and Mask "
        "Inpainting* (Van Gansbeke and De Brabandere, ECCV 2024) made: its notebooks as they ran, with every picture; "
        "its [tables](tables.md) with the supplement's numbers beside ours; its [figures](figures.md); and "
        "[where each number comes from](provenance.md).\n\n"
        f"{left}{picture}{_as_section(headline, level=2) if headline else ''}\n"
    )


def tables_page(results: Records) -> str:
    """Every table of the run with its provenance, then the supplement's own."""
    ours = "\n\n".join(_as_section(text, level=2) for text in markdown_tables(results))
    captions = supplement("captions").set_index("file")
    theirs = "\n\n".join(
        f"### {captions['place'][name]}\n\n{captions['caption'][name]}\n\n{as_markdown(as_text(supplement(name)))}"
        for name in _SUPPLEMENT
    )
    return (
        "# Tables\n\nIn percent unless a column says otherwise. The caption of each says which data, budget, seed and "
        "device its numbers come from; the paper's are for COCO and stand beside ours for orientation.\n\n"
        f"{ours or 'No table of this run is finished yet.'}\n\n## The supplement's own numbers\n\n{theirs}\n"
    )


def figures_page(figures: Sequence[str]) -> str:
    """Every figure of the run, those of the supplement first."""
    sections = [f"## {figure_title(name)}\n\n![{figure_title(name)}](figures/{name})" for name in figures]
    return "# Figures\n\n" + ("\n\n".join(sections) or "This run has drawn none yet.") + "\n"


def provenance_page(results: Records) -> str:
    """For every stage: when, where and how long it ran, with which seed and weights, and its key."""
    rows = []
    for name, record in results.items():
        rows.append(
            {
                "stage": f"[{name}](notebooks/{name}.ipynb)",
                "date": str(record["date"])[:16].replace("T", " "),
                "seconds": f"{record['seconds']:.0f}",
                "memory, MiB": str(record.get("peak_memory_mib") or ""),
                "device": record["device"],
                "seed": str(record["seed"]),
                "weights": record.get("weights") or "",
                "key": f"`{record['key'][:12]}`",
            }
        )
    table = as_markdown(pd.DataFrame(rows, dtype=str))
    versions = next(iter(results.values()))["versions"]
    packages = ", ".join(f"{name} {version}" for name, version in versions.items())
    settings = "\n\n".join(_settings(name, record) for name, record in results.items())
    return (
        "# Where each number comes from\n\nA stage's key is the hash of its settings, seed, sources and inputs: equal "
        f"keys, equal results.\n\n{table}\n\nPackages: {packages}.\n\n## Settings\n\n{settings}\n"
    )


def figure_title(file_name: str) -> str:
    """ "Figure S2" for figure_s2.png, "Data contact sheet" for data_contact_sheet.png."""
    stem = re.sub(r"^figure_(s?\d+)", lambda match: f"figure {match[1].upper()}", Path(file_name).stem)
    text = stem.replace("_", " ")
    return text[:1].upper() + text[1:]


def figure_order(names: Sequence[str]) -> list[str]:
    """The supplement's figures, then other results, then the rest."""
    return sorted(names, key=lambda name: (not re.match(r"figure_s\d", name), not name.startswith("figure_"), name))


def _as_section(titled: str, *, level: int) -> str:
    return _TITLED.sub(lambda match: f"{'#' * level} {match['title']}\n\n", titled)


def _settings(name: str, record: Mapping[str, Any]) -> str:
    used = {section.partition(".")[0] for section in STAGES[name].sections}
    flat = {
        f"{section}.{key}": value
        for section, values in record["parameters"].items()
        if section in used and isinstance(values, Mapping)
        for key, value in flat_settings(values).items()
    }
    lines = "\n".join(f"{key}: {value}" for key, value in flat.items()) or "none"
    return f"### {name}\n\n```text\n{lines}\n```"
