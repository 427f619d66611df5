"""Files that are there completely or not at all."""

import errno
import subprocess
from pathlib import Path

import pytest

from rivegs_mllm.runtime.files import (
    WriteError,
    append_to,
    check_output,
    complete_file,
    complete_folder,
    is_disk_full,
    write_json,
    write_text,
)
from rivegs_mllm.types import UserError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_replaces_the_old_one_when_it_is_complete(tmp_path):
    path = tmp_path / "made" / "file.txt"
    write_text(path, "first")
    with complete_file(path) as file:
        file.write(b"second")
        file.flush()
        assert path.read_text() == "first"
    assert path.read_text() == "second"
    assert names(path.parent) == ["file.txt"]


def write_half(path):
    with complete_file(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt


def test_what_raises_leaves_the_old_file(tmp_path):
    write_text(tmp_path / "file", "first")
    with pytest.raises(KeyboardInterrupt):
        write_half(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "first"
    assert names(tmp_path) == ["file"]


def test_a_folder_is_there_when_it_is_complete(tmp_path):
    out = tmp_path / "made" / "out"
    left = tmp_path / "made" / "out.partial"
    left.mkdir(parents=True)
    (left / "old").write_text("of an interrupted run")
    with complete_folder(out) as folder:
        (folder / "within").mkdir()
        (folder / "within" / "file").write_text("new")
        (folder / "secret").write_text("")
        (folder / "secret").chmod(0o600)
        assert names(out.parent) == ["out.partial"]
    assert names(out.parent) == ["out"]
    assert names(out) == ["secret", "within"]
    assert (out / "secret").stat().st_mode == (out / "within" / "file").stat().st_mode


def half_folder(path: Path, raised: BaseException) -> None:
    with complete_folder(path) as folder:
        (folder / "file").write_text("half")
        raise raised


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (KeyboardInterrupt(), KeyboardInterrupt),
        (OSError(errno.ENOSPC, "No space left on device"), WriteError),
        (RuntimeError("SafetensorError: No space left on device"), WriteError),
        (FileNotFoundError(errno.ENOENT, "No such file", "/elsewhere"), FileNotFoundError),
        (RuntimeError("something else"), RuntimeError),
    ],
    ids=str,
)
def test_of_a_folder_that_is_not_completed_nothing_is_left(tmp_path, raised, told):
    with pytest.raises(told):
        half_folder(tmp_path / "out", raised)
    assert names(tmp_path) == []


def overtaken(path: Path) -> None:
    with complete_folder(path) as folder:
        write_text(path / "file", "another's")
        write_text(folder / "file", "mine")


def test_a_folder_that_is_there_is_kept(tmp_path):
    write_text(tmp_path / "out" / "file", "mine")
    with pytest.raises(UserError, match="exists and is not overwritten"), complete_folder(tmp_path / "out"):
        pass
    with pytest.raises(UserError, match="exists"):
        overtaken(tmp_path / "late")
    assert (tmp_path / "late" / "file").read_text() == "another's"
    assert names(tmp_path) == ["late", "out"]


def test_a_value_that_is_no_json_leaves_the_old_file(tmp_path):
    write_json(tmp_path / "file", 1)
    with pytest.raises(TypeError):
        write_json(tmp_path / "file", {1j})
    assert (tmp_path / "file").read_text() == "1\n"


def test_links_are_not_followed(tmp_path):
    (tmp_path / "target").write_text("kept")
    (tmp_path / "file.partial").symlink_to("target")
    (tmp_path / "log").symlink_to("target")
    write_text(tmp_path / "file", "new")
    with pytest.raises(UserError, match="log: is a symbolic link"):
        append_to(tmp_path / "log")
    assert (tmp_path / "target").read_text() == "kept"
    assert (tmp_path / "file").read_text() == "new"


def test_a_full_disk_is_said_in_one_line_and_changes_nothing(tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", small], capture_output=True).returncode:
        pytest.skip("needs leave to mount")
    try:
        write_text(small / "file", "first")
        with pytest.raises(WriteError, match=r"file: cannot be written: No space left on device$") as error:
            write_text(small / "file", "x" * 100_000)
        assert is_disk_full(error.value)
        assert (small / "file").read_text() == "first"
        assert names(small) == ["file"]
    finally:
        subprocess.run(["umount", small], check=True)


def test_an_error_of_what_is_read_meanwhile_keeps_its_name(tmp_path):
    with pytest.raises(FileNotFoundError, match="picture"), complete_file(tmp_path / "file"):
        (tmp_path / "picture").read_bytes()


def test_what_is_no_file_is_written_directly():
    write_text(Path("/dev/null"), "gone")
    assert not Path("/dev/null").is_file()


def test_an_output_that_is_read_is_refused_under_any_name(tmp_path):
    (tmp_path / "gold").write_text("")
    (tmp_path / "link").symlink_to("gold")
    check_output(tmp_path / "new", [tmp_path / "gold"])
    for name in ("gold", "link"):
        with pytest.raises(UserError, match="is read too"):
            check_output(tmp_path / name, [tmp_path / "other", tmp_path / "gold"])


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("[enforce fail at inline_container.cc:858] . PytorchStreamWriter failed writing file data/0"),
        RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 66496 vs 66388"),
        Exception("No space left on device (os error 28)"),
    ],
)
def test_full_disks_are_known_by_what_the_libraries_say(error):
    assert is_disk_full(error)
    wrapped = ValueError("something else")
    assert not is_disk_full(wrapped)
    wrapped.__cause__ = error
    assert is_disk_full(wrapped)
