"""The mask editor: hide parts of a segmentation and inpaint them with the model, by hand or from Python."""

import base64
import contextlib
import contextvars
import functools
import threading
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from ..core.errors import InputError
from .direct_edits import DirectEdits
from .editor_view import EditorView, browser_behind
from .inpainting import Cancelled, Candidate, InpaintSettings, inpaint

EVERYTHING_HIDDEN = "Everything is hidden: this is a fresh sample that uses the photo alone, nothing of the segments."
NO_CANDIDATE = "There is no candidate: inpaint first."
NO_MODEL = "No model is attached: give MaskEditor a pipeline to inpaint with."
AT_WORK = "The model is already at work: wait for it, or cancel it first."
NOTHING_HIDDEN = "Nothing is hidden: first paint over what the model should inpaint."
OUTDATED = "The segments were changed while the model worked: its result is dropped. Inpaint again."

_IDLE: dict[str, Any] = {"running": False, "step": 0, "total": 0, "stage": ""}


class MaskEditor(DirectEdits):
    """Edit the segmentation of one image, in JupyterLab (display the editor) or from Python alone.

    `run` inpaints the hidden `region`; every known pixel keeps its id. Each edit can be undone and is saved under
    `run_dir/name` at once; a new editor of the same image and ids restores it.

    Args:
        image: uint8 [height, width, 3], floats in [0, 1] [3, height, width], or a PIL image; sides up to 4096 pixels.
        ids: whole numbers [height, width] below 2**24, 0 = void. Ids that the pipeline does not know (COCO's own, such
            as 16,759,723) are renumbered from 1 in ascending order; `export` writes the original ones.
        pipeline: the model behind `run`: `encode_image(image)`, image float32 [3, height, width] in [0, 1], and
            `inpaint(...)` as LDMSegPipeline has them. None: the editor draws and exports, and cannot inpaint.
        segments: dicts with at least `id` and `category_id`; with `categories`, COCO's dicts, they name what is shown
            and exported.
        run_dir: where edits are saved; None keeps them in memory only.
        name: the folder under `run_dir`; two editors on the same image at once need two names.

    Raises:
        InputError: image and ids differ in size, or an id is out of range.

    Example:
        >>> import numpy as np
        >>> from ldmseg_lib import LDMSegPipeline, MaskEditor
        >>> image = np.zeros((64, 64, 3), np.uint8)
        >>> ids = np.ones((64, 64), int)
        >>> pipeline = LDMSegPipeline.from_pretrained("embedded")
        >>> pipeline.set_progress_bar_config(disable=True)
        >>> editor = MaskEditor(image, ids, pipeline)  # shown where it is the last line of a notebook's cell
        >>> editor.box(16, 16, 48, 48)
        >>> int(editor.region.sum())  # pixels to inpaint
        1024
        >>> (candidate,) = editor.run(steps=2)
        >>> bool((candidate[~editor.region] == 1).all())  # known pixels keep their ids
        True
        >>> editor.accept()
        >>> editor.close()
    """

    _stop: threading.Event | None = None  # of the run under way
    _thread: threading.Thread | None = None
    _features: tuple[str, Any] | None = None  # of the picture of that name
    _progress = _IDLE
    _view: EditorView | None = None

    @property
    def settings(self) -> InpaintSettings:
        """Steps, candidates, seed and sampler of the last run: the defaults of the next one."""
        return self._settings

    @property
    def candidates(self) -> list[Int[np.ndarray, "height width"]]:
        """The ids of each candidate of the last run; empty when there is nothing to choose from."""
        return [candidate.ids for candidate in self._candidates]

    @property
    def chosen(self) -> int:
        """The candidate that `accept` would use."""
        return self._chosen

    @property
    def running(self) -> bool:
        """Whether the model is at work."""
        return self._stop is not None

    def run(
        self,
        *,
        steps: int | None = None,
        candidates: int | None = None,
        seed: int | None = None,
        sampler: str | None = None,
    ) -> list[Int[np.ndarray, "height width"]]:
        """Inpaint the hidden region and wait for the result; settings that are not given stay as in the previous run.

        Returns:
            The ids of each candidate, known pixels as they were; empty when it was cancelled.

        Raises:
            InputError: nothing is hidden, no pipeline was given, a run is under way, or a setting is out of range.
        """
        given = {"steps": steps, "candidates": candidates, "seed": seed, "sampler": sampler}
        self._begin({key: value for key, value in given.items() if value is not None})()
        return self.candidates

    def start(self, **settings: Any) -> None:
        """As `run`, but in the background: what the Inpaint button does. `wait` waits for it."""
        work = self._begin(settings)

        def unwatched() -> None:
            # nobody is there to raise to: bad input has been shown, the rest goes to the kernel's log as well
            with contextlib.suppress(InputError):
                work()

        # the thread keeps the request's context, so that the kernel goes on answering the page on the same subshell
        context = contextvars.copy_context()
        self._thread = threading.Thread(target=context.run, args=(unwatched,), daemon=True)
        self._thread.start()

    def wait(self, timeout: float | None = None) -> None:
        """Wait, at most `timeout` seconds, for a run that goes on in the background."""
        if self._thread is not None:
            self._thread.join(timeout)

    def cancel(self) -> None:
        """Stop the model before its next step; nothing changes. Does nothing when it is not at work."""
        with self._lock:
            if self._stop is not None:
                self._stop.set()
                self._progress = {**self._progress, "stage": "Cancelling"}
                self._publish()

    def _begin(self, settings: dict[str, Any]) -> Callable[[], None]:
        """Check that the model can run, and return the call that runs it on the present state."""
        with self._open():
            for wrong, reason in (
                (self._pipeline is None, NO_MODEL),
                (self.running, AT_WORK),
                (not self.region.any(), NOTHING_HIDDEN),
            ):
                if wrong:
                    raise InputError(reason)
            try:
                self._settings = replace(self._settings, **settings)
            except TypeError as error:
                raise InputError(str(error)) from None
            self._stop = threading.Event()
            self._set_candidates([])
            self._say("info", EVERYTHING_HIDDEN if self.region.all() else "")
            self._progress = {"running": True, "step": 0, "total": self._settings.steps, "stage": "Reading the image"}
            self._publish()
            return functools.partial(self._work, self._stop, self._history.picture, self.ids, self.region)

    def _encode(self, picture: str) -> Any:
        """The image's features: encoded once, however often the model is run."""
        import torch

        if self._features is None or self._features[0] != picture:
            pixels = torch.from_numpy(self._photos[picture].copy()).permute(2, 0, 1).float() / 255
            self._features = picture, self._pipeline.encode_image(pixels)
        return self._features[1]

    def _work(
        self,
        stop: threading.Event,
        picture: str,
        ids: Int[np.ndarray, "height width"],
        region: Bool[np.ndarray, "height width"],
    ) -> None:
        def on_step(step: int, total: int) -> None:
            if stop.is_set():
                raise Cancelled
            with self._lock:
                self._progress = {"running": True, "step": step, "total": total, "stage": f"Step {step + 1} of {total}"}
                if self._view is not None:
                    self._view.progress = self._progress

        found: list[Candidate] = []
        level, text = "info", self.message
        try:
            features = self._encode(picture)
            if stop.is_set():
                raise Cancelled
            found = inpaint(self._pipeline, features, ids, region, self._settings, on_step)
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
                self._stop = None
                self._progress = _IDLE
                self._set_candidates(found)
                self._edited(level, text)

    def choose(self, k: int) -> None:
        """Show candidate `k` (from 0), the one that `accept` takes."""
        with self._open():
            if not self._candidates:
                raise InputError(NO_CANDIDATE)
            if isinstance(k, bool) or not isinstance(k, int | np.integer) or not 0 <= k < len(self._candidates):
                raise InputError(f"There is no candidate {k!r}; choose 0 to {len(self._candidates) - 1}.")
            self._chosen = int(k)
            self._publish()

    def accept(self) -> None:
        """Make the chosen candidate the segmentation; nothing is hidden then. Can be undone."""
        with self._open():
            if not self._candidates:
                raise InputError(NO_CANDIDATE)
            taken = self._candidates[self._chosen]
            self._set_candidates([])
            self._history.change("Inpaint", region=np.zeros_like(self.region), ids=taken.ids, segments=taken.segments)
            self._edited()

    def discard(self) -> None:
        """Discard the candidates; the hidden region stays hidden."""
        with self._open():
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
        with self._open():
            if self._view is None:
                self._view = EditorView(self.request, self.open_photo, self._lock)
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
        arguments = {key: value for key, value in content.items() if key not in ("type", "client", "seq", "op")}
        methods = {name: getattr(self, name) for name in _REQUESTS}
        try:
            methods[content["op"]](**arguments)
        except (KeyError, TypeError) as error:
            with self._open():
                raise InputError(f"The page asked for something unknown ({error}); reload it.") from None

    def _publish(self) -> None:
        if self._view is None or self._closed:
            return
        for ids in [self.ids, *self.candidates]:
            self._color(ids)
        arrays = {"photo": self.photo, "ids_z": self.ids, "region_z": self.region, "candidates_z": self._candidates}
        self._view.show(arrays, self._state(), self._progress)

    def _state(self) -> dict[str, Any]:
        samplers: list[str] = []
        if self._pipeline is not None:
            from ..diffusion.schedulers import SAMPLERS

            samplers = list(SAMPLERS)
        names = {c["id"]: c.get("name", "") for c in self._categories}
        known = [*self._history.segments, *(s for c in self._candidates for s in c.segments or ())]
        height, width = self.ids.shape
        return {
            "size": [height, width],
            "originals": {str(number): id for number, id in self._original_ids().items()},
            "colours": {str(number): color for number, color in self._colors.items()},
            "names": {str(s["id"]): names[s["category_id"]] for s in known if s.get("category_id") in names},
            "undo": self._history.undo_label,
            "redo": self._history.redo_label,
            "candidates": [_summary(c.ids, self.ids, self.region) for c in self._candidates],
            "chosen": self._chosen,
            "settings": asdict(self._settings) | ({} if self._settings != InpaintSettings() else {"candidates": 4}),
            "samplers": samplers,
            "model": self._pipeline is not None,
            "message": self._message,
            "saved": str(self._session.path) if self._session else "",
            "key": self._key,
        }


_REQUESTS = (
    *("paint", "erase", "box", "lasso", "drop_segment", "hide_all", "show_all", "undo", "redo"),
    *("start", "cancel", "choose", "accept", "discard", "export"),
)


def _summary(
    candidate: Int[np.ndarray, "height width"],
    ids: Int[np.ndarray, "height width"],
    region: Bool[np.ndarray, "height width"],
) -> str:
    """What a candidate puts into the region: new segments, and known ones that reach into it."""
    inside, known = np.unique(candidate[region]), np.unique(ids[~region])
    reach = int(np.isin(inside[inside > 0], known).sum())
    new = int((inside > 0).sum()) - reach
    return f"{new} new, {reach} continued" if reach else f"{new} new"
