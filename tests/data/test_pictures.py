"""Pictures of every kind come upright and in RGB; anything else is an error that names the file."""

import os
import socket
import struct
import sys
import zlib
from pathlib import Path
from subprocess import run

import numpy as np
import pytest
from PIL import Image, ImageOps

from rivegs_mllm.data.images import (
    PictureError,
    PictureIndex,
    file_stamp,
    open_picture,
    picture_digest,
    picture_size,
    read_header,
    upright_box,
)
from rivegs_mllm.types import Box, UserError

RED, GREEN, WHITE = (255, 0, 0), (0, 255, 0), (255, 255, 255)


def corner(size=(8, 4)) -> Image.Image:
    """Red with a green upper left quarter, so that every orientation looks different."""
    image = Image.new("RGB", size, RED)
    image.paste(GREEN, (0, 0, size[0] // 2, size[1] // 2))
    return image


def saved(image: Image.Image, path: Path, orientation: int = 1, **options: object) -> Path:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(path, exif=exif, **options)
    return path


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", [".png", ".webp", ".jpg"])
def test_every_orientation_is_turned_upright(tmp_path, orientation, ending):
    options = {"lossless": True} if ending == ".webp" else {}
    path = saved(corner((32, 16)), tmp_path / f"a{ending}", orientation, **options)
    expected = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    upright = open_picture(path)
    assert upright.mode == "RGB"
    assert np.array_equal(np.asarray(upright), np.asarray(expected))
    assert picture_size(path) == upright.size == ((16, 32) if orientation >= 5 else (32, 16))
    assert read_header(path).orientation == orientation


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_box_turns_with_its_picture(tmp_path, orientation):
    stored = Image.new("RGB", (12, 8), RED)
    stored.paste(GREEN, (1, 2, 6, 4))
    green = np.asarray(open_picture(saved(stored, tmp_path / "a.png", orientation)))[..., 1] == 255
    rows, columns = np.nonzero(green.any(1))[0], np.nonzero(green.any(0))[0]
    found = Box(columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    assert upright_box(Box(1, 2, 6, 4), (12, 8), orientation) == found


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "CMYK", "YCbCr"])
def test_opaque_modes(tmp_path, mode):
    ending = ".jpg" if mode in ("CMYK", "YCbCr") else ".png"
    Image.new("RGB", (6, 4), WHITE).convert(mode).save(tmp_path / f"a{ending}")
    image = open_picture(tmp_path / f"a{ending}")
    assert (image.mode, image.size) == ("RGB", (6, 4))
    assert np.asarray(image).min() > 250


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_parts_are_laid_on_white(tmp_path, mode):
    if mode == "P":
        image = Image.new("P", (2, 1))
        image.putpalette([0, 0, 0, *GREEN])
        image.putpixel((1, 0), 1)
        image.save(tmp_path / "a.png", transparency=0)
    else:
        image = Image.new(mode, (2, 1), 0)
        image.putpixel((1, 0), (*GREEN, 255) if mode == "RGBA" else (40, 255))
        image.save(tmp_path / "a.png")
    opened = open_picture(tmp_path / "a.png")
    assert opened.getpixel((0, 0)) == WHITE
    assert opened.getpixel((1, 0)) == ((40, 40, 40) if mode == "LA" else GREEN)


def test_16_bit_grey_keeps_its_shades(tmp_path):
    Image.fromarray(np.array([[0, 0x4000, 0xFFFF]], dtype=np.uint16)).save(tmp_path / "a.png")
    assert [open_picture(tmp_path / "a.png").getpixel((x, 0))[0] for x in range(3)] == [0, 0x40, 0xFF]


def test_a_file_is_read_by_content_not_by_ending(tmp_path):
    corner().save(tmp_path / "a.jpg", format="GIF")
    assert open_picture(tmp_path / "a.jpg").getpixel((0, 0)) == GREEN


def test_unreadable_exif_is_no_rotation(tmp_path):
    corner().save(tmp_path / "a.jpg", exif=b"Exif\x00\x00garbage that is no TIFF block")
    assert picture_size(tmp_path / "a.jpg") == (8, 4)
    assert open_picture(tmp_path / "a.jpg").size == (8, 4)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(side: int) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [10_000, 60_000])
