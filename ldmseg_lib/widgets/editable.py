"""An image and its segmentation under edit: each edit can be undone and is saved at once."""

import contextlib
import itertools
import os
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Bool, Int

from ..core.errors import InputError
from ..pipeline.segment_colors import segment_color
from . import raster
from .autosave import Session, fingerprint
from .edit_history import EditHistory
from .export import export_segmentation
from .inpainting import Candidate, InpaintSettings
from .pictures import PHOTO_SIDE, Photo, as_ids, as_photo, read_picture, renumber, shrink, static_picture

SYNTHETIC_ONLY = "This model was trained on synthetic scenes, never a photograph: here its segments will mean little."

# Two live editors must not write one session: opening it again closes the older one.
_open_sessions: "weakref.WeakValueDictionary[str, EditableSegmentation]" = weakref.WeakValueDictionary()


class EditableSegmentation:
    """The part of `MaskEditor` that needs neither a model nor a browser; see there for the arguments."""

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
        photo = as_photo(image)
        given = as_ids(ids, photo)
        start, self._originals = renumber(given, getattr(pipeline, "num_ids", None))
        numbers = {original: number for number, original in self._originals.items()}
        self._lock = threading.RLock()
        self._pipeline = pipeline
        self._categories = [dict(c) for c in categories or ()]
        self._photos: dict[str, Photo] = {"": photo}
        self._history = EditHistory(start, [s | {"id": numbers.get(s["id"], s["id"])} for s in segments or ()])
        self._colors: dict[int, str] = {}
        self._message: dict[str, Any] = {"level": "info", "text": "", "number": 0}
        self._settings = InpaintSettings()
        self._candidates: list[Candidate] = []
        self._chosen = 0
        self._closed = False
        self._key = fingerprint(photo, given)
        self._session = None if run_dir is None else Session(run_dir, name, self._key)
        if self._session is not None:
            self._restore(self._session)

    def _restore(self, session: Session) -> None:
        key = str(session.path.resolve())
        if (older := _open_sessions.get(key)) is not None:
            older.close()
        _open_sessions[key] = self
        try:
            saved = session.load(self.photo)
        except InputError as error:
            self._say("error", str(error))
            return
        if saved is None:
            return
        self._history, settings, photos = saved
        self._settings = InpaintSettings(**settings)
        self._photos |= photos
        if count := len(self._history.edits):
            self._say("info", f"Restored {count} edit{'s' * (count > 1)} from {session.path}")

    @property
    def ids(self) -> Int[np.ndarray, "height width"]:
        """The ids now, int32, 0 = void. Hidden pixels keep theirs until a result is accepted."""
        return self._history.ids

    @property
    def region(self) -> Bool[np.ndarray, "height width"]:
        """True where the segmentation is hidden: what the model is to inpaint."""
        return self._history.region

    @property
    def photo(self) -> Photo:
        """The image under the segments."""
        return self._photos[self._history.picture]

    @property
    def segments(self) -> list[dict[str, Any]]:
        """What is known of the segments."""
        return [dict(s) for s in self._history.segments]

    @property
    def message(self) -> str:
        """What the editor says at present, such as the reason why the last thing asked was not done."""
        return str(self._message["text"])

    def paint(self, points: raster.Points, radius: float) -> None:
        """Hide what a round brush of `radius` pixels covers along `points` (x, y)."""
        self._cover("Brush", lambda shape: raster.stroke(shape, points, radius), hide=True)

    def erase(self, points: raster.Points, radius: float) -> None:
        """Show again what a round eraser of `radius` pixels covers along `points` (x, y)."""
        self._cover("Eraser", lambda shape: raster.stroke(shape, points, radius), hide=False)

    def box(self, x0: float, y0: float, x1: float, y1: float, *, hide: bool = True) -> None:
        """Hide (or show) a rectangle; in whole numbers the pixels [y0:y1, x0:x1]."""
        self._cover("Rectangle", lambda shape: raster.rectangle(shape, x0, y0, x1, y1), hide=hide)

    def lasso(self, points: raster.Points, *, hide: bool = True) -> None:
        """Hide (or show) what the closed polygon of `points` (x, y) surrounds."""
        self._cover("Lasso", lambda shape: raster.lasso(shape, points), hide=hide)

    def drop_segment(self, id: int, *, hide: bool = True) -> None:
        """Hide (or show) every pixel of the segment `id`.

        Raises:
            InputError: no pixel has that id.
        """
        self._cover(f"Segment {id}", lambda _: self._pixels_of(id), hide=hide)

    def _pixels_of(self, id: int) -> raster.Mask:
        where = self.ids == id
        if not where.any():
            present = ", ".join(str(i) for i in np.unique(self.ids)[:20])
            raise InputError(f"There is no segment {id} here; the ids are {present}.")
        return where

    def hide_all(self) -> None:
        """Hide everything."""
        self._cover("Hide all", lambda shape: np.ones(shape, bool), hide=True)

    def show_all(self) -> None:
        """Hide nothing."""
        self._cover("Show all", lambda shape: np.ones(shape, bool), hide=False)

    def _cover(self, label: str, covered: Callable[[tuple[int, int]], raster.Mask], *, hide: bool) -> None:
        with self._open():
            mask = covered((self.ids.shape[0], self.ids.shape[1]))
            if self._history.change(label, region=self.region | mask if hide else self.region & ~mask):
                self._edited()

    def undo(self) -> bool:
        """Revert the last edit; false when there is none."""
        return self._travel(self._history.undo)

    def redo(self) -> bool:
        """Repeat the edit that was undone last; false when there is none."""
        return self._travel(self._history.redo)

    def _travel(self, move: Callable[[], bool]) -> bool:
        with self._open():
            before = self.ids, self.photo
            if not move():
                return False
            if before[0] is not self.ids or before[1] is not self.photo:
                self._set_candidates([])
            self._edited()
            return True

    def open_photo(self, source: bytes | str | os.PathLike, *, name: str = "the upload") -> None:
        """Put a photo in the place of the image, with nothing known yet. Can be undone.

        A photo with a side above 1024 pixels is made smaller.

        Args:
            source: an image file's bytes, or its path.
            name: what messages call the bytes.

        Raises:
            InputError: not an image, damaged, or above 64 megapixels; nothing is changed then.
        """
        with self._open():
            if not isinstance(source, bytes):
                name = str(source)
                try:
                    source = Path(source).read_bytes()
                except OSError as error:
                    raise InputError(f"{name}: cannot be read ({error.strerror or error})") from None
            photo = shrink(read_picture(source, name), PHOTO_SIDE)
            nothing = np.zeros(photo.shape[:2], np.int32)
            key = fingerprint(photo, nothing)
            self._photos[key] = photo
            if self._history.change("Photo", region=nothing == 0, ids=nothing, segments=(), picture=key):
                self._set_candidates([])
                trained = getattr(self._pipeline, "trained_on_photographs", False)
                if self._pipeline is not None and not trained:
                    self._edited("warning", SYNTHETIC_ONLY)
                else:
                    more = " Inpaint to segment all of it." if trained else ""
                    self._edited("info", f"Opened the photo; nothing is segmented yet.{more}")

    def export(self, folder: str | os.PathLike | None = None) -> dict[str, Path]:
        """Write id PNG, COCO panoptic JSON and PNG, and NumPy files (see `export_segmentation`); the paths by name.

        Args:
            folder: by default `export` under the editor's own folder in `run_dir`.

        Raises:
            InputError: neither a folder nor a `run_dir` was given, or the folder cannot be written.
        """
        with self._open(closed=True):
            if folder is not None:
                target = Path(folder)
            elif self._session is not None:
                target = self._session.folder.parent / "export"
            else:
                raise InputError("Nowhere to export to: give MaskEditor a run_dir, or export a folder.")
            originals = self._original_ids()
            numbers, index = np.unique(self.ids, return_inverse=True)
            table = np.array([originals.get(number, number) for number in numbers.tolist()], np.int32)
            try:
                paths = export_segmentation(
                    target,
                    photo=self.photo,
                    ids=table[index.reshape(self.ids.shape)],
                    region=self.region,
                    segments=[s | {"id": originals.get(s["id"], s["id"])} for s in self._history.segments],
                    categories=self._categories,
                )
            except OSError as error:
                raise InputError(f"{target}: cannot be written ({error.strerror or error})") from None
            self._say("info", f"Exported to {target}")
            self._publish()
            return paths

    def _original_ids(self) -> dict[int, int]:
        """The id that each segment has in an export, where ids had to be renumbered; new segments get free ids."""
        if not self._originals or self._history.picture:
            return {}
        used = set(self._originals.values())
        result = dict(self._originals)
        for number in np.unique(self.ids[self.ids > 0]).tolist():
            if number not in result:
                result[number] = next(free for free in itertools.count(number) if free not in used)
                used.add(result[number])
        return result

    def static_picture(self) -> bytes:
        """A JPEG of the editor's current picture."""
        with self._lock:
            self._color(self.ids)
            return static_picture(self.photo, self.ids, self.region, self._colors)

    def close(self) -> None:
        """Close the editor. Everything is saved already; a later edit raises InputError."""
        self._closed = True

    @contextlib.contextmanager
    def _open(self, *, closed: bool = False) -> Iterator[None]:
        """Hold the lock and show an InputError of the block on the page. Refuse a closed editor, unless `closed`."""
        with self._lock:
            if self._closed and not closed:
                raise InputError("this editor is closed (perhaps opened again elsewhere); make a new MaskEditor")
            try:
                yield
            except InputError as error:
                self._say("error", str(error))
                self._publish()
                raise

    def _say(self, level: str, text: str) -> None:
        if text or self._message["text"]:
            self._message = {"level": level, "text": text, "number": self._message["number"] + 1}

    def _edited(self, level: str = "info", text: str = "") -> None:
        self._say(level, text)
        self._save()
        self._publish()

    def _save(self) -> None:
        if self._session is None or self._closed:
            return
        try:
            self._session.save(self._history, asdict(self._settings), self._photos)
        except OSError as error:
            text = f"{self._session.path}: not saved ({error.strerror or error}); the edits are kept in memory only"
            self._say("error", text)
            warnings.warn(text, RuntimeWarning, stacklevel=2)

    def _color(self, ids: Int[np.ndarray, "height width"]) -> None:
        """Give new ids the next colours; a segment keeps its colour."""
        for number in np.unique(ids[ids > 0]).tolist():
            self._colors.setdefault(number, matplotlib.colors.to_hex(segment_color(len(self._colors) + 1)))

    def _set_candidates(self, candidates: list[Candidate]) -> None:
        self._candidates, self._chosen = candidates, 0

    def _publish(self) -> None:
        """Show the state on the page."""
