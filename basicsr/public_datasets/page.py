"""The catalogue as a page of documentation, and as a list for the terminal."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

from . import CATALOGUE
from .entries import Entry, Layout, Part
from .recognise import folders_of

TASKS = {
    'snow': 'Snow',
    'rain': 'Rain',
    'raindrop': 'Raindrops',
    'haze': 'Haze',
    'low_light': 'Low light',
    'underwater': 'Under water',
    'mixed': 'Several at once',
    'clean': 'Clean photographs',
}
MOST_NAMED = 3  # parts of the same count that a table names one by one
INTRODUCTION = """# Public data sets

<!-- Written by `python tools/prepare_dataset.py --write-docs` from basicsr/public_datasets; edit there. -->

None of these is shipped here. Download one, unpack it, and let the command look at it:

```
python tools/prepare_dataset.py SOTS --root /data/SOTS
```

It recognises the release and well-known copies, pairs the images, compares the counts with the published ones, opens
the images, and names what is missing, unpaired or damaged; `problems.txt` names all of it. If the copy is whole, it
writes to `datasets/SOTS` (or `--output DIR`) a list of each part, to be used as `meta_info_file`, and `SOTS.yml`, which
an option file takes in with `_base_: path/to/SOTS.yml`. It never writes to `--root`.

| exit code | meaning |
| --- | --- |
| 0 | what is there is sound, and nothing published is missing; the lists are written |
| 1 | part of what is published is missing: no lists, unless `--allow_partial` |
| 2 | images are unpaired or damaged, or the layout is not known: no lists; `--leave_out` leaves bad files out |

`--parts train test_s` looks at some parts only, `--check all|sample|none` opens every image, up to 2000 pairs a part
(the default) or none, `--lmdb` makes LMDBs too, `--list` shows the names. A second run changes nothing; a list that has
come to differ is replaced only with `--overwrite`.

**?** stands for what no source that could be read confirms. A part is *real* where it has no clean side and *clean*
where it has no degraded one. The terms of a data set are its authors': read them before use.
"""


def docs_page() -> str:
    """The text of docs/datasets.md."""
    sections = [INTRODUCTION, _overview()]
    for task, title in TASKS.items():
        entries = [entry for entry in CATALOGUE if entry.task == task]
        sections += [f'## {title}\n', *map(_section, entries)] if entries else []
    return '\n'.join(sections)


def listing() -> list[str]:
    """The catalogue, a line for each set: name, task, parts and counts."""
    width = max(len(entry.name) for entry in CATALOGUE)
    return [f'{e.name:<{width}}  {e.task:<10}  {_parts(e.layouts[0].parts)}' for e in CATALOGUE]


def _overview() -> str:
    lines = ['| task | name | parts and pairs | licence |', '| --- | --- | --- | --- |']
    for entry in sorted(CATALOGUE, key=lambda e: list(TASKS).index(e.task)):
        link = f'[{entry.name}](#{entry.name.lower()})'
        parts = _parts(entry.layouts[0].parts)
        lines.append(f'| {TASKS[entry.task].lower()} | {link} | {parts} | {entry.licence or "?"} |')
    return '\n'.join(lines) + '\n'


def _section(entry: Entry) -> str:
    lines = [f'### {entry.name}', f'{entry.about}. Get it from <{entry.url}>. Licence: {entry.licence or "?"}.', '']
    lines.append(f'- Usual protocol: {entry.protocol or "?"}.')
    lines += [line for layout in entry.layouts for line in _layout(layout)]
    lines += [f'- {note}' for note in entry.notes]
    lines += [f'- Source: {source}.' for source in entry.sources]
    return '\n'.join(lines) + '\n'


def _layout(layout: Layout) -> list[str]:
    home = '' if layout.home == '*' else f' in a folder `{layout.home.split("|")[0]}`'
    source = f' ({layout.source})' if layout.source else ''
    lines = [f'- Layout *{layout.name}*{home}{source}:']
    return lines + [f'  - {part.name}, {_amount(part)}: {_folders(part)}' for part in layout.parts]


def _folders(part: Part) -> str:
    shown = ' with '.join(dict.fromkeys(f'`{folder}`' for folder in folders_of(part)))
    return shown.replace('`.`', 'the folder itself')


def _parts(parts: Iterable[Part]) -> str:
    """Names and counts; many of the same count are drawn together."""
    groups = [list(group) for _, group in groupby(parts, lambda p: (p.use, _amount(p)))]
    return ', '.join(text for group in groups for text in _together(group))


def _together(group: list[Part]) -> list[str]:
    if len(group) > MOST_NAMED:
        return [f'{len(group)} from {group[0].name} to {group[-1].name} {_amount(group[0])} each']
    return [f'{part.name} {_amount(part)}' for part in group]


def _amount(part: Part) -> str:
    count = '?' if part.count is None else f'{part.count:,}'
    scenes = f' of {part.clean:,} scenes' if part.clean else ''
    return f'{count}{scenes}' if part.kind == 'pairs' else f'{count} {part.kind}'
