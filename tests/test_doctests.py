"""The examples in the docstrings of the public names run and print what they say."""

import doctest
import importlib

import pytest

from ldmseg_lib.reproduction.report.api import PACKAGES, api_page, public_names

OBJECTS = {
    name: getattr(importlib.import_module(package), name) for package in PACKAGES for name in public_names(package)
}


@pytest.mark.parametrize("name", OBJECTS)
def test_example(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    examples = doctest.DocTestParser().get_doctest(OBJECTS[name].__doc__, {}, name, None, 0)
    assert examples.examples, f"the docstring of {name} has no example"
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    assert runner.run(examples).failed == 0, capsys.readouterr().out


def test_reference_describes_each_name_once():
    lines = api_page().splitlines()
    for name in OBJECTS:
        assert lines.count(f".. autoclass:: {name}") + lines.count(f".. autofunction:: {name}") == 1
