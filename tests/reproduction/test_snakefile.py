"""The workflow: real Snakemake and papermill runs of small notebooks in a checkout of their own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from ldmseg_lib.core import paths
from ldmseg_lib.core.files import read_json
from ldmseg_lib.reproduction.terminal import Terminal, bar_text, headings

ROOT = Path(__file__).parents[2]
FIRST, SECOND = "01_dataset", "02_autoencoder"
QUIETLY = ["--quiet", "host", "rules", "progress", "reason"]  # as the Makefile

PARAMETERS = 'profile = "demo"\ndata_root = None\nrun_dir = None\nseed = 0\noverrides = None'
OPEN = """from ldmseg_lib.reproduction.stages import open_stage
stage = open_stage(
    {name!r}, profile=profile, data_root=data_root, run_dir=run_dir, seed=seed, overrides=overrides
)"""
WORK = """import os
from tqdm.auto import tqdm

def work(stage):
    for _ in tqdm(range(3), desc="counting"):
        pass
    if os.environ.get("FAIL_IN") == stage.name:
        raise RuntimeError("the loss is not a number")
    return {"reconstruction": {"pq": 0.5, "miou": 0.25}, "weights": "trained by this notebook"}

stage.compute(work)
print("computed", stage.name)"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with two notebooks that compute next to nothing."""
    root = tmp_path_factory.mktemp("checkout")
    shutil.copytree(paths.PROFILES, root / "notebooks" / "profiles")
    shutil.copytree(paths.SUPPLEMENT, root / "tables" / "supplement")
    (root / "RESULTS.md").write_text("<!-- generated: demo -->\n<!-- end -->\n")
    (root / "README.md").write_text("<!-- generated: summary -->\n<!-- end -->\n")
    for name in (FIRST, SECOND):
        cells = [
            new_markdown_cell(f"# {name}"),
            new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
            new_code_cell(OPEN.format(name=name)),
            new_markdown_cell("## Computing"),
            new_code_cell(WORK),
            new_code_cell("stage.finish()"),
        ]
        nbformat.write(new_notebook(cells=cells), root / "notebooks" / f"{name}.ipynb")
    return root


def environment(checkout: Path, **extra: str) -> dict[str, str]:
    return os.environ | {"LDMSEG_HOME": str(checkout), "OMP_NUM_THREADS": "1"} | extra


def snakemake(checkout: Path, *arguments: str, **extra: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "Snakefile"), "--directory", str(checkout)]
    command += ["--cores", "1", "--rerun-triggers", "mtime", "--rerun-incomplete", "--nolock", *arguments]
    return subprocess.run(
        command, cwd=checkout, env=environment(checkout, **extra), capture_output=True, text=True, timeout=300
    )


def jobs(checkout: Path, *config: str) -> list[str]:
    """The stages that a dry run would execute."""
    done = snakemake(checkout, "--dry-run", "--config", *config)
    assert done.returncode == 0, done.stderr
    text = done.stdout + done.stderr
    return [name for name in (FIRST, SECOND) if f": {name}\n" in text]


@pytest.fixture(scope="module")
def finished(checkout: Path) -> subprocess.CompletedProcess:
    done = snakemake(checkout, *QUIETLY, "--config", "profile=demo")
    assert done.returncode == 0, done.stderr
    return done


def test_a_run_executes_the_notebooks_and_publishes(checkout: Path, finished: subprocess.CompletedProcess) -> None:
    run = checkout / "runs" / "demo"
    for name in (FIRST, SECOND):
        assert read_json(run / name / "result.json")["metrics"]["reconstruction"]["pq"] == 0.5
        executed = nbformat.read(run / "notebooks" / f"{name}.ipynb", as_version=4)
        assert any("computed" in str(cell.get("outputs")) for cell in executed.cells)
    assert "50.0" in (checkout / "tables" / "demo" / "ours_and_paper.md").read_text()
    assert (checkout / "tables" / "demo" / "results" / f"{FIRST}.json").exists()
    assert "50.0" in (checkout / "RESULTS.md").read_text()


def test_the_terminal_shows_headings_progress_and_prints(finished: subprocess.CompletedProcess) -> None:
    expected = [line for name in (FIRST, SECOND) for line in (f"- {name}", "- Computing", f"  computed {name}")]
    lines = finished.stderr.splitlines()
    assert [line for line in lines if line in expected] == expected, finished.stderr
    assert sum("counting: 100% 3/3" in line for line in lines) == 2, finished.stderr
    # how many states of a bar are shown depends on the time it takes; of Snakemake's own lines few are left
    for part in ("Job stats", "Job counts", "rule notebook", "jobid:", "Reason:", "steps ("):
        assert part not in finished.stderr, finished.stderr


def test_a_finished_run_has_nothing_to_do_and_a_change_runs_what_depends_on_it(
    checkout: Path, finished: subprocess.CompletedProcess
) -> None:
    assert jobs(checkout, "profile=demo") == []
    os.utime(checkout / "runs" / "demo" / FIRST / "result.json")
    assert jobs(checkout, "profile=demo") == []
    assert jobs(checkout, "profile=demo", "overrides=evaluation.num_inference_steps=1") == []
    assert jobs(checkout, "profile=demo", "overrides=autoencoder.num_points=7") == [SECOND]
    assert jobs(checkout, "profile=demo", "overrides=data.image_size=32") == [FIRST, SECOND]
    assert jobs(checkout, "profile=demo", "seed=1") == [FIRST, SECOND]
    assert jobs(checkout, "profile=demo") == []


