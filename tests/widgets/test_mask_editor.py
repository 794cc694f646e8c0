"""The editor from Python alone: edits, the model, refusals, autosave and what a page may ask for."""

import base64
import io
import json
import threading
import time

import numpy as np
import pytest
from PIL import Image

from ldmseg_lib.core.errors import InputError
from ldmseg_lib.widgets import mask_editor as module
from ldmseg_lib.widgets import raster
from ldmseg_lib.widgets.editable import SYNTHETIC_ONLY
from ldmseg_lib.widgets.mask_editor import MaskEditor


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def test_edits_add_up_and_are_taken_back(make_editor):
    editor = make_editor()
    editor.paint([(10, 10), (30, 20)], 4)
    editor.erase([(20, 15)], 3)
    editor.box(40, 30, 50, 40)
    editor.lasso([(2, 30), (12, 30), (7, 44)])
    expected = raster.stroke((48, 64), [(10, 10), (30, 20)], 4) & ~raster.stroke((48, 64), [(20, 15)], 3)
    expected |= raster.rectangle((48, 64), 40, 30, 50, 40) | raster.lasso((48, 64), [(2, 30), (12, 30), (7, 44)])
    np.testing.assert_array_equal(editor.region, expected)
    while editor.undo():
        pass
    assert not editor.region.any()
    while editor.redo():
        pass
    np.testing.assert_array_equal(editor.region, expected)


def test_a_dropped_segment_is_hidden_whole_and_shown_again(make_editor, ids):
    editor = make_editor()
    editor.drop_segment(3)
    np.testing.assert_array_equal(editor.region, ids == 3)
    editor.drop_segment(3, hide=False)
    assert not editor.region.any()
    with pytest.raises(InputError, match=r"no segment 9 here; the ids are 0, 1, 2, 3"):
        editor.drop_segment(9)


def test_the_model_never_sees_what_is_hidden(make_editor, fake_pipeline, ids):
    pipe = fake_pipeline()
    editor = make_editor(pipeline=pipe)
    editor.box(0, 0, 32, 48)
    editor.run(steps=3)
    call = pipe.calls[0]
    assert not call["ids"][editor.region].any()
    np.testing.assert_array_equal(call["ids"][call["known"]], ids[~editor.region])
    np.testing.assert_array_equal(call["known"], ~editor.region)


def test_known_pixels_keep_their_ids_even_when_the_model_errs(make_editor, fake_pipeline, ids):
    class Careless(fake_pipeline):
        def _fill(self, ids, known, seed):
            return np.full(ids.shape, 7)

    editor = make_editor(pipeline=Careless())
    editor.drop_segment(2)
    (result,) = editor.run()
    np.testing.assert_array_equal(result[ids != 2], ids[ids != 2])
    assert (result[ids == 2] == 7).all()


def test_a_candidate_depends_on_the_seed_and_its_number_alone(make_editor):
    editor = make_editor()
    editor.hide_all()
    editor.show_all()
    editor.box(5, 5, 60, 45)
    four = editor.run(candidates=4, seed=5)
    two = editor.run(candidates=2, seed=5)
    other = editor.run(candidates=2, seed=6)
    np.testing.assert_array_equal(four[:2], two)
    assert not np.array_equal(two, other)
    assert len({c.tobytes() for c in four}) > 1


def test_accepting_makes_the_candidate_the_segmentation(make_editor, ids):
    editor = make_editor()
    editor.drop_segment(2)
    region = editor.region
    proposals = editor.run(candidates=3, seed=1)
    editor.choose(2)
    editor.accept()
    np.testing.assert_array_equal(editor.ids, proposals[2])
    assert not editor.region.any() and editor.candidates == []
    assert {s["id"] for s in editor.segments} == set(np.unique(proposals[2][proposals[2] > 0]).tolist())
    editor.undo()
    np.testing.assert_array_equal(editor.ids, ids)
    np.testing.assert_array_equal(editor.region, region)
    assert len(editor.segments) == 3
    editor.redo()
    np.testing.assert_array_equal(editor.ids, proposals[2])


def test_settings_last_until_told_otherwise_and_the_image_is_encoded_once(make_editor, fake_pipeline):
    pipe = fake_pipeline()
    editor = make_editor(pipeline=pipe)
    editor.box(0, 0, 9, 9)
    editor.run(steps=4, sampler="unipc")
    editor.run(candidates=2)
    assert [(c["steps"], c["sampler"]) for c in pipe.calls] == [(4, "unipc"), (4, "unipc")]
    assert pipe.encoded == [(3, 48, 64)]


