"""Files that are whole or absent: written beside their place, flushed to disk, then renamed."""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import InputError


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; on success it is flushed and renamed to `path`.

    The temporary name keeps the suffix of `path`, because writers such as matplotlib choose the format by it. When the
    block raises, the temporary file is removed and whatever stood at `path` stays as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        # mkstemp makes files private; a result is as readable as any other file of the user's
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_bytes(path: str | os.PathLike, data: bytes) -> None:
    """Write `data` to `path` atomically, making its folder if need be."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write `text` to `path` atomically in UTF-8, making its folder if need be."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: str | os.PathLike, value: Any, *, indent: int | None = 2) -> None:
    """Write `value` to `path` atomically as JSON. NaN and infinity are refused: no JSON reader must accept them."""
    write_text(path, json.dumps(value, indent=indent, allow_nan=False) + "\n")


def read_json(path: str | os.PathLike) -> Any:
    """The JSON value in `path`.

    Raises:
        InputError: the file is missing, unreadable or not JSON; the message names it, and the line for bad JSON.
    """
    path = Path(path)
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not JSON (not even text)") from None
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: not JSON (line {error.lineno}, column {error.colno}: {error.msg})") from None
    except RecursionError:
        raise InputError(f"{path}: its JSON is nested too deeply to be read") from None
    except ValueError:
        # the parser refuses integers of more digits than sys.get_int_max_str_digits()
        raise InputError(f"{path}: its JSON has a number of more digits than can be read") from None


def inside(folder: str | os.PathLike, relative: str) -> Path:
    """The path `folder/relative`, provided that it stays inside `folder`.

    Raises:
        InputError: `relative` is absolute or climbs out of `folder` (also through a symbolic link).
    """
    base = Path(folder).resolve()
    if "\0" in relative:
        raise InputError(f"{relative!r} is no file name; it has a null character")
    path = (base / relative).resolve()
    if Path(relative).is_absolute() or not path.is_relative_to(base):
        raise InputError(f"{relative!r} leaves the folder {folder}; give a path inside it")
    return Path(folder) / relative
