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
