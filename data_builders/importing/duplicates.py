"""Posts that belong into one split: those that say nearly the same, and those with the same picture."""

from __future__ import annotations

import zlib
from collections.abc import Hashable, Iterable, Sequence

import numpy as np

_PIECE = 3
"""Words in a row that two texts have in common or not."""

_ALIKE = 0.6
"""Of the pieces of two texts, the share that both have, from which on they are near-duplicates."""

_HASHES, _BAND = 64, 4
_PRIME = (1 << 31) - 1
_ADDRESS = ("http://", "https://", "www.", "@")


def groups(texts: Sequence[Sequence[str]], pictures: Sequence[Hashable]) -> list[list[int]]:
    """The indices of the posts, in groups that may not be divided. ``pictures`` are digests, None for no picture.

    Texts are compared without capitals, addresses, @names and signs; by MinHash, so that not all pairs are looked at,
    and then by their pieces.
    """
    parents = list(range(len(texts)))

    def root(index: int) -> int:
        while parents[index] != index:
            parents[index] = parents[parents[index]]
            index = parents[index]
        return index

    pieces = [_pieces(text) for text in texts]
    for first, second in [*_alike(pieces), *_same(pictures)]:
        parents[root(second)] = root(first)
    found: dict[int, list[int]] = {}
    for index in range(len(texts)):
        found.setdefault(root(index), []).append(index)
    return list(found.values())


def _pieces(tokens: Sequence[str]) -> frozenset[str]:
    words = []
    after_sign = False
    for token in tokens:
        if not after_sign and not token.startswith(_ADDRESS) and any(map(str.isalnum, token)):
            words.append(token.casefold())
        after_sign = token == "@"
    if not words:
        return frozenset()
    return frozenset(" ".join(words[start : start + _PIECE]) for start in range(max(1, len(words) - _PIECE + 1)))


def _alike(pieces: Sequence[frozenset[str]]) -> Iterable[tuple[int, int]]:
    """Pairs of near-duplicates, each with the first of its bucket, since groups are closed under them."""
    random = np.random.default_rng(0)
    factors, offsets = random.integers(1, _PRIME, (2, _HASHES, 1), dtype=np.int64)
    buckets: dict[tuple, list[int]] = {}
    for index, own in enumerate(pieces):
        if own:
            codes = np.array([zlib.crc32(piece.encode("utf-8", "replace")) & _PRIME for piece in own], dtype=np.int64)
            least = ((codes * factors + offsets) % _PRIME).min(axis=1)
            for band in range(0, _HASHES, _BAND):
                buckets.setdefault((band, *least[band : band + _BAND].tolist()), []).append(index)
    for own in buckets.values():
        for place, index in enumerate(own[1:], 1):
            for other in (own[0], own[place - 1]):
                if len(pieces[index] & pieces[other]) >= _ALIKE * len(pieces[index] | pieces[other]):
                    yield other, index


def _same(pictures: Sequence[Hashable]) -> Iterable[tuple[int, int]]:
    first: dict[Hashable, int] = {}
    for index, picture in enumerate(pictures):
        if picture is not None:
            yield first.setdefault(picture, index), index
