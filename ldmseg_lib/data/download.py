"""Large files over HTTP, resumed where they broke; zip archives unpacked with nothing outside their folder."""

import http.client
import os
import shutil
import stat
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, TypeVar

from tqdm.auto import tqdm

from ..core.errors import DatasetError, InputError
from ..core.files import inside, write_text

_Result = TypeVar("_Result")

_CHUNK = 1 << 20
_TIMEOUT_SECONDS = 30
_LONGEST_WAIT_SECONDS = 60.0
_WORTH_ANOTHER_TRY = (408, 425, 429, 500, 502, 503, 504)
_BROKEN = (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError)


class _Interrupted(Exception):
    """The transfer stopped early; `wait` is the pause in seconds that the server asked for, if any."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


def remote_size(url: str, *, attempts: int = 6, wait: float = 1.0) -> int | None:
    """The size in bytes that the server states for `url`, None where it states none.

    Raises:
        DatasetError: the server refuses, or cannot be reached after `attempts` tries.
    """

    def ask() -> int | None:
        with _open(urllib.request.Request(url, method="HEAD"), url) as answer:
            return _length(answer.headers.get("Content-Length"))

    return _with_patience(ask, url, attempts=attempts, wait=wait, progress_made=lambda: 0)


def download(url: str, path: str | os.PathLike, *, attempts: int = 6, wait: float = 1.0, progress: bool = True) -> None:
    """Fetch `url` to `path`, which appears only once it is whole; does nothing where `path` exists.

    The bytes gather in `path` + ".part". A broken transfer goes on from there, in this call or a later one, as long as
    the server's file is the same (its ETag or date); else it starts anew.

    Args:
        attempts: tries in a row that bring no new byte before it gives up.
        wait: seconds before the second try; doubled from try to try.
        progress: show a progress bar.

    Raises:
        DatasetError: the server refuses, sends something else than it announced, or stays out of reach.
    """
    path = Path(path)
    if path.exists():
        return
    part = path.with_name(f"{path.name}.part")
    mark = path.with_name(f"{path.name}.part.version")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tqdm(desc=path.name, unit="B", unit_scale=True, unit_divisor=1024, disable=not progress) as bar:
        _with_patience(
            lambda: _fetch(url, part, mark, bar),
            url,
            attempts=attempts,
            wait=wait,
            progress_made=lambda: part.stat().st_size if part.exists() else 0,
        )
    with open(part, "rb") as file:
        os.fsync(file.fileno())
    os.replace(part, path)
    mark.unlink(missing_ok=True)


def unpack(
    archive: str | os.PathLike,
    folder: str | os.PathLike,
    *,
    wanted: Callable[[str], bool] = lambda name: True,
    progress: bool = True,
) -> None:
    """Unpack the entries of a zip file for which `wanted(name)` holds into `folder`, verifying their CRCs.

    Each file appears whole or not at all. Files that are there already with the right size and CRC stay untouched, so
    an interrupted call is taken up where it stopped.

    Raises:
        DatasetError: the file is no zip or is damaged, an entry would leave `folder` or is a link, or the disk has too
            little room; nothing is written in the last three cases.
    """
    archive, folder = Path(archive), Path(folder)
    try:
        with zipfile.ZipFile(archive) as opened:
            # an unsafe name tells that the archive is not what it should be, even if it is not wanted
            targets = {entry: _target(entry, archive, folder) for entry in opened.infolist() if not entry.is_dir()}
            entries = [entry for entry in targets if wanted(entry.filename)]
            need_space(folder, sum(entry.file_size for entry in entries), f"to unpack {archive.name}")
            for entry in tqdm(entries, f"unpacking {archive.name}", unit=" files", disable=not progress):
                target = targets[entry]
                if not _is_there(entry, target):
                    target.parent.mkdir(parents=True, exist_ok=True)
                    temporary = target.with_name(f".{target.name}.part")
                    with opened.open(entry) as source, open(temporary, "wb") as file:
                        shutil.copyfileobj(source, file, _CHUNK)
                    os.replace(temporary, target)
        # once for all files: flushing each of 118,000 takes longer than writing them
        os.sync()
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise DatasetError(f"{archive}: damaged ({error}); delete it and run again to fetch it anew") from None


def need_space(folder: str | os.PathLike, size: int, purpose: str) -> None:
    """Make sure that the disk of `folder` has `size` bytes free.

    Raises:
        DatasetError: it has not.
    """
    place = Path(folder).absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if size > free:
        raise DatasetError(
            f"{folder}: {size / 2**30:.1f} GiB are needed {purpose}, but only {free / 2**30:.1f} are free"
        )


def _with_patience(
    action: Callable[[], _Result], url: str, *, attempts: int, wait: float, progress_made: Callable[[], int]
) -> _Result:
    """The result of `action`, tried again after breaks; tries are counted from the last one that made progress."""
    failures, before = 0, progress_made()
    while True:
        try:
            return action()
        except _Interrupted as error:
            reached = progress_made()
            failures = 1 if reached > before else failures + 1
            before = reached
            if failures >= attempts:
                raise DatasetError(f"{url}: given up after {failures} tries ({error}); run again to go on") from None
            time.sleep(min(max(wait * 2 ** (failures - 1), error.wait), _LONGEST_WAIT_SECONDS))


def _open(request: urllib.request.Request, url: str) -> http.client.HTTPResponse:
    try:
        return urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:
            raise
        if error.code in _WORTH_ANOTHER_TRY:
            pause = _length(error.headers.get("Retry-After")) or 0
            raise _Interrupted(f"status {error.code}", wait=float(pause)) from None
        raise DatasetError(f"{url}: the server answers {error.code} {error.reason}") from None
    except _BROKEN as error:
        raise _Interrupted(str(getattr(error, "reason", error)) or type(error).__name__) from None


def _fetch(url: str, part: Path, mark: Path, bar: tqdm) -> None:
    """One try: append to `part` what it lacks. Raises _Interrupted where the transfer stops early."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url)
    version = mark.read_text() if mark.exists() else ""
    if have:
        request.add_header("Range", f"bytes={have}-")
    if have and version:
        request.add_header("If-Range", version)
    try:
        answer = _open(request, url)
    except urllib.error.HTTPError as error:
        total = _length((error.headers.get("Content-Range") or "").rpartition("/")[2]) or remote_size(url)
        if total == have:
            return
        # a part that is longer than the file belongs to something else
        part.unlink(missing_ok=True)
        raise _Interrupted(f"status 416 at byte {have:,}") from None
    with answer:
        start = 0
        if answer.status == 206:
            place, _, stated = answer.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
            sent, total = place.partition("-")[0], _length(stated)
            if _length(sent) != have:
                raise _Interrupted(f"asked for the bytes from {have:,}, but was sent those from {sent or 'nowhere'}")
            start = have
        else:
            total = _length(answer.headers.get("Content-Length"))
            part.unlink(missing_ok=True)
            write_text(mark, _version(answer))
        if total is not None:
            need_space(part.parent, total - start, f"for {part.stem}")
        bar.reset(total)
        bar.update(start)
        with open(part, "ab" if start else "wb") as file:
            _copy(answer, file, bar)
    size = part.stat().st_size
    if total is not None and size > total:
        part.unlink()
        raise _Interrupted(f"{size:,} bytes came, but {total:,} were announced")
    if total is not None and size < total:
        raise _Interrupted(f"the connection broke after {size:,} of {total:,} bytes")


