"""The downloader against a server on 127.0.0.1 that behaves as badly as real ones do."""

import http.server
import io
import re
import shutil
import threading
import time
import zipfile
from pathlib import Path

import pytest

from ldmseg_lib.core.errors import DatasetError, InputError
from ldmseg_lib.data import coco, download
from ldmseg_lib.data.check import check_dataset
from ldmseg_lib.data.coco import fetch_coco
from ldmseg_lib.data.panoptic import PanopticDataset
from tests.data.folders import make_folder

COUNTS = {"train": 4, "val": 2}
TRAIN, VAL = "/zips/train2017.zip", "/zips/val2017.zip"
ANNOTATIONS = "/annotations/panoptic_annotations_trainval2017.zip"


class Server(http.server.ThreadingHTTPServer):
    """Serves `files` with Range and If-Range; `mischief[path]` lists what to do wrong, one request after another.

    503; 404; 416; "break:N" (N bytes, then the connection is cut); "truncate:N" (the same without a length); "no range"
    (the whole file whatever was asked); "wrong range" (from another byte than asked).
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.mischief: dict[str, list] = {}
        self.version = '"1"'
        self.requests: list[tuple[str, str, str | None]] = []
        self.sent: dict[str, int] = {}

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def gets(self, path):
        return [asked for method, requested, asked in self.requests if method == "GET" and requested == path]


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *arguments):
        pass

    def do_HEAD(self):
        self.server.requests.append(("HEAD", self.path, None))
        if self.path not in self.server.files:
            return self._status(404)
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.files[self.path])))
        self.end_headers()

    def do_GET(self):
        server, asked = self.server, self.headers.get("Range")
        server.requests.append(("GET", self.path, asked))
        todo = server.mischief.get(self.path, [])
        action = todo.pop(0) if todo else None
        if self.path not in server.files:
            action = 404
        data = server.files.get(self.path, b"")
        if isinstance(action, int) and action != 416:
            return self._status(action)
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked else 0
        if action == "no range" or self.headers.get("If-Range", server.version) != server.version:
            start = 0
        if action == 416 or start >= len(data):
            return self._status(416, ("Content-Range", f"bytes */{len(data)}"))
        if action == "wrong range":
            start += 5
        self.send_response(206 if start else 200)
        self.send_header("ETag", server.version)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        kind, _, count = str(action).partition(":")
        body = data[start : start + int(count)] if count else data[start:]
        if kind != "truncate":
            self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        self.wfile.write(body)
        server.sent[self.path] = server.sent.get(self.path, 0) + len(body)
        self.close_connection = True

    def _status(self, code, *headers):
        self.send_response(code)
        for name, value in (*headers, ("Content-Length", "0")):
            self.send_header(name, value)
        self.end_headers()


def _zip(entries) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return buffer.getvalue()


def _folder(path: Path, name: str):
    return [(f"{name}/", b""), *((f"{name}/{file.name}", file.read_bytes()) for file in sorted(path.iterdir()))]


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download, "_TIMEOUT_SECONDS", 5)
    server = Server()
    annotations = []
    for split, count in COUNTS.items():
        folder = make_folder(tmp_path / "original" / split, images=count, split=split, layout="coco")
        server.files[f"/zips/{split}2017.zip"] = _zip(_folder(folder.images, f"{split}2017"))
        junk = (f"__MACOSX/panoptic_{split}2017/._x.png", b"\0")
        inner = _zip([*_folder(folder.panoptic, f"panoptic_{split}2017"), junk])
        annotations += [
            (f"annotations/panoptic_{split}2017.json", folder.annotations.read_bytes()),
            (f"annotations/panoptic_{split}2017.zip", inner),
        ]
    server.files[ANNOTATIONS] = _zip(annotations)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def _fetch(server, root, **options):
    fetch_coco(root, base_url=server.url, image_counts=COUNTS, wait=0.001, progress=False, **options)


def test_what_was_fetched_reads_as_the_original_and_leaves_no_archives(server, tmp_path):
    _fetch(server, tmp_path / "coco")
    for split, count in COUNTS.items():
        assert check_dataset(tmp_path / "coco", split) == []
        fetched, original = (
            PanopticDataset(root, split) for root in (tmp_path / "coco", tmp_path / "original" / split)
        )
        assert len(fetched) == count
        for place in range(count):
            assert (fetched.ground_truth(place).ids == original.ground_truth(place).ids).all()
            assert (fetched.ground_truth(place).image == original.ground_truth(place).image).all()
    names = sorted(path.relative_to(tmp_path / "coco").as_posix() for path in (tmp_path / "coco").glob("*/"))
    assert names == ["annotations", "train2017", "val2017"]
    assert not list((tmp_path / "coco").rglob("*.zip")) and not list((tmp_path / "coco").rglob(".*"))


def test_nothing_is_fetched_twice(server, tmp_path):
    _fetch(server, tmp_path / "coco", keep_archives=True)
    before = len(server.requests)
    _fetch(server, tmp_path / "coco")
    assert server.requests[before:] == []
    # one archive after another: an unpacked folder that is gone comes from its kept archive
    shutil.rmtree(tmp_path / "coco" / "val2017")
    _fetch(server, tmp_path / "coco", keep_archives=True)
    assert all(method == "HEAD" for method, _, _ in server.requests[before:])
    assert [len(server.gets(path)) for path in (TRAIN, VAL, ANNOTATIONS)] == [1, 1, 1]


def test_one_split_fetches_nothing_of_the_other(server, tmp_path):
    _fetch(server, tmp_path / "coco", splits=("val",))
    assert not server.gets(TRAIN) and not (tmp_path / "coco" / "train2017").exists()
    assert not list((tmp_path / "coco" / "annotations").glob("*train*"))
    assert check_dataset(tmp_path / "coco", "val") == []
    _fetch(server, tmp_path / "coco")
    assert check_dataset(tmp_path / "coco", "train") == [] and len(server.gets(VAL)) == 1


def test_broken_connections_go_on_at_the_byte_where_they_broke(server, tmp_path):
    size = len(server.files[TRAIN])
    server.mischief[TRAIN] = ["break:1000", 503, "break:500", "break:0", 500]
    _fetch(server, tmp_path / "coco")
    assert check_dataset(tmp_path / "coco", "train") == []
    assert server.gets(TRAIN) == [None, *["bytes=1000-"] * 2, *["bytes=1500-"] * 3]
    assert server.sent[TRAIN] == size


def test_a_later_run_goes_on_too(server, tmp_path):
    server.mischief[TRAIN] = ["break:1000", 403]
    with pytest.raises(DatasetError, match=r"train2017\.zip: the server answers 403"):
        _fetch(server, tmp_path / "coco")
    _fetch(server, tmp_path / "coco")
    assert server.gets(TRAIN) == [None, "bytes=1000-", "bytes=1000-"]
    assert check_dataset(tmp_path / "coco", "train") == []


def test_a_file_that_changed_on_the_server_starts_anew(server, tmp_path):
    server.mischief[TRAIN] = ["break:1000", 403]
    with pytest.raises(DatasetError):
        _fetch(server, tmp_path / "coco")
    server.version = '"2"'
    server.files[TRAIN] = b"#!/bin/sh\n" + server.files[TRAIN]
    _fetch(server, tmp_path / "coco")
    assert check_dataset(tmp_path / "coco", "train") == []
    assert server.sent[TRAIN] == 1000 + len(server.files[TRAIN])


def test_a_server_without_ranges_is_served_from_the_start(server, tmp_path):
    server.mischief[TRAIN] = ["break:1000", "no range"]
    _fetch(server, tmp_path / "coco")
    assert check_dataset(tmp_path / "coco", "train") == []


def test_bytes_from_another_place_are_not_appended(server, tmp_path):
    server.mischief[TRAIN] = ["break:1000", "wrong range"]
    _fetch(server, tmp_path / "coco")
    assert check_dataset(tmp_path / "coco", "train") == []
    assert server.gets(TRAIN)[-1] == "bytes=1000-"


def _leave_part(server, tmp_path, content):
    archives = tmp_path / "coco" / "archives"
    archives.mkdir(parents=True)
    (archives / "train2017.zip.part").write_bytes(content)
    (archives / "train2017.zip.part.version").write_text(server.version)


def test_a_part_that_is_whole_already_is_taken_after_416(server, tmp_path):
    _leave_part(server, tmp_path, server.files[TRAIN])
    _fetch(server, tmp_path / "coco")
    assert len(server.gets(TRAIN)) == 1 and TRAIN not in server.sent
    assert check_dataset(tmp_path / "coco", "train") == []


def test_a_part_that_is_too_long_starts_anew_after_416(server, tmp_path):
    _leave_part(server, tmp_path, server.files[TRAIN] + b"more")
    _fetch(server, tmp_path / "coco")
    assert server.gets(TRAIN) == [f"bytes={len(server.files[TRAIN]) + 4}-", None]
    assert check_dataset(tmp_path / "coco", "train") == []


def test_a_416_out_of_turn_does_not_end_the_download(server, tmp_path):
    server.mischief[TRAIN] = ["break:1000", 416]
    _fetch(server, tmp_path / "coco")
    assert check_dataset(tmp_path / "coco", "train") == []


def test_a_truncated_archive_of_unstated_length_is_found_out(server, tmp_path):
    server.mischief[TRAIN] = ["truncate:3000"]
    with pytest.raises(DatasetError, match=r"train2017\.zip: damaged .* delete it and run again"):
        _fetch(server, tmp_path / "coco")
    (tmp_path / "coco" / "archives" / "train2017.zip").unlink()
    _fetch(server, tmp_path / "coco")
    assert check_dataset(tmp_path / "coco", "train") == []


def test_a_flipped_bit_is_found_by_its_crc(server, tmp_path):
    data = bytearray(server.files[TRAIN])
    data[data.find(b"JFIF") + 100] ^= 1
    server.files[TRAIN] = bytes(data)
    with pytest.raises(DatasetError, match=r"train2017\.zip: damaged .*CRC"):
        _fetch(server, tmp_path / "coco")
    assert not list((tmp_path / "coco" / "train2017").glob("*.jpg"))


def test_a_server_that_stays_down_is_given_up_with_what_it_said(server, tmp_path):
    server.mischief[TRAIN] = ["break:1000", *[503] * 50]
    with pytest.raises(
        DatasetError, match=r"train2017\.zip: given up after 6 tries \(status 503\); run again to go on"
    ):
        _fetch(server, tmp_path / "coco")
    assert (tmp_path / "coco" / "archives" / "train2017.zip.part").stat().st_size == 1000
    assert len(server.gets(TRAIN)) <= 7


def test_waits_double_from_try_to_try(server, tmp_path, monkeypatch):
    waits = []
    monkeypatch.setattr(time, "sleep", waits.append)
    server.mischief[TRAIN] = [503] * 4
    fetch_coco(tmp_path / "coco", base_url=server.url, image_counts=COUNTS, wait=2, progress=False)
    assert waits == [2, 4, 8, 16]


def test_a_server_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DatasetError, match=r"http://127\.0\.0\.1:9/zips/train2017\.zip: given up .*refused"):
        fetch_coco(tmp_path, base_url="http://127.0.0.1:9", wait=0.001, progress=False)


@pytest.mark.parametrize(
    "name", ["../evil.jpg", "train2017/../../evil.jpg", "/tmp/evil.jpg", "train2017\\..\\..\\evil.jpg"]
)
@pytest.mark.parametrize("inner", [False, True])
def test_a_zip_whose_entries_leave_the_folder_writes_nothing(server, tmp_path, name, inner):
    evil = _zip([("train2017/000100.jpg", b"fine"), (name, b"evil")])
    if inner:
        folder = tmp_path / "original" / "train" / "annotations" / "panoptic_train2017.json"
        server.files[ANNOTATIONS] = _zip(
            [
                ("annotations/panoptic_train2017.json", folder.read_bytes()),
                ("annotations/panoptic_train2017.zip", evil),
            ]
        )
    else:
        server.files[TRAIN] = evil
    with pytest.raises(DatasetError, match=r"train2017\.zip: an entry is unsafe, nothing was unpacked .*evil"):
        _fetch(server, tmp_path / "coco", splits=("train",))
    assert not list(tmp_path.rglob("evil*")) and not Path("/tmp/evil.jpg").exists()
    assert inner or not (tmp_path / "coco" / "train2017").exists()


def test_a_link_in_a_zip_is_refused(server, tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        link = zipfile.ZipInfo("train2017/link")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc")
        archive.writestr("train2017/link/evil.jpg", b"evil")
    server.files[TRAIN] = buffer.getvalue()
    with pytest.raises(DatasetError, match=r"link.* nothing was unpacked"):
        _fetch(server, tmp_path / "coco")


def test_too_few_images_are_an_error_that_says_how_many(server, tmp_path):
    with pytest.raises(DatasetError, match=r"train2017: 4 files \.jpg, but train has 5"):
        fetch_coco(
            tmp_path / "coco",
            splits=("train",),
            base_url=server.url,
            image_counts={"train": 5},
            wait=0.001,
            progress=False,
        )


def test_a_small_disk_is_found_before_anything_is_fetched(server, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(DatasetError, match=r"coco: .* GiB are needed for the archives"):
        _fetch(server, tmp_path / "coco")
    assert not server.gets(TRAIN)


def test_an_interrupted_unpacking_keeps_what_is_whole_and_repairs_the_rest(server, tmp_path):
    _fetch(server, tmp_path / "coco", keep_archives=True)
    images = sorted((tmp_path / "coco" / "train2017").glob("*.jpg"))
    whole = images[0].stat().st_mtime_ns
    good = images[1].read_bytes()
    images[1].write_bytes(b"x" * len(good))
    images[2].unlink()
    _fetch(server, tmp_path / "coco")
    assert images[0].stat().st_mtime_ns == whole and images[1].read_bytes() == good and images[2].exists()


def test_official_counts_and_address_are_the_defaults(monkeypatch):
    assert dict(coco.IMAGE_COUNTS) == {"train": 118_287, "val": 5_000}
    assert coco.BASE_URL == "http://images.cocodataset.org"


def test_unknown_splits_and_addresses_are_refused(tmp_path):
    with pytest.raises(InputError, match="split 'test' is unknown; choose from train, val"):
        fetch_coco(tmp_path, splits=("test",))
    with pytest.raises(InputError, match="file:///etc"):
        fetch_coco(tmp_path, base_url="file:///etc")


def test_the_command_prints_one_line_and_exits_with_2(server, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(coco, "IMAGE_COUNTS", COUNTS)
    del server.files[VAL]
    assert coco.main([str(tmp_path / "coco"), "--splits", "val", "--base-url", server.url]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.endswith("val2017.zip: the server answers 404 Not Found")
