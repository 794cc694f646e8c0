"""The editor in JupyterLab: what the hand does is what Python holds, bit for bit."""

import io
import json
import os
import re
import signal
import statistics
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ldmseg_lib.widgets import raster

pytestmark = [pytest.mark.browser, pytest.mark.slow]

SHAPE = (96, 128)
# The README's picture: LDMSEG_EDITOR_PICTURE=figures/editor.png LDMSEG_EDITOR_PIPELINE=runs/demo/04_diffusion/pipeline
PIPELINE = os.environ.get("LDMSEG_EDITOR_PIPELINE") and os.path.abspath(os.environ["LDMSEG_EDITOR_PIPELINE"])

# The lowest contrast (WCAG 2) of a text with what is behind it.
CONTRAST = """root => {
    const rgba = (text) => { const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number); return [r, g, b, a]; };
    const over = (top, below) => below.map((v, i) => top[i] * top[3] + v * (1 - top[3]));
    const behind = (node) => {
        if (!node) return [255, 255, 255];
        const colour = rgba(getComputedStyle(node).backgroundColor);
        return colour[3] === 1 ? colour.slice(0, 3) : over(colour, behind(node.parentElement));
    };
    const light = (rgb) => {
        const [r, g, b] = rgb.map(v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05;
    };
    const shown = [...root.querySelectorAll('*')].filter(n => n.offsetParent && !n.disabled
        && [...n.childNodes].some(c => c.nodeType === 3 && c.data.trim()) || n.matches('input[type=number]'));
    const found = shown.map(n => {
        const ground = behind(n), text = over(rgba(getComputedStyle(n).color), ground);
        const [low, high] = [light(ground), light(text)].sort((a, b) => a - b);
        return [high / low, n.outerHTML.slice(0, 120)];
    });
    return found.sort((a, b) => a[0] - b[0])[0];
}"""


def python_mask(edit: dict) -> np.ndarray:
    if edit["op"] == "paint":
        return raster.stroke(SHAPE, edit["points"], edit["radius"])
    if edit["op"] == "box":
        return raster.rectangle(SHAPE, edit["x0"], edit["y0"], edit["x1"], edit["y1"])
    return raster.lasso(SHAPE, edit["points"])


def random_edits(count: int) -> list[dict]:
    """Strokes, rectangles and lassos of every size, also outside the picture, on and beside pixel borders."""
    draw = np.random.default_rng(5)
    edits: list[dict] = []
    for i in range(count):
        reach = draw.choice([3.0, 60.0, 400.0, 9000.0])
        points = draw.normal((64, 48), reach, (int(draw.integers(1, 9)), 2))
        if i % 3 == 0:
            points = np.round(points * 4) / 4
        if i % 4 == 0:
            edits.append(
                {"op": "box", **dict(zip(("x0", "y0", "x1", "y1"), draw.normal(50, 40, 4).tolist())), "hide": True}
            )
        elif i % 4 == 1:
            edits.append({"op": "lasso", "points": points.tolist(), "hide": True})
        else:
            edits.append(
                {"op": "paint", "points": points.tolist(), "radius": float(draw.choice([0.1, 0.5, 1.25, 7.3, 40, 300]))}
            )
    return edits


def test_browser_and_numpy_cover_the_same_pixels(lab):
    edits = random_edits(400)
    drawn = lab.view(
        """a.map(edit => {
            v.base = new Uint8Array(128 * 96);
            v.pending = [{ ...edit, seq: 1e9 }];
            v.rebuild();
            return v.region.join('');
        })""",
        argument=edits,
    )
    lab.view("v.pending = []")
    masks = [python_mask(edit) for edit in edits]
    assert sum(0 < mask.sum() < mask.size for mask in masks) > 150
    for edit, seen, mask in zip(edits, drawn, masks):
        assert seen == "".join(map(str, mask.astype(int).ravel())), edit


