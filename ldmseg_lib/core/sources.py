"""Which sources a computation depends on: a walk over import statements, without importing anything.

The walk reads imports at every depth of a file (functions import late here), follows this package's modules alone, and
knows the package's lazy names: a dict literal `_PUBLIC` in an `__init__.py` maps a name to the module that defines it.
Of a source, docstrings and lines of comment do not count: who explains a computation better need not repeat it.
"""

import ast
import functools
import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from . import paths
from .errors import StageError

# Modules whose change makes no other result; those that a stage declares itself stay in.
NOT_COMPUTING = (
    *(f"core.{name}" for name in ("errors", "files", "machine", "paths", "profiles", "sections")),
    *("core.sources", "core.study_sections", "pipeline.model_card", "pipeline.pretrained", "pipeline.segment_colors"),
    *(f"experiments.{name}.plots" for name in ("components", "denoising_steps", "encodings", "few_steps", "multitask")),
    *("experiments.plots", "experiments.supplement", "reproduction", "training.launch", "widgets"),
)
# Settings that change how a run goes, not what it makes: a long training may go on with other ones.
_NO_EFFECT = frozenset({"workers", "checkpoint_every", "keep_checkpoints", "log_every", "shard"})


def source_hashes(
    modules: Collection[str], *, without: Collection[str] = (), package: Path = paths.PACKAGE
) -> dict[str, str]:
    """SHA-256 of the code of `modules` and of all that they import from this package.

    Args:
        modules: names relative to the package, such as "training.diffusion".
        without: modules and subpackages that are left out, with what only they import. One that stands in `modules`
            itself is kept.
        package: folder of the package; its name is the package's name.

    Returns:
        Module name to hex digest, sorted by name.

    Raises:
        StageError: no such module.
    """
    found: dict[str, str] = {}
    waiting = list(modules)
    for name in waiting:
        if _file(package, name) is None:
            raise StageError(f"{package.name}.{name}: no such module in {package}")
    while waiting:
        name = waiting.pop()
        if name in found or (_left_out(name, without) and name not in modules):
            continue
        file = _file(package, name)
        assert file is not None, name
        found[name], imported = _read(package, name, file, file.stat().st_mtime_ns)
        waiting += imported
    return dict(sorted(found.items()))


def notebook_sources(notebook: Path, *, without: Collection[str] = (), package: Path = paths.PACKAGE) -> dict[str, str]:
    """SHA-256 of what a notebook computes with: its cells that call `compute`, and the modules that its cells import.

    Args:
        notebook: an .ipynb file.
        without: as for `source_hashes`, also where the notebook itself imports them.
        package: as for `source_hashes`.

    Returns:
        Like `source_hashes`, and "notebooks/<file name>" for the cells.
    """
    cells, modules = _read_notebook(package, notebook, notebook.stat().st_mtime_ns)
    used = [module for module in modules if not _left_out(module, without)]
    return {f"notebooks/{notebook.name}": cells} | source_hashes(used, without=without, package=package)


@functools.cache
def _read_notebook(package: Path, notebook: Path, _mtime: int) -> tuple[str, tuple[str, ...]]:
    try:
        cells = json.loads(notebook.read_bytes())["cells"]
        sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
        computing = "\n".join(source for source in sources if ".compute(" in source)
        modules = [module for source in sources for module in _imported(package, [], _parse_cell(source))]
    except (ValueError, KeyError, TypeError) as error:
        raise StageError(f"{notebook}: not a notebook ({error})") from None
    return hashlib.sha256(computing.encode()).hexdigest(), tuple(dict.fromkeys(modules))


def _parse_cell(source: str) -> ast.Module:
    """A cell without IPython's commands; one with a syntax error imports nothing, and says so when it is run."""
    lines = ("" if line.lstrip().startswith(("%", "!")) else line for line in source.splitlines())
    try:
        return ast.parse("\n".join(lines))
    except SyntaxError:
        return ast.Module(body=[], type_ignores=[])


