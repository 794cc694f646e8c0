"""The frame around the package: what is installed, which versions, and what the make commands do."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ldmseg_lib.core import paths

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def pins() -> dict[str, str]:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}


def requirements() -> list[str]:
    extras = PROJECT["project"]["optional-dependencies"]
    return [*PROJECT["project"]["dependencies"], *(wanted for extra in extras.values() for wanted in extra)]


def make(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    # a make above us (make test) would pass its own settings on
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(["make", *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=60)


@pytest.fixture
def bare_checkout(tmp_path: Path) -> Path:
    """A folder with what `make` reads, and no virtual environment."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def test_every_package_that_gets_installed_is_pinned_to_the_version_under_test() -> None:
    pinned, waiting, seen = pins(), [(r, "") for r in requirements()], set()
    while waiting:
        text, extra = waiting.pop()
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        if name == canonicalize_name(PROJECT["project"]["name"]):
            continue  # one extra that names another
        for wanted in ("", *requirement.extras):
            if (name, wanted) in seen:
                continue
            seen.add((name, wanted))
            assert name in pinned, f"{name} is installed but constraints.txt does not pin it"
            installed = importlib.metadata.distribution(name)
            assert installed.version.partition("+")[0] == pinned[name]
            waiting += [(r, wanted) for r in installed.requires or ()]
    assert len(seen) > 50


def test_torch_is_pinned_without_a_build_and_brings_no_companions() -> None:
    assert re.fullmatch(r"[\d.]+", pins()["torch"])
    assert not {"torchvision", "timm", "xformers", "torchaudio"} & pins().keys()


def test_environment_file_installs_what_the_constraints_and_extras_say() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python = next(d for d in environment["dependencies"] if isinstance(d, str) and d.startswith("python="))
    assert python == "python=3.11" and PROJECT["project"]["requires-python"] == ">=3.11"
    pip = next(d["pip"] for d in environment["dependencies"] if isinstance(d, dict))
    assert pip == ["-c constraints.txt", "-e .[notebooks,test]"]
    assert "pip" in environment["dependencies"]


def test_tests_begin_with_style_layout_and_types() -> None:
    planned = make("-n", "test").stdout
    places = [planned.index(command) for command in ("ruff check", "ruff format", "-m mypy", "-m pytest")]
    assert places == sorted(places)


def test_help_names_every_command() -> None:
    shown = make().stdout
    for command in ("reproduce", "plan", "redraw", "report", "test", "test-slow", "lab", "browser", "clean", "help"):
        assert re.search(rf"^  make {command} ", shown, flags=re.MULTILINE), command
    assert "PROFILE" in shown and "SEED" in shown


@pytest.mark.parametrize("command", ["reproduce", "plan", "redraw", "report", "test", "test-slow", "lab"])
def test_every_command_sets_itself_up(command: str, bare_checkout: Path) -> None:
    planned = make("-n", command, cwd=bare_checkout).stdout
    assert "-c constraints.txt" in planned and "-e '.[notebooks,test]'" in planned
    assert planned.index("-c constraints.txt  torch") < planned.index("-e '.[notebooks,test]'")


def test_settings_reach_snakemake_and_the_tests_stay_on_two_cores() -> None:
    planned = make("-n", "reproduce", "PROFILE=smoke", "SEED=3", "JOBS=2", "OVERRIDES=a.b=1,c=2").stdout
    for part in ("profile=smoke", "seed=3", "--cores 2", "overrides='a.b=1,c=2'", "--rerun-triggers mtime"):
        assert part in planned
    tested = make("-n", "test").stdout
    assert "OMP_NUM_THREADS=1" in tested and "-n 2" in tested and '-m "not slow"' in tested


def test_a_missing_python_is_said_in_one_line(bare_checkout: Path) -> None:
    done = make("setup", "PYTHON=/nowhere/python3.11", cwd=bare_checkout)
    assert done.returncode != 0
    assert "no Python 3.11 or newer" in done.stderr and "make PYTHON=" in done.stderr
    assert not (bare_checkout / ".venv").exists()


def test_new_file_dates_alone_install_nothing(bare_checkout: Path) -> None:
    stamp = bare_checkout / ".venv" / ".installed"
    stamp.parent.mkdir()
    both = (bare_checkout / "pyproject.toml").read_bytes() + (bare_checkout / "constraints.txt").read_bytes()
    stamp.write_bytes(subprocess.run(["cksum"], input=both, capture_output=True, check=True).stdout)
    os.utime(stamp, (1, 1))
    # there is no Python in this environment, so any attempt to install would fail
    done = make("setup", cwd=bare_checkout)
    assert done.returncode == 0, done.stderr
    assert stamp.stat().st_mtime > (bare_checkout / "pyproject.toml").stat().st_mtime - 1


def test_continuous_integration_runs_browser_and_tests() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", script], check=True)
    assert "make browser" in script.read_text() and "make test" in script.read_text()


def test_licence_and_citation() -> None:
    assert "Apache License" in (ROOT / "LICENSE").read_text() and PROJECT["project"]["license"] == "Apache-2.0"
    paper = yaml.safe_load((ROOT / "CITATION.cff").read_text())["preferred-citation"]
    assert [author["family-names"] for author in paper["authors"]] == ["Van Gansbeke", "De Brabandere"]
    assert paper["year"] == 2024 and paper["identifiers"][0]["value"] == "arXiv:2401.10227"


def test_what_is_made_is_not_in_git_and_the_package_is() -> None:
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert {"/runs/", "/data/", "/.venv/", "/tables/smoke/", "/figures/smoke/"} <= set(ignored)
    assert "data/" not in ignored  # it would hide ldmseg_lib/data


def test_the_root_is_found_by_variable_and_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert paths.run_folder("demo") == paths.RUNS / "demo"
    assert paths.run_folder("gpu", 2) == paths.RUNS / "gpu-seed2"
    monkeypatch.setenv("LDMSEG_HOME", str(tmp_path))
    assert paths._find_root() == tmp_path
    monkeypatch.delenv("LDMSEG_HOME")
    (tmp_path / "notebooks" / "profiles").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "notebooks")
    monkeypatch.setattr(paths, "__file__", str(tmp_path / "site-packages" / "ldmseg_lib" / "paths.py"))
    assert paths._find_root() == tmp_path