def test_a_slanted_stroke_appears_while_python_is_busy_and_is_the_same_there(lab):
    with lab.busy():
        lab.drag((20.3, 15.8), (101.7, 77.1), (60, 90))
        drawn = lab.seen()
        assert drawn.sum() > 500, "nothing was drawn while Python was busy"
        assert lab.view("v.pending[0].points.length") > 10
    lab.settled()
    np.testing.assert_array_equal(drawn, lab.held())
    np.testing.assert_array_equal(lab.seen(), drawn)
    colour = lab.view("Array.from(v.picture.hidden.ctx.getImageData(20, 16, 1, 1).data)")
    assert colour == [255, 255, 255, 255]


def test_every_tool_reaches_python(lab):
    lab.drag((30, 30), (90, 60))
    lab.settled()
    painted = lab.held()
    lab.tool("eraser")
    lab.drag((60, 20), (60, 80))
    lab.settled()
    erased = lab.held()
    assert 0 < erased.sum() < painted.sum() and not erased[40:50, 60].any()
    lab.tool("box")
    lab.drag((10.2, 70.4), (40.3, 90.1))
    lab.settled()
    assert lab.held()[71:90, 11:40].all()
    lab.tool("lasso")
    lab.drag((100, 5), (120, 5), (110, 30))
    lab.settled()
    lassoed = lab.held()
    assert lassoed[10, 110] and not lassoed[28, 101]
    lab.tool("segment")
    ids = lab.held("ids")
    lab.drag((3, 3))
    lab.settled()
    assert lab.held()[ids == ids[3, 3]].all()
    lab.drag((3, 3))
    lab.settled()
    assert not lab.held()[ids == ids[3, 3]].any()
    np.testing.assert_array_equal(lab.seen(), lab.held())


def test_undo_and_redo_outlive_a_reload_of_the_page(lab):
    lab.drag((20, 20), (50, 40))
    lab.settled()
    first = lab.held()
    lab.drag((90, 20), (100, 80))
    lab.settled()
    second = lab.held()
    lab.page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
    lab.page.reload()
    lab.settle(lab.page)
    lab.editor().wait_for()
    np.testing.assert_array_equal(lab.seen(), second)
    lab.press("undo")
    lab.settled()
    np.testing.assert_array_equal(lab.seen(), first)
    np.testing.assert_array_equal(lab.held(), first)
    lab.editor().locator("canvas.me-canvas").focus()
    lab.page.keyboard.press("Control+z")
    lab.settled()
    assert not lab.held().any()
    lab.page.keyboard.press("Control+Shift+Z")
    lab.page.keyboard.press("Control+Shift+Z")
    lab.settled()
    np.testing.assert_array_equal(lab.held(), second)


def test_two_pages_show_one_editor(lab):
    lab.page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
    other = lab.open_page()
    try:
        lab.editor(other).wait_for()
        lab.drag((20, 20), (80, 70))
        lab.settled()
        follow = "([root, n]) => root.maskEditor.region.reduce((sum, value) => sum + value, 0) === n"
        drawn = lab.seen()
        other.wait_for_function(follow, arg=[lab.editor(other).element_handle(), int(drawn.sum())])
        np.testing.assert_array_equal(lab.seen(page=other), drawn)
        lab.press("undo", page=other)
        lab.page.wait_for_function(follow, arg=[lab.editor().element_handle(), 0])
        assert not lab.held().any()
    finally:
        other.close()


def test_cancel_works_within_a_step_and_a_second_inpaint_is_refused(lab):
    # a thousand seconds: on the busiest machine it is still at work when it is cancelled
    lab.run_all(delay=1.0)
    lab.editor().get_by_label("Steps").first.fill("1000")
    lab.press("inpaint")
    lab.message("Nothing is hidden")
    lab.drag((30, 30), (90, 60))
    lab.settled()
    region = lab.held()
    lab.press("inpaint")
    lab.editor().locator(".me-stage-text", has_text=re.compile(r"Step \d+ of 1000")).wait_for()
    with pytest.raises(AssertionError, match="already at work"):
        lab.python("editor.start()")
    lab.message("already at work")
    lab.press("cancel")
    lab.message("Cancelled at step")
    assert lab.python("[editor.running, len(editor.candidates), len(pipe.encoded)]") == [False, 0, 1]
    assert lab.python("pipe.steps") < 1000
    np.testing.assert_array_equal(lab.held(), region)


