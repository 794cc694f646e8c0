"""The report of a run: what its pages say, and a built site in which every link and picture is there."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from nbformat.v4 import new_output

from ldmseg_lib.core.errors import InputError
from ldmseg_lib.reproduction.__main__ import main
from ldmseg_lib.reproduction.report.mathml import formula
from ldmseg_lib.reproduction.report.notebooks import clean_notebook
from ldmseg_lib.reproduction.report.pages import figure_order, figure_title
from ldmseg_lib.reproduction.report.site import build_site, write_sources
from tests.reproduction.runs import FIRST, METRICS, SECOND, WIDGET, finished_run, outputs, write_notebook


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(tmp_path_factory.mktemp("report") / "demo")


@pytest.fixture(scope="module")
def site(run: Path) -> Path:
    return build_site(run, run.parent / "site").parent


class Links(HTMLParser):
    """Every address that a page refers to, and its anchors."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.anchors: set[str] = set()
        self.text = ""
        self.feed(page.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.anchors |= {value for key in ("id", "name") if (value := found.get(key))}
        if tag != "form":
            self.addresses += [value for key in ("href", "src") if (value := found.get(key))]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_every_link_picture_and_script_of_the_site_is_in_the_site(site: Path) -> None:
    pages = {page: Links(page) for page in site.rglob("*.html") if "_static" not in page.parts}
    assert len(pages) >= 7
    broken, outside = [], []
    for page, links in pages.items():
        for address in links.addresses:
            parts = urlsplit(address)
            if parts.scheme in ("data", "mailto", "javascript"):
                continue
            if parts.scheme or parts.netloc:
                outside.append((page.name, address))
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            if target.is_dir():
                target /= "index.html"
            lost = parts.fragment and target in pages and parts.fragment not in pages[target].anchors
            if not target.is_file() or lost:
                broken.append((page.name, address))
    assert broken == []
    # links for a reader to follow; nothing that a page loads by itself
    assert {urlsplit(address).netloc for _, address in outside} <= {
        "jupyterbook.org", "ebp.jupyterbook.org", "sphinx-doc.org", "www.sphinx-doc.org", "arxiv.org",
        "executablebooks.org",
    }  # fmt: skip


def test_the_site_has_our_numbers_beside_the_paper_s_with_their_provenance(site: Path) -> None:
    tables = (site / "tables.html").read_text()
    for part in ("87.7", "89.9", "Table S1, bit encoding", "profile demo, seed 0", "Supplement B, Table S2"):
        assert part in tables, part
    sources = Links(site / "provenance.html").text
    for part in (FIRST, SECOND, "trained by this notebook", "torch", "autoencoder.num_points"):
        assert part in sources, part
    first = (site / "index.html").read_text()
    assert "figures/figure_s2.png" in first or "_images/figure_s2.png" in first
    assert "Not run here: 03_encodings" in first


def test_notebooks_are_shown_as_they_ran_without_dead_widgets(site: Path) -> None:
    page = Links(site / "notebooks" / f"{FIRST}.html")
    html = (site / "notebooks" / f"{FIRST}.html").read_text()
    assert "written to runs/demo and nowhere else" in page.text
    for gone in ("drawing train", "a warning of some library", "widget-view", "require.min.js", "html-manager"):
        assert gone not in html, gone
    assert len(re.findall(r'<img [^>]*src="\.\./_images', html)) == 2
    assert html.count("<math ") == 3 and not re.search(r"<script[^>]*mathjax", html, flags=re.IGNORECASE)


def test_a_site_is_replaced_by_a_newer_one_but_nothing_else_is(run: Path, site: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="is there and is no site"):
        build_site(run, tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "mine"
    assert list(site.parent.glob(".site-*")) == []


def test_cleaning_keeps_pictures_tables_and_text(run: Path) -> None:
    notebook = clean_notebook(run / "notebooks" / f"{FIRST}.ipynb")
    kept = notebook.cells[-1].outputs
    assert [output.output_type for output in kept] == ["stream", "display_data", "display_data", "execute_result"]
    assert list(kept[1].data) == ["image/jpeg"] and WIDGET not in str(notebook)
    assert "widgets" not in notebook.metadata


def test_sources_need_no_jupyter_book(run: Path, tmp_path: Path) -> None:
    write_sources(run, tmp_path)
    assert "## Figure S2" in (tmp_path / "figures.md").read_text()
    assert f"notebooks/{SECOND}" in (tmp_path / "_toc.yml").read_text()
    assert f"{100 * METRICS['reconstruction']['pq']:.1f}" in (tmp_path / "tables.md").read_text()


@pytest.mark.parametrize("fault", ["no run", "no notebook", "an error", "no JSON"])
def test_what_cannot_be_reported_is_said_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture, fault: str) -> None:
    run = tmp_path / "demo"
    if fault != "no run":
        finished_run(run)
    notebook = run / "notebooks" / f"{FIRST}.ipynb"
    if fault == "no notebook":
        for path in run.glob("notebooks/*"):
            path.unlink()
    elif fault == "an error":
        failed = new_output("error", ename="ValueError", evalue="no", traceback=[])
        write_notebook(notebook, [*outputs(), failed], title="1. Failed")
    elif fault == "no JSON":
        notebook.write_text("nothing")
    assert main(["report", str(run), "--out", str(tmp_path / "site")]) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    expected = {"an error": f"{FIRST}.ipynb: a cell stopped", "no JSON": f"{FIRST}.ipynb: not a notebook"}
    assert expected.get(fault, "holds no finished stage with its executed notebook") in message
    assert not (tmp_path / "site").exists()


def test_a_smoke_run_says_so_on_its_first_page(tmp_path: Path) -> None:
    write_sources(finished_run(tmp_path / "run", profile="smoke"), tmp_path / "source")
    assert "Its numbers mean nothing" in (tmp_path / "source" / "index.md").read_text()


def test_figures_of_the_supplement_come_first() -> None:
    names = ["data_statistics.png", "figure_inpainting.png", "figure_s4.png", "figure_s2.png"]
    assert figure_order(names) == ["figure_s2.png", "figure_s4.png", "figure_inpainting.png", "data_statistics.png"]
    assert figure_title("figure_s2.png") == "Figure S2" and figure_title("data_statistics.png") == "Data statistics"


def test_formulas_become_mathml_and_what_is_none_stays_readable() -> None:
    assert "<msub>" in formula("x_k", display=False) and 'display="block"' in formula("x", display=True)
    assert formula(r"a & \begin{cases", display=False) == r"<code>a &amp; \begin{cases</code>"


def test_the_formulas_of_all_notebooks_can_be_drawn() -> None:
    import nbformat

    from ldmseg_lib.core import paths

    for path in sorted(paths.NOTEBOOKS.glob("*.ipynb")):
        cells = nbformat.read(path, as_version=4).cells
        text = "\n".join(re.sub(r"`[^`]*`", "", cell.source) for cell in cells if cell.cell_type == "markdown")
        for block, line in re.findall(r"\$\$(.+?)\$\$|\$(.+?)\$", text, flags=re.DOTALL):
            assert "<math" in formula(block or line, display=bool(block)), (path.name, block or line)


def test_the_command_explains_itself() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ldmseg_lib.reproduction", "report", "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0 and "run_dir" in done.stdout
