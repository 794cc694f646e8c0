"""Several processes: what srun says is understood; a notebook starts and shows a training that goes on elsewhere."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from ldmseg_lib.core.errors import InputError
from ldmseg_lib.core.machine import StageLock
from ldmseg_lib.core.profiles import Profile
from ldmseg_lib.experiments.trainables import TRAINABLES
from ldmseg_lib.reproduction import train_devices
from ldmseg_lib.reproduction.stage_keys import STAGES
from ldmseg_lib.reproduction.train_devices import train_on_all_devices
from ldmseg_lib.training.launch import take_slurm_for_torchrun

SRUN = {
    "SLURM_STEP_NUM_TASKS": "16",
    "SLURM_PROCID": "9",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "8(x2)",
    "MASTER_ADDR": "node1",
}


def test_srun_is_taken_for_torchrun():
    environment = dict(SRUN)
    take_slurm_for_torchrun(environment)
    expected = {"RANK": "9", "WORLD_SIZE": "16", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "8", "MASTER_PORT": "29500"}
    assert environment == SRUN | expected


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"SLURM_PROCID": "0", "SLURM_NTASKS": "16"},  # the batch script itself, which is one process
        SRUN | {"SLURM_STEP_NUM_TASKS": "1"},
        SRUN | {"RANK": "3", "WORLD_SIZE": "4"},  # torchrun under srun
    ],
)
def test_what_is_no_step_of_several_tasks_is_left_alone(environment):
    found = dict(environment)
    take_slurm_for_torchrun(found)
    assert found == environment


def test_a_missing_address_is_named_with_the_line_that_sets_it():
    environment = {name: value for name, value in SRUN.items() if name != "MASTER_ADDR"}
    with pytest.raises(InputError, match="MASTER_ADDR is not set; in the batch script: export"):
        take_slurm_for_torchrun(environment)


WORKER = """
import json, os, signal, sys, time
folder = sys.argv[sys.argv.index("--run-dir") + 1] + "/02_autoencoder"
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
for step in range(1, 4):
    with open(folder + "/metrics.jsonl", "a") as file:
        file.write(json.dumps({"step": step, "loss": 1 / step, "images_per_second": 5.0}) + chr(10))
    time.sleep({wait})
print("arguments", json.dumps(sys.argv[1:]))
sys.exit({code})
"""


@pytest.fixture
def stage(tmp_path):
    """An open stage, as a notebook has it."""
    lock = StageLock(tmp_path / "keys" / "02_autoencoder.lock")
    lock.acquire("waiting")
    (tmp_path / "02_autoencoder").mkdir()
    yield SimpleNamespace(
        result=None,
        folder=tmp_path / "02_autoencoder",
        run_dir=tmp_path,
        profile=Profile.load("smoke", "autoencoder.training.steps=3"),
        seed=4,
        data_given=True,
        data_root=tmp_path / "data",
        lock_handle=lock.handle,
    )
    lock.release()


def as_worker(monkeypatch, tmp_path, *, code=0, wait=0.05):
    """Let a small script stand for `python -m ldmseg_lib.training`."""
    script = tmp_path / "worker.py"
    script.write_text(WORKER.replace("{wait}", str(wait)).replace("{code}", str(code)))

    def started(command, **settings):
        return subprocess.Popen([command[0], str(script), *command[3:]], **settings)

    # not Popen itself, which libraries use too
    monkeypatch.setattr(train_devices, "subprocess", SimpleNamespace(Popen=started, STDOUT=subprocess.STDOUT))


def test_a_notebook_starts_one_process_a_device_with_its_own_settings(stage, monkeypatch, tmp_path, capfd):
    as_worker(monkeypatch, tmp_path)
    train_on_all_devices(stage, "autoencoder", devices=2)
    said = (stage.folder / "training.log").read_text()
    given = json.loads(said.partition("arguments ")[2])
    assert given[0] == "autoencoder" and given[given.index("--devices") + 1] == "2" and "--opened" in given
    assert given[given.index("--seed") + 1] == "4" and given[given.index("--data-root") + 1] == str(tmp_path / "data")
    loaded = Profile.load(given[given.index("--profile") + 1])
    assert loaded.autoencoder == stage.profile.autoencoder and loaded.data == stage.profile.data
    assert "autoencoder on 2 devices: 100%" in capfd.readouterr().err


@pytest.mark.parametrize("devices", [0, 1])
def test_with_one_device_the_notebook_trains_itself(stage, devices, monkeypatch):
    monkeypatch.setattr(train_devices, "subprocess", None)
    train_on_all_devices(stage, "autoencoder", devices=devices)
    assert not [*stage.folder.rglob("training.log")]


def test_a_finished_stage_starts_nothing(stage, monkeypatch):
    monkeypatch.setattr(train_devices, "subprocess", None)
    stage.result = {"metrics": {}}
    train_on_all_devices(stage, "autoencoder", devices=2)
    assert not [*stage.folder.rglob("training.log")]


def test_a_training_that_fails_says_why(stage, monkeypatch, tmp_path):
    as_worker(monkeypatch, tmp_path, code=2)
    with pytest.raises(InputError, match=r"ended with exit code 2; .*training\.log ends with: arguments"):
        train_on_all_devices(stage, "autoencoder", devices=2)


def test_stopping_the_cell_asks_the_training_to_stop_and_waits(stage, monkeypatch, tmp_path):
    as_worker(monkeypatch, tmp_path, wait=30)
    # a shell starts what it runs in the background with interrupts ignored; a notebook's kernel takes them
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    started = time.monotonic()
    main = threading.main_thread().ident

    def interrupt():
        while not (stage.folder / "metrics.jsonl").exists():
            time.sleep(0.05)
        time.sleep(0.3)
        signal.pthread_kill(main, signal.SIGINT)

    threading.Thread(target=interrupt).start()
    try:
        with pytest.raises(KeyboardInterrupt):
            train_on_all_devices(stage, "autoencoder", devices=2)
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - started < 25


def test_the_training_holds_the_stages_lock_when_the_notebook_is_gone(tmp_path):
    """Else a second start would write into the same folder."""
    script = """
import os, subprocess, sys
from pathlib import Path
from ldmseg_lib.core.machine import StageLock
lock = StageLock(Path(sys.argv[1]))
lock.acquire("waiting")
asleep = [sys.executable, "-c", "import time; time.sleep(600)"]
child = subprocess.Popen(asleep, pass_fds=[lock.handle], stdout=subprocess.DEVNULL)
print(child.pid, flush=True)
os._exit(0)
"""
    path = tmp_path / "stage.lock"
    done = subprocess.run([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, text=True, timeout=300)
    child = int(done.stdout)
    taker = "import sys; from pathlib import Path; from ldmseg_lib.core.machine import StageLock\n"
    taker += "StageLock(Path(sys.argv[1])).acquire('waiting for it'); print('taken')"
    second = subprocess.Popen([sys.executable, "-c", taker, str(path)], stdout=subprocess.PIPE, text=True)
    assert second.stdout.readline() == "waiting for it\n"
    assert second.poll() is None
    os.kill(child, signal.SIGKILL)
    assert second.communicate(timeout=300)[0] == "taken\n"


def test_every_trainable_names_a_stage_and_its_settings():
    profile = Profile.load("paper")
    assert {"autoencoder", "diffusion", "consistency", "multitask", "mask2former_mae"} <= TRAINABLES.keys()
    for name, trainable in TRAINABLES.items():
        assert trainable.stage in STAGES, name
        assert trainable.settings(profile).steps > 0 and not Path(trainable.folder).is_absolute()
