"""The API reference of the site: one page, made by Sphinx's autodoc from the docstrings of the public names."""

import importlib
import inspect
from collections.abc import Iterator

PACKAGES = ("ldmseg_lib", "ldmseg_lib.pipeline", "ldmseg_lib.evaluation")
EXTENSIONS = ["sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon"]
SETTINGS = {
    "default_role": "literal",  # what docstrings mean by single backticks
    "autodoc_typehints": "signature",
    "autodoc_typehints_format": "short",
    "autodoc_preserve_defaults": True,
    "napoleon_numpy_docstring": False,
    "maximum_signature_line_length": 100,
    "python_use_unqualified_type_names": True,
}
# the members of libraries' base classes have a reference of their own
_LIBRARIES = "DiffusionPipeline, ModelMixin, ConfigMixin, Module, Dataset"


def public_names(package: str) -> list[str]:
    """The names that `package` loads when first used."""
    return list(importlib.import_module(package)._PUBLIC)


def api_page() -> str:
    """reStructuredText of the page; a name that two packages export is described once, where it is listed first."""
    return "\n".join(["API reference", "=============", "", *_sections()])


def _sections() -> Iterator[str]:
    described: set[str] = set()
    for package in PACKAGES:
        module = importlib.import_module(package)
        names = [name for name in public_names(package) if name not in described]
        described.update(names)
        summary = inspect.getdoc(module) or ""
        yield from (package, "-" * len(package), "", summary, "", f".. currentmodule:: {package}", "")
        yield from (".. autosummary::", "", *(f"   {name}" for name in names), "")
        for name in names:
            if inspect.isclass(getattr(module, name)):
                yield from (f".. autoclass:: {name}", "   :members:", f"   :inherited-members: {_LIBRARIES}")
                yield from ("   :special-members: __call__", "")
            else:
                yield from (f".. autofunction:: {name}", "")
