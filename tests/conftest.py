"""Where the tests find data that lies outside the project."""

import os
from pathlib import Path

import pytest

SHARED = Path(os.environ.get("LDMSEG_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


def _folder(path: Path) -> Path:
    if not path.is_dir():
        pytest.skip(f"{path} is not there; point LDMSEG_TEST_DATA to the folder of real test data")
    return path


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the real data sets `nuclei` and `coco_permissive`; tests that want it skip without it."""
    return _folder(SHARED)


@pytest.fixture(scope="session")
def shared_oracle() -> Path:
    """Folder of the recorded results of COCO's panoptic evaluator; tests that want it skip without it."""
    return _folder(SHARED.parent / "oracle")


@pytest.fixture(scope="session")
def smoke_overrides() -> dict[str, int]:
    """What makes the smoke profile smaller: trainings of six steps, with a checkpoint after every second."""
    short = {"steps": 6, "log_every": 1, "checkpoint_every": 2}
    trainings = {
        f"{name}.training.{key}": value for name in ("autoencoder", "diffusion") for key, value in short.items()
    }
    return {"data.train_scenes": 12, "data.val_scenes": 4, **trainings}


@pytest.fixture(scope="session")
def smoke_profile(smoke_overrides):
    """The smoke profile with `smoke_overrides`."""
    from ldmseg_lib.core.profiles import Profile

    return Profile.load("smoke", smoke_overrides)


@pytest.fixture(scope="session")
def smoke_data(tmp_path_factory: pytest.TempPathFactory, smoke_profile) -> Path:
    """The embedded data set as `smoke_profile` has it: 12 training and 4 validation scenes of 32 x 32 pixels."""
    from ldmseg_lib.data.scenes.dataset import write_dataset

    data = smoke_profile.data
    return write_dataset(
        tmp_path_factory.mktemp("smoke") / "data",
        size=data.image_size,
        train_scenes=data.train_scenes,
        val_scenes=data.val_scenes,
        min_things=data.min_things,
        max_things=data.max_things,
        workers=1,
        progress=False,
    )


@pytest.fixture(scope="session")
def smoke_run(tmp_path_factory: pytest.TempPathFactory, smoke_profile, smoke_data: Path):
    """Both trainings of `smoke_profile` on `smoke_data`: `folder`, `autoencoder`, `pipeline`, `records`, `dataset`."""
    from types import SimpleNamespace

    from ldmseg_lib.data.splits import training_split
    from ldmseg_lib.training.autoencoder import train_autoencoder
    from ldmseg_lib.training.diffusion import train_diffusion

    folder = tmp_path_factory.mktemp("smoke") / "run"
    dataset = training_split(smoke_profile, smoke_data)
    autoencoder, first = train_autoencoder(smoke_profile, dataset, folder / "autoencoder")
    pipeline, second = train_diffusion(smoke_profile, dataset, {"mask": autoencoder}, folder / "diffusion")
    pipeline.set_progress_bar_config(disable=True)
    return SimpleNamespace(
        folder=folder, dataset=dataset, autoencoder=autoencoder, pipeline=pipeline, records=(first, second)
    )


@pytest.fixture(scope="session")
def smoke_pipeline(smoke_run):
    """The pipeline of `smoke_run`. Its predictions mean nothing; do not change it."""
    return smoke_run.pipeline


@pytest.fixture(scope="session")
def smoke_stages(smoke_run, smoke_data: Path, smoke_overrides):
    """A function of an empty folder: makes it the run folder of notebooks 01, 02 and 04, finished with `smoke_run`."""
    import shutil

    from ldmseg_lib.reproduction.stages import open_stage

    first, second = smoke_run.records
    quality = {"pq": 0.5, "sq": 0.7, "rq": 0.7, "n": 1, "miou": 0.6}
    metrics = {
        "02_autoencoder": {"reconstruction": quality, "training": vars(first)},
        "04_diffusion": {"training": vars(second)},
    }

    def prepare(run_dir: Path) -> Path:
        for name in ("01_dataset", "02_autoencoder", "04_diffusion"):
            stage = open_stage(name, profile="smoke", run_dir=run_dir, overrides=smoke_overrides)
            if name == "01_dataset":
                shutil.copytree(smoke_data, stage.folder / "data")
            if name == "02_autoencoder":
                smoke_run.autoencoder.save_pretrained(stage.folder / "autoencoder")
            if name == "04_diffusion":
                smoke_run.pipeline.save_pretrained(stage.folder / "pipeline")
            stage.finish(metrics.get(name, {}), weights="trained by this notebook")
        return run_dir

    return prepare
