"""The package's names are loaded when first used, so that the metrics without torch stay light."""

import subprocess
import sys

import pytest

from ldmseg_lib import evaluation


def test_every_public_name_is_there():
    for name in dir(evaluation):
        assert getattr(evaluation, name).__name__ == name
    with pytest.raises(AttributeError, match="PanopticQualty"):
        _ = evaluation.PanopticQualty


def test_the_metrics_import_neither_torch_nor_diffusers():
    code = (
        "import sys\n"
        "from ldmseg_lib.evaluation import DepthMetrics, InstanceAP, PanopticQuality, SegmentSizeQuality, SemanticIoU\n"
        "assert not {'torch', 'diffusers'} & sys.modules.keys()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
