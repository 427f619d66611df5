"""The pictures that posts name: found among the files of given folders, measured, and given a path in the dataset."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path, PurePosixPath
from urllib.parse import parse_qs, unquote, urlsplit

from data_builders.findings import Finding
from data_builders.image_index import for_each_picture
from data_builders.importing.records import Post
from rivegs_mllm.data.images import PICTURE_ENDINGS, Header, PictureError, picture_digest, read_header
from rivegs_mllm.types import UserError

OWN = "images"
"""The folder of a dataset that takes pictures which lie within the file of annotations, or are to be copied."""

_MOST_FILES = 2_000_000
_UPLOADED = re.compile(r"[0-9a-f]{8}-(.+)")  # as Label Studio names what is uploaded
_THREADS = 16


@dataclass(frozen=True, slots=True)
class Picture:
    """``path`` is relative to the dataset's folder; ``file`` where the picture is now, or its bytes. ``is_own``: it is
    still to be written into the dataset's folder."""

    path: str
    header: Header
    file: Path | bytes
    is_own: bool = False

    def digest(self) -> str:
        """Of the file's bytes. Raises PictureError."""
        return sha256(self.file).hexdigest() if isinstance(self.file, bytes) else picture_digest(self.file)


@dataclass(frozen=True, slots=True)
class Pictures:
    """By the place of the post that has each."""

    by_post: Mapping[str, Picture]
    findings: list[Finding] = field(default_factory=list)


class PictureFiles:
    """The picture files below some folders. Names are looked up in the listing, never joined into a path."""

    def __init__(self, folders: Sequence[Path]):
        """Raises UserError for what is no folder, and for one of more files than a set of pictures has."""
        self._named: dict[str, list[tuple[str, ...]]] = {}
        self._by_stem: dict[str, list[tuple[str, ...]]] = {}
        self._roots: dict[tuple[str, ...], Path] = {}
        seen = 0
        for folder in folders:
            if not folder.is_dir():
                raise UserError(f"{folder}: not a folder of pictures")
            for parent, below, names in os.walk(folder):
                below.sort()
                seen += len(names)
                if seen > _MOST_FILES:
                    raise UserError(f"{folder}: more than {_MOST_FILES:,} files; name the pictures' own folder")
                for name in sorted(names):
                    self._add(Path(parent, name))

    def find(self, name: str) -> Path | None:
        """The file that a path, an URL, a name or an id means: of those of its name, the one with most of its path."""
        for candidate in _candidates(name):
            *_, last = candidate
            there = self._named.get(last) or self._by_stem.get(last)
            if there:
                return self._roots[max(there, key=lambda own: _in_common(own, candidate))]
        return None

    def _add(self, path: Path) -> None:
        if path.suffix[1:].lower() in PICTURE_ENDINGS:
            parts = path.parts
            self._roots[parts] = path
            for name in {path.name, _stored(path.name)}:
                self._named.setdefault(name, []).append(parts)
            self._by_stem.setdefault(path.stem, []).append(parts)


def _candidates(name: str) -> list[tuple[str, ...]]:
    """What may stand in a listing: the path of an URL, what Label Studio's ``?d=`` names, names without its prefix."""
    address = urlsplit(name) if "://" in name or "?d=" in name else None
    if address is not None:
        name = parse_qs(address.query).get("d", [unquote(address.path)])[0]
    parts = tuple(part for part in PurePosixPath(name.replace("\\", "/")).parts if part not in ("..", "/"))
    if not parts:
        return []
    uploaded = _UPLOADED.fullmatch(parts[-1])
    return [parts, (uploaded[1],)] if uploaded else [parts]


def _stored(name: str) -> str:
    """What Label Studio, as Django, makes of an uploaded name: blanks become "_", most other signs are left out."""
    return re.sub(r"[^-\w.]", "", name.strip().replace(" ", "_"))


def _in_common(own: Sequence[str], other: Sequence[str]) -> int:
    """How many of the last parts are the same."""
    pairs = zip(reversed(own), reversed(other), strict=False)
    return next((number for number, (one, two) in enumerate(pairs) if one != two), min(len(own), len(other)))


def find_pictures(
    posts: Sequence[Post], folders: Sequence[Path], out: Path, allow_missing: bool, copy: bool
) -> Pictures:
    """The pictures of the posts. One that is missing or cannot be read is an error, with ``allow_missing`` a warning.
    With ``copy`` all are to be written into the dataset's folder, else only those that lie in the annotations.

    A post without a picture's name has the picture that is called as its id, if there is one.
    """
    named = any(post.image for post in posts)
    files = PictureFiles(folders) if named or folders else None
    level = "warning" if allow_missing else "error"
    findings = []
    wanted: list[tuple[Post, Path | bytes]] = []
    for post in posts:
        if post.picture:
            wanted.append((post, post.picture))
            continue
        path = files.find(post.image or post.id) if files and (post.image or post.id) else None
        if path is not None:
            wanted.append((post, path))
        elif post.image:
            where = ", ".join(map(str, folders))
            message = f"{post.image} is not in {where}; name its folder by --images"
            findings.append(Finding("missing picture", post.place, message, level))
    by_file = {str(file): file for _, file in wanted if isinstance(file, Path)}
    headers = dict(zip(by_file, for_each_picture(read_header, list(by_file), _THREADS), strict=True)) if by_file else {}
    found = {}
    turned = set()
    for post, file in wanted:
        header = _embedded_header(file) if isinstance(file, bytes) else headers[str(file)]
        if isinstance(header, PictureError):
            findings.append(Finding("unreadable picture", post.place, str(header), level))
            continue
        is_own = copy or isinstance(file, bytes)
        path = _own_name(file) if is_own else Path(os.path.relpath(file, out)).as_posix()
        found[post.place] = Picture(path, header, file, is_own)
        if header.orientation != 1 and path not in turned:
            turned.add(path)
            findings.append(Finding("rotated picture", path, f"EXIF orientation {header.orientation}; read upright"))
    return Pictures(found, findings)


def _embedded_header(content: bytes) -> Header | PictureError:
    try:
        return read_header(io.BytesIO(content))
    except PictureError as error:
        return PictureError(f"the picture in the file: {str(error).partition(': ')[2]}")


def _own_name(file: Path | bytes) -> str:
    """Of the content, since no name of the annotations' is used as a path; endings are told by the first bytes."""
    if isinstance(file, Path):
        return f"{OWN}/{picture_digest(file)[:32]}{file.suffix.lower()}"
    heads = {b"\x89PNG": "png", b"GIF8": "gif", b"RIFF": "webp", b"BM": "bmp"}
    ending = next((ending for head, ending in heads.items() if file.startswith(head)), "jpg")
    return f"{OWN}/{sha256(file).hexdigest()[:32]}.{ending}"
