"""Whether a copy of a public data set is whole and sound."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from basicsr.errors import EXIT_FAILED, EXIT_REFUSED, DataError
from basicsr.image_io import probe_file

from .entries import Entry
from .pairing import Match, Pair, Problem
from .recognise import Found, recognise

SAMPLED = 2000  # pairs of a part that are opened unless all are asked for
SHOWN = 3  # names in a line of the report
Say = Callable[[str], object]


@dataclass
class Report:
    """What was found of a set.

    Attributes:
        entry: The set.
        found: Its layout and parts.
        leave_out: Whether files that cannot be used are left out of the lists.
    """

    entry: Entry
    found: Found
    leave_out: bool = False

    @property
    def problems(self) -> list[Problem]:
        """Files that cannot be used, each once."""
        return list(dict.fromkeys(p for match in self.found.matches for p in match.problems))

    @property
    def incomplete(self) -> bool:
        """Whether something that is published is missing."""
        return bool(self.found.absent) or any(match.missing for match in self.found.matches)

    def exit_code(self, allow_partial: bool) -> int:
        """0: sound and whole; 1: part of it is missing; 2: files cannot be used."""
        if self.problems and not self.leave_out:
            return EXIT_REFUSED
        return EXIT_FAILED if self.incomplete and not allow_partial else 0


def check(entry: Entry, root: Path, measure: str = 'sample', parts: list[str] | None = None) -> Report:
    """Recognises a set, pairs its images and opens them.

    Args:
        entry: The set.
        root: Where it is, or one level above.
        measure: ``all`` opens every image, ``sample`` up to 2000 pairs of each part, spread evenly, ``none`` no image.
            Only headers and ends are read.
        parts: Names of the parts to look at; None takes all.

    Raises:
        DataError: The set is not recognised, or has no part of a name given.
    """
    found = recognise(entry, root)
    if parts is not None:
        _select(entry, found, parts)
    for match in found.matches:
        measure_pairs(match, measure)
    return Report(entry, found)


def _select(entry: Entry, found: Found, parts: list[str]) -> None:
    known = [part.name for part in found.layout.parts]
    wrong = [name for name in parts if name not in known]
    if wrong:
        raise DataError(
            f"{entry.name} has no part '{wrong[0]}' in the layout '{found.layout.name}': {', '.join(known)}."
        )
    found.matches = [match for match in found.matches if match.part.name in parts]
    found.absent = [(part, text) for part, text in found.absent if part.name in parts]


def measure_pairs(match: Match, how: str) -> None:
    """Opens pairs of a part; those that cannot be read, or differ in size, leave the pairs and become problems."""
    total = len(match.pairs)
    wanted = {'none': 0, 'sample': min(total, SAMPLED), 'all': total}[how]
    numbers = {i * total // wanted for i in range(wanted)}
    match.measured = len(numbers)
    bad = {}
    for number in sorted(numbers):
        problem = _problem(match, match.pairs[number])
        if problem is not None:
            bad[number] = problem
    match.problems += bad.values()
    if match.part.names:
        match.lost += [_stem_of(match.pairs[number]) for number in bad]
    match.pairs = [pair for number, pair in enumerate(match.pairs) if number not in bad]


def _stem_of(pair: Pair) -> str:
    return (pair.lq or pair.gt or '').rpartition('.')[0]


def _problem(match: Match, pair: Pair) -> Problem | None:
    """What is wrong with a pair, if anything."""
    sizes = []
    for root, name in ((match.gt_root, pair.gt), (match.lq_root, pair.lq)):
        if root is None or name is None:
            continue
        try:
            info = probe_file(root / name)
        except DataError as error:
            return Problem('unreadable', root / name, str(error))
        sizes.append((root / name, info.width, info.height))
    if len({size[1:] for size in sizes}) > 1:
        (gt, gt_w, gt_h), (lq, lq_w, lq_h) = sizes
        return Problem('size', lq, f"it has {lq_w}x{lq_h} pixels, its clean image '{gt.name}' {gt_w}x{gt_h}")
    return None


def table(report: Report) -> list[str]:
    """The table of the report, a line for each part."""
    rows = [('part', 'found', 'published', 'missing', 'unpaired', 'damaged')]
    rows += [_row(match) for match in report.found.matches]
    rows += [(part.name, '-', _count(part.count), _count(part.count), '-', '-') for part, _ in report.found.absent]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ['  '.join(f'{c:<{w}}' if not i else f'{c:>{w}}' for i, (c, w) in enumerate(zip(r, widths))) for r in rows]


def _row(match: Match) -> tuple[str, ...]:
    unpaired = sum(problem.kind == 'unpaired' for problem in match.problems)
    counts = (len(match.pairs), unpaired, len(match.problems) - unpaired)
    found, rest, damaged = (f'{count:,}' for count in counts)
    return match.part.name, found, _count(match.part.count), _count(match.missing), rest, damaged


def _count(count: int | None) -> str:
    return '?' if count is None else f'{count:,}'


def describe(report: Report, full_list: Path | None) -> list[str]:
    """The report as lines: what was recognised, the table, and what is wrong or missing.

    Args:
        report: The report.
        full_list: The file that names everything; None if there is none.
    """
    found = report.found
    lines = [f"{report.entry.name}: layout '{found.layout.name}' in '{found.root}'.", *table(report)]
    for match in found.matches:
        lines += _remarks(match)
    for kind in dict.fromkeys(problem.kind for problem in report.problems):
        files = [f"'{p.file}' ({p.text})" for p in report.problems if p.kind == kind]
        lines.append(_few(f'{len(files):,} {kind}', files))
    lines += [f'{part.name} is not there: no folder {text}.' for part, text in found.absent]
    return [*lines, f"All of it is named in '{full_list}'."] if full_list is not None else lines


def _remarks(match: Match) -> list[str]:
    name, count, missing = match.part.name, match.part.count, match.missing
    lines = []
    if missing:
        lines.append(
            _few(f'{name}: {missing:,} missing', match.lost) if match.lost else f'{name}: {missing:,} missing.'
        )
    if count is not None and len(match.pairs) > count:
        lines.append(f'{name}: {len(match.pairs) - count:,} more than published.')
    if match.measured < len(match.pairs):
        lines.append(f'{name}: {match.measured:,} of {len(match.pairs):,} opened; --check all opens the rest.')
    return lines


def _few(what: str, names: list[str]) -> str:
    more = f' and {len(names) - SHOWN:,} more' if len(names) > SHOWN else ''
    return f'{what}: {", ".join(names[:SHOWN])}{more}.'


def full_lines(report: Report) -> list[str]:
    """Everything that is wrong or missing, a line each; empty if nothing is."""
    lines = [f'{p.kind}\t{p.file}\t{p.text}' for p in report.problems]
    for match in report.found.matches:
        lines += [f'missing\t{match.part.name}\t{name}' for name in match.lost]
        if match.missing and not match.lost:
            lines.append(f'missing\t{match.part.name}\t{match.missing} whose names are not published')
    return lines + [f'missing\t{part.name}\tno folder {text}' for part, text in report.found.absent]
