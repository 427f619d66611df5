"""Finding, measuring and opening pictures. The only place of the project where a picture file is opened."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import BinaryIO

from PIL import (
    ExifTags,
    Image,
    UnidentifiedImageError,
    WebPImagePlugin,  # noqa: F401  (Pillow registers it only on demand, and not at all where formats are named)
)

from rivegs_mllm.runtime.foreign import one_line
from rivegs_mllm.types import MAX_PIXELS, Box, Sample, UserError

PICTURE_ENDINGS = ("jpg", "jpeg", "png", "webp", "jfif", "gif", "bmp")
"""File endings that count as pictures, whatever their case; the earlier wins where an id has several."""

MAX_ASPECT_RATIO = 200
"""The longer side at most, in shorter sides. Qwen-VL's processors refuse more; those of other models shrink the short
side to nothing or pad it without bound."""

MAX_PICTURE_BYTES = 2**30
"""Of a picture's file: three times what MAX_PIXELS take without any compression, at four bytes each."""

OVERVIEW_SIDE = 2048
"""The longest side in pixels of a picture for encoders and detectors: their processors shrink it further, and would do
so from a quarter of a gigabyte where a picture has MAX_PIXELS."""

_LONGEST_SHOWN = 300
_BLOCK = 1 << 20

# By content, not by ending. Vector and document formats are left out: they start other programs.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class PictureError(UserError):
    """A picture that is missing, damaged, too large or none. The message names the file."""


class MissingPictureError(PictureError):
    """A picture of which there is no file."""


def is_outside(image: str, folder: Path, image_root: Path | None = None) -> bool:
    """Whether a sample's picture lies outside its dataset's folder, links followed, and outside ``image_root``.

    Such a picture, ``../other/secret.png`` for instance, is shown on no page and sent to no teacher unless the user
    names its folder.
    """
    # A drive letter or a leading backslash: only a name here, and a path of its own on another system.
    if PureWindowsPath(image).anchor and not PurePosixPath(image).is_absolute():
        return True
    try:
        real = Path(os.path.realpath(folder / image))
    except (OSError, ValueError):
        return False  # a path that leads nowhere, as opening it will say
    roots = [folder] if image_root is None else [folder, image_root]
    return not any(real.is_relative_to(os.path.realpath(root)) for root in roots)


def open_picture(path: Path | str | BinaryIO) -> Image.Image:
    """The picture, decoded, in mode RGB, upright (EXIF orientation applied), in the size ``picture_size`` says.

    Transparent parts become white. A picture that has no file of its own is given as an open binary file.
    Raises PictureError.
    """
    with _open(path) as image:
        orientation = _orientation(image)
        try:
            rgb = _to_rgb(image)
        except Exception as error:  # decoders raise whatever a damaged file makes them stumble on
            raise PictureError(
                f"{_shown(path)}: damaged or truncated picture ({one_line(error)}); fetch it again"
            ) from None
    return upright(rgb, orientation)


def as_rgb(image: Image.Image) -> Image.Image:
    """A picture in memory, in any mode, as ``open_picture`` gives that of a file. Raises PictureError."""
    if image.width * image.height > MAX_PIXELS or 0 in image.size:
        size = f"{image.width} x {image.height}"
        raise PictureError(f"the picture has {size} pixels; it must have some, and no more than {MAX_PIXELS:,}")
    try:
        return upright(_to_rgb(image), _orientation(image))
    except Exception as error:  # a picture is decoded only now, from whatever its file holds
        raise PictureError(f"the picture is damaged or truncated ({one_line(error)})") from None


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """A picture as stored, turned as its EXIF orientation says: what ``upright_box`` does to boxes, done to pixels."""
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def open_for_model(path: Path | str, max_side: int | None = None) -> Image.Image:
    """The picture as ``open_picture`` gives it, for a model's processor; with ``max_side``, no side longer than that.

    Raises PictureError, also for a picture that is too long and thin for the processors of transformers.
    """
    image = open_picture(path)
    try:
        check_aspect(image.size)
    except UserError as error:
        raise PictureError(f"{_shown(path)}: {error}") from None
    if max_side is not None:
        image.thumbnail((max_side, max_side))
    return image