def test_a_candidate_is_chosen_compared_accepted_and_taken_back(lab):
    ids = lab.held("ids")
    lab.drag((40, 50), (100, 70))
    editor = lab.editor()
    editor.get_by_label("Candidates").first.fill("3")
    editor.get_by_label("Seed", exact=True).fill("7")
    editor.get_by_label("Sampler").select_option("unipc")
    lab.press("inpaint")
    editor.locator(".me-thumb").nth(2).wait_for()
    editor.locator(".me-thumb").nth(1).click()
    editor.locator(".me-thumb[data-candidate='1'][aria-checked=true]").wait_for()
    lab.settled()
    assert lab.python("[editor.chosen, pipe.calls[-1]['sampler'], editor.settings.seed]") == [1, "unipc", 7]
    proposed = np.array(lab.python("editor.candidates[1].tolist()"))
    region = lab.held().astype(bool)
    shown = "[v.picture.preview, Array.from(v.picture.colours.pixels).filter(c => c === 0).length]"
    assert lab.view(shown) == [True, 0]
    lab.press("before")
    lab.page.wait_for_function("r => r.maskEditor.picture.preview === false", arg=editor.element_handle())
    assert lab.view(shown) == [False, int(region.sum())], "before: what is hidden has no colour"
    lab.press("before")
    lab.press("accept")
    lab.settled()
    np.testing.assert_array_equal(lab.held("ids"), proposed)
    np.testing.assert_array_equal(lab.seen("ids"), proposed)
    assert not lab.held().any()
    np.testing.assert_array_equal(proposed[~region], ids[~region])
    lab.drag((20, 20), (30, 30))
    lab.press("undo")
    lab.press("undo")
    lab.settled()
    np.testing.assert_array_equal(lab.held("ids"), ids)
    np.testing.assert_array_equal(lab.held().astype(bool), region)


def test_exports_are_read_back(lab):
    lab.drag((40, 50), (100, 70))
    lab.press("export")
    lab.message("Exported to")
    ids = lab.held("ids")
    folder = lab.server.work / "runs" / json.loads((lab.server.work / "plan.json").read_text())["name"] / "export"
    np.testing.assert_array_equal(np.asarray(Image.open(folder / "ids.png")), ids)
    np.testing.assert_array_equal(np.load(folder / "ids.npy", allow_pickle=False), ids)
    np.testing.assert_array_equal(np.load(folder / "region.npy", allow_pickle=False), lab.held().astype(bool))
    coco = np.asarray(Image.open(folder / "panoptic" / "image.png")).astype(int)
    np.testing.assert_array_equal(coco @ [1, 256, 65536], ids)
    entries = json.loads((folder / "panoptic.json").read_text())["annotations"][0]["segments_info"]
    assert {e["id"]: e["area"] for e in entries} == {int(i): int((ids == i).sum()) for i in np.unique(ids)}
    with lab.page.expect_download() as download:
        lab.press("png")
    taken = np.asarray(Image.open(download.value.path()).convert("RGB")).astype(int)
    np.testing.assert_array_equal(taken @ [1, 256, 65536], ids)


def test_the_keyboard_alone_edits_and_leaves_the_notebook_be(lab):
    cells = "() => window.jupyterapp.shell.currentWidget.content.widgets.length"
    count = lab.page.evaluate(cells)
    canvas = lab.editor().locator("canvas.me-canvas")
    canvas.focus()
    keyboard = lab.page.keyboard
    for key in ("d", "d", "a", "x", "Escape", "b"):
        keyboard.press(key)
    keyboard.press("Space")
    for _ in range(3):
        keyboard.press("Shift+ArrowRight")
    keyboard.press("Space")
    lab.settled()
    radius = lab.view("v.tools.radius")
    expected = raster.stroke(SHAPE, [(64.5, 48.5), (74.5, 48.5), (84.5, 48.5), (94.5, 48.5)], radius)
    np.testing.assert_array_equal(lab.held().astype(bool), expected)
    keyboard.press("Control+z")
    lab.settled()
    assert not lab.held().any()
    keyboard.press("r")
    assert lab.editor().locator("[data-tool=box].me-icon").get_attribute("aria-pressed") == "true"
    assert lab.page.evaluate(cells) == count
    for node in lab.editor().locator("button, input, select, canvas.me-canvas").all():
        node.focus() if node.is_visible() and node.is_enabled() else None
        assert node.get_attribute("data-lm-suppress-shortcuts") == "true"
        named = node.evaluate("n => n.getAttribute('aria-label') || n.labels?.[0]?.textContent || n.textContent.trim()")
        assert named, node.evaluate("n => n.outerHTML")
    lab.editor().locator("[data-do=export]").focus()
    keyboard.press("d")
    keyboard.press("d")
    assert lab.page.evaluate(cells) == count


