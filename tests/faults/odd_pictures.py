"""Pictures of every kind and size, and what is none, each a function that puts it at a path."""

from __future__ import annotations

import io
import os
import random
import socket
import struct
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

from PIL import Image, ImageCms, PngImagePlugin

Put = Callable[[Path], None]

SHAPES = [(1, 1), (1, 2), (2, 1), (3, 3), (27, 29), (3, 600), (600, 3), (200, 1), (201, 1), (1, 5000), (4000, 3)]
SHAPES += [(5000, 1), (3, 4000), (120, 80)]
LARGE = [(20_000, 100), (100, 20_000), (9000, 9000), (13_817, 6_000)]
FORMATS = {
    "a JPEG": ("RGB", "JPEG", {}),
    "a progressive JPEG": ("RGB", "JPEG", {"progressive": True}),
    "a grey JPEG": ("L", "JPEG", {}),
    "a JPEG for print": ("CMYK", "JPEG", {}),
    "a PNG": ("RGB", "PNG", {}),
    "a PNG of 1 bit": ("1", "PNG", {}),
    "a grey PNG": ("L", "PNG", {}),
    "a grey PNG of 16 bits": ("I;16", "PNG", {}),
    "a PNG with a palette": ("P", "PNG", {}),
    "a PNG with a palette and a transparent colour": ("P", "PNG", {"transparency": 0}),
    "a PNG with a palette and transparencies": ("P", "PNG", {"transparency": bytes(range(256))}),
    "a PNG with a transparent colour": ("RGB", "PNG", {"transparency": (1, 2, 3)}),
    "a grey PNG with transparency": ("LA", "PNG", {}),
    "a PNG with transparency": ("RGBA", "PNG", {}),
    "a GIF": ("P", "GIF", {}),
    "a WebP": ("RGB", "WEBP", {}),
    "a WebP without loss and with transparency": ("RGBA", "WEBP", {"lossless": True}),
    "a BMP": ("RGB", "BMP", {}),
    "a BMP of 1 bit": ("1", "BMP", {}),
    "a BMP with a palette": ("P", "BMP", {}),
}
TEXTS = {
    "an empty file": b"",
    "text": b"this is no picture\n",
    "HTML": b"<!DOCTYPE html><html><body>404</body></html>",
    "an SVG": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><image href="/etc/passwd"/></svg>',
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n",
    "a PDF": b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n",
    "zeros": b"\0" * 5000,
    "the first bytes of a JPEG": b"\xff\xd8\xff\xe0",
    "the first bytes of a PNG": b"\x89PNG\r\n\x1a\n",
    "the first bytes of a GIF": b"GIF89a",
    "the first bytes of a WebP": b"RIFF\xff\xff\xff\xffWEBPVP8 ",
    "the first bytes of a BMP": b"BM\0\0\0\0",
    "the first bytes of a HEIC": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
    "a pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n",
}


def drawn(mode: str = "RGB", size: tuple[int, int] = (120, 80)) -> Image.Image:
    """A picture with something in it."""
    image = Image.linear_gradient("L").resize(size)
    return image.convert("I").convert(mode) if mode == "I;16" else image.convert(mode)


def encoded(mode: str = "RGB", kind: str = "JPEG", size: tuple[int, int] = (120, 80), **options: object) -> bytes:
    """A file's bytes."""
    data = io.BytesIO()
    drawn(mode, size).save(data, kind, **options)
    return data.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that says to be of this size, and holds no pixels."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", zlib.compress(b"")) + _chunk(b"IEND", b"")


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _write(data: bytes, path: Path) -> None:
    path.write_bytes(data)


def _animation(kind: str, path: Path) -> None:
    frames = [drawn(size=(60, 40)).rotate(90 * turn) for turn in range(3)]
    frames[0].save(path, kind, save_all=True, append_images=frames[1:], duration=100)


def _two_in_one_jpeg(path: Path) -> None:
    drawn().save(path, "MPO", save_all=True, append_images=[drawn(size=(60, 40))])


