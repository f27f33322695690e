"""Finds images that a data set holds more than once, by their pixels."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dmf.data.layouts.pictures import images

SAME_IMAGES = 0.05
"""Largest fraction of a split's images that may be copies, of another split's images or of its own: real data sets hold
a few, copied files and classes under two names many."""


@dataclass(frozen=True, eq=False)
class Hashed:
    """The images of a split by their pixels."""

    name: str
    digests: list[bytes]
    """[M]: SHA-256 of each image's pixels."""
    labels: np.ndarray
    """int64 [M]."""
    where: Callable[[int], str]
    """The file of an image, by its place in `digests`."""

    @property
    def first(self) -> dict[bytes, int]:
        """The first image with given pixels."""
        return {digest: place for place, digest in reversed(list(enumerate(self.digests)))}


def copies(splits: list[Hashed]) -> list[str]:
    """A sentence for each split, and pair of splits, that has a few copies. Raises ValueError if it has many."""
    told = [sentence for split in splits if (sentence := _within(split))]
    return told + [sentence for pair in itertools.combinations(splits, 2) if (sentence := _between(*pair))]


def _within(split: Hashed) -> str:
    first = split.first
    again = [place for place, digest in enumerate(split.digests) if first[digest] != place]
    if not again:
        return ""
    copied = again[0]
    original = first[split.digests[copied]]
    classes = {(split.labels[first[split.digests[place]]], split.labels[place]) for place in again}
    across = any(one != other for one, other in classes)
    told = f"{images(len(again))} of {split.name!r} {'is a copy' if len(again) == 1 else 'are copies'} of others in it"
    told += " with other classes" if across else ""
    told += f", pixel by pixel, first {split.where(original)} and {split.where(copied)}"
    if len(again) > SAME_IMAGES * len(split.digests):
        raise ValueError(f"{told}; remove the copies, so that an episode's queries are not among its labelled images")
    return told


def _between(one: Hashed, other: Hashed) -> str:
    ours, theirs = one.first, other.first
    shared = sorted(ours.keys() & theirs.keys(), key=ours.__getitem__)
    if not shared:
        return ""
    told = (
        f"{images(len(shared))} of {one.name!r} {'is' if len(shared) == 1 else 'are'} also in {other.name!r}, pixel by "
        f"pixel, first {one.where(ours[shared[0]])} and {other.where(theirs[shared[0]])}"
    )
    if len(shared) > SAME_IMAGES * min(len(ours), len(theirs)):
        raise ValueError(f"{told}; expected splits without common images")
    return told