def test_one_finger_paints_and_two_zoom(lab):
    session = lab.context.new_cdp_session(lab.page)

    def touch(kind: str, *points: tuple[float, float]) -> None:
        places = [dict(zip(("x", "y"), lab.place(*p))) | {"id": i} for i, p in enumerate(points)]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": places})

    touch("touchStart", (30, 30))
    for i in range(1, 9):
        touch("touchMove", (30 + 5 * i, 30 + 2 * i))
    touch("touchEnd")
    lab.settled()
    painted = lab.held()
    assert painted[30, 30] and painted[46, 70]
    zoom = lab.view("v.picture.zoom")
    box = lab.editor().locator("canvas.me-canvas").bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

    def pinch(kind: str, span: float) -> None:
        places = [{"x": middle[0] + sign * span, "y": middle[1], "id": i} for i, sign in enumerate((-1, 1))]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": places})

    pinch("touchStart", 40)
    for span in (60, 80, 100, 120):
        pinch("touchMove", span)
    session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    assert 2 < lab.view("v.picture.zoom") / zoom < 4
    np.testing.assert_array_equal(lab.held(), painted)
    lab.view("v.picture.fit()")
    touch("touchStart", (20, 70))
    touch("touchMove", (40, 75))
    touch("touchMove", (60, 80))
    assert lab.view("v.region.reduce((a, b) => a + b, 0)") > painted.sum()
    touch("touchStart", (60, 80), (90, 80))
    touch("touchEnd")
    lab.page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    assert lab.view(DRAWN), "the second finger left its stroke on the picture"
    np.testing.assert_array_equal(lab.held(), painted)
    lab.tool("brush")
    lab.drag((64, 48), (70, 52))
    lab.settled()
    np.testing.assert_array_equal(lab.seen(), lab.held())
    assert lab.held()[48, 64]


DRAWN = """Array.from(v.picture.hidden.ctx.getImageData(0, 0, 128, 96).data).filter((_, i) => i % 4 === 3)
    .every((alpha, i) => (alpha > 0) === (v.region[i] > 0))"""


@pytest.mark.parametrize("end", ["escape", "blur", "tool key", "pointercancel", "kernel gone"])
def test_a_stroke_that_is_abandoned_leaves_nothing_drawn(lab, end):
    lab.drag((10, 10), (20, 20))
    lab.settled()
    before = lab.held()
    mouse = lab.page.mouse
    mouse.move(*lab.place(30, 30))
    mouse.down()
    mouse.move(*lab.place(90, 70), steps=8)
    assert lab.view("v.region.reduce((a, b) => a + b, 0)") > before.sum()
    if end == "escape":
        lab.page.keyboard.press("Escape")
    elif end == "blur":
        lab.editor().get_by_label("Steps").first.focus()
    elif end == "tool key":
        lab.page.keyboard.press("r")
    elif end == "pointercancel":
        lab.view("v.canvas.dispatchEvent(new PointerEvent('pointercancel', { pointerId: 1 }))")
    else:
        lab.view("v.gone = true")
    mouse.up()
    lab.page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    assert lab.view(DRAWN), "the picture shows another region than the model holds"
    np.testing.assert_array_equal(lab.seen(), before)
    np.testing.assert_array_equal(lab.held(), before)
    lab.view("v.gone = false")


