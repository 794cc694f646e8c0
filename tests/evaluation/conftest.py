"""The fixture of the command's tests."""

import pytest

from tests.evaluation.coco_folders import Files, make_files


@pytest.fixture
def files(tmp_path) -> Files:
    """Five images, each with its ground truth and its prediction; tests change them and write them again."""
    return make_files(tmp_path)
