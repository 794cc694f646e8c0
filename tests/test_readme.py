"""Every command of README.md, RESULTS.md and docs/: run at smoke size, or asked for its help, plan or estimate.

A command that no rule below knows fails, so a new one needs a way to be tried.
"""

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ldmseg_lib.core import paths
from ldmseg_lib.core.files import write_json
from ldmseg_lib.reproduction.stages import PARAMETERS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "RESULTS.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXT = "\n\n".join(page.read_text() for page in PAGES)
PROGRAMS = (
    "make",
    "python",
    "papermill",
    "torchrun",
    "conda",
    "snakemake",
    "pip",
    "sbatch",
    "srun",
    "accelerate",
    "hf",
)


def commands() -> list[str]:
    """Indented lines, lines of bash blocks, and code in the text, as far as they begin with a program."""
    found = [line.split("  #")[0].strip() for line in re.findall(r"^    (\S.*)$", TEXT, flags=re.MULTILINE)]
    for block in re.findall(r"```(?:bash|sh|console)\n(.*?)```", TEXT, flags=re.DOTALL):
        found += [line.strip().removeprefix("$ ") for line in block.replace("\\\n", " ").splitlines()]
    found += re.findall(r"(?<!`)`([^`\n]+)`(?!`)", TEXT)
    return [c for c in dict.fromkeys(found) if re.sub(r"^(\w+=\S+ )+", "", c).split(" ")[0] in PROGRAMS]


def words(command: str) -> list[str]:
    """Without variables set before the program."""
    parts = shlex.split(command)
    while "=" in parts[0]:
        parts = parts[1:]
    return parts


