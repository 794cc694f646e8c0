"""A run's result records, its tables in three formats, and what of them is published in the repository."""

import re
import shutil
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ..core import files, paths
from ..core.errors import InputError
from ..experiments.records import Records, check_weights
from .stage_keys import STAGES, ancestors, is_pretrained_run, read_result
from .stages import StageRun
from .summary import summary
from .tables import TABLES, Table

# stages whose training budget a caption states, and the section of the profile that has it
_TRAININGS = {"02_autoencoder": "autoencoder", "03_encodings": "encodings", "04_diffusion": "diffusion"}
# the notes of these stages hold for every result that is made with them
_MODEL = ("01_dataset", "02_autoencoder", "04_diffusion")
_CAPTIONS = {
    "figure_s1": "Figure S1. Instance, semantic and depth from one model",
    "figure_s2": "Figure S2. Held-out scenes: panoptic maps with their classes",
    "figure_s3": "Figure S3. Held-out scenes: the arg max, and after threshold and area",
    "figure_s4": "Figure S4. Further held-out scenes",
    "figure_s5": "Figure S5. The same noise by number of denoising steps",
    "figure_inpainting": "Mask inpainting: class-agnostic PQ by the share of the mask that is hidden",
    "figure_inpainting_examples": "Mask inpainting: the given mask, two candidates, and the nearest known label",
    "figure_sampler_frontier": "Quality and latency per image by sampler; numbers are denoising steps",
    "figure_mask2former_differences": "Images on which LDMSeg and Mask2Former differ most",
    "figure_few_steps": "The distilled student and its teacher by latency per image; numbers are denoising steps",
    "figure_agreement": "Several samples of one image, their consensus, and their agreement",
    "figure_agreement_levels": "Pixels by the number of agreeing samples, and their accuracy",
    "figure_mask_editor": "The mask editor",
    "figure_own_dataset_best": "Best validation images: image, ground truth, prediction",
    "figure_own_dataset_worst": "Worst validation images: image, ground truth, prediction",
}
"""Captions of the figures in RESULTS.md by file name; other figures are titled by their file name."""


def load_results(run_dir: str | Path) -> dict[str, dict[str, Any]]:
    """The records of all finished stages of a run folder, in the order of the notebooks."""
    records = {name: read_result(Path(run_dir), name) for name in STAGES}
    return {name: record for name, record in records.items() if record is not None}


def build_table(name: str, results: Records) -> pd.DataFrame:
    """The table `name` of TABLES from result records.

    Raises:
        InputError: a stage that it needs has no result, or one with weights that are not this run's.
    """
    table = TABLES[name]
    missing = [stage for stage in table.stages if stage not in results]
    if missing:
        raise InputError(f"table {name} needs the result of {missing[0]}; run notebooks/{missing[0]}.ipynb")
    check_weights(results, table.stages)
    return table.build(results)


def possible_tables(results: Records) -> Iterator[Table]:
    """The tables that `results` allow.

    One whose weights are not this run's, or whose results an older version wrote in another form, is left out, with a
    line on stderr: the other tables of a run should not wait for it.
    """
    for table in TABLES.values():
        if any(stage not in results for stage in table.stages):
            continue
        try:
            check_weights(results, table.stages)
            table.build(results)
        except InputError as error:
            print(f"table {table.name} is left out: {error}", file=sys.stderr)
        except (KeyError, TypeError, IndexError):
            old = " or ".join(table.stages)
            print(f"table {table.name} is left out: the result of {old} is of an older form; run it", file=sys.stderr)
        else:
            yield table


def markdown_tables(results: Records) -> list[str]:
    """Every table that `results` allow, as Markdown with title, provenance and findings."""
    return [_titled(table, results) for table in possible_tables(results)]


def table_of(name: str, run: StageRun, metrics: Mapping[str, Any]) -> Any:
    """The table `name` for display at the end of the notebook that computed `metrics`, as `markdown_tables` has it."""
    from IPython.display import Markdown

    results = load_results(run.run_dir) | {run.name: run.record(metrics)}
    build_table(name, results)
    return Markdown(_titled(TABLES[name], results))


def frame_of(name: str, run: StageRun, metrics: Mapping[str, Any]) -> pd.DataFrame:
    """The table `name` as numbers, for the figures of the notebook that computed `metrics`."""
    return build_table(name, load_results(run.run_dir) | {run.name: run.record(metrics)})


def _titled(table: Table, results: Records) -> str:
    body = as_markdown(as_text(table.build(results), table.decimals))
    origin = provenance(behind(table, results), shown=_shown(table))
    return "\n\n".join([f"**{table.title}.** {origin}", body, *_findings(table, results)])