def with_size(sample: Sample, folder: Path) -> Sample:
    """The sample with the size of its picture, from its header where the record has none. Raises PictureError."""
    if not sample.image or sample.size is not None:
        return sample
    return replace(sample, size=picture_size(folder / sample.image))


def check_aspect(size: tuple[int, int]) -> None:
    """Raises UserError for a picture of ``size`` (width, height) that is too long and thin for a model."""
    if max(size) > MAX_ASPECT_RATIO * min(size):
        raise UserError(
            f"a picture of {size[0]} x {size[1]}: models refuse more than {MAX_ASPECT_RATIO} to 1; pad or cut it"
        )


@contextmanager
def processed(path: Path | str, size: tuple[int, int]) -> Iterator[None]:
    """Within it, whatever a model raises over the picture at ``path`` becomes a PictureError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # processors raise whatever a picture of odd size makes them stumble on
        raise PictureError(
            f"{_shown(path)}: the model fails at a picture of {size[0]} x {size[1]}: {one_line(error)}"
        ) from error


@dataclass(frozen=True, slots=True)
class Header:
    """``size``: (width, height) in pixels of the upright picture. ``orientation``: of EXIF, 1 (stored upright) to 8."""

    size: tuple[int, int]
    orientation: int


def read_header(path: Path | str | BinaryIO) -> Header:
    """Size and orientation from the file's first bytes, no pixel decoded. Raises PictureError."""
    with _open(path) as image:
        width, height = image.size
        orientation = _orientation(image)
    # Orientations 5 to 8 are stored lying on a side.
    return Header((height, width) if orientation >= 5 else (width, height), orientation)


def picture_size(path: Path | str | BinaryIO) -> tuple[int, int]:
    """(width, height) in pixels of the upright picture, from the header alone. Raises PictureError."""
    return read_header(path).size


def picture_digest(path: Path | str) -> str:
    """SHA-256 of the file's bytes, in hexadecimal; read in blocks. Raises PictureError."""
    digest = hashlib.sha256()
    with _file(path) as file:
        try:
            while block := file.read(_BLOCK):
                digest.update(block)
        except OSError as error:
            raise PictureError(f"{_shown(path)}: cannot be read ({_reason(error)})") from None
    return digest.hexdigest()


