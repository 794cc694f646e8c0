"""The mask editor: hide parts of a segmentation and let the model imagine them anew, by hand or from Python."""

import base64
import contextlib
import contextvars
import os
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from ..core.errors import InputError
from .editable import EditableSegmentation
from .editor_view import EditorView, browser_behind
from .inpaint_job import Cancelled, Candidate, InpaintJob, InpaintSettings

EVERYTHING_HIDDEN = "Everything is hidden: this is a fresh sample that uses the photo alone, nothing of the segments."
DRAWN_ONLY = "This model has only ever seen drawn scenes, never a photograph: here its segments will mean little."
NO_CANDIDATE = "There is no candidate: inpaint first."
NO_MODEL = "No model is attached: give MaskEditor a pipeline to inpaint with."
AT_WORK = "The model is already at work: wait for it, or cancel it first."
NOTHING_HIDDEN = "Nothing is hidden: paint over what the model should imagine anew first."
OUTDATED = "The segments were changed while the model worked: its result is dropped. Inpaint again."


class MaskEditor(EditableSegmentation):
    """Edit the segmentation of one image, in JupyterLab (display the editor) or from Python alone.

    What is hidden (`region`) is what `run` imagines anew; every known pixel keeps its id. Each edit can be undone, and
    is saved under `run_dir/name` at once; the same image and ids there are taken up again where they were left.

    Args:
        image: uint8 [height, width, 3], floats in [0, 1] [3, height, width], or a PIL image; sides up to 4096 pixels.
        ids: whole numbers [height, width], 0 = void; below `pipeline.num_ids`, or 2**24 without a pipeline.
        pipeline: what `run` asks: `encode_image(image)`, image float32 [3, height, width] in [0, 1], and `inpaint(...)`
            as LDMSegPipeline has them. None: the editor draws and exports, and cannot inpaint.
        segments: dicts with at least `id` and `category_id`; with `categories`, COCO's dicts, they name what is shown
            and exported.
        run_dir: where edits are saved; None keeps them in memory only.
        name: the folder under `run_dir`; two editors on the same image at once need two names.

    Raises:
        InputError: image and ids differ in size, or an id is out of range.
    """

    def __init__(
        self,
        image: Any,
        ids: Any,
        pipeline: Any = None,
        *,
        segments: Sequence[dict[str, Any]] | None = None,
        categories: Sequence[dict[str, Any]] | None = None,
        run_dir: str | os.PathLike | None = None,
        name: str = "mask_editor",
    ) -> None:
        self._pipeline = pipeline
        self._candidates: list[Candidate] = []
        self._candidate_ids: list[Int[np.ndarray, "height width"]] = []
        self._chosen = 0
        self._job: InpaintJob | None = None
        self._thread: threading.Thread | None = None
        self._features: tuple[str, Any] | None = None
        self._progress = _IDLE
        self._view: EditorView | None = None
        super().__init__(
            image,
            ids,
            num_ids=getattr(pipeline, "num_ids", None),
            segments=segments,
            categories=categories,
            run_dir=run_dir,
            name=name,
        )
        self._settings = InpaintSettings(**self._restored_settings)

    @property
    def settings(self) -> InpaintSettings:
        """Steps, candidates, seed and sampler of the last run, which the next one takes unless told otherwise."""
        return self._settings

    @property
    def candidates(self) -> list[Int[np.ndarray, "height width"]]:
        """The ids of each candidate of the last run; empty when there is nothing to choose from."""
        return list(self._candidate_ids)

    @property
    def chosen(self) -> int:
        """The candidate that `accept` takes."""
        return self._chosen

    @property
    def running(self) -> bool:
        """Whether the model is at work."""
        return self._job is not None

    def run(
        self,
        *,
        steps: int | None = None,
        candidates: int | None = None,
        seed: int | None = None,
        sampler: str | None = None,
    ) -> list[Int[np.ndarray, "height width"]]:
        """Imagine the hidden region anew and wait for it; what is not given stays as in the run before.

        Returns:
            The ids of each candidate, known pixels as they were; empty when it was cancelled.

        Raises:
            InputError: nothing is hidden, no pipeline was given, a run is under way, or a setting is out of range.
        """
        given = {"steps": steps, "candidates": candidates, "seed": seed, "sampler": sampler}
        job, picture = self._begin({key: value for key, value in given.items() if value is not None})
        self._work(job, picture)
        return self.candidates

    def start(self, **settings: Any) -> None:
        """As `run`, but in the background: what the Inpaint button does. `wait` waits for it."""
        job, picture = self._begin(settings)
        # the thread keeps the request's context, so that the kernel goes on answering the page on the same subshell
        context = contextvars.copy_context()
        self._thread = threading.Thread(target=context.run, args=(self._work_unwatched, job, picture), daemon=True)
        self._thread.start()

    def wait(self, timeout: float | None = None) -> None:
        """Wait, at most `timeout` seconds, for a run that goes on in the background."""
        if self._thread is not None:
            self._thread.join(timeout)

    def cancel(self) -> None:
        """Stop the model before its next step; nothing changes. Does nothing when it is not at work."""
        with self._lock:
            if self._job is not None:
                self._job.cancel()
                self._progress = {**self._progress, "stage": "Cancelling"}
                self._publish()

    def _begin(self, settings: dict[str, Any]) -> tuple[InpaintJob, str]:
        with self._lock:
            self._check_open()
            for wrong, reason in (
                (self._pipeline is None, NO_MODEL),
                (self._job is not None, AT_WORK),
                (not self.region.any(), NOTHING_HIDDEN),
            ):
                if wrong:
                    raise self._refuse(reason)
            try:
                self._settings = InpaintSettings(**{**self._settings.as_dict(), **settings})
            except (InputError, TypeError) as error:
                raise self._refuse(str(error)) from None
            job = InpaintJob(self._pipeline, self.ids, self.region, self._settings, on_step=self._on_step)
            self._job = job
            self._set_candidates([])
            self._say("info", EVERYTHING_HIDDEN if self.region.all() else "")
            self._progress = {"running": True, "step": 0, "total": self._settings.steps, "stage": "Reading the image"}
            self._publish()
            return job, self._history.picture

    def _on_step(self, step: int, total: int) -> None:
        with self._lock:
            self._progress = {"running": True, "step": step, "total": total, "stage": f"Step {step + 1} of {total}"}
            if self._view is not None:
                self._view.show_progress(self._progress)

    def _encode(self, picture: str) -> Any:
        """The image's features: encoded once, however often the model is run."""
        import torch

        if self._features is None or self._features[0] != picture:
            pixels = torch.from_numpy(self._photos[picture].copy()).permute(2, 0, 1).float() / 255
            self._features = picture, self._pipeline.encode_image(pixels)
        return self._features[1]

    def _work(self, job: InpaintJob, picture: str) -> None:
        ids = job.ids
        found: list[Candidate] = []
        level, text = "info", self.message
        try:
            found = job.run(lambda: self._encode(picture))
            if ids is not self.ids or picture != self._history.picture:
                found, level, text = [], "warning", OUTDATED
        except (Cancelled, KeyboardInterrupt) as error:
            text = f"Cancelled at step {self._progress['step'] + 1} of {self._progress['total']}; nothing was changed."
            if isinstance(error, KeyboardInterrupt):
                raise
        except InputError as error:
            level, text = "error", str(error)
            raise
        except Exception as error:
            level, text = "error", f"The model failed ({type(error).__name__}: {error}); nothing was changed."
            raise
        finally:
            with self._lock:
                self._job = None
                self._progress = _IDLE
                self._set_candidates(found)
                self._say(level, text)
                self._save()
                self._publish()

    def _work_unwatched(self, job: InpaintJob, picture: str) -> None:
        """Nobody is there to raise to: bad input has been shown, the rest goes to the kernel's log as well."""
        with contextlib.suppress(InputError):
            self._work(job, picture)

    def _set_candidates(self, candidates: list[Candidate]) -> None:
        self._candidates, self._chosen = candidates, 0
        self._candidate_ids = [c.ids for c in candidates]

    def _segments_changed(self) -> None:
        self._set_candidates([])

    def choose(self, k: int) -> None:
        """Show candidate `k` (from 0), the one that `accept` takes."""
        with self._lock:
            self._check_open()
            if not self._candidates:
                raise self._refuse(NO_CANDIDATE)
            if isinstance(k, bool) or not isinstance(k, int | np.integer) or not 0 <= k < len(self._candidates):
                raise self._refuse(f"There is no candidate {k!r}; choose 0 to {len(self._candidates) - 1}.")
            self._chosen = int(k)
            self._publish()

    def accept(self) -> None:
        """Take the chosen candidate as the segmentation; nothing is hidden then. Can be undone."""
        with self._lock:
            self._check_open()
            if not self._candidates:
                raise self._refuse(NO_CANDIDATE)
            taken = self._candidates[self._chosen]
            self._set_candidates([])
            self._history.change("Inpaint", region=np.zeros_like(self.region), ids=taken.ids, segments=taken.segments)
            self._say("info", "")
            self._edited()

    def discard(self) -> None:
        """Let the candidates go; what is hidden stays hidden."""
        with self._lock:
            self._check_open()
            self._set_candidates([])
            self._publish()

    def close(self) -> None:
        """Stop the model and take the editor off the page. All is saved already; a later edit raises InputError."""
        with self._lock:
            if self._closed:
                return
            self.cancel()
            super().close()
            if self._view is not None:
                self._view.close()
                self._view = None

    @property
    def widget(self) -> EditorView:
        """The editor as an ipywidget, to lay out with other widgets."""
        with self._lock:
            self._check_open()
            if self._view is None:
                self._view = EditorView(self, self._lock)
                self._publish()
            return self._view

    def _repr_mimebundle_(self, **_: Any) -> Any:
        """The live editor where a page can show it; beside it, and alone in a run without a page, a picture."""
        picture = {"image/jpeg": base64.b64encode(self.static_picture()).decode()}
        if self._closed or not browser_behind():
            return picture | {"text/plain": f"MaskEditor of {self.ids.shape[1]} x {self.ids.shape[0]} pixels"}
        bundle, metadata = self.widget._repr_mimebundle_() or ({}, {})
        return bundle | picture, metadata

    def request(self, content: dict[str, Any]) -> None:
        """Do what a page asks for: a message with `op` and the arguments of the method of that name.

        Raises:
            InputError: as that method does, or the message is not one that the page sends; it is shown on the page.
        """
        self._check_open()
        arguments = {key: value for key, value in content.items() if key not in ("type", "client", "seq", "op")}
        methods = {name: getattr(self, name) for name in _REQUESTS}
        try:
            methods[content["op"]](**arguments)
        except (KeyError, TypeError) as error:
            raise self._refuse(f"The page asked for something unknown ({error}); reload it.") from None

    def _settings_to_save(self) -> dict[str, Any]:
        return self._settings.as_dict()

    def _about_photo(self) -> tuple[str, str]:
        if self._pipeline is None:
            return super()._about_photo()
        if getattr(self._pipeline, "trained_on_photographs", False):
            return "info", "Opened the photo; nothing is segmented yet. Inpaint to segment all of it."
        return "warning", DRAWN_ONLY

    def _publish(self) -> None:
        if self._view is None or self._closed:
            return
        for ids in [self.ids, *self._candidate_ids]:
            self._colour(ids)
        self._view.show(
            photo=self.photo,
            ids=self.ids,
            region=self.region,
            candidates=self._candidate_ids,
            state=self._state(),
            progress=self._progress,
        )

    def _state(self) -> dict[str, Any]:
        names = {c["id"]: c.get("name", "") for c in self._categories}
        known = [*self._history.segments, *(s for c in self._candidates for s in c.segments or ())]
        height, width = self.ids.shape
        return {
            "size": [height, width],
            "colours": {str(number): colour for number, colour in self._colours.items()},
            "names": {str(s["id"]): names[s["category_id"]] for s in known if s.get("category_id") in names},
            "undo": self._history.undo_label,
            "redo": self._history.redo_label,
            "candidates": [_summary(c.ids) for c in self._candidates],
            "chosen": self._chosen,
            "settings": self._settings.as_dict(),
            "samplers": _samplers(self._pipeline),
            "model": self._pipeline is not None,
            "message": self._message,
            "saved": str(self._session.path) if self._session else "",
            "key": self._key,
        }


_IDLE: dict[str, Any] = {"running": False, "step": 0, "total": 0, "stage": ""}
_REQUESTS = (
    *("paint", "erase", "box", "lasso", "drop_segment", "hide_all", "show_all", "undo", "redo"),
    *("start", "cancel", "choose", "accept", "discard", "export"),
)


def _summary(ids: Int[np.ndarray, "height width"]) -> str:
    count = len(np.unique(ids[ids > 0]))
    return f"{count} segment{'s' * (count != 1)}"


def _samplers(pipeline: Any) -> list[str]:
    """The samplers to choose from: the pipeline's own list, else all that the library has."""
    if pipeline is None:
        return []
    if (own := getattr(pipeline, "samplers", None)) is not None:
        return list(own)
    from ..diffusion.schedulers import SAMPLERS

    return list(SAMPLERS)