def test_keys_work_after_a_click_in_the_panel_and_a_click_for_focus_edits_nothing(lab):
    editor, keyboard = lab.editor(), lab.page.keyboard
    lab.drag((10, 10), (20, 20))
    lab.settled()
    editor.get_by_role("heading", name="Hidden region").click()
    keyboard.press("l")
    assert editor.locator("[data-tool=lasso].me-icon").get_attribute("aria-pressed") == "true"
    lab.press("show_all")
    keyboard.press("b")
    assert editor.locator("[data-tool=brush].me-icon").get_attribute("aria-pressed") == "true"
    lab.settled()
    assert not lab.held().any()
    editor.get_by_label("Steps").first.click()
    lab.drag((50, 50))
    lab.settled()
    assert not lab.held().any(), "the click that brought the focus back"
    lab.drag((50, 50))
    lab.settled()
    assert lab.held()[50, 50]
    keyboard.press("?")
    assert editor.get_by_role("dialog", name="Keys").is_visible()
    keyboard.press("Escape")
    assert not editor.get_by_role("dialog", name="Keys").is_visible()


def test_the_picture_stays_where_it_is_when_candidates_appear(lab):
    lab.drag((40, 50), (100, 70))
    lab.settled()
    top = lab.view("v.canvas.getBoundingClientRect().top - v.root.getBoundingClientRect().top")
    lab.press("inpaint")
    lab.editor().locator(".me-thumb").nth(3).wait_for()
    assert lab.view("v.canvas.getBoundingClientRect().top - v.root.getBoundingClientRect().top") == top
    assert re.fullmatch(r"\d+ new(, \d+ continued)?", lab.editor().locator(".me-thumb span").first.text_content())
    lab.editor().screenshot(path=os.environ.get("LDMSEG_CANDIDATES_PICTURE") or None)


def test_every_tool_is_reachable_in_a_narrow_column(lab):
    lab.view("v.root.style.width = '200px'")
    for tool in lab.editor().locator("[data-tool].me-icon").all():
        inside = "n => n.getBoundingClientRect().right <= n.closest('.mask-editor').getBoundingClientRect().right"
        assert tool.evaluate(inside)
    lab.view("v.root.style.width = ''")


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def test_uploads_are_taken_or_refused_in_words(lab):
    lab.drag((30, 30), (90, 60))
    lab.settled()
    region, ids = lab.held(), lab.held("ids")
    chooser = lab.editor().locator("input[type=file]")
    chooser.set_input_files({"name": "notes.jpg", "mimeType": "image/jpeg", "buffer": b"not a picture"})
    lab.message("notes.jpg is not an image")
    chooser.set_input_files(
        {"name": "large.png", "mimeType": "image/png", "buffer": png(Image.new("1", (10_000, 10_000)))}
    )
    lab.message("100 megapixels")
    np.testing.assert_array_equal(lab.held(), region)
    noise = np.random.default_rng(0).integers(0, 256, (900, 1400, 3), np.uint8)
    chooser.set_input_files({"name": "mine.png", "mimeType": "image/png", "buffer": png(Image.fromarray(noise))})
    lab.message("never a photograph")
    assert lab.python("[editor.region.shape, bool(editor.region.all()), bool(editor.ids.any())]") == [
        [658, 1024],
        True,
        False,
    ]
    assert lab.view("[v.size, v.picture.width, v.picture.photo.height]") == [[658, 1024], 1024, 658]
    lab.press("inpaint")
    lab.message("Everything is hidden: this is a fresh sample")
    lab.editor().locator(".me-thumb").nth(3).wait_for()
    lab.press("undo")
    lab.settled()
    assert lab.view("v.size") == list(SHAPE)
    np.testing.assert_array_equal(lab.held("ids"), ids)
    np.testing.assert_array_equal(lab.held(), region)