def test_cancel_stops_before_the_next_step_and_changes_nothing(make_editor, fake_pipeline):
    pipe = fake_pipeline(delay=0.05)
    editor = make_editor(pipeline=pipe)
    editor.box(0, 0, 9, 9)
    region = editor.region
    editor.start(steps=200)
    while pipe.steps < 2:
        time.sleep(0.01)
    editor.paint([(30, 30)], 4)
    editor.cancel()
    done = pipe.steps
    editor.wait(5)
    assert pipe.steps <= done + 1
    assert not editor.running and editor.candidates == []
    assert editor.message.startswith("Cancelled at step") and editor.message.endswith("of 200; nothing was changed.")
    assert editor.region.sum() > region.sum(), "an edit made while the model worked is kept"


def test_cancel_while_the_image_is_encoded_takes_effect_before_the_model_starts(make_editor, fake_pipeline):
    pipe = fake_pipeline()
    editor = make_editor(pipeline=pipe)
    encode = pipe.encode_image
    pipe.encode_image = lambda image: (editor.cancel(), encode(image))[1]
    editor.hide_all()
    assert editor.run(steps=5) == [] and not pipe.calls
    assert editor.message.startswith("Cancelled")


def test_an_interrupted_run_is_a_cancelled_one(make_editor, fake_pipeline):
    class Interrupted(fake_pipeline):
        def inpaint(self, *arguments, **keywords):
            raise KeyboardInterrupt

    editor = make_editor(pipeline=Interrupted())
    editor.box(0, 0, 9, 9)
    with pytest.raises(KeyboardInterrupt):
        editor.run()
    assert not editor.running and "Cancelled" in editor.message


def test_a_result_for_other_segments_than_those_now_is_dropped(make_editor, fake_pipeline):
    editor = make_editor(pipeline=fake_pipeline(delay=0.01))
    editor.drop_segment(3)
    editor.run(steps=1)
    editor.accept()
    editor.box(0, 0, 9, 9)
    editor.start(steps=20)
    editor.undo()
    editor.undo()
    editor.wait(5)
    assert editor.candidates == [] and editor.message == module.OUTDATED


def test_a_failing_model_is_reported_and_can_be_asked_again(make_editor, fake_pipeline):
    class Failing(fake_pipeline):
        failures = 1

        def encode_image(self, image):
            if self.failures:
                self.failures -= 1
                raise RuntimeError("out of memory")
            return image

    editor = make_editor(pipeline=Failing())
    editor.box(0, 0, 9, 9)
    with pytest.raises(RuntimeError, match="out of memory"):
        editor.run()
    assert "The model failed (RuntimeError: out of memory)" in editor.message
    assert len(editor.run()) == 1


def test_everything_hidden_is_a_fresh_sample_and_said_so(make_editor):
    editor = make_editor()
    editor.hide_all()
    assert len(editor.run()) == 1
    assert editor.message == module.EVERYTHING_HIDDEN


@pytest.mark.parametrize(
    ("ask", "why"),
    [
        (lambda e: e.run(), "Nothing is hidden"),
        (lambda e: e.accept(), "no candidate"),
        (lambda e: e.choose(0), "no candidate"),
        (lambda e: (e.hide_all(), e.run(steps=0)), "steps must be a whole number from 1 to 1000, not 0"),
        (lambda e: (e.hide_all(), e.run(candidates=99)), "candidates must be a whole number from 1 to 16, not 99"),
        (lambda e: (e.hide_all(), e.run(seed=-1)), "seed must be"),
        (lambda e: (e.hide_all(), e.run(steps=2.5)), "steps must be"),
        (lambda e: (e.hide_all(), e.run(), e.choose(1)), "no candidate 1; choose 0 to 0"),
        (lambda e: e.paint([(1, 1)], -2), "radius"),
        (lambda e: e.open_photo(b"no picture"), "not an image"),
        (lambda e: e.open_photo("/nowhere/photo.jpg"), "/nowhere/photo.jpg: cannot be read"),
    ],
)
def test_what_cannot_be_done_is_said_to_the_caller_and_on_the_page(make_editor, ask, why):
    editor = make_editor()
    editor.box(0, 0, 9, 9)
    editor.undo()
    with pytest.raises(InputError, match=why) as error:
        ask(editor)
    assert editor.message == str(error.value)
    editor.undo()
    assert editor.redo(), "no edit is lost"


def test_a_second_run_is_refused_while_one_goes_on(make_editor, fake_pipeline):
    editor = make_editor(pipeline=fake_pipeline(delay=0.02))
    editor.hide_all()
    editor.start(steps=30)
    with pytest.raises(InputError, match="already at work"):
        editor.run()
    editor.wait(5)
    assert len(editor.candidates) == 1


