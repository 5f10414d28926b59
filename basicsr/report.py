"""Writes ``report.html``: one page, in one file, that shows what a training run does to its validation pictures.

The page needs no network: pictures are embedded and curves are drawn by a script inside it. It is made from
``history.jsonl``, the resolved options and the pictures that validation saved; what is missing is named on the page.
"""

from __future__ import annotations

import html
import json
import re
import statistics
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePath
from typing import Any

from basicsr.errors import DataError
from basicsr.files import write_text
from basicsr.history import FILE_NAME, History
from basicsr.report_figures import (
    brief,
    change,
    charts,
    gain_of,
    label,
    number,
    picture_count,
    plain_task,
    primary_metric,
    shared_metric,
    stat,
)
from basicsr.report_images import Embedded, choose, embed, find_examples, natural_key

Record = dict[str, Any]

_PAGE, _STYLE, _SCRIPT = (Path(__file__).with_name(f'report_page.{kind}') for kind in ('html', 'css', 'js'))
_RUN_FOLDERS = ('models', 'training_states', 'visualization')


@dataclass
class Run:
    """What a run folder holds.

    Attributes:
        folder: The run folder.
        records: The history, in the order of the file.
        options: The resolved options; empty when there are none or they are not YAML.
        options_text: The option file as it stands; None when there is none.
    """

    folder: Path
    records: list[Record]
    options: Record
    options_text: str | None

    @property
    def name(self) -> str:
        """Name of the run."""
        return str(self.options.get('name') or self.folder.resolve().name)

    def of_kind(self, kind: str) -> list[Record]:
        """Records of one kind, by iteration."""
        return sorted((r for r in self.records if r['kind'] == kind), key=lambda r: r['iter'])

    def validations(self) -> dict[str, list[Record]]:
        """Validation records of each data set, by iteration."""
        sets: dict[str, list[Record]] = {}
        for record in self.of_kind('val'):
            sets.setdefault(str(record.get('dataset', '')), []).append(record)
        return sets


def write_report(run_dir: Path, out: Path | None = None, max_examples: int = 20) -> Path:
    """Writes the report of a run.

    Args:
        run_dir: Folder of the run, ``experiments/<name>``.
        out: File to write, atomically; by default ``report.html`` in the run folder.
        max_examples: At most so many pictures are compared; the page says how they were chosen.

    Returns:
        The file written.

    Raises:
        DataError: The folder is no run, its history is damaged, or the file cannot be written.
    """
    run = read_run(Path(run_dir))
    out = Path(out) if out is not None else run.folder / 'report.html'
    page = _fill(_PAGE.read_text(encoding='utf-8'), _slots(run, max_examples))
    try:
        write_text(out, page)
    except OSError as error:
        raise DataError(f'The report {out} cannot be written: {error.strerror}.') from error
    return out


def read_run(folder: Path) -> Run:
    """Reads what is in a run folder.

    Raises:
        DataError: The folder does not exist or holds nothing that a run writes, or its history is damaged.
    """
    if not folder.is_dir():
        raise DataError(f'No such run folder: {folder}.')
    history = folder / FILE_NAME
    if not history.is_file() and not any((folder / name).is_dir() for name in _RUN_FOLDERS):
        raise DataError(f'{folder} is no run folder: it holds neither {FILE_NAME} nor {", ".join(_RUN_FOLDERS)}.')
    options, text = _read_options(folder)
    return Run(folder, History.read(history) if history.is_file() else [], options, text)


def _read_options(folder: Path) -> tuple[Record, str | None]:
    import yaml

    files = [folder / f'{folder.resolve().name}.yml', *sorted(folder.glob('*.yml'))]
    file = next((f for f in files if f.is_file()), None)
    if file is None:
        return {}, None
    text = file.read_text(encoding='utf-8', errors='replace')
    try:
        options = yaml.safe_load(text)
    except yaml.YAMLError:
        options = None  # the page still shows the text
    return (options if isinstance(options, dict) else {}), text


# --- the summary -----------------------------------------------------------------------------------------------------


