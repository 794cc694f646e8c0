"""Messages for bad input say no less than they did before the package was divided into folders."""

import importlib.util
import json
from pathlib import Path

import pytest

HERE = Path(__file__).parent
BEFORE = json.loads((HERE / "messages.json").read_text(encoding="utf-8"))

spec = importlib.util.spec_from_file_location("message_cases", HERE / "message_cases.py")
assert spec is not None and spec.loader is not None
cases = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cases)


def test_every_case_was_recorded():
    assert BEFORE.keys() == cases.CASES.keys()
    assert len(BEFORE) >= 40


@pytest.mark.parametrize("case", BEFORE)
def test_a_message_says_what_it_said(case, tmp_path):
    """The same kind of error; the same text, or one that names the same things."""
    (was_kind, _, was), (kind, _, now) = (
        text.partition(": ") for text in (BEFORE[case], cases.message(case, tmp_path))
    )
    assert kind == was_kind
    essential = cases.CASES[case][1]
    for text in (was, now):
        assert [part for part in essential if part not in text] == [], text