def run(command: Sequence[str], cwd: Path = ROOT, seconds: int = 120) -> str:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    environment["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=seconds)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-1500:]}\n{done.stderr[-1500:]}"
    return done.stdout + done.stderr


def known_options(help_text: str, parts: Sequence[str]) -> None:
    for part in parts:
        if re.match(r"--?[a-z]", part):
            option = part.partition("=")[0]
            assert re.search(rf"(^|[\s,\[]){re.escape(option)}\b", help_text), (
                f"{option} is no option: {help_text[:600]}"
            )


def python_help(parts: list[str]) -> None:
    """The help of a module or script, of its subcommand where it has one; every option of the line is in it."""
    if parts[0] == "-m":
        assert importlib.util.find_spec(parts[1]) is not None, parts[1]
        target, rest = parts[:2], parts[2:]
    else:
        assert (ROOT / parts[0]).is_file(), parts[0]
        target, rest = parts[:1], parts[1:]
    subcommand = rest[:1] if rest and re.fullmatch(r"[a-z_0-9]+", rest[0]) else []
    known_options(run([sys.executable, *target, *subcommand, "--help"]), rest)


def try_make(parts: list[str]) -> None:
    targets = [part for part in parts if "=" not in part]
    assert targets, parts
    for name, _, value in (part.partition("=") for part in parts if "=" in part):
        assert re.search(rf"^{name} \?=", (ROOT / "Makefile").read_text(), flags=re.MULTILINE), name
        if name == "NOTEBOOKS":
            assert all((paths.NOTEBOOKS / f"{stage}.ipynb").is_file() for stage in value.split(","))
        if name == "PROFILE":
            assert value in ("smoke|demo|gpu|paper", *(p.stem for p in paths.PROFILES.glob("*.yaml")))
    assert "Nothing to be done" not in run(["make", "-n", *parts])


def try_papermill(parts: list[str]) -> None:
    assert (ROOT / parts[0]).is_file(), parts[0]
    names = [parts[k + 1] for k, part in enumerate(parts) if part == "-p"]
    assert names and set(names) <= set(PARAMETERS)
    known_options(run([sys.executable, "-m", "papermill", "--help"]), parts)


def try_torchrun(parts: list[str]) -> None:
    place = parts.index("-m") if "-m" in parts else next(k for k, part in enumerate(parts) if part.endswith(".py"))
    known_options(run([sys.executable, "-m", "torch.distributed.run", "--help"]), parts[:place])
    python_help(parts[place:])


def try_snakemake(parts: list[str]) -> None:
    known_options(run([sys.executable, "-m", "snakemake", "--help"]), parts)


def try_conda(parts: list[str]) -> None:
    assert parts[:3] == ["env", "create", "-f"] and (ROOT / parts[3]).is_file()


def try_pip(parts: list[str]) -> None:
    known_options(run([sys.executable, "-m", "pip", parts[0], "--help"]), parts)


def try_hf(parts: list[str]) -> None:
    known_options(run([str(Path(sys.executable).with_name("hf")), parts[0], "--help"]), parts)


RULES = {
    "pip": try_pip,
    "hf": try_hf,
    "make": try_make,
    "python": python_help,
    "papermill": try_papermill,
    "torchrun": try_torchrun,
    "snakemake": try_snakemake,
    "conda": try_conda,
}


@pytest.mark.parametrize("command", commands())
def test_a_command_of_the_readme_is_one_that_there_is(command: str) -> None:
    program, *parts = words(command)
    assert program in RULES, f"README names {command!r}; add a rule for {program} here"
    RULES[program](parts)


def test_the_readme_names_the_commands_that_matter() -> None:
    found = commands()
    for command in ("make reproduce", "make test", "make lab", "make report", "make plan"):
        assert any(c == command or c.startswith(f"{command} ") for c in found), command
    assert len(found) > 12


# Those that need no more than a small folder are run on one.


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory, smoke_data: Path) -> Path:
    """A working folder with what the README's commands name."""
    root = tmp_path_factory.mktemp("readme")
    for number in range(6):
        image = root / "stage1_train" / f"cell{number}"
        for part in ("images", "masks"):
            (image / part).mkdir(parents=True)
        Image.fromarray(np.full((32, 32, 3), 90, np.uint8)).save(image / "images" / "x.png")
        Image.fromarray(np.tri(32, dtype=np.uint8) * 255).save(image / "masks" / "0.png")
    names = [f"{number}.png" for number in range(6)]
    (root / "IMAGES").mkdir()
    for name in names:
        shutil.copy(root / "stage1_train" / "cell0" / "images" / "x.png", root / "IMAGES" / name)
    polygon = [[2, 2, 20, 2, 20, 20, 2, 20]]
    images = [{"id": k, "file_name": name, "height": 32, "width": 32} for k, name in enumerate(names, 1)]
    annotations = [{"id": k, "image_id": k, "category_id": 1, "segmentation": polygon} for k in range(1, 7)]
    document = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
    write_json(root / "instances.json", document)
    for part in ("JPEGImages", "SegmentationObject", "SegmentationClass"):
        (root / "VOC2012" / part).mkdir(parents=True)
    shutil.copy(root / "IMAGES" / "0.png", root / "VOC2012" / "JPEGImages" / "a.png")
    for part in ("SegmentationObject", "SegmentationClass"):
        Image.fromarray(np.tri(32, dtype=np.uint8)).save(root / "VOC2012" / part / "a.png")
    shutil.copy(smoke_data / "panoptic_val.json", root)
    shutil.copy(smoke_data / "panoptic_val.json", root / "predictions.json")
    shutil.copytree(smoke_data / "panoptic", root / "predictions")
    shutil.copytree(smoke_data / "panoptic", root / "panoptic")
    return root


RUN = ("ldmseg_lib.data.check", "ldmseg_lib.data.convert", "ldmseg_lib.evaluation ")


@pytest.mark.parametrize("command", [c for c in commands() if any(name in f"{c} " for name in RUN)])
def test_a_command_that_needs_little_is_run(command: str, places: Path, smoke_data: Path, tmp_path: Path) -> None:
    program, *parts = words(command)
    assert program == "python"
    target = smoke_data if "data.check" in command else tmp_path / "out"
    shown = run([sys.executable, *(str(target) if part == "FOLDER" else part for part in parts)], cwd=places)
    expected = "PQ" if "evaluation" in command else "0 errors" if "data.check" in command else "checked"
    assert expected in shown


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_python_on_a_page_runs_as_written(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"images": [np.full((40, 30, 3), 80, np.uint8)]}
    for code in re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL):
        exec(compile(code, page.name, "exec"), names)
        assert (tmp_path / "predictions.json").is_file()


def test_the_readme_is_short_and_its_links_lead_somewhere() -> None:
    assert len((ROOT / "README.md").read_bytes()) <= 9000
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