def _left_out(name: str, without: Collection[str]) -> bool:
    return any(name == other or name.startswith(f"{other}.") for other in without)


def _file(package: Path, name: str) -> Path | None:
    base = package.joinpath(*name.split("."))
    return next((f for f in (base.with_suffix(".py"), base / "__init__.py") if f.is_file()), None)


@functools.cache
def _read(package: Path, name: str, file: Path, _mtime: int) -> tuple[str, tuple[str, ...]]:
    source = file.read_bytes()
    tree = ast.parse(source, filename=str(file))
    parent = name.split(".") if file.name == "__init__.py" else name.split(".")[:-1]
    imported = dict.fromkeys(_imported(package, parent, tree))
    return hashlib.sha256(_code(source.decode(), tree).encode()).hexdigest(), tuple(imported)


def _code(source: str, tree: ast.Module) -> str:
    """`source` without docstrings (strings that nothing is done with), lines of comment and blank lines."""
    lines = source.splitlines()
    for node in _statements(tree):
        text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        if text and not lines[node.lineno - 1][: node.col_offset].strip():
            end = node.end_lineno or node.lineno
            lines[node.lineno - 1 : end] = [""] * (end - node.lineno + 1)
    # a line of another long string can begin with # and be no comment
    comments = not any(quotes in line for line in lines for quotes in ('"""', "'''"))
    return "\n".join(
        line.rstrip() for line in lines if line.strip() and not (comments and line.lstrip().startswith("#"))
    )


def _imported(package: Path, parent: list[str], tree: ast.Module) -> Iterator[str]:
    for node in _imports(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                first, _, rest = alias.name.partition(".")
                if first == package.name and rest and _file(package, rest):
                    yield rest
            continue
        module = node.module.split(".") if node.module else []
        if node.level:
            parts = parent[: len(parent) - node.level + 1] + module
        elif module and module[0] == package.name:
            parts = module[1:]
        else:
            continue
        yield from _names_of(package, parts, [alias.name for alias in node.names])


def _imports(tree: ast.Module) -> Iterator[ast.Import | ast.ImportFrom]:
    """All import statements that can run: those under `if TYPE_CHECKING:` are left out."""
    for node in _statements(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node


def _statements(tree: ast.Module) -> Iterator[ast.stmt]:
    """All statements, at every depth, but those under `if TYPE_CHECKING:`, which do nothing."""
    waiting: list[Any] = [tree]
    for node in waiting:
        if isinstance(node, ast.stmt):
            yield node
        if not (isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")):
            for block in ("body", "orelse", "finalbody", "handlers", "cases"):
                below = getattr(node, block, ())
                waiting += below if isinstance(below, list) else ()


def _names_of(package: Path, parts: list[str], names: list[str]) -> Iterator[str]:
    """The modules behind `from <parts> import <names>`."""
    lazy = _lazy_names(package.joinpath(*parts))
    for name in names:
        as_module = ".".join([*parts, name])
        if _file(package, as_module):
            yield as_module
        elif name in lazy:
            yield ".".join([*parts, lazy[name]])
        elif parts and _file(package, ".".join(parts)):
            yield ".".join(parts)


def _lazy_names(folder: Path) -> dict[str, str]:
    file = folder / "__init__.py"
    return _lazy_table(file, file.stat().st_mtime_ns) if file.is_file() else {}


@functools.cache
def _lazy_table(file: Path, _mtime: int) -> dict[str, str]:
    for node in ast.parse(file.read_bytes()).body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "_PUBLIC" for t in node.targets):
            return ast.literal_eval(node.value)
    return {}


def computing_sources(modules: Collection[str]) -> dict[str, str]:
    """SHA-256 of the sources that a computation by `modules` depends on, tables and pictures left out."""
    return source_hashes(modules, without=NOT_COMPUTING)


def effective_settings(value: Any) -> Any:
    """`value` (settings as a dict) without those that change how a run goes and not what it makes."""
    if not isinstance(value, Mapping):
        return value
    return {key: effective_settings(inner) for key, inner in value.items() if key not in _NO_EFFECT}
