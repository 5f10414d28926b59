"""Which images of two folders belong together, by the rules of a part."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from basicsr.errors import DataError
from basicsr.image_io import list_images

from .entries import Part, expand


class Problem(NamedTuple):
    """A file that cannot be used.

    Attributes:
        kind: ``unpaired``, ``unexpected``, ``duplicate``, ``unreadable``, ``size`` or ``name``.
        file: The file.
        text: What is wrong with it.
    """

    kind: str
    file: Path
    text: str


class Pair(NamedTuple):
    """Names of a clean and a degraded image below their folders, with ending; None where the part has no such side."""

    gt: str | None
    lq: str | None


@dataclass
class Match:
    """What was found of a part.

    Attributes:
        part: The part.
        lq_root: Folder of the degraded images; None where the part has none.
        gt_root: Folder of the clean images; None where the part has none.
        pairs: What belongs together, in the order of the degraded images.
        problems: Files that cannot be used.
        lost: Degraded images that are published and not there, as far as they can be named.
        measured: How many pairs were opened.
    """

    part: Part
    lq_root: Path | None
    gt_root: Path | None
    pairs: list[Pair] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    measured: int = 0

    @property
    def missing(self) -> int | None:
        """How many pairs or images are published and not there; None where the count is not known."""
        if self.part.count is None:
            return len(self.lost) or None
        return max(self.part.count - len(self.pairs), 0)


class Side(NamedTuple):
    """One folder read by its rule: scene and name of each image, and what did not fit."""

    images: list[tuple[str, str]]
    problems: list[Problem]


class Folders:
    """Lists folders, each once."""

    def __init__(self) -> None:
        self._listed: dict[Path, list[str]] = {}

    def names(self, folder: Path) -> list[str]:
        """Paths of the images below a folder, forward slashes, in natural order; none if the folder is empty."""
        if folder not in self._listed:
            try:
                files = list_images(folder)
            except DataError:
                files = []
            self._listed[folder] = [f.relative_to(folder).as_posix() for f in files]
        return self._listed[folder]


def match_part(part: Part, lq_root: Path | None, gt_root: Path | None, root: Path, folders: Folders) -> Match:
    """Pairs the images of a part.

    Args:
        part: The part.
        lq_root: Folder of its degraded images, or None.
        gt_root: Folder of its clean images, or None.
        root: Where the layout was found; the list of names is looked for here.
        folders: Lists folders.
    """
    degraded = _read_side(lq_root, part.lq_name, _others(part, lq_root, gt_root, part.gt_name), folders)
    clean = _read_side(gt_root, part.gt_name, _others(part, gt_root, lq_root, part.lq_name), folders)
    match = Match(part, lq_root, gt_root, problems=[*degraded.problems, *clean.problems])
    scenes = {scene for scene, _ in (*degraded.images, *clean.images)}
    kept = scenes if part.split is None else part.split.keep(scenes)
    if part.kind == 'pairs':
        _pair(match, degraded.images, clean.images, kept)
    else:
        match.pairs = [Pair(name, None) for s, name in clean.images if s in kept]
        match.pairs += [Pair(None, name) for s, name in degraded.images if s in kept]
    match.lost = _lost(match, root)
    return match


def _others(part: Part, root: Path | None, other: Path | None, other_rule: str) -> Callable[[str], bool]:
    """Tells which stems of a folder are no business of this side: the other side's, and what the part passes over."""
    rules = [part.ignore] if part.ignore else []
    if root is not None and root == other:
        rules.append(other_rule)
    elif root is not None and other is not None and root in other.parents:
        rules.append(re.escape(other.relative_to(root).as_posix()) + '/.*')
    return lambda stem: any(re.fullmatch(rule, stem) for rule in rules)


def _read_side(root: Path | None, rule: str, others: Callable[[str], bool], folders: Folders) -> Side:
    """The images of a folder that fit a rule."""
    side = Side([], [])
    names = [] if root is None else [(_stem(n), n) for n in folders.names(root) if not others(_stem(n))]
    counts = Counter(stem for stem, _ in names)
    for stem, name in names:
        fits, file = re.fullmatch(rule, stem), Path(root or '', name)
        if not fits:
            side.problems.append(Problem('unexpected', file, f'its name does not fit the rule of the set, {rule}'))
        elif counts[stem] > 1:
            side.problems.append(Problem('duplicate', file, 'another file has this name but for the ending'))
        elif not _can_be_listed(name):
            side.problems.append(Problem('name', file, 'a list cannot hold its name'))
        else:
            side.images.append(('/'.join(group for group in fits.groups() if group is not None), name))
    return side


def _pair(match: Match, degraded: Iterable[tuple[str, str]], clean: Iterable[tuple[str, str]], kept: set[str]) -> None:
    """Puts together what shows the same scene; what is left over becomes a problem."""
    by_scene: dict[str, str] = {}
    for scene, name in clean:
        if by_scene.setdefault(scene, name) != name:
            text = f"'{by_scene[scene]}' is a clean image of the same scene"
            match.problems.append(Problem('duplicate', _join(match.gt_root, name), text))
    seen = set()
    for scene, name in degraded:
        seen.add(scene)
        if scene not in by_scene and scene in kept:
            match.problems.append(Problem('unpaired', _join(match.lq_root, name), 'there is no clean image of it'))
        elif scene in kept:
            match.pairs.append(Pair(by_scene[scene], name))
    for scene in by_scene.keys() - seen & kept:
        file = _join(match.gt_root, by_scene[scene])
        match.problems.append(Problem('unpaired', file, 'there is no degraded image of it'))


def _lost(match: Match, root: Path) -> list[str]:
    """Degraded images that are published and not there, as far as they can be named; or scenes that have too few."""
    part = match.part
    there = {_stem(pair.lq) for pair in match.pairs if pair.lq is not None}
    expected = expand(part.names) or (_listed(root / part.name_list, match.lq_root) if part.name_list else [])
    if expected:
        return [name for name in expected if name not in there]
    if part.per_clean is None:
        return []
    counts = Counter(pair.gt for pair in match.pairs)
    few = [(name, count) for name, count in counts.items() if count < part.per_clean]
    return [f'{name}: {count} of {part.per_clean}' for name, count in few]


def _listed(file: Path, folder: Path | None) -> list[str]:
    """Stems that a list of the release names, below the folder of the degraded images; none if there is no list."""
    if folder is None or not file.is_file():
        return []
    before = f'{folder.name}/'
    words = [
        line.split()[0] for line in file.read_text(encoding='utf-8', errors='replace').splitlines() if line.strip()
    ]
    return [_stem(word.lstrip('./').partition(before)[2] or word) for word in words]


def _join(root: Path | None, name: str) -> Path:
    assert root is not None
    return root / name


def _stem(name: str) -> str:
    """A path without its ending; a number after a dot is no ending."""
    return name[: name.rfind('.')] if '.' in name[name.rfind('/') + 1 :] else name


def _can_be_listed(name: str) -> bool:
    """Whether a line of a list gives back a name as it is."""
    try:
        name.encode('utf-8')
    except UnicodeEncodeError:
        return False
    return name == name.strip() and not name.startswith('#') and len(name.splitlines()) == 1 and '\t' not in name