def summary(run: Run) -> str:
    """What the run did, in a plain sentence; a second one tells if an earlier validation was better than the last."""
    trained = _trained(run)
    last = _headline(run)
    if last is None:
        return f'{trained}. There has been no validation, so nothing can be said about quality.'
    metric = primary_metric(last['metrics'])
    after, before = last['metrics'][metric], last.get('input_metrics', {}).get(metric)
    if number(after) is None:
        return f'{trained}; the last validation gave no finite {label(metric)}.'
    result = f'the average {label(metric)} {_change_words(metric, number(before), after)}'
    return ' '.join(filter(None, [f'{trained}; on {_pictures(run, last)}, {result}.', _best(run, last, metric)]))


def _trained(run: Run) -> str:
    iterations = max((r['iter'] for r in run.records), default=0)
    if not iterations:
        return 'No training iteration has been recorded'
    train = run.options.get('train')
    planned = train.get('total_iter') if isinstance(train, dict) else None
    of_plan = f' of {planned:,} planned' if isinstance(planned, int) and planned > iterations else ''
    seconds = elapsed(run.records)
    return f'Trained {iterations:,}{of_plan} iterations' + (f' in {duration(seconds)}' if seconds >= 1 else '')


def _change_words(metric: str, before: float | None, after: float) -> str:
    if before is None:
        return f'is {brief(metric, after)}'
    first, second = brief(metric, before, unit=False), brief(metric, after, unit=False)
    if first == second:
        return f'stayed at {brief(metric, after)}'
    verb = 'rose' if after > before else 'fell'
    return f'{verb} from {first} to {brief(metric, after)} ({change(metric, before, after)})'


def _best(run: Run, last: Record, metric: str) -> str:
    """Names the best validation where it is not the last one."""
    records = run.validations()[str(last.get('dataset', ''))]
    sign = -1 if _higher(last, metric) is False else 1
    scored = [(r['iter'], number(r.get('metrics', {}).get(metric))) for r in records]
    known = [(i, v) for i, v in scored if v is not None]
    iteration, value = max(known, key=lambda pair: sign * pair[1])
    if brief(metric, value) == brief(metric, last['metrics'][metric]):
        return ''
    return f'It was best at iteration {iteration:,}, with {brief(metric, value)}.'


def _pictures(run: Run, record: Record) -> str:
    """``24 pictures it has not seen``, or ``24 validation pictures`` where training may read the same files."""
    count = picture_count(record)
    amount = f'{count:,} ' if count else ''
    noun = 'picture' if count == 1 else 'pictures'
    blocks = run.options.get('datasets')
    blocks = blocks if isinstance(blocks, dict) else {}
    train = {p for name, block in blocks.items() if str(name).startswith('train') for p in _paths(block)}
    val = {p for name, block in blocks.items() if str(name).startswith('val') for p in _paths(block)}
    unseen = train and val and not any(_nested(a, b) for a in train for b in val)
    return f'{amount}{noun} it has not seen' if unseen else f'{"the " if count else ""}{amount}validation {noun}'


def _nested(a: str, b: str) -> bool:
    """Whether one path is the other or lies in it, by name."""
    one, two = PurePath(a), PurePath(b)
    return one == two or one in two.parents or two in one.parents


def _paths(block: Any) -> Iterable[str]:
    """Strings in a data set block that name a file or folder."""
    if isinstance(block, str):
        if '/' in block or '\\' in block:
            yield block.rstrip('/\\')
    elif isinstance(block, Mapping | list):
        for value in block.values() if isinstance(block, Mapping) else block:
            yield from _paths(value)


def _headline(run: Run) -> Record | None:
    """The last validation of the first data set that has one with metrics."""
    return next((records[-1] for records in run.validations().values() if records[-1].get('metrics')), None)


def _higher(record: Record, metric: str) -> bool | None:
    return record.get('higher_better', {}).get(metric)


def elapsed(records: list[Record]) -> float:
    """Seconds from the first to the last record, without the time between a stop and the next ``run`` record."""
    moments = [(r['kind'], number(r.get('time'))) for r in records]
    known = [(kind, moment) for kind, moment in moments if moment is not None]
    return sum(max(b - a, 0.0) for (_, a), (kind, b) in pairwise(known) if kind != 'run')


