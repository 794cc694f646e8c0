"""A finished run for the report, made by hand: two stages, executed notebooks with every kind of output, figures."""

import base64
import io
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from ldmseg_lib.core import paths
from ldmseg_lib.core.files import write_json
from ldmseg_lib.core.profiles import Profile
from ldmseg_lib.reproduction.stages import StageRun, open_stage

FIRST, SECOND = "01_dataset", "02_autoencoder"
METRICS = {"reconstruction": {"pq": 0.8768, "sq": 0.9, "rq": 0.97, "miou": 0.9}, "weights": "trained by this notebook"}
WIDGET = "application/vnd.jupyter.widget-view+json"


def picture(shade: int, suffix: str = "png") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((300, 900, 3), shade, np.uint8)).save(buffer, format={"png": "PNG", "jpg": "JPEG"}[suffix])
    return buffer.getvalue()


def as_text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def finished_run(run: Path, *, profile: str = "demo") -> Path:
    for name in (FIRST, SECOND):
        stage: StageRun = open_stage(name, profile=Profile.load(profile), run_dir=run)
        stage.compute(lambda stage: METRICS)
        stage.finish()
        write_notebook(run / "notebooks" / f"{name}.ipynb", outputs(), title=f"{int(name[:2])}. Title of {name[3:]}")
    for name in ("figure_s2", "data_contact_sheet"):
        (run / "figures").mkdir(exist_ok=True)
        (run / "figures" / f"{name}.png").write_bytes(picture(90))
    return run


def outputs() -> list[Any]:
    wide = (
        "| "
        + " | ".join(f"column number {k}" for k in range(14))
        + " |\n"
        + "|---" * 14
        + "|\n"
        + "| 123.4 " * 14
        + "|"
    )
    return [
        new_output(
            "stream", name="stdout", text=f"written to {paths.ROOT}/runs/demo and nowhere else\n" + "word " * 80
        ),
        new_output("stream", name="stderr", text="a warning of some library"),
        new_output("display_data", {WIDGET: {"model_id": "a"}, "text/plain": "drawing train:   0%|          |"}),
        new_output("display_data", {WIDGET: {"model_id": "b"}, "image/jpeg": as_text(picture(40, "jpg"))}),
        new_output("display_data", {"image/png": as_text(picture(160)), "text/plain": "<Figure>"}),
        new_output("execute_result", {"text/markdown": wide, "text/plain": "table"}, execution_count=1),
    ]


def write_notebook(path: Path, results: list[Any], *, title: str) -> None:
    formula = (
        r"$x_k = 2 b_k - 1$, $\{0, \dots, N-1\}^{H \times W}$ and $$\mathrm{PQ} = \frac{a}{b} \cdot " + " + c" * 60
    )
    cells = [
        new_markdown_cell(f"# {title}\n\nAn unusual word: quokkalike. Formulas: {formula}$$"),
        new_code_cell('profile = "demo"', metadata={"tags": ["parameters"]}),
        new_markdown_cell("## Work\n\nSee `ldmseg_lib`."),
        new_code_cell("work()", outputs=results, execution_count=1),
    ]
    notebook = new_notebook(cells=cells)
    notebook.metadata["widgets"] = {"application/vnd.jupyter.widget-state+json": {"state": {}}}
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)


def break_record(run: Path) -> None:
    write_json(run / SECOND / "result.json", {})
