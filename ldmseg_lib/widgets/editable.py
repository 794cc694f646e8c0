"""An image and its segmentation under edit: each edit undoable, saved at once, and refused in words."""

import os
import threading
import warnings
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from ..core.errors import InputError
from . import raster
from .autosave import Session, fingerprint
from .edit_history import EditHistory
from .export import export_segmentation
from .pictures import PALETTE, PHOTO_SIDE, Photo, as_ids, as_photo, read_picture, shrink, static_picture

# Two live editors must not write one session: opening it again takes it from the older one.
_open_sessions: "weakref.WeakValueDictionary[str, EditableSegmentation]" = weakref.WeakValueDictionary()


class EditableSegmentation:
    """The part of `MaskEditor` that needs neither a model nor a browser; see there for the arguments."""

    def __init__(
        self,
        image: Any,
        ids: Any,
        *,
        num_ids: int | None = None,
        segments: Sequence[dict[str, Any]] | None = None,
        categories: Sequence[dict[str, Any]] | None = None,
        run_dir: str | os.PathLike | None = None,
        name: str = "mask_editor",
    ) -> None:
        photo = as_photo(image)
        start = as_ids(ids, photo, num_ids)
        self._lock = threading.RLock()
        self._categories = [dict(c) for c in categories or ()]
        self._photos: dict[str, Photo] = {"": photo}
        self._history = EditHistory(start, [dict(s) for s in segments or ()])
        self._colours: dict[int, str] = {}
        self._message: dict[str, Any] = {"level": "info", "text": "", "number": 0}
        self._closed = False
        self._restored_settings: dict[str, Any] = {}
        self._key = fingerprint(photo, start)
        self._session = None if run_dir is None else Session(run_dir, name, self._key)
        self._export_folder = None if run_dir is None else Path(run_dir) / name / "export"
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
        self._history, self._restored_settings, photos = saved
        self._photos |= photos
        if count := len(self._history.edits):
            self._say("info", f"Restored {count} edit{'s' * (count > 1)} from {session.path}")

    @property
    def ids(self) -> Int[np.ndarray, "height width"]:
        """The ids now, int32, 0 = void. Hidden pixels keep theirs until a result is accepted."""
        return self._history.ids

    @property
    def region(self) -> Bool[np.ndarray, "height width"]:
        """True where the segmentation is hidden: what the model is to imagine anew."""
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
        with self._lock:
            self._check_open()
            try:
                mask = covered(self._history.size)
            except InputError as error:
                raise self._refuse(str(error)) from None
            if self._history.change(label, region=self.region | mask if hide else self.region & ~mask):
                self._say("info", "")
                self._edited()

    def undo(self) -> bool:
        """Take the last edit back; false when there is none."""
        return self._travel(self._history.undo)

    def redo(self) -> bool:
        """Do what was undone last once more; false when there is none."""
        return self._travel(self._history.redo)

    def _travel(self, move: Callable[[], bool]) -> bool:
        with self._lock:
            self._check_open()
            before = self._history.ids, self._history.picture
            if not move():
                return False
            if before[0] is not self._history.ids or before[1] != self._history.picture:
                self._segments_changed()
            self._say("info", "")
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
        if not isinstance(source, bytes):
            name = str(source)
        try:
            data = source if isinstance(source, bytes) else Path(source).read_bytes()
            photo = shrink(read_picture(data, name), PHOTO_SIDE)
        except OSError as error:
            raise self._refuse(f"{name}: cannot be read ({error.strerror or error})") from None
        except InputError as error:
            raise self._refuse(str(error)) from None
        with self._lock:
            self._check_open()
            nothing = np.zeros(photo.shape[:2], np.int32)
            key = fingerprint(photo, nothing)
            self._photos[key] = photo
            if self._history.change("Photo", region=nothing == 0, ids=nothing, segments=(), picture=key):
                self._segments_changed()
                self._say(*self._about_photo())
                self._edited()

    def _about_photo(self) -> tuple[str, str]:
        """Level and text of what is said once a photo was opened."""
        return "info", "Opened the photo; nothing is segmented yet."

    def export(self, folder: str | os.PathLike | None = None) -> dict[str, Path]:
        """Write id PNG, COCO panoptic JSON and PNG, and NumPy files (see `export_segmentation`); the paths by name.

        Args:
            folder: by default `export` under the editor's own folder in `run_dir`.

        Raises:
            InputError: neither a folder nor a `run_dir` was given, or the folder cannot be written.
        """
        target = self._export_folder if folder is None else Path(folder)
        if target is None:
            raise self._refuse("Nowhere to export to: give MaskEditor a run_dir, or export a folder.")
        with self._lock:
            photo, ids, region, segments = self.photo, self.ids, self.region, self._history.segments
        try:
            paths = export_segmentation(
                target, photo=photo, ids=ids, region=region, segments=segments, categories=self._categories
            )
        except OSError as error:
            raise self._refuse(f"{target}: cannot be written ({error.strerror or error})") from None
        with self._lock:
            self._say("info", f"Exported to {target}")
            self._publish()
        return paths

    def static_picture(self) -> bytes:
        """A JPEG of the editor's picture now."""
        with self._lock:
            self._colour(self.ids)
            return static_picture(self.photo, self.ids, self.region, self._colours)

    def close(self) -> None:
        """Take the editor out of use. All is saved already; a later edit raises InputError."""
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise InputError("this editor is closed (perhaps opened again elsewhere); make a new MaskEditor")

    def _say(self, level: str, text: str) -> None:
        if text or self._message["text"]:
            self._message = {"level": level, "text": text, "number": self._message["number"] + 1}

    def _refuse(self, text: str) -> InputError:
        """Show why something was not done, and hand it back to be raised."""
        with self._lock:
            self._say("error", text)
            self._publish()
        return InputError(text)

    def _edited(self) -> None:
        self._save()
        self._publish()

    def _settings_to_save(self) -> dict[str, Any]:
        return {}

    def _save(self) -> None:
        if self._session is None or self._closed:
            return
        try:
            self._session.save(self._history, self._settings_to_save(), self._photos)
        except OSError as error:
            text = f"{self._session.path}: not saved ({error.strerror or error}); the edits are kept in memory only"
            self._say("error", text)
            warnings.warn(text, RuntimeWarning, stacklevel=2)

    def _colour(self, ids: Int[np.ndarray, "height width"]) -> None:
        """Give ids that appear for the first time the next colours; a segment keeps its colour for good."""
        for number in np.unique(ids[ids > 0]).tolist():
            self._colours.setdefault(number, PALETTE[len(self._colours) % len(PALETTE)])

    def _segments_changed(self) -> None:
        """The ids or the image are others than before: what was derived from them no longer holds."""

    def _publish(self) -> None:
        """Show the state to whoever looks on."""
