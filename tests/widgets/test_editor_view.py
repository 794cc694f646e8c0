"""What the page is told, and that its messages are taken in order, once, and as files of any size."""

import io
import uuid
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from ldmseg_lib.widgets import raster


@pytest.fixture
def editor(make_editor):
    return make_editor()


def say(editor, seq: int, client: str = "page", **content) -> None:
    editor.widget._receive(None, {"type": "edit", "client": client, "seq": seq, **content}, [])


def box(x: int) -> dict:
    return {"op": "box", "x0": x, "y0": 0, "x1": x + 5, "y1": 5, "hide": True}


def test_edits_are_applied_in_their_order_whatever_order_they_come_in(editor):
    say(editor, 2, op="undo")
    say(editor, 3, **box(20))
    assert not editor.region.any() and editor.widget.acks.get("page", 0) == 0
    say(editor, 1, **box(0))
    assert editor.widget.acks["page"] == 3
    np.testing.assert_array_equal(np.unique(np.nonzero(editor.region)[1]), range(20, 25))


def test_an_edit_sent_twice_is_done_once(editor):
    say(editor, 1, **box(0))
    say(editor, 2, op="undo")
    say(editor, 1, **box(0))
    say(editor, 2, op="undo")
    assert not editor.region.any() and editor.redo()


def test_two_pages_number_their_edits_apart(editor):
    say(editor, 1, client="one", **box(0))
    say(editor, 1, client="two", **box(20))
    say(editor, 2, client="one", op="undo")
    assert editor.widget.acks == {"one": 2, "two": 1}
    assert editor.region[0, 0] and not editor.region[0, 20]


def test_a_refused_edit_is_confirmed_and_explained(editor):
    say(editor, 1, op="start", steps=0, candidates=1, seed=0, sampler=None)
    assert editor.widget.acks["page"] == 1
    assert "Nothing is hidden" in editor.widget.state["message"]["text"]
    say(editor, 2, op="format_disk")
    assert "something unknown" in editor.widget.state["message"]["text"]
    say(editor, 3, op="paint", points="all of them", radius=3)
    assert editor.widget.acks["page"] == 3


def test_the_page_gets_what_python_holds(editor, ids):
    view = editor.widget
    editor.paint([(5, 5), (50, 40)], 6)
    np.testing.assert_array_equal(raster.unpack(zlib.decompress(view.region_z), (48, 64)), editor.region)
    np.testing.assert_array_equal(np.frombuffer(zlib.decompress(view.ids_z), "<i4").reshape(48, 64), ids)
    editor.run(candidates=3)
    sent = np.frombuffer(zlib.decompress(view.candidates_z), "<i4").reshape(3, 48, 64)
    np.testing.assert_array_equal(sent, editor.candidates)
    assert view.state["names"] | {"1": "sky", "2": "ball", "3": "ball"} == view.state["names"] | {"1": "sky"}
    assert set(view.state["colours"]) >= {str(i) for i in np.unique(sent[sent > 0])}
    assert view.state["undo"] == "Brush"


def test_a_segment_keeps_its_colour_when_others_come_and_go(editor):
    view = editor.widget
    before = dict(view.state["colours"])
    editor.drop_segment(1)
    editor.run(seed=3)
    editor.accept()
    assert {i: c for i, c in view.state["colours"].items() if i in before} == before


def test_a_stroke_costs_little_to_send(editor):
    view = editor.widget
    sent: list[int] = []
    view.send_state = lambda key=None: sent.append(
        sum(len(v) for k in key for v in [getattr(view, k)] if isinstance(v, bytes))
    )
    editor.paint([(5, 5), (50, 40)], 6)
    assert len(sent) == 1 and sent[0] < 500, "one message, without the photo and the ids"


def test_a_file_comes_in_parts(editor):
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (900, 1200, 3), np.uint8)).save(file, "PNG")
    data = file.getvalue()
    size = 2**20
    parts = -(-len(data) // size)
    assert parts > 2
    for part in reversed(range(parts)):
        content = {"type": "upload", "upload": "u", "part": part, "parts": parts, "name": "noise.png"}
        editor.widget._receive(None, content, [memoryview(data)[part * size : (part + 1) * size]])
    assert editor.region.all()


def test_an_upload_that_is_no_image_is_named_on_the_page(editor):
    content = {"type": "upload", "upload": "u", "part": 0, "parts": 1, "name": "notes.txt"}
    editor.box(0, 0, 9, 9)
    editor.widget._receive(None, content, [b"some notes"])
    assert editor.widget.state["message"]["text"].startswith("notes.txt is not an image")
    assert editor.region.sum() == 81


def test_requests_of_python_clients_have_no_page_behind_them(monkeypatch):
    from jupyter_client.session import Session

    from ldmseg_lib.widgets.editor_view import browser_behind

    headless = Session(key=b"").msg("execute_request")
    page = {"header": {"msg_id": str(uuid.uuid4())}, "metadata": {"cellId": str(uuid.uuid4())}}
    for parent, expected in ((headless, False), (page, True), (page | {"metadata": {}}, True)):
        shell = SimpleNamespace(kernel=SimpleNamespace(get_parent=lambda parent=parent: parent))
        monkeypatch.setattr("IPython.get_ipython", lambda shell=shell: shell)
        assert browser_behind() is expected
    monkeypatch.setattr("IPython.get_ipython", lambda: None)
    assert not browser_behind()
