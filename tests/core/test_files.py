"""Files are whole or absent, and paths from outside stay where they belong."""

import os
from pathlib import Path

import pytest

from ldmseg_lib.core.errors import InputError
from ldmseg_lib.core.files import inside, read_json, replacing, write_bytes, write_json, write_text


def test_what_was_written_is_read_back(tmp_path):
    value = {"a": [1, 2.5, None, "ä"], "b": {}}
    write_json(tmp_path / "new" / "folder" / "x.json", value)
    assert read_json(tmp_path / "new" / "folder" / "x.json") == value
    write_text(tmp_path / "t.txt", "Grüße\n")
    assert (tmp_path / "t.txt").read_bytes() == "Grüße\n".encode()


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    write_bytes(tmp_path / "x.bin", b"old")
    with pytest.raises(RuntimeError), replacing(tmp_path / "x.bin") as temporary:
        temporary.write_bytes(b"half")
        raise RuntimeError
    assert (tmp_path / "x.bin").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x.bin"]


def test_the_file_appears_only_when_it_is_whole(tmp_path):
    with replacing(tmp_path / "x.png") as temporary:
        temporary.write_bytes(b"half")
        assert not (tmp_path / "x.png").exists()
        assert temporary.suffix == ".png" and temporary.parent == tmp_path
    assert (tmp_path / "x.png").read_bytes() == b"half"


def test_files_are_as_readable_as_any_other(tmp_path):
    (tmp_path / "plain").touch()
    write_bytes(tmp_path / "ours", b"")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("value", [float("nan"), {"a": [float("inf")]}])
def test_json_holds_no_nan_that_other_readers_refuse(tmp_path, value):
    write_json(tmp_path / "x.json", 1)
    with pytest.raises(ValueError):
        write_json(tmp_path / "x.json", value)
    assert read_json(tmp_path / "x.json") == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no such file"),
        (b'{"a": \n 1,}', "line 2"),
        (b"\xff\xfe\x00\x01\x02", "not JSON"),
        (b"", "not JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"id": ' + b"9" * 5000 + b"}", "more digits than can be read"),
    ],
    ids=["missing", "a comma too many", "not text", "empty", "deep", "a number without end"],
)
def test_what_is_no_json_is_named(tmp_path, content, words):
    path = tmp_path / "bad.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=words) as error:
        read_json(path)
    assert str(path) in str(error.value)


def test_a_folder_is_no_json(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_json(tmp_path)


@pytest.mark.parametrize("name", ["../x.png", "a/../../x.png", "/etc/passwd", "link/x.png", "a\0b"])
def test_a_name_that_leaves_its_folder_is_refused(tmp_path, name):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path)
    with pytest.raises(InputError):
        inside(folder, name)


@pytest.mark.parametrize("name", ["x.png", "a/b.png", "a/../x.png", "..x.png"])
def test_a_name_that_stays_is_taken(tmp_path, name):
    assert inside(tmp_path, name) == Path(tmp_path) / name