def duration(seconds: float) -> str:
    """``4 min 12 s``, ``2 h 05 min``, ``3 d 4 h``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f'{days} d {hours} h'
    if hours:
        return f'{hours} h {minutes:02d} min'
    return f'{minutes} min {rest:02d} s' if minutes else f'{rest} s'


# --- the page --------------------------------------------------------------------------------------------------------


def _slots(run: Run, max_examples: int) -> dict[str, str]:
    validations = run.validations()
    found = find_examples(run.folder / 'visualization', validations)
    embedded = embed(choose(found, max_examples))
    data = {'examples': _example_data(embedded), 'charts': charts(run.of_kind('train'), validations)}
    return {
        'style': _STYLE.read_text(encoding='utf-8'),
        'script': _SCRIPT.read_text(encoding='utf-8'),
        'name': _text(run.name),
        'summary': _text(summary(run)),
        'description': _paragraph(str(run.options.get('description') or ''), 'about'),
        'example_note': _paragraph(_example_note(len(found), embedded, validations)),
        'tables': _tables(validations),
        'curve_note': '' if data['charts'] else _paragraph('Nothing has been recorded yet that could be drawn.'),
        'facts': _facts_html(run),
        'options': _options_html(run),
        'made': _text(f'Made on {_date(time.time())} from the folder {run.folder.resolve().name}.'),
        # "<" is escaped so that no text in the data can end the script element
        'data': json.dumps(data, allow_nan=False).replace('<', '\\u003c'),
    }


def _fill(template: str, slots: dict[str, str]) -> str:
    """Puts each text in the place of ``{{name}}``, in one pass: inserted text is never read as a place."""
    return re.sub(r'\{\{(\w+)\}\}', lambda match: slots[match[1]], template)


def _text(text: str) -> str:
    return html.escape(text)


def _paragraph(text: str, kind: str = 'note') -> str:
    return f'<p class="{kind}">{_text(text)}</p>' if text else ''


def _example_note(saved: int, embedded: Embedded, validations: dict[str, list[Record]]) -> str:
    """How the examples were chosen, and what is not shown."""
    if not saved:
        return 'There are no pictures to compare: no validation has saved any.'
    shown = len(embedded.examples)
    total = max(sum(picture_count(records[-1]) for records in validations.values()), saved)
    chosen = 'the first of each task by name, and always the one that gained least'
    if shown + len(embedded.unreadable) == saved:
        chosen = 'in order of task and name' if saved == total else 'those that validation saved'
    broken = (
        f'Left out, because a picture cannot be read: {", ".join(embedded.unreadable)}.' if embedded.unreadable else ''
    )
    parts = [f'{shown} of {total} validation pictures: {chosen}.', _unseen_weakest(embedded, validations)]
    return ' '.join(filter(None, [*parts, embedded.note, broken]))


def _unseen_weakest(embedded: Embedded, validations: dict[str, list[Record]]) -> str:
    """Names the picture that gained least, should it not be among the examples."""
    pictures = [(dataset, r[-1], entry) for dataset, r in validations.items() for entry in r[-1].get('images', [])]
    rated = [(gain, picture) for picture in pictures if (gain := gain_of(picture[2], picture[1])) is not None]
    if not rated:
        return ''
    metric = shared_metric(entry for _, (_, _, entry) in rated)
    compared = [pair for pair in rated if primary_metric(pair[1][2]['metrics']) == metric]
    _, (dataset, record, entry) = min(compared, key=lambda pair: pair[0])
    if any((e.dataset, e.key) == (dataset, entry['key']) for e in embedded.examples):
        return ''
    texts = _stats(entry, record)[primary_metric(entry['metrics'])]
    change = f'{texts["label"]} {texts["change"]} {texts["unit"]}'.rstrip()
    return f'The one that gained least, {entry["key"]} ({change}), is not among them: it was not saved.'


def _example_data(embedded: Embedded) -> list[Record]:
    """What the page's script needs to show the examples."""
    several = len({e.dataset for e in embedded.examples}) > 1
    data = []
    for example, urls in zip(embedded.examples, embedded.urls):
        stats = _stats(example.entry, example.record)
        group = ' · '.join(filter(None, [example.dataset if several else '', plain_task(example.task)]))
        shown = {'key': example.key, 'group': group, 'iter': example.iteration, 'images': urls, 'gain': example.gain}
        data.append({**shown, 'stats': list(stats.values()), 'main': stats.get(primary_metric(stats))})
    return data