def file_stamp(path: Path | str) -> tuple[int, int] | None:
    """Size in bytes and time of last modification in ns of a picture's file, None where there is none."""
    try:
        status = os.stat(path)  # noqa: PTH116  (see _file)
    except (OSError, ValueError):
        return None
    return (status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else None


def upright_box(box: Box, size: tuple[int, int], orientation: int) -> Box:
    """A box of the picture as stored, whose ``size`` is (width, height), in pixels of the upright picture."""
    width, height = size
    xs, ys = (box.xmin, box.xmax), (box.ymin, box.ymax)
    # EXIF's orientations: 2 swaps left and right, 4 top and bottom, 3 both; 8, 6 and 7 do so too before, like 5, they
    # swap the axes.
    if orientation in (2, 3, 7, 8):
        xs = (width - box.xmax, width - box.xmin)
    if orientation in (3, 4, 6, 7):
        ys = (height - box.ymax, height - box.ymin)
    if orientation >= 5:
        xs, ys = ys, xs
    return Box(xs[0], ys[0], xs[1], ys[1])


class PictureIndex:
    """Pictures by id, the id being the file name without its ending. Each folder is scanned once, not its subfolders.

    Where an id is found several times the earlier folder wins, in a folder the earlier of PICTURE_ENDINGS;
    ``shadowed`` lists the files that lost. Ids are looked up, never joined into a path.
    """

    def __init__(self, folders: Iterable[Path | str]) -> None:
        """Raises PictureError for a folder that cannot be listed."""
        self._paths: dict[str, str] = {}
        self.shadowed: list[Path] = []
        for folder in folders:
            self._scan(folder)

    def __len__(self) -> int:
        return len(self._paths)

    def find(self, identity: str) -> Path | None:
        """The picture's file, or None."""
        path = self._paths.get(identity)
        return None if path is None else Path(path)

    def _scan(self, folder: Path | str) -> None:
        try:
            with os.scandir(folder) as entries:
                named = [(*entry.name.rpartition("."), entry.path) for entry in entries if entry.is_file()]
        except OSError as error:
            raise PictureError(f"{folder}: not a folder of pictures ({error.strerror})") from None
        pictures = [
            (PICTURE_ENDINGS.index(end.lower()), end, stem, path)
            for stem, _, end, path in named
            if end.lower() in PICTURE_ENDINGS
        ]
        for _, _, stem, path in sorted(pictures):
            if stem in self._paths:
                self.shadowed.append(Path(path))
            else:
                self._paths[stem] = path


@contextmanager
def _open(picture: Path | str | BinaryIO) -> Iterator[Image.Image]:
    """The picture with only its header read."""
    with _file(picture) as file:
        try:
            image = Image.open(file, formats=_FORMATS)
        except UnidentifiedImageError:
            raise PictureError(f"{_shown(picture)}: not a picture that can be read ({', '.join(_FORMATS)})") from None
        except Image.DecompressionBombError:
            raise PictureError(f"{_shown(picture)}: more than {MAX_PIXELS:,} pixels; make it smaller") from None
        except Exception as error:  # Pillow's readers raise whatever a broken header makes them raise
            raise PictureError(f"{_shown(picture)}: cannot be read as a picture ({one_line(error)})") from None
        if image.width * image.height > MAX_PIXELS:  # Pillow raises only from twice as many on
            size = f"{image.width} x {image.height}"
            raise PictureError(f"{_shown(picture)}: {size} is more than {MAX_PIXELS:,} pixels; make it smaller")
        yield image


@contextmanager
def _file(picture: Path | str | BinaryIO) -> Iterator[BinaryIO]:
    """A picture's file, open. Only regular files are opened: a pipe would block for ever, a device never end."""
    if not isinstance(picture, (str, Path)):
        yield picture
        return
    name = _shown(picture)
    try:
        descriptor = _open_regular(picture)
    except FileNotFoundError:
        raise MissingPictureError(f"{name}: no such picture") from None
    except (OSError, ValueError) as error:  # no permission, a loop of links, a name too long or with a NUL
        raise PictureError(f"{name}: cannot be opened ({_reason(error)})") from None
    if descriptor is None:
        raise PictureError(f"{name}: not a regular file; give the picture's own file")
    with os.fdopen(descriptor, "rb") as file:
        size = os.fstat(descriptor).st_size
        if not 0 < size <= MAX_PICTURE_BYTES:
            raise PictureError(f"{name}: a file of {size:,} bytes, which no picture has; fetch it again")
        yield file


def _open_regular(path: Path | str) -> int | None:
    """A descriptor, None for what is not a regular file, even where it replaced one between `stat` and `open`."""
    if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116  (a path from a record may be no path at all)
        return None
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # opening a pipe would wait for its writer
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    return None


def _shown(picture: Path | str | BinaryIO) -> str:
    """A path, which may be of any length and hold any character, on one line."""
    if not isinstance(picture, (str, Path)):
        return "the picture"
    text = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in str(picture))
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


def _reason(error: OSError | ValueError) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)


def _orientation(image: Image.Image) -> int:
    """1 where there is no EXIF block, or one that no viewer could read."""
    try:
        # The class's own method, since that of PNG decodes the pixels to look for a block after them.
        value = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    except Exception:  # as above
        return 1
    return value if value in _UPRIGHT else 1


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        # 16-bit grey: Pillow would clip it at 255 to white. It reads a scale off the function, so `>> 8` would not do.
        return image.convert("I").point(lambda value: value * (1 / 256)).convert("L").convert("RGB")
    if image.has_transparency_data:
        opaque = Image.new("RGBA", image.size, "white")
        opaque.alpha_composite(image.convert("RGBA"))
        return opaque.convert("RGB")
    return image.convert("RGB")