def test_ids_that_the_model_does_not_know_are_renumbered_and_exported_as_they_were(make_editor, ids, tmp_path):
    coco = np.array([0, 16_759_723, 5, 3_226_956])[ids]
    segments = [{"id": 16_759_723, "category_id": 10}, {"id": 5, "category_id": 20}]
    editor = make_editor(ids=coco, segments=segments)
    assert sorted(np.unique(editor.ids)) == [0, 1, 2, 3]
    paths = editor.export(tmp_path / "out")
    np.testing.assert_array_equal(np.load(paths["ids_npy"]), coco)
    entries = json.loads(paths["panoptic_json"].read_text())["annotations"][0]["segments_info"]
    assert {e["id"]: e["category_id"] for e in entries} == {16_759_723: 10, 5: 20, 3_226_956: 21}
    editor.paint_segment(5, [(20, 10)], 3)
    exported = np.load(editor.export(tmp_path / "out")["ids_npy"])
    assert set(np.unique(exported[editor.ids == 5])) == {6}, "not the 5 that another segment had"
    restored = make_editor(ids=coco, segments=segments)
    np.testing.assert_array_equal(restored.ids, editor.ids)


def test_without_a_model_all_but_inpainting_works(make_editor, tmp_path):
    editor = make_editor(pipeline=None)
    editor.hide_all()
    with pytest.raises(InputError, match="No model is attached"):
        editor.run()
    assert editor.export(tmp_path / "out")["ids_npy"].exists()


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (
            {"ids": np.zeros((40, 64), int)},
            "image and ids differ in size: the image is 64 x 48 pixels, the ids are 64 x 40",
        ),
        ({"ids": np.arange(48 * 64).reshape(48, 64)}, "3071 segments are too many: this model knows 31"),
        ({"ids": np.full((48, 64), -1)}, "id -1 is out of range"),
        ({"ids": np.full((48, 64), 2**24), "pipeline": None}, "16777216 is out of range"),
        ({"ids": np.zeros((48, 64))}, "whole numbers"),
        ({"image": np.zeros((48, 64, 4), np.uint8)}, r"the image must be .* not \(48, 64, 4\)"),
        ({"image": np.full((3, 48, 64), 200.0)}, "values from 0 to 1"),
        ({"image": np.zeros((48, 64, 3), np.int64)}, "not int64"),
        ({"image": np.zeros((8, 5000, 3), np.uint8)}, "sides may have up to 4096"),
        ({"name": "../elsewhere"}, "plain folder name"),
    ],
)
def test_bad_arguments_are_refused_in_words(make_editor, arguments, why):
    with pytest.raises(InputError, match=why):
        make_editor(**arguments)


def test_floats_and_bytes_are_the_same_image(make_editor, image):
    floats = make_editor(image=(image / 255).astype(np.float32).transpose(2, 0, 1), run_dir=None)
    np.testing.assert_array_equal(floats.photo, image)
    np.testing.assert_array_equal(make_editor(image=Image.fromarray(image), run_dir=None).photo, image)


def test_an_edit_is_on_disk_at_once_and_running_the_cell_again_restores_it(make_editor):
    first = make_editor()
    first.paint([(10, 10), (40, 30)], 5)
    first.drop_segment(3)
    first.undo()
    first.run(seed=9, steps=5)
    again = make_editor()
    np.testing.assert_array_equal(again.region, first.region)
    assert again.message.startswith("Restored 2 edits from")
    assert (again.settings.seed, again.settings.steps) == (9, 5)
    assert again.redo() and again.undo() and again.undo() and not again.undo()


def test_the_older_of_two_editors_of_one_session_is_closed(make_editor):
    older = make_editor()
    newer = make_editor()
    with pytest.raises(InputError, match="closed"):
        older.paint([(1, 1)], 2)
    newer.paint([(1, 1)], 2)
    assert newer.region.any()


def test_a_run_of_a_closed_editor_ends_and_saves_nothing_more(make_editor, fake_pipeline):
    older = make_editor(pipeline=fake_pipeline(delay=0.02))
    older.hide_all()
    older.start(steps=500)
    newer = make_editor()
    newer.show_all()
    older.wait(5)
    assert not older.running
    assert not make_editor().region.any()


def test_another_scene_is_another_session(make_editor, ids):
    make_editor().box(0, 0, 9, 9)
    other = make_editor(ids=np.where(ids == 3, 4, ids))
    assert not other.region.any()
    assert make_editor().region.sum() == 81


def test_a_damaged_session_is_set_aside_not_overwritten(make_editor, tmp_path):
    editor = make_editor()
    editor.box(0, 0, 9, 9)
    (path,) = (tmp_path / "run").rglob("session.npz")
    damaged = path.read_bytes()[:-200]
    path.write_bytes(damaged)
    again = make_editor()
    assert "cannot be restored" in again.message and "session-damaged-1.npz" in again.message
    assert not again.region.any()
    again.box(1, 1, 3, 3)
    assert path.with_name("session-damaged-1.npz").read_bytes() == damaged
    assert make_editor().region.sum() == 4