def _copy(answer: http.client.HTTPResponse, file: BinaryIO, bar: tqdm) -> None:
    while True:
        try:
            chunk = answer.read1(_CHUNK)
        except _BROKEN as error:
            raise _Interrupted(str(error) or type(error).__name__) from None
        if not chunk:
            return
        file.write(chunk)
        bar.update(len(chunk))


def _version(answer: http.client.HTTPResponse) -> str:
    """What If-Range takes: a strong ETag, else the date."""
    tag = answer.headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else answer.headers.get("Last-Modified", "")


def _length(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() else None


def _target(entry: zipfile.ZipInfo, archive: Path, folder: Path) -> Path:
    """Where an entry goes. zipfile itself would bend a name that climbs out to one inside; here it is an error."""
    if stat.S_ISLNK(entry.external_attr >> 16):
        raise DatasetError(f"{archive}: the entry {entry.orig_filename!r} is a link; nothing was unpacked")
    name = entry.orig_filename
    try:
        if "\\" in name or "\0" in name or ".." in name.split("/"):
            raise InputError(f"{name!r} leaves the folder {folder}")
        return inside(folder, name)
    except InputError as error:
        raise DatasetError(f"{archive}: an entry is unsafe, nothing was unpacked ({error})") from None


def _is_there(entry: zipfile.ZipInfo, target: Path) -> bool:
    if not target.is_file() or target.stat().st_size != entry.file_size:
        return False
    checksum = 0
    with open(target, "rb") as file:
        while chunk := file.read(_CHUNK):
            checksum = zlib.crc32(chunk, checksum)
    return checksum == entry.CRC