def _findings(table: Table, results: Records) -> list[str]:
    return [] if table.findings is None else list(table.findings(results))


def behind(table: Table, results: Records) -> Records:
    """Of `results` those that a table is made of, and those that these were made with."""
    shown = [stage for stage in _shown(table) if stage in results]
    needed = {other for stage in shown for other in (stage, *ancestors(stage))}
    return {stage: record for stage, record in results.items() if stage in needed}


def _shown(table: Table) -> tuple[str, ...]:
    return (*table.stages, *table.also)


def provenance(results: Records, *, shown: Collection[str] | None = None) -> str:
    """Where numbers come from, in a line: data, training budget, seed, device; and what a reader must not overlook.

    Args:
        results: all that the numbers depend on.
        shown: the stages whose numbers these are; None: all. What others say of their own numbers is left out.
    """
    parts: list[str] = []
    notes: list[str] = []
    first = next(iter(results.values()), None)
    if first is None:
        return ""
    own = first["metrics"].get("provenance")
    parts += own if own is not None else _data_and_budget(results, first)
    devices = dict.fromkeys(record["device"] for record in results.values())
    parts += [f"profile {first['profile']}, seed {first['seed']}", f"device: {', '.join(devices)}"]
    if first["profile"] == "smoke":
        notes.append("Smoke run: these numbers mean nothing.")
    for stage, record in results.items():
        if shown is None or stage in shown or stage in _MODEL:
            notes += [note for note in record["metrics"].get("notes", ()) if note not in notes]
    return " ".join(["; ".join(parts) + ".", *notes])


def _data_and_budget(results: Records, first: Mapping[str, Any]) -> list[str]:
    settings, parts = first["parameters"], []
    data = results.get("01_dataset", first).get("data")
    side = f"{settings['data']['image_size']} px"
    if data:
        parts.append(f"Data: {Path(data['path']).name} at {side}")
    else:
        counts = f"{settings['data']['train_scenes']} for training, {settings['data']['val_scenes']} held out"
        parts.append(f"Data: embedded scenes at {side}, {counts}")
    for stage, section in _TRAININGS.items():
        if stage in results:
            training = results[stage]["parameters"][section]["training"]
            parts.append(f"{section}: {training['steps']} steps of batch {training['batch_size']}")
    return parts


def write_tables(results: Records, folder: str | Path) -> list[Path]:
    """Write every table that `results` allow into `folder`; each as CSV, Markdown and LaTeX. Returns the files."""
    return [file for table in possible_tables(results) for file in write_table(table, results, folder)]


def write_table(table: Table, results: Records, folder: str | Path) -> list[Path]:
    """Write <folder>/<table name>.csv, .md and .tex with title and provenance, .md with findings. Returns the files."""
    caption = f"{table.title}. {provenance(behind(table, results), shown=_shown(table))}"
    text = as_text(table.build(results), table.decimals)
    return write_text_table(text, folder, table.name, caption=caption, findings=_findings(table, results))


def write_text_table(
    text: pd.DataFrame, folder: str | Path, name: str, *, caption: str, findings: Sequence[str] = ()
) -> list[Path]:
    """Write a frame of strings as <folder>/<name>.csv, .md (with `findings` below) and .tex. Returns the files."""
    contents = {
        "csv": f"# {caption}\n" + text.to_csv(index=False, lineterminator="\n"),
        "md": "\n\n".join([caption, as_markdown(text), *findings]) + "\n",
        "tex": as_latex(text, caption=caption, label=name),
    }
    written = []
    for suffix, content in contents.items():
        written.append(Path(folder) / f"{name}.{suffix}")
        files.write_text(written[-1], content)
    return written


def as_text(frame: pd.DataFrame, decimals: Mapping[str, int] | None = None) -> pd.DataFrame:
    """`frame` with every value as printed: fractions with one decimal, or `decimals[column]`; undefined ones empty."""

    def show(value: Any, places: int) -> str:
        if value is None or value != value:
            return ""
        return f"{value:.{places}f}" if isinstance(value, float) else str(value)

    places = dict(decimals or {})
    return pd.DataFrame(
        {name: [show(v, places.get(str(name), 1)) for v in frame[name]] for name in frame.columns}, dtype=str
    )


def as_markdown(text: pd.DataFrame) -> str:
    """A frame of strings as a Markdown table, numbers to the right."""
    numeric = [all(re.fullmatch(r"[-+.\de]*", cell) for cell in text[name]) for name in text.columns]
    rows = [list(map(str, text.columns)), ["---:" if right else "---" for right in numeric], *text.to_numpy().tolist()]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)