@pytest.mark.parametrize("function", [open_picture, picture_size])
def test_decompression_bombs_are_refused(tmp_path, side, function):
    (tmp_path / "bomb.png").write_bytes(bomb(side))
    with pytest.raises(PictureError, match=r"bomb\.png.*pixels"):
        function(tmp_path / "bomb.png")


@pytest.mark.parametrize("ending", [".jpg", ".png", ".webp", ".gif"])
def test_truncated_pictures_are_refused(tmp_path, ending):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    path = tmp_path / f"cut{ending}"
    noise.save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(PictureError, match=rf"cut\{ending}"):
        open_picture(path)


@pytest.mark.parametrize("content", [b"", b"not a picture", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"\x89PNG\r\n\x1a\n"])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(PictureError, match=r"a\.jpg"):
        open_picture(tmp_path / "a.jpg")


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(UserError, match=r"gone\.jpg: no such picture"):
        open_picture(tmp_path / "gone.jpg")
    with pytest.raises(PictureError):
        open_picture(tmp_path)
    with pytest.raises(PictureError, match="gone"):
        PictureIndex([tmp_path / "gone"])


def no_file(folder: Path, kind: str) -> Path:
    """What a path of a picture can lead to beside a regular file."""
    path = folder / "p.jpg"
    if kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a folder":
        path.mkdir()
    elif kind == "a socket":
        socket.socket(socket.AF_UNIX).bind(str(path))
    elif kind == "a loop of links":
        path.symlink_to("p.jpg")
    elif kind == "a link to a device":
        path.symlink_to("/dev/zero")
    elif kind == "a sparse file of 2 TiB":
        with path.open("wb") as file:
            file.truncate(2**41)
    elif kind == "an empty file":
        path.touch()
    return {
        "a device": Path("/dev/zero"),
        "a name of 10,000 letters": folder / ("f" * 10_000),
        "a name with a NUL": folder / "a\0.jpg",
        "a name of two lines": folder / "a\n\x1b[31mb.jpg",
        "below a file": Path(__file__) / "p.jpg",
    }.get(kind, path)


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "kind",
    [
        "a pipe",
        "a folder",
        "a socket",
        "a device",
        "a loop of links",
        "a link to a device",
        "a sparse file of 2 TiB",
        "an empty file",
        "a name of 10,000 letters",
        "a name with a NUL",
        "a name of two lines",
        "below a file",
        "nothing",
    ],
)
@pytest.mark.parametrize("function", [open_picture, picture_size, picture_digest])
def test_only_regular_files_are_opened(tmp_path, kind, function):
    path = no_file(tmp_path, kind)
    with pytest.raises(PictureError) as caught:
        function(path)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600
    assert (file_stamp(path) is None) == (kind not in ("a sparse file of 2 TiB", "an empty file"))


@pytest.mark.timeout(20)
def test_a_pipe_that_takes_a_picture_s_place_is_not_waited_for(tmp_path, monkeypatch):
    path = tmp_path / "p.jpg"
    path.touch()
    real = os.open

    def opened(*given):
        path.unlink()
        os.mkfifo(path)
        return real(*given)

    monkeypatch.setattr("rivegs_mllm.data.images.os.open", opened)
    with pytest.raises(PictureError, match="not a regular file"):
        open_picture(path)


def test_index_finds_ids_in_several_folders_with_several_endings(tmp_path):
    for name in (
        "a/1.jpg",
        "a/16_05_01.2.JPG",
        "a/notes.txt",
        "b/O_3.PNG",
        "b/1.jpeg",
        "b/4.webp",
        "a/4.png",
        "b/d.jpg/x",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    index = PictureIndex([tmp_path / "a", tmp_path / "b"])
    assert len(index) == 4
    assert index.find("1") == tmp_path / "a/1.jpg"
    assert index.find("16_05_01.2") == tmp_path / "a/16_05_01.2.JPG"
    assert index.find("O_3") == tmp_path / "b/O_3.PNG"
    assert index.find("4") == tmp_path / "a/4.png"
    assert sorted(index.shadowed) == [tmp_path / "b/1.jpeg", tmp_path / "b/4.webp"]
    for unknown in ("notes", "d", "../a/1", "", "/etc/passwd"):
        assert index.find(unknown) is None


def test_opening_pictures_needs_neither_torch_nor_lxml():
    code = "import sys, rivegs_mllm.data.images; print(sorted({'torch', 'lxml', 'rich', 'numpy'} & set(sys.modules)))"
    root = Path(__file__).parents[2]
    assert run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True).stdout == "[]\n"
