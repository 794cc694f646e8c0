"""The run's pages put together and built into a static site by jupyter-book, without network."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
import yaml

from ...core import paths
from ...core.errors import InputError
from ...core.files import replacing, write_text
from ..results import load_results
from ..stage_keys import STAGES
from . import api
from .notebooks import clean_notebook
from .pages import figure_order, figures_page, first_page, provenance_page, tables_page

_THEBE = re.compile(r"<script>\s*const THEBE_JS_URL\b.*?</script>", flags=re.DOTALL)
_STYLE = Path(__file__).with_name("report.css")


def build_site(run_dir: str | Path, target: str | Path | None = None) -> Path:
    """Build the site of a run and return its index.html. An older site at `target` is replaced once the new one is
    whole.

    Args:
        run_dir: a run folder, with its executed notebooks in notebooks/.
        target: folder of the site; None: site/<name of the run folder>.

    Raises:
        InputError: nothing is finished there, a notebook stopped at an error, `target` is something else than a site,
            or jupyter-book fails.
    """
    run_dir = Path(run_dir).resolve()
    target = Path(target).resolve() if target else paths.ROOT / "site" / run_dir.name
    if target.exists() and not (target / "index.html").is_file() and any(target.iterdir()):
        raise InputError(f"{target} is there and is no site; give another folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".site-", dir=target.parent) as temporary:
        source = Path(temporary) / "source"
        write_sources(run_dir, source)
        _run_jupyter_book(source)
        built = source / "_build" / "html"
        if not (built / "index.html").is_file():
            _fail(source, "it wrote no index.html")
        for page in built.rglob("*.html"):
            # jupyter-book declares it twice, which browsers report as an error, and it names a script on the net
            write_text(page, _THEBE.sub("", page.read_text(encoding="utf-8")))
        old = Path(temporary) / "old"
        if target.exists():
            target.rename(old)
        built.rename(target)
    return target / "index.html"


def write_sources(run_dir: Path, source: Path) -> None:
    """Write what jupyter-book reads: pages, notebooks, figures, table of contents, settings."""
    results = load_results(run_dir)
    executed = {name: run_dir / "notebooks" / f"{name}.ipynb" for name in STAGES}
    executed = {name: path for name, path in executed.items() if path.is_file() and name in results}
    if not executed:
        raise InputError(f"{run_dir} holds no finished stage with its executed notebook; run `make reproduce` first")
    figures = figure_order([path.name for path in (run_dir / "figures").glob("*.png")])
    for name in figures:
        with replacing(source / "figures" / name) as temporary:
            shutil.copyfile(run_dir / "figures" / name, temporary)
    for name, path in executed.items():
        write_text(source / "notebooks" / f"{name}.ipynb", nbformat.writes(clean_notebook(path)))
    results = {name: record for name, record in results.items() if name in executed}
    pages = {
        "index": first_page(results, run_dir.name, figures),
        "tables": tables_page(results),
        "figures": figures_page(figures),
        "provenance": provenance_page(results),
    }
    for name, text in pages.items():
        write_text(source / f"{name}.md", text)
    write_text(source / "api.rst", api.api_page())
    write_text(source / "_static" / "report.css", _STYLE.read_text())
    write_text(source / "_toc.yml", yaml.safe_dump(_contents(list(executed)), sort_keys=False))
    write_text(source / "_config.yml", yaml.safe_dump(_settings(run_dir.name), sort_keys=False))


def _contents(notebooks: list[str]) -> dict[str, Any]:
    return {
        "format": "jb-book",
        "root": "index",
        "parts": [
            {"caption": "Results", "chapters": [{"file": name} for name in ("tables", "figures", "provenance")]},
            {"caption": "Notebooks", "chapters": [{"file": f"notebooks/{name}"} for name in notebooks]},
            {"caption": "Library", "chapters": [{"file": "api"}]},
        ],
    }


def _settings(run: str) -> dict[str, Any]:
    return {
        "title": f"LDMSeg, reproduced: {run}",
        "author": "",
        "copyright": "",
        "only_build_toc_files": True,
        "execute": {"execute_notebooks": "off"},
        "parse": {"myst_enable_extensions": ["amsmath", "colon_fence", "dollarmath"]},
        "html": {"use_multitoc_numbering": False},
        "sphinx": {
            "recursive_update": True,
            "extra_extensions": ["ldmseg_lib.reproduction.report.mathml", *api.EXTENSIONS],
            "config": {
                **api.SETTINGS,
                "html_math_renderer": "mathml",
                "html_show_copyright": False,
                "html_copy_source": False,
                # the default loads widgets' scripts from a network
                "nb_ipywidgets_js": {},
                # else every page logs an error
                "html_context": {"default_mode": "auto"},
                # the sidebar has a search already, and what lies behind the page is of no use beside it
                "html_theme_options": {"navbar_persistent": [], "use_download_button": False},
            },
        },
    }


def _run_jupyter_book(source: Path) -> None:
    command = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()", "build", "--quiet", str(source)]
    environment = os.environ | {"PYTHONWARNINGS": "ignore", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    done = subprocess.run(command, cwd=source, env=environment, capture_output=True, text=True)
    if done.returncode:
        _fail(source, " ".join((done.stderr or done.stdout).split())[-600:])
    for line in done.stderr.splitlines():
        if "WARNING" in line:
            print(line.replace(f"{source}/", ""), file=sys.stderr)


def _fail(source: Path, reason: str) -> None:
    raise InputError(f"jupyter-book could not build {source}: {reason}")