def as_latex(text: pd.DataFrame, *, caption: str, label: str) -> str:
    """A frame of strings as a LaTeX table in booktabs' style, numbers to the right."""

    def escape(cell: Any) -> str:
        return re.sub(r"[&%$#_{}]", lambda match: "\\" + match.group(), str(cell).replace("\\", r"\textbackslash "))

    table = text.map(escape).rename(columns=escape).style.hide(axis="index")
    return table.to_latex(
        hrules=True,
        position_float="centering",
        column_format="l" + "r" * (len(text.columns) - 1),
        caption=escape(caption),
        label=f"tab:{label}",
    )


def publish(run_dir: str | Path) -> list[Path]:
    """Write the tables of a run; for a run under runs/, bring tables, figures and records into the repository.

    runs/demo goes to tables/demo (records in tables/demo/results) and figures/demo, and into RESULTS.md between its
    marks `<!-- generated: demo -->` and `<!-- end -->`, with a summary in README.md; so does any other run under runs/
    that RESULTS.md has marks for. A run elsewhere keeps its tables in its own folder.

    Returns:
        The files written, all formats.

    Raises:
        InputError: nothing is finished there, or RESULTS.md or README.md lacks its marks.
    """
    run_dir = Path(run_dir).resolve()
    mark = run_dir / "run.json"
    if mark.exists() and is_pretrained_run(files.read_json(mark)):
        raise InputError(
            f"{run_dir} uses the pretrained model, whose results are not published; train a run of your own"
        )
    results = load_results(run_dir)
    if not results:
        raise InputError(f"{run_dir} holds no finished stage; run a notebook, or make reproduce, first")
    written = write_tables(results, run_dir / "tables")
    if run_dir.parent != paths.RUNS.resolve():
        return written
    name = run_dir.name
    for kind, target in (("tables", paths.TABLES), ("figures", paths.FIGURES)):
        written += _copy((run_dir / kind).glob("*.*"), target / name)
    for stage, record in results.items():
        written.append(paths.TABLES / name / "results" / f"{stage}.json")
        files.write_json(written[-1], record)
    if name == "demo" or (paths.RESULTS.exists() and _mark(name).search(paths.RESULTS.read_text())):
        written.append(paths.RESULTS)
        update_page(paths.RESULTS, name, results_block(results, paths.FIGURES / name))
    if name == "demo":
        written.append(paths.README)
        update_page(paths.README, "summary", as_markdown(as_text(summary(results))))
    return written


def _copy(sources: Iterable[Path], folder: Path) -> list[Path]:
    copies = []
    for source in sorted(sources):
        copies.append(folder / source.name)
        with files.replacing(copies[-1]) as temporary:
            shutil.copyfile(source, temporary)
    return copies


def _own_notes(table: Table, results: Records) -> list[str]:
    own = [results[stage]["metrics"].get("notes", ()) for stage in _shown(table) if stage in results]
    return list(dict.fromkeys(note for notes in own for note in notes))


def results_block(results: Records, figures: Path) -> str:
    """The generated part of RESULTS.md: tables, then the figures of `figures` that exist as PNG."""
    parts = []
    for table in possible_tables(results):
        if table.in_results:
            parts.append(f"**{table.title}**\n\n{as_markdown(as_text(table.build(results), table.decimals))}")
            parts += _findings(table, results)
            parts += [" ".join(notes)] if (notes := _own_notes(table, results)) else []
    parts.append(provenance(results, shown=()))
    for figure in sorted(figures.glob("figure_*.png")):
        title = _CAPTIONS.get(figure.stem, figure.stem.removeprefix("figure_").replace("_", " ").capitalize())
        parts.append(f"**{title}**\n\n![{title}]({figure.relative_to(paths.ROOT).as_posix()})")
    return "\n\n".join(parts)


def _mark(name: str) -> re.Pattern[str]:
    return re.compile(rf"(<!-- generated: {re.escape(name)} -->\n)(.*?)(<!-- end -->)", flags=re.DOTALL)


def update_page(page: Path, name: str, block: str) -> None:
    """Put `block` between the marks that `page` has for `name`; everything else stays.

    Raises:
        InputError: the marks are not there.
    """
    text = page.read_text() if page.exists() else ""
    mark = _mark(name)
    if not mark.search(text):
        raise InputError(
            f"{page} has no '<!-- generated: {name} -->' with '<!-- end -->' after it; put the two lines back"
        )
    files.write_text(page, mark.sub(lambda match: f"{match[1]}\n{block}\n\n{match[3]}", text, count=1))
