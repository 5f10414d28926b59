"""What a checked data set is prepared into: a list of each part, a block of options, and LMDBs if asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from basicsr.errors import DataError, OptionError
from basicsr.files import write_atomically, write_text
from basicsr.yaml_io import dump_yaml

from .check import Report, full_lines
from .pairing import Match, Pair

COMMAND = 'tools/prepare_dataset.py'
NO_TASK = ('clean', 'mixed')
PROBLEMS = 'problems.txt'


def refuse_inside(root: Path, output: Path) -> None:
    """Makes sure that nothing is written where the data set is.

    Raises:
        OptionError: ``output`` is ``root`` or lies in it.
    """
    inner, outer = output.expanduser().resolve(), root.expanduser().resolve()
    if inner == outer or outer in inner.parents:
        raise OptionError(
            f"--output '{output}' lies in --root '{root}', where nothing is written; give another folder."
        )


def write_problems(report: Report, output: Path) -> Path | None:
    """Writes what is wrong or missing to ``output/problems.txt``; if nothing is, removes it and returns None."""
    file, lines = output / PROBLEMS, full_lines(report)
    if not lines:
        with suppress(OSError):
            file.unlink(missing_ok=True)
        return None
    output.mkdir(parents=True, exist_ok=True)
    text = ''.join(f'{line}\n' for line in lines)
    write_atomically(file, lambda stream: stream.write(text.encode('utf-8', 'backslashreplace')))
    return file


def write_lists(report: Report, output: Path, lmdb: bool = False, overwrite: bool = False) -> list[Path]:
    """Writes ``output/<part>.txt`` for each part, and ``output/<name>.yml`` with the data set blocks of an option file.

    Files that are there with the same content are left alone, so that a second run changes nothing.

    Args:
        report: The checked set.
        output: Where to write; the folder is made.
        lmdb: Whether to make LMDBs too, which the option file then names.
        overwrite: Replaces files that are there with other content.

    Returns:
        The files and LMDBs.

    Raises:
        DataError: The set holds no usable image, or a file is there with other content.
    """
    matches = [match for match in report.found.matches if match.pairs]
    if not matches:
        raise DataError(f"No image of {report.entry.name} in '{report.found.root}' can be used; no list was written.")
    output = output.expanduser().absolute()
    texts = {output / f'{match.part.name}.txt': list_text(report, match) for match in matches}
    texts[output / f'{report.entry.name}.yml'] = options_text(report, output, lmdb)
    changed = [file for file, text in texts.items() if _content(file) != text]
    kept = [file for file in changed if file.exists()]
    if kept and not overwrite:
        raise DataError(f"'{kept[0]}' is there with other content; --overwrite replaces it. No list was written.")
    output.mkdir(parents=True, exist_ok=True)
    databases = [p for match in matches for p in _databases(match, output, overwrite)] if lmdb else []
    for file in changed:
        write_text(file, texts[file])
    return [*texts, *databases]


def list_text(report: Report, match: Match) -> str:
    """The list of a part, as ``meta_info_file`` takes it: comments, then ``gt<TAB>lq`` or one name on each line."""
    part, found = match.part, report.found
    what = 'pairs, clean<TAB>degraded' if part.kind == 'pairs' else 'images'
    count = 'count not confirmed' if part.count is None else f'of {part.count} published'
    lines = [f'{report.entry.name}, {part.name}: {len(match.pairs)} {what} ({count}). Written by {COMMAND}.']
    lines.append(f"layout: '{found.layout.name}' in {_posix(found.root)}")
    lines += [f'{key}: {_posix(root)}' for key, root in _roots(match)]
    if part.split is not None:
        lines.append(f'split: {part.split}')
    if report.leave_out and match.problems:
        lines.append(f'left out: {len(match.problems)} files that cannot be used')
    return ''.join([*(f'# {line}\n' for line in lines), *(f'{_line(pair)}\n' for pair in match.pairs)])


def _line(pair: Pair) -> str:
    return '\t'.join(name for name in pair if name is not None)


def _posix(path: Path) -> str:
    return path.as_posix()


def _roots(match: Match) -> Iterator[tuple[str, Path]]:
    for key, root in (('dataroot_gt', match.gt_root), ('dataroot_lq', match.lq_root)):
        if root is not None:
            yield key, root


def options_text(report: Report, output: Path, lmdb: bool) -> str:
    """The data set blocks as an option file may take them in with ``_base_``."""
    blocks, aside = _blocks(report, output, lmdb)
    lines = [
        f'# {report.entry.name}, layout {report.found.layout.name}. Written by {COMMAND}; take it in with _base_.',
        f'# Results: {report.entry.protocol}.' if report.entry.protocol else None,
        *(f'# {note}' for note in report.entry.notes),
    ]
    text = '\n'.join(line for line in lines if line) + '\n' + dump_yaml({'datasets': blocks} if blocks else {})
    if aside:
        text += '# For SemiDataset, MixtureDataset and the like:\n'
        text += ''.join(f'# {line}\n' for line in dump_yaml(aside).splitlines())
    return text


def _blocks(report: Report, output: Path, lmdb: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """The blocks by their keys, and training sets that stand beside the one that an option file can have."""
    made = {m.part.name: (m, _block(report, m, output, lmdb)) for m in report.found.matches if m.pairs}
    training = {name: block for name, (match, block) in made.items() if match.part.use == 'train'}
    paired = {name: training[name] for name in training if made[name][0].part.kind == 'pairs'}
    first = paired or dict(list(training.items())[:1])
    blocks = {name: block for name, (match, block) in made.items() if match.part.use != 'train'}
    if len(first) > 1:
        members = {name.removeprefix('train_'): block for name, block in first.items()}
        blocks = {
            'train': {'type': 'MixtureDataset', 'datasets': members, 'repeats': dict.fromkeys(members, 1)},
            **blocks,
        }
    elif first:
        blocks = {'train': next(iter(first.values())), **blocks}
    return blocks, {name: block for name, block in training.items() if name not in first}


def _block(report: Report, match: Match, output: Path, lmdb: bool) -> dict[str, Any]:
    part, entry = match.part, report.entry
    roots = {
        key: _posix(output / f'{part.name}{key.removeprefix("dataroot")}.lmdb' if lmdb else root)
        for key, root in _roots(match)
    }
    block = {**roots, 'meta_info_file': _posix(output / f'{part.name}.txt')}
    if part.kind == 'clean':
        return {
            'type': 'OnlineDegradationDataset',
            'degradations': [{'type': kind} for kind in entry.degradations],
            **block,
        }
    task = part.name.partition('_')[2] if entry.task == 'mixed' else '' if entry.task in NO_TASK else entry.task
    kind = 'PairedImageDataset' if part.kind == 'pairs' else 'SingleImageDataset'
    return {'type': kind, **block, **({'task': task} if task else {})}


def _content(file: Path) -> str | None:
    try:
        return file.read_text(encoding='utf-8')
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError):
        return ''


def _databases(match: Match, output: Path, overwrite: bool) -> Iterator[Path]:
    """Makes the LMDBs of a part; one that already holds the images is left alone."""
    from basicsr.lmdb_make import create

    for key, root in _roots(match):
        out = output / f'{match.part.name}{key.removeprefix("dataroot")}.lmdb'
        side = 0 if key == 'dataroot_gt' else 1
        names = list(dict.fromkeys(name for pair in match.pairs if (name := pair[side]) is not None))
        if not _holds(out, names):
            create(root, out, names=names, overwrite=overwrite)
        yield out


def _holds(database: Path, names: list[str]) -> bool:
    """Whether an LMDB is whole and made of these files."""
    from basicsr.lmdb_io import LmdbReader

    try:
        found = LmdbReader(database).names
    except DataError:
        return False
    return set(found.values()) == set(names)