def test_an_edit_that_cannot_be_saved_is_kept_and_said(make_editor, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    editor = make_editor()
    monkeypatch.setattr("ldmseg_lib.widgets.autosave.write_bytes", full)
    with pytest.warns(RuntimeWarning, match="not saved"):
        editor.box(0, 0, 9, 9)
    assert editor.region.sum() == 81 and "No space left" in editor.message


def test_a_photo_takes_the_place_of_the_image_and_can_be_undone(make_editor, image, ids):
    editor = make_editor()
    editor.box(0, 0, 9, 9)
    stripes = np.zeros((600, 1800, 3), np.uint8)
    stripes[:, 900:] = 255
    editor.open_photo(png(Image.fromarray(stripes)), name="mine.png")
    assert editor.message == SYNTHETIC_ONLY
    assert editor.photo.shape == (341, 1024, 3), "smaller, and not distorted"
    assert editor.ids.shape == (341, 1024) and not editor.ids.any() and editor.region.all()
    assert editor.photo[:, :508].max() < 20 and editor.photo[:, 516:].min() > 235
    (found,) = editor.run(steps=2)
    editor.accept()
    again = make_editor()
    np.testing.assert_array_equal(again.photo, editor.photo)
    np.testing.assert_array_equal(again.ids, found)
    assert again.undo() and again.undo()
    np.testing.assert_array_equal(again.photo, image)
    np.testing.assert_array_equal(again.ids, ids)
    assert again.region.sum() == 81
    assert again.redo() and again.region.shape == (341, 1024)


def test_a_model_that_saw_photographs_gets_no_warning(make_editor, fake_pipeline):
    pipe = fake_pipeline()
    pipe.trained_on_photographs = True
    editor = make_editor(pipeline=pipe)
    editor.open_photo(png(Image.new("RGB", (80, 80))))
    assert "never" not in editor.message


def test_photos_are_upright_and_bounded(make_editor, tmp_path):
    editor = make_editor(run_dir=None)
    lying = Image.new("RGB", (96, 128))
    lying.paste((255, 0, 0), (0, 0, 96, 40))
    exif = Image.Exif()
    exif[0x0112] = 8
    lying.save(tmp_path / "lying.jpg", exif=exif)
    editor.open_photo(tmp_path / "lying.jpg")
    assert editor.photo[:, 0, 0].min() > 200 and editor.photo[:, -1, 0].max() < 50
    with pytest.raises(InputError, match=r"has 10000 x 10000 = 100 megapixels; the editor takes up to 64"):
        editor.open_photo(png(Image.new("1", (10_000, 10_000))))
    whole = (tmp_path / "lying.jpg").read_bytes()
    with pytest.raises(InputError, match="damaged"):
        editor.open_photo(whole[: len(whole) // 2], name="half.jpg")


def test_two_threads_lose_no_edit(make_editor):
    editor = make_editor(run_dir=None)
    assert editor.widget.rev

    def draw(start: int) -> None:
        for x in range(start, 64, 2):
            editor.box(x, 0, x + 1, 48)

    threads = [threading.Thread(target=draw, args=(start,)) for start in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert editor.region.all()
    for _ in range(64):
        assert editor.undo()
    assert not editor.region.any()


def test_the_static_picture_shows_segments_and_what_is_hidden(make_editor, ids):
    editor = make_editor()
    plain = np.asarray(Image.open(io.BytesIO(editor.static_picture())).convert("RGB")).astype(int)
    editor.drop_segment(3)
    hidden = np.asarray(Image.open(io.BytesIO(editor.static_picture())).convert("RGB")).astype(int)
    assert min(plain.shape[:2]) >= 288
    change = np.abs(plain - hidden).sum(2)
    scale = plain.shape[0] // 48
    inside = np.kron(ids == 3, np.ones((scale, scale), bool))
    assert change[inside].mean() > 60 > 3 > change[~inside].mean()


def test_outside_a_page_the_editor_is_a_picture_alone(make_editor):
    bundle = make_editor()._repr_mimebundle_()
    assert set(bundle) == {"image/jpeg", "text/plain"}
    assert base64.b64decode(bundle["image/jpeg"])[:2] == b"\xff\xd8"


def test_a_closed_editor_can_be_shown_but_not_edited(make_editor):
    editor = make_editor()
    editor.close()
    editor.close()
    assert "image/jpeg" in editor._repr_mimebundle_()
    with pytest.raises(InputError, match="closed"):
        editor.undo()


def test_the_public_name_is_the_class():
    import ldmseg_lib

    assert ldmseg_lib.MaskEditor is MaskEditor
