"""Keys of stages: what they depend on, and which sources a computation has."""

import ast
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ldmseg_lib.core import paths
from ldmseg_lib.core.errors import StageError
from ldmseg_lib.core.files import read_json, write_text
from ldmseg_lib.core.profiles import Profile
from ldmseg_lib.core.sources import notebook_sources, source_hashes
from ldmseg_lib.reproduction import stage_keys
from ldmseg_lib.reproduction.stage_keys import STAGES, ancestors, find_stage
from ldmseg_lib.reproduction.stages import stage_key

TRAIN, EVALUATE, LAST = "04_diffusion", "05_panoptic_evaluation", "14_paper_and_ours"


def keys(overrides: str = "", **parameters) -> dict[str, str]:
    profile = Profile.load("demo", overrides)
    return {name: key.digest for name, key in stage_keys.stage_keys(profile, **parameters).items()}


def dependents(name: str) -> list[str]:
    return [other for other in STAGES if other == name or name in ancestors(other)]


def reading(section: str) -> list[str]:
    """The stages that read a section of the profile, and all that depend on them."""
    behind = {name for reader, stage in STAGES.items() if section in stage.sections for name in dependents(reader)}
    return [name for name in STAGES if name in behind]


def changed(before: dict[str, str], after: dict[str, str]) -> list[str]:
    return [name for name in before if before[name] != after[name]]


# the registry


def test_registry_names_real_modules_sections_and_earlier_stages() -> None:
    sections = {field.name for field in dataclasses.fields(Profile)}
    names = list(STAGES)
    assert names == sorted(names)
    for place, stage in enumerate(STAGES.values()):
        assert set(stage.inputs) <= set(names[:place])
        assert {section.partition(".")[0] for section in stage.sections} <= sections
        source_hashes(stage.modules)
    assert STAGES[LAST].inputs == tuple(n for n in names if n != LAST and not STAGES[n].optional)


def test_a_stage_is_found_by_its_number_and_a_wrong_name_gets_the_nearest() -> None:
    assert find_stage("05").name == EVALUATE
    with pytest.raises(StageError, match="did you mean '04_diffusion'"):
        find_stage("04_difusion")
    with pytest.raises(StageError, match="there are 01_dataset"):
        find_stage("")


# keys


def test_a_key_changes_with_its_own_parameters_and_those_of_its_inputs_alone() -> None:
    before = keys()
    assert changed(before, keys("evaluation.num_inference_steps=3")) == reading("evaluation")
    assert changed(before, keys("diffusion.training.steps=7")) == reading("diffusion")
    assert EVALUATE in reading("evaluation") and not {"01_dataset", "02_autoencoder", TRAIN} & {*reading("evaluation")}
    assert TRAIN not in dependents(EVALUATE) and LAST in dependents(EVALUATE)
    assert changed(before, keys("data.image_size=32")) == list(STAGES)
    assert changed(before, keys(seed=1)) == list(STAGES)
    assert keys() == before


def test_settings_without_effect_on_results_leave_keys_alone() -> None:
    for setting in ("data.workers=3", "diffusion.training.checkpoint_every=9", "autoencoder.training.log_every=1"):
        assert keys() == keys(setting)


def test_a_data_folder_counts_with_its_annotations(tmp_path: Path) -> None:
    (tmp_path / "panoptic_val.json").write_text("{}")
    embedded, given = keys(), keys(data_root=tmp_path)
    assert changed(embedded, given) == list(STAGES)
    assert keys(data_root=tmp_path) == given
    (tmp_path / "panoptic_val.json").write_text('{"images": []}')
    assert changed(given, keys(data_root=tmp_path)) == list(STAGES)
    with pytest.raises(StageError, match="no such folder"):
        keys(data_root=tmp_path / "nowhere")


def test_stage_key_is_that_of_the_table_of_keys() -> None:
    assert stage_key("04", Profile.load("demo")) == keys()[TRAIN]


