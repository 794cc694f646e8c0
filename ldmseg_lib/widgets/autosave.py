"""The editing session on disk: one file, written atomically, without pickle."""

import hashlib
import io
import itertools
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8

from ..core.errors import InputError
from ..core.files import write_bytes
from .edit_history import EditHistory
from .pictures import image_file, read_picture

Photo = UInt8[np.ndarray, "height width 3"]


def fingerprint(photo: Photo, ids: Int[np.ndarray, "height width"]) -> str:
    """Sixteen hexadecimal digits that name an image and the ids it came with."""
    digest = hashlib.sha256(repr(photo.shape).encode())
    digest.update(np.ascontiguousarray(photo).tobytes())
    digest.update(np.ascontiguousarray(ids, np.int32).tobytes())
    return digest.hexdigest()[:16]


class Session:
    """The folder `<run_dir>/<name>/<fingerprint>` with `session.npz` and the photos that were opened in the editor.

    Another image or other ids are another session, so that changing the scene and coming back loses nothing.
    """

    def __init__(self, run_dir: str | os.PathLike, name: str, key: str) -> None:
        if not name or Path(name).name != name or name.startswith("."):
            raise InputError(f"name {name!r} must be a plain folder name, such as 'mask_editor'")
        self.folder = Path(run_dir) / name / key
        self.path = self.folder / "session.npz"

    def save(self, history: EditHistory, settings: dict[str, Any], photos: dict[str, Photo]) -> None:
        """Write everything, new photos first: the session never names a missing one."""
        for name in history.pictures() - {""}:
            if not self._photo(name).exists():
                write_bytes(self._photo(name), image_file(photos[name]))
        saved_settings = np.frombuffer(json.dumps(settings).encode(), np.uint8)
        file = io.BytesIO()
        np.savez(file, allow_pickle=False, settings=saved_settings, **history.to_arrays())
        write_bytes(self.path, file.getvalue())

    def load(self, photo: Photo) -> tuple[EditHistory, dict[str, Any], dict[str, Photo]] | None:
        """History, settings and the photos by name as they were saved, or None when nothing was; `photo` is the first.

        Raises:
            InputError: the file is damaged. It is set aside under another name first, so that nothing overwrites it.
        """
        if not self.path.exists():
            return None
        try:
            with np.load(io.BytesIO(self.path.read_bytes()), allow_pickle=False) as file:
                arrays = {key: file[key] for key in file.files}
            history = EditHistory.from_arrays(arrays)
            settings = json.loads(arrays["settings"].tobytes())
            photos = {name: read_picture(self._photo(name).read_bytes()) for name in history.pictures() - {""}}
            photos[""] = photo
            if history.ids.shape != photos[history.picture].shape[:2]:
                raise InputError(f"ids of {history.ids.shape} do not fit its image")
        except (InputError, KeyError, OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            places = (self.folder / f"session-damaged-{number}.npz" for number in itertools.count(1))
            aside = next(path for path in places if not path.exists())
            os.replace(self.path, aside)
            raise InputError(f"{self.path}: cannot be restored ({error}); it is kept as {aside.name}") from None
        return history, settings, photos

    def _photo(self, name: str) -> Path:
        return self.folder / f"photo-{name}.png"
