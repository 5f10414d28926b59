"""How a public data set is described: its parts, and the folders in which it is found."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product

USES = ('train', 'val', 'test')
RANGE = re.compile(r'\{(\d+)\.\.(\d+)\}')


@dataclass(frozen=True)
class NamedSplit:
    """The scenes that a published list names, or all others.

    Attributes:
        scenes: The scenes, as the rule of the part names them.
        source: Where the list is from.
        inside: Whether the part holds them, or the others.
    """

    scenes: tuple[str, ...]
    source: str
    inside: bool = True

    def keep(self, scenes: Iterable[str]) -> set[str]:
        """Those of ``scenes`` that belong to the part."""
        named = set(self.scenes)
        return {s for s in scenes if (s in named) == self.inside}

    def __str__(self) -> str:
        return f'{"the" if self.inside else "all but the"} {len(self.scenes)} named scenes, {self.source}'


@dataclass(frozen=True)
class SeededSplit:
    """A share of the scenes drawn at random, for a set whose authors published no list.

    The scenes are ordered by the SHA-256 of ``seed:scene``: the draw is the same on every machine.

    Attributes:
        share: How many of how many scenes are drawn.
        inside: Whether the part holds the drawn scenes, or the others.
        seed: Number of the draw.
    """

    share: tuple[int, int]
    inside: bool
    seed: int = 0

    def keep(self, scenes: Iterable[str]) -> set[str]:
        """Those of ``scenes`` that belong to the part; of fewer scenes, the same share is drawn."""
        ordered = sorted(set(scenes), key=lambda s: hashlib.sha256(f'{self.seed}:{s}'.encode()).hexdigest())
        drawn = round(len(ordered) * self.share[0] / self.share[1])
        return set(ordered[:drawn] if self.inside else ordered[drawn:])

    def __str__(self) -> str:
        side = 'the' if self.inside else 'all but the'
        drawn = f'{self.share[0]} of {self.share[1]} drawn at random (seed {self.seed})'
        return f'{side} {drawn}, the same share of a partial copy; no list is published'


@dataclass(frozen=True)
class Part:
    """Images that are used as one set: pairs, real images without a clean side, or clean ones alone.

    Folders are written below ``base``, with ``|`` between the names that a folder goes by. A rule is a regular
    expression for the whole path of an image below its folder, without ending; its groups name the scene. A degraded
    and a clean image with the same groups make a pair.

    Attributes:
        name: ``train``, ``val`` or ``test``, with a suffix where there are several.
        lq: Folder of the degraded images; None for clean images alone.
        gt: Folder of the clean images; None where there are none.
        count: How many pairs, or images, are published; None where no source confirms it.
        base: Folders that may hold the two; the first is the release's own.
        lq_name: Rule of the degraded images.
        gt_name: Rule of the clean images.
        clean: How many clean images are published, where they are fewer than the pairs.
        per_clean: How many degraded images there are of each clean one, where that is the same for all.
        names: Paths of the degraded images, where they can be told: ``{1..3}`` stands for numbers, ``{01..10}`` for
            padded ones.
        name_list: File below the layout's root that names the degraded images, the first word of each line.
        ignore: Rule of files that belong to neither side.
        split: Which scenes of the folders belong to the part; None takes all.
    """

    name: str
    lq: str | None
    gt: str | None
    count: int | None
    base: tuple[str, ...] = ('.',)
    lq_name: str = '(.+)'
    gt_name: str = '(.+)'
    clean: int | None = None
    per_clean: int | None = None
    names: tuple[str, ...] = ()
    name_list: str | None = None
    ignore: str | None = None
    split: NamedSplit | SeededSplit | None = None

    @property
    def use(self) -> str:
        """``train``, ``val`` or ``test``."""
        return self.name.partition('_')[0]

    @property
    def kind(self) -> str:
        """What its images are: ``pairs``, ``real`` or ``clean``."""
        if self.lq is None:
            return 'clean'
        return 'real' if self.gt is None else 'pairs'


@dataclass(frozen=True)
class Layout:
    """One way in which a set is handed out.

    Attributes:
        name: Who hands it out like this.
        parts: Its parts.
        home: Names of the folder that holds the parts, with ``|`` between; ``*`` where the folders of the parts tell
            enough.
        source: Where this is known from.
    """

    name: str
    parts: tuple[Part, ...]
    home: str = '*'
    source: str = ''


@dataclass(frozen=True)
class Entry:
    """A public data set.

    Attributes:
        name: What the command calls it.
        task: What degrades its images.
        about: The work that it is from.
        url: Where it is to be had.
        layouts: How it is handed out; the release's own first.
        protocol: How results on it are usually measured; None where no source says.
        licence: Terms of use; None where no source that was read says.
        sources: Where counts and names are known from.
        notes: What a user should know.
        degradations: Types of degradations to train with, where the set holds clean images alone.
    """

    name: str
    task: str
    about: str
    url: str
    layouts: tuple[Layout, ...]
    protocol: str | None = None
    licence: str | None = None
    sources: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    degradations: tuple[str, ...] = ()


def expand(patterns: Iterable[str]) -> list[str]:
    """The names that patterns stand for: ``a{1..3}`` is a1, a2, a3; ``{01..02}_{1..2}`` has four."""
    return [name for pattern in patterns for name in _expanded(pattern)]


def _expanded(pattern: str) -> list[str]:
    pieces = RANGE.split(pattern)  # text, first, last, text, first, last, text
    ranges = [_numbers(first, last) for first, last in zip(pieces[1::3], pieces[2::3])]
    texts = pieces[::3]
    return [texts[0] + ''.join(n + t for n, t in zip(chosen, texts[1:])) for chosen in product(*ranges)]


def _numbers(first: str, last: str) -> list[str]:
    width = len(first) if first.startswith('0') else 0
    return [str(n).zfill(width) for n in range(int(first), int(last) + 1)]