def test_keys_cost_no_torch_and_little_time() -> None:
    code = (
        "import sys, time; from ldmseg_lib.core.profiles import Profile\n"
        "from ldmseg_lib.reproduction.stages import stage_keys\n"
        "profile = Profile.load('demo'); start = time.process_time(); stage_keys(profile)\n"
        "print(time.process_time() - start, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, torch_loaded = done.stdout.split()
    assert torch_loaded == "False"
    assert float(seconds) < 1.0  # of the processor; about 0.1


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "toy"
    files = {
        "__init__.py": "_PUBLIC = {'Lazy': 'deep.lazy'}",
        "start.py": "import os\nfrom .deep import late\nfrom typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from . import typed\ndef f():\n    from toy import Lazy\n    import toy.plain\n",
        "typed.py": "",
        "plain.py": "from . import drawn",
        "drawn.py": "from . import onlydrawn",
        "onlydrawn.py": "",
        "unused.py": "",
        "deep/__init__.py": "",
        "deep/late.py": "try:\n    from ..helper import x\nexcept ImportError:\n    from . import spare\n",
        "deep/lazy.py": "",
        "deep/spare.py": "",
        "helper.py": "x = 1",
    }
    for name, text in files.items():
        write_text(folder / name, text)
    return folder


def test_source_walk_finds_late_lazy_and_relative_imports_but_not_types(package: Path) -> None:
    found = source_hashes(["start"], without=["drawn"], package=package)
    assert list(found) == ["deep.late", "deep.lazy", "deep.spare", "helper", "plain", "start"]
    assert "onlydrawn" in source_hashes(["start"], package=package)
    assert "drawn" in source_hashes(["drawn"], without=["drawn"], package=package)
    with pytest.raises(StageError, match=r"toy\.nothing: no such module"):
        source_hashes(["nothing"], package=package)


def test_source_walk_sees_an_edit_of_a_far_import(package: Path) -> None:
    before = source_hashes(["start"], package=package)
    os.utime(package / "helper.py", (1, 1))
    assert source_hashes(["start"], package=package) == before
    (package / "helper.py").write_text("x = 2")
    after = source_hashes(["start"], package=package)
    assert [name for name in before if before[name] != after[name]] == ["helper"]


def test_comments_and_docstrings_are_no_part_of_a_source(package: Path) -> None:
    def found(text: str) -> str:
        helper = package / "helper.py"
        helper.write_text(text)
        os.utime(helper, ns=(len(hashes), len(hashes)))
        hashes.append(source_hashes(["helper"], package=package)["helper"])
        return hashes[-1]

    hashes: list[str] = []
    plain = found("x = '# no comment'\ndef f():\n    return x\n")
    explained = '"""A module."""\n\nx = \'# no comment\'\n"""Of x."""\n# of f\ndef f():\n    """Two\n    lines."""\n'
    assert found(explained + "    # why\n    return x\n") == plain
    assert found(explained + "    return 'x'\n") != plain
    assert found(explained.replace("# no", "# a") + "    return x\n") != plain
    page = explained + "    return '''\n# {}\n'''\n"
    assert found(page.format("a title, no comment")) != found(page.format("another title"))


@pytest.mark.parametrize("module", ["data.scenes.dataset", "evaluation.panoptic_quality", "training.diffusion"])
def test_source_walk_misses_nothing_that_python_imports(module: str) -> None:
    code = f"import sys, ldmseg_lib.{module}; print(*[m for m in sys.modules if m.startswith('ldmseg_lib.')])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    names = {name.removeprefix("ldmseg_lib.") for name in loaded}
    packages = {name for name in names if (paths.PACKAGE / name.replace(".", "/")).is_dir()}
    assert names - packages <= set(source_hashes([module]))


def write_notebook(file: Path, *sources: str) -> Path:
    cells = [{"cell_type": "code" if "=" in s or "import" in s else "markdown", "source": s} for s in sources]
    write_text(file, json.dumps({"cells": cells}))
    return file


def test_a_notebook_counts_by_what_it_computes_and_imports_and_not_by_its_prose(package: Path, tmp_path: Path) -> None:
    def found(*sources: str) -> dict[str, str]:
        file = write_notebook(tmp_path / "01_toy.ipynb", *sources)
        os.utime(file, ns=(len(versions), len(versions)))
        versions.append(notebook_sources(file, without=["drawn"], package=package))
        return versions[-1]

    versions: list[dict[str, str]] = []
    work = "def work(stage):\n    return {'a': 1}\nmetrics = stage.compute(work)"
    first = found("# Title", "%matplotlib inline\nfrom toy import helper, drawn", work)
    assert list(first) == ["notebooks/01_toy.ipynb", "helper"]
    assert found("# Another title", "from toy import helper", work, "figure = 1") == first
    assert found("# Title", "from toy import helper", work.replace("1", "2")).keys() == first.keys()
    assert versions[-1] != first
    (tmp_path / "01_toy.ipynb").write_text("[]")
    with pytest.raises(StageError, match=r"01_toy\.ipynb: not a notebook"):
        notebook_sources(tmp_path / "01_toy.ipynb", package=package)


def settings_read(notebook: Path) -> set[str]:
    """Settings ("evaluation.min_area", or "data" for a whole section) that the computing cells of a notebook read."""
    sections = {field.name for field in dataclasses.fields(Profile) if field.name != "name"}
    read: set[str] = set()
    for cell in read_json(notebook)["cells"]:
        if cell["cell_type"] != "code" or ".compute(" not in "".join(cell["source"]):
            continue
        nodes = list(ast.walk(ast.parse("".join(cell["source"]))))
        names, named = {}, set()  # settings = stage.profile.evaluation, also a, b = …, …
        for node in (n for n in nodes if isinstance(n, ast.Assign)):
            target, value = node.targets[0], node.value
            both = isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple)
            pairs = zip(target.elts, value.elts) if both else [(target, value)]
            for name, part in pairs:
                if isinstance(name, ast.Name) and isinstance(part, ast.Attribute) and part.attr in sections:
                    names[name.id] = part.attr
                    named.add(part)
        for node in (n for n in nodes if isinstance(n, ast.Attribute)):
            if isinstance(node.value, ast.Attribute) and node.value.attr in sections:
                read.add(f"{node.value.attr}.{node.attr}")
                named.add(node.value)
            elif isinstance(node.value, ast.Name) and node.value.id in names:
                read.add(f"{names[node.value.id]}.{node.attr}")
        read |= {n.attr for n in nodes if isinstance(n, ast.Attribute) and n.attr in sections and n not in named}
    return read - {"evaluation.batch_size"}  # results differ by rounding alone


@pytest.mark.parametrize("name", [name for name in STAGES if (paths.NOTEBOOKS / f"{name}.ipynb").exists()])
def test_a_computation_reads_only_settings_that_are_in_its_key(name: str) -> None:
    in_key = {section for stage in (name, *ancestors(name)) for section in STAGES[stage].sections}
    for setting in settings_read(paths.NOTEBOOKS / f"{name}.ipynb"):
        assert setting in in_key or setting.partition(".")[0] in in_key, (
            f"{name} reads {setting}; add it to its sections"
        )


def test_every_numbered_notebook_is_registered() -> None:
    assert {file.stem for file in paths.NOTEBOOKS.glob("[0-9]*.ipynb")} <= set(STAGES)


def test_a_notebook_needs_no_training_whose_outcome_the_profile_names():
    """With published weights of the self-distilled ViT, as in `paper`, notebook 09 does not wait for notebook 07."""
    baseline, components = "09_mask2former_baseline", "07_components"
    for name, needed in (("paper", False), ("demo", True)):
        profile = Profile.load(name)
        assert (components in stage_keys.stage_keys(profile)[baseline].ingredients["inputs"]) is needed
        assert (components in stage_keys.chosen_stages("09", profile)) is needed
    assert components in ancestors(baseline)
