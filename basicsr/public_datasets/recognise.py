"""Which of the known layouts of a set lies below a folder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from basicsr.errors import DataError

from . import plain
from .entries import Entry, Layout, Part
from .pairing import Folders, Match, match_part


@dataclass
class Found:
    """A layout and where it was found.

    Attributes:
        layout: The layout.
        root: The folder that holds its parts.
        matches: What was found of the parts whose folders are there.
        absent: The parts whose folders are not there, with the folder that was looked for.
    """

    layout: Layout
    root: Path
    matches: list[Match]
    absent: list[tuple[Part, str]]

    @property
    def pairs(self) -> int:
        """How many pairs, or images, all parts hold."""
        return sum(len(match.pairs) for match in self.matches)

    @property
    def unexpected(self) -> int:
        """How many files could not be used."""
        return sum(len(match.problems) for match in self.matches)


def recognise(entry: Entry, root: Path) -> Found:
    """Finds a set below a folder, or one level deeper, in one of its known layouts.

    The layout in which most images find their place is taken; of several, that with more parts.

    Args:
        entry: The set.
        root: The folder.

    Raises:
        DataError: There is no such folder, no known layout in it, or the same layout twice.
    """
    root = root.expanduser()
    if not root.is_dir():
        raise DataError(f"There is no folder '{root}' (looked for at '{root.absolute()}').")
    folders = Folders()
    found = [f for layout in entry.layouts for f in _look(layout, root.resolve(), folders) if f.pairs]
    if not found:
        raise DataError(_not_recognised(entry, root))
    best = max(found, key=lambda f: (f.pairs, len(f.matches), -f.unexpected))
    twin = next((f for f in found if f.layout is best.layout and f.pairs == best.pairs and _apart(f, best)), None)
    if twin is not None:
        raise DataError(f"'{root}' holds {entry.name} twice, in '{best.root}' and in '{twin.root}'; give one of them.")
    return best


def _apart(one: Found, other: Found) -> bool:
    """Whether two finds have no folder in common."""
    first, second = ({r for m in f.matches for r in (m.lq_root, m.gt_root) if r is not None} for f in (one, other))
    return not first & second


def _look(layout: Layout, root: Path, folders: Folders) -> Iterator[Found]:
    """The layout in the folder itself, in the folder one level deeper that goes by its name, and around the folder."""
    yield from _at(layout, root, root, folders)
    homes = [plain(home) for home in layout.home.split('|')]
    for child in sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith('.')):
        name = plain(child.name)
        if layout.home == '*' or any(name.startswith(home) or name.endswith(home) for home in homes):
            yield from _at(layout, child, child, folders)
    if root.parent != root:
        yield from _at(layout, root.parent, root, folders)


def _at(layout: Layout, root: Path, within: Path, folders: Folders) -> Iterator[Found]:
    """The layout at a folder, if any part's folders are there, all of them in ``within``."""
    matches, absent = [], []
    for part in layout.parts:
        sides = _sides(part, root, within)
        if sides is None:
            absent.append((part, ' and '.join(f"'{s}'" for s in folders_of(part))))
        else:
            matches.append(match_part(part, *sides, root, folders))
    if matches:
        yield Found(layout, root, matches, absent)


def _sides(part: Part, root: Path, within: Path) -> tuple[Path | None, Path | None] | None:
    """Folders of the degraded and the clean images; None if one that is needed is not there."""
    for base in part.base:
        lq, gt = (_first(root / base, names, within) for names in (part.lq, part.gt))
        if (lq or part.lq is None) and (gt or part.gt is None):
            return lq, gt
    return None


def _first(base: Path, names: str | None, within: Path) -> Path | None:
    """The first folder of ``a|b`` below ``base`` that is there and lies in ``within``."""
    paths = [base / name for name in (names or '').split('|') if name]
    return next((p for p in paths if p.is_dir() and (p == within or within in p.parents)), None)


def folders_of(part: Part) -> list[str]:
    """The folders of a part as the first of its releases names them, below the layout's root."""
    names = [side.split('|')[0] for side in (part.lq, part.gt) if side is not None]
    return [Path(part.base[0], name).as_posix() for name in names]


def _not_recognised(entry: Entry, root: Path) -> str:
    known = '; '.join(f'{layout.name}: {_shape(layout)}' for layout in entry.layouts)
    return (
        f"No layout of {entry.name} was recognised in '{root}' or one level deeper. Known are: {known}. "
        f'Get it from {entry.url}.'
    )


def _shape(layout: Layout) -> str:
    shown = [' with '.join(folders_of(part)) for part in layout.parts[:3]]
    return ', '.join(shown) + (f' and {len(layout.parts) - 3} more' if len(layout.parts) > 3 else '')