def test_a_restarted_kernel_loses_no_edit(lab):
    lab.drag((30, 30), (60, 40))
    lab.settled()
    ids = lab.held("ids")
    kernel = lab.server.api("GET", "sessions")[0]["kernel"]["id"]
    # a kernel that hangs: the last stroke is on the page alone
    os.kill(lab.python("os.getpid()", statement="import os"), signal.SIGSTOP)
    lab.drag((80, 30), (100, 80))
    drawn = lab.seen()
    assert lab.view("v.pending.length") == 1
    lab.page.evaluate("() => window.jupyterapp.shell.currentWidget.context.sessionContext.session.kernel.restart()")
    lab.message("The kernel of this editor is gone")
    assert lab.editor().locator("[data-do=inpaint]").is_disabled()
    with lab.page.expect_download() as download:
        lab.press("png")
    taken = np.asarray(Image.open(download.value.path()).convert("RGB")).astype(int)
    np.testing.assert_array_equal(taken @ [1, 256, 65536], ids)
    lab.drag((10, 10), (20, 80))
    np.testing.assert_array_equal(lab.seen(), drawn)
    lab.settle(lab.page)
    lab.connect()
    lab.run_all()
    lab.settled()
    np.testing.assert_array_equal(lab.held(), drawn)
    np.testing.assert_array_equal(lab.seen(), drawn)
    assert lab.server.api("GET", "sessions")[0]["kernel"]["id"] == kernel


def test_a_stroke_at_512_pixels_reaches_python_within_100_ms(lab):
    lab.run_all(scale=4)
    assert lab.view("v.size") == [384, 512]
    lab.view(
        """(() => {
            v.sent = []; v.waits = { paint: [], redo: [] }; v.drawing = [];
            const post = v.post.bind(v), live = v.live.bind(v);
            v.post = (message, buffers) => {
                v.sent[message.seq] = [message.op, performance.now()];
                post(message, buffers);
            };
            v.live = (...args) => { const t = performance.now(); live(...args); v.drawing.push(performance.now() - t) };
            new MutationObserver(() => v.waits[v.sent[v.acked][0]].push(performance.now() - v.sent[v.acked][1]))
                .observe(v.root, { attributes: true, attributeFilter: ['data-ack'] });
        })()"""
    )
    for i in range(10):
        lab.drag((40 + 20 * i, 40), (460 - 20 * i, 340), steps=10)
        lab.settled()
        # nothing can be done again: the message alone goes to Python and back
        lab.view("v.send({ op: 'redo' })")
        lab.settled()
    waits = {op: sorted(times) for op, times in lab.view("v.waits").items()}
    drawing = sorted(lab.view("v.drawing"))
    for name, times in (("stroke", waits["paint"]), ("bare message", waits["redo"]), ("drawing one move", drawing)):
        print(f"\n{name}: median {statistics.median(times):.1f} ms, largest {times[-1]:.1f} ms, n = {len(times)}")
    assert len(waits["paint"]) == 10
    # where other work holds up even a bare message, a stroke is held up with it
    assert statistics.median(waits["paint"]) < max(100, 4 * statistics.median(waits["redo"]))
    assert statistics.median(drawing) < 16
    np.testing.assert_array_equal(lab.seen(), lab.held())


def test_a_picture_of_the_editor_in_use(lab, tmp_path):
    lab.run_all(square=True, scale=1 if PIPELINE else 2, pipeline=PIPELINE)
    editor = lab.editor()
    side = lab.view("v.size")[0]
    lab.drag(*[(x * side, y * side) for x, y in [(0.48, 0.72), (0.72, 0.6), (0.92, 0.78)]])
    editor.get_by_label("Candidates").first.fill("4")
    editor.get_by_label("Seed", exact=True).fill("3")
    lab.press("inpaint")
    editor.locator(".me-thumb").nth(3).wait_for()
    editor.locator(".me-thumb").nth(1).click()
    lab.settled()
    lab.press("before")
    lab.settled()
    path = Path(os.environ.get("LDMSEG_EDITOR_PICTURE", tmp_path / "editor.png"))
    editor.scroll_into_view_if_needed()
    editor.screenshot(path=path)
    with Image.open(path) as picture:
        assert picture.width > 700
    for theme, suffix in (("Dark", "_dark"), ("Light", "_light")):
        lab.page.evaluate(
            f"() => jupyterapp.commands.execute('apputils:change-theme', {{theme: 'JupyterLab {theme}'}})"
        )
        lab.page.wait_for_function(f"() => document.body.dataset.jpThemeName === 'JupyterLab {theme}'")
        editor.screenshot(path=tmp_path / f"editor{suffix}.png")
        contrast, where = editor.evaluate(CONTRAST)
        print(f"\n{theme}: lowest contrast {contrast:.1f}, {where}")
        assert contrast > 4
