"""The editor in JupyterLab: what the hand does is what Python holds, bit for bit."""

import pytest

pytestmark = pytest.mark.browser


def test_it_shows(lab):
    lab.page.screenshot(path="/tmp/shot1.png")
    lab.editor().screenshot(path="/tmp/shot2.png")
    print(lab.problems)