def _stats(entry: Record, record: Record) -> dict[str, Record]:
    """Texts of a picture's metrics, by metric."""
    before = entry.get('input_metrics', {})
    return {m: stat(m, before.get(m), v, _higher(record, m)) for m, v in entry.get('metrics', {}).items()}


def _tables(validations: dict[str, list[Record]]) -> str:
    parts = []
    for dataset, records in validations.items():
        if records[-1].get('metrics'):
            heading = f'<h3>{_text(dataset)}</h3>' if len(validations) > 1 else ''
            parts.append(heading + _table(records[-1]))
    return ''.join(parts) or _paragraph('There has been no validation, so there are no numbers yet.')


def _table(record: Record) -> str:
    """One validation: a row a task and one for all pictures, three columns a metric."""
    metrics = list(record['metrics'])
    tasks = sorted(record.get('per_task', {}).items(), key=lambda item: natural_key(item[0]))
    rows = ''.join(_row(plain_task(name), block, metrics, record) for name, block in tasks)
    foot = _row('All pictures', {**record, 'n': picture_count(record)}, metrics, record)
    heads = ''.join(_metric_head(metric, _higher(record, metric)) for metric in metrics)
    under = ''.join(
        '<th scope="col" class="first">before</th><th scope="col">after</th><th scope="col">change</th>'
        for _ in metrics
    )
    meaning = 'Before: the picture as it came in. After: as the network restored it.'
    notes = _paragraph(f'Averages after iteration {record["iter"]:,}. {meaning}')
    notes += _paragraph(f'How it was measured: {record.get("protocol") or "not recorded."}')
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Numbers of each task"><table>'
        '<thead><tr><th rowspan="2" scope="col">Task</th><th rowspan="2" scope="col">Pictures</th>'
        f'{heads}</tr><tr>{under}</tr></thead><tbody>{rows}</tbody><tfoot>{foot}</tfoot></table></div>{notes}'
    )


def _metric_head(metric: str, higher: bool | None) -> str:
    texts = stat(metric, None, None, higher)
    better = {True: 'higher is better', False: 'lower is better', None: ''}[higher]
    note = ', '.join(filter(None, [texts['unit'], better]))
    return f'<th colspan="3" scope="colgroup" class="first">{_text(texts["label"])} <small>{note}</small></th>'


def _row(name: str, block: Record, metrics: list[str], record: Record) -> str:
    cells = []
    for metric in metrics:
        before, after = (block.get(k, {}).get(metric) for k in ('input_metrics', 'metrics'))
        texts = stat(metric, before, after, _higher(record, metric))
        kind, word = {True: ('good', ' better'), False: ('bad', ' worse'), None: ('', '')}[texts['better']]
        cells.append(f'<td class="first">{texts["before"]}</td><td>{texts["after"]}</td>')
        cells.append(f'<td class="{kind}">{texts["change"]}<span class="sr">{word}</span></td>')
    return f'<tr><th scope="row">{_text(name)}</th><td>{block.get("n") or "–"}</td>{"".join(cells)}</tr>'


# --- facts -----------------------------------------------------------------------------------------------------------