def _turned(orientation: int, path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    drawn().save(path, "JPEG", exif=exif)


def _with_profile(profile: bytes, path: Path) -> None:
    drawn().save(path, "JPEG", icc_profile=profile)


def _with_endless_text(path: Path) -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", "x" * 80_000_000, zip=True)
    drawn().save(path, "PNG", pnginfo=text)


def _folder(path: Path) -> None:
    path.mkdir()


def _socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # the name of a socket may have 108 bytes
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


def _link(target: str, path: Path) -> None:
    path.symlink_to(target)


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.write(encoded())
        file.truncate(2**41)


def _nothing(path: Path) -> None:
    pass


def named_pictures(large: bool) -> dict[str, Put]:
    """By name what puts it at a path; ``large``: those too that take seconds."""
    jpeg, png = encoded(), encoded(kind="PNG")
    made: dict[str, Put] = {f"a PNG of {size[0]} x {size[1]}": _sized(size) for size in SHAPES}
    if large:
        made |= {f"a PNG of {size[0]} x {size[1]}": _sized(size) for size in LARGE}
    made |= {name: partial(_write, encoded(mode, kind, **options)) for name, (mode, kind, options) in FORMATS.items()}
    made |= {name: partial(_write, data) for name, data in TEXTS.items()}
    made |= {f"a JPEG turned as EXIF's {number}": partial(_turned, number) for number in (0, 3, 6, 8, 9)}
    made |= {f"{of} x {of}, but for its pixels": partial(_write, png_header(of, of)) for of in (20_000, 2**31 - 1)}
    made |= {f"a PNG of {size}": partial(_write, png_header(*size)) for size in ((0, 0), (0, 5), (2**31 - 1, 1))}
    made |= {
        "an animated GIF": partial(_animation, "GIF"),
        "an animated PNG": partial(_animation, "PNG"),
        "an animated WebP": partial(_animation, "WEBP"),
        "a JPEG of two pictures": _two_in_one_jpeg,
        "a JPEG with a colour profile": partial(
            _with_profile, ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        ),
        "a JPEG with a broken colour profile": partial(_with_profile, b"\xff" * 500),
        "a JPEG with broken EXIF": partial(_write, jpeg[:2] + b"\xff\xe1\x00\x0cExif\0\0\xff\xff" + jpeg[2:]),
        "a PNG with a text that unpacks to 80 MB": _with_endless_text,
        "a PNG with a wrong checksum": partial(_write, png[:40] + bytes([png[40] ^ 255]) + png[41:]),
        "a JPEG cut in its head": partial(_write, jpeg[:100]),
        "a JPEG cut at two thirds": partial(_write, jpeg[: 2 * len(jpeg) // 3]),
        "a PNG cut at two thirds": partial(_write, png[: 2 * len(png) // 3]),
        "a JPEG with something behind it": partial(_write, jpeg + b"<script>" * 50),
        "a TIFF": partial(_write, encoded(kind="TIFF")),
        "an icon": partial(_write, encoded(kind="ICO", size=(32, 32))),
        "a folder": _folder,
        "a pipe": os.mkfifo,
        "a socket": _socket,
        "a link to a device": partial(_link, "/dev/zero"),
        "a link to itself": partial(_link, "p.jpg"),
        "a link to nothing": partial(_link, "gone.jpg"),
        "2 TiB, mostly of nothing": _sparse,
        "nothing": _nothing,
    }
    return made


def _sized(size: tuple[int, int]) -> Put:
    return lambda path: drawn(size=size).save(path, "PNG", compress_level=1)


def damaged(rng: random.Random) -> bytes:
    """A picture of some format with some of its bytes changed, cut off, taken out or doubled."""
    mode, kind, options = rng.choice(list(FORMATS.values()))
    data = bytearray(encoded(mode, kind, (rng.randrange(1, 40), rng.randrange(1, 40)), **options))
    for _ in range(rng.randrange(1, 8)):
        place, length = rng.randrange(len(data)), rng.choice((1, 1, 1, 4, 30))
        change = rng.randrange(5)
        if change == 0:
            data[place] = rng.randrange(256)
        elif change == 1:
            data[place : place + length] = rng.randbytes(length)
        elif change == 2:
            data[place : place + length] = b""
        elif change == 3:
            data[place:place] = data[place : place + length]
        else:
            data[place:] = b""
        if not data:
            break
    return bytes(data)
