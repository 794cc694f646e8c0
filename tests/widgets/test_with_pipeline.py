"""The editor on the pipeline itself, with the networks of a smoke run."""

import io

import numpy as np
import pytest
from PIL import Image

from ldmseg_lib.widgets import mask_editor as module
from ldmseg_lib.widgets.editable import SYNTHETIC_ONLY
from ldmseg_lib.widgets.mask_editor import MaskEditor


class Watched:
    """A pipeline that counts the steps that it began."""

    def __init__(self, pipeline) -> None:
        self.pipeline, self.num_ids, self.steps = pipeline, pipeline.num_ids, 0
        self.encode_image = pipeline.encode_image

    def inpaint(self, *arguments, callback, **settings):
        def step(done: int, total: int) -> None:
            callback(done, total)
            self.steps += 1

        return self.pipeline.inpaint(*arguments, callback=step, **settings)


@pytest.fixture
def scene(smoke_run):
    return smoke_run.dataset[0]


@pytest.fixture
def editor(smoke_run, scene):
    pipeline = Watched(smoke_run.pipeline)
    return MaskEditor(scene["image"], scene["ids"], pipeline, categories=smoke_run.dataset.categories)


def test_known_pixels_stay_and_candidates_depend_on_the_seed_alone(editor, scene):
    editor.box(4, 4, 28, 28)
    known = ~editor.region
    first = editor.run(steps=3, candidates=3, seed=5)
    again = editor.run(steps=3, candidates=3, seed=5)
    other = editor.run(steps=3, candidates=3, seed=6)
    assert len({ids.tobytes() for ids in first}) > 1
    for ids in (*first, *other):
        np.testing.assert_array_equal(ids[known], scene["ids"].numpy()[known])
    assert [ids.tobytes() for ids in first] == [ids.tobytes() for ids in again]
    assert [ids.tobytes() for ids in first] != [ids.tobytes() for ids in other]
    editor.choose(1)
    editor.accept()
    assert {s["id"] for s in editor.segments} == set(np.unique(other[1]).tolist()) - {0}


def test_cancel_stops_the_network_before_its_next_step(editor):
    editor.hide_all()
    editor.start(steps=1000)
    pipeline = editor._pipeline
    while pipeline.steps < 2:
        editor.wait(0.01)
    begun = pipeline.steps
    editor.cancel()
    editor.wait(60)
    assert not editor.running and editor.candidates == []
    assert pipeline.steps <= begun + 1
    assert editor.message.startswith("Cancelled at step")


def test_a_photo_of_any_size_is_segmented(editor):
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 140, 3), np.uint8)).save(file, "PNG")
    editor.open_photo(file.getvalue(), name="mine.png")
    assert editor.message == SYNTHETIC_ONLY
    (ids,) = editor.run(steps=2)
    assert ids.shape == (90, 140) and ids.any()
    assert editor.message == module.EVERYTHING_HIDDEN