def facts(run: Run) -> dict[str, str]:
    """What is known about the run, by label: from the options, the history and the latest ``run`` record."""
    options, train = run.options, run.of_kind('train')
    settings = options.get('train') if isinstance(options.get('train'), dict) else {}
    datasets = options.get('datasets') if isinstance(options.get('datasets'), dict) else {}
    known: dict[str, str] = {
        'Network': _block_text(options.get('network_g')),
        'Method': str(options.get('model_type', '')),
        'Losses': ', '.join(_block_text(b) for k, b in settings.items() if k.endswith('_opt') and _is_block(b)),
        'Optimiser': _block_text(settings.get('optim_g')),
        'Schedule': _block_text(settings.get('scheduler')),
        **{f'Data: {key}': _data_text(block) for key, block in datasets.items()},
        'Batch': _batch_text(datasets.get('train')),
        'Seed': str(options.get('manual_seed', '')),
    }
    for record in run.of_kind('run')[-1:]:
        given = {_sentence_case(str(k)): _plain(v) for k, v in record.get('facts', {}).items()}
        known.update({k: v for k, v in given.items() if not known.get(k) and v != options.get('description')})
    known.update(_course(run.records, train))
    weights = sorted((run.folder / 'models').glob('*'), key=lambda p: natural_key(p.name))
    known['Weights'] = ', '.join(p.name for p in weights if p.is_file())
    return {k: v for k, v in known.items() if v}


def _course(records: list[Record], train: list[Record]) -> dict[str, str]:
    """When and how fast the run went."""
    moments = [m for m in (number(r.get('time')) for r in records) if m is not None]
    speeds = [v for v in (number(r.get('images_per_s')) for r in train) if v is not None]
    waits = [v for v in (number(r.get('data_share')) for r in train) if v is not None]
    starts = sum(r['kind'] == 'run' for r in records)
    return {
        'Started': _date(min(moments)) if moments else '',
        'Ended': _date(max(moments)) if moments else '',
        'Time': duration(elapsed(records)) + (f', in {starts} sittings' if starts > 1 else '') if moments else '',
        'Speed': f'{statistics.median(speeds):.1f} images/s (median)' if speeds else '',
        'Wait for data': f'{statistics.median(waits):.0%} of the time (median)' if waits else '',
        'Epochs completed': str(train[-1].get('epoch', '')) if train else '',
    }


def _is_block(value: Any) -> bool:
    return isinstance(value, dict) and 'type' in value


def _block_text(block: Any) -> str:
    """``NAFNet (width 32, ...)`` for a block of options."""
    if not _is_block(block):
        return ''
    arguments = ', '.join(f'{k} {_plain(v)}' for k, v in block.items() if k != 'type' and v is not None)
    return f'{block["type"]} ({arguments})' if arguments else str(block['type'])


def _data_text(block: Any) -> str:
    """``PairedImageDataset: datasets/a, datasets/b``: the type and where the files are."""
    if not _is_block(block):
        return ''
    return ': '.join(filter(None, [str(block['type']), ', '.join(dict.fromkeys(_paths(block)))]))


def _batch_text(block: Any) -> str:
    if not isinstance(block, dict) or 'batch_size_per_gpu' not in block:
        return ''
    crop = f', crops of {block["gt_size"]} px' if 'gt_size' in block else ''
    return f'{block["batch_size_per_gpu"]} per process{crop}'


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ', '.join(f'{k} {_plain(v)}' for k, v in value.items())
    if isinstance(value, list):
        return f'[{", ".join(map(_plain, value))}]'
    return f'{value:,}' if isinstance(value, int) and not isinstance(value, bool) and value > 9999 else str(value)


def _sentence_case(text: str) -> str:
    return text[:1].upper() + text[1:].replace('_', ' ')


def _date(moment: float) -> str:
    return time.strftime('%Y-%m-%d %H:%M', time.localtime(moment))


def _facts_html(run: Run) -> str:
    items = ''.join(f'<div><dt>{_text(k)}</dt><dd>{_text(v)}</dd></div>' for k, v in facts(run).items())
    return f'<dl>{items}</dl>' if items else _paragraph('Nothing is known but what is shown above.')


def _options_html(run: Run) -> str:
    if run.options_text is None:
        return _paragraph('The folder holds no option file.')
    text = _text(run.options_text)
    return f'<details><summary>Option file, as resolved</summary><pre tabindex="0">{text}</pre></details>'