def test_a_lost_result_is_made_again(checkout: Path, finished: subprocess.CompletedProcess) -> None:
    result = checkout / "runs" / "demo" / SECOND / "result.json"
    text = result.read_text()
    result.unlink()
    assert jobs(checkout, "profile=demo") == [SECOND]
    result.write_text(text)
    assert jobs(checkout, "profile=demo") == []


def test_a_subset_brings_what_it_needs(checkout: Path) -> None:
    assert jobs(checkout, "run_dir=" + str(checkout / "part"), "notebooks=01") == [FIRST]
    assert jobs(checkout, "run_dir=" + str(checkout / "part"), "notebooks=02") == [FIRST, SECOND]


def test_a_failing_notebook_stops_with_its_traceback_and_is_kept(checkout: Path) -> None:
    run = checkout / "a folder of mine"
    config = [*QUIETLY, "--config", f"run_dir={run}"]
    done = snakemake(checkout, *config, FAIL_IN=SECOND)
    assert done.returncode != 0
    assert "RuntimeError: the loss is not a number" in done.stderr
    assert "papermill/execute.py" not in done.stderr  # papermill's own frames would bury the notebook's
    kept = run / "notebooks" / f"{SECOND}.ipynb"
    assert f"The executed notebook, with its error: {kept}" in done.stderr.replace("'", "")
    assert "the loss is not a number" in kept.read_text()

    again = snakemake(checkout, *config)
    assert again.returncode == 0, again.stderr
    assert f"computed {FIRST}" not in again.stderr and f"computed {SECOND}" in again.stderr
    # the run lies outside runs/, so it publishes nothing
    assert (run / "tables" / "ours_and_paper.md").exists() and not (checkout / "tables" / run.name).exists()


def test_unknown_settings_and_profiles_are_said_in_a_sentence(checkout: Path) -> None:
    for config, message in {
        "profil=demo": "unknown setting 'profil'",
        "profile=dmo": "did you mean 'demo'",
        "notebooks=02_autoencodr": "did you mean '02_autoencoder'",
    }.items():
        done = snakemake(checkout, "--dry-run", "--config", config)
        assert done.returncode != 0 and message in done.stdout + done.stderr


def test_papermill_alone_runs_a_notebook_and_refuses_an_unknown_parameter(checkout: Path) -> None:
    command = [sys.executable, "-m", "papermill", str(checkout / "notebooks" / f"{FIRST}.ipynb"), os.devnull]
    command += ["-k", "python3", "-l", "python", "-r", "run_dir", str(checkout / "alone")]
    done = subprocess.run(
        [*command, "-p", "sed", "3"], env=environment(checkout), capture_output=True, text=True, timeout=120
    )
    assert done.returncode != 0 and "unknown notebook parameter 'sed'; did you mean 'seed'" in done.stderr
    assert not (checkout / "alone").exists()


# what a person sees


class Log:
    def __init__(self, terminal: bool):
        self.text, self.terminal = "", terminal

    def isatty(self) -> bool:
        return self.terminal

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None:
        pass


def test_a_log_gets_few_lines_of_a_long_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("ldmseg_lib.reproduction.terminal.time.monotonic", lambda: now[0])
    log = Log(terminal=False)
    terminal = Terminal(log)
    for second in range(600):
        now[0] = second
        terminal.progress("bar", f"{second}/600")
    terminal.progress("bar", "600/600", finished=True)
    terminal.progress("bar", "600/600", finished=True)
    lines = log.text.splitlines()
    assert len(lines) == 21 and lines[0] == "0/600" and lines[-1] == "600/600"


def test_a_terminal_changes_one_line_in_place() -> None:
    log = Log(terminal=True)
    terminal = Terminal(log, every=0)
    for step in range(3):
        terminal.progress("bar", f"long text {step}" if step < 2 else "short")
    terminal.line("printed")
    terminal.close()
    assert log.text.count("\n") == 1 and log.text.endswith("\rprinted\n")
    assert "\rshort      " in log.text  # covers what stood there


def test_a_bar_is_read_from_its_widgets() -> None:
    states = {
        "box": {"children": ["IPY_MODEL_left", "IPY_MODEL_bar", "IPY_MODEL_right"]},
        "left": {"value": "training:\u2007\u200745%"},
        "bar": {"bar_style": "success"},
        "right": {"value": "\u20079/20\u2007[00:01&lt;00:02,\u2007loss=0.5]"},
        "other": {"value": "x"},
    }
    assert bar_text(states, "right") == ("box", "training: 45% 9/20 [00:01<00:02, loss=0.5]", True)
    assert bar_text(states, "other") is None


def test_a_cell_stands_under_the_last_heading_above_it() -> None:
    middle = new_markdown_cell("# Title\ntext\n## Part")
    cells = [new_code_cell("1"), middle, new_code_cell("2"), new_markdown_cell("x")]
    assert headings(cells) == ["", "Part", "Part", "Part"]
