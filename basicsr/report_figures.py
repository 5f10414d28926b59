"""The numbers of a report: how metrics are named and written, and the curves that the page draws."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

Record = dict[str, Any]
Reader = Callable[[Record], Any]

_MAX_POINTS = 800  # of one curve; more cannot be told apart on a screen
_SMOOTH_FROM = 40  # fewer points are shown as they are
_LOG_FROM = 20  # a loss that falls by this factor or more gets a logarithmic axis
_MINUS = '\N{MINUS SIGN}'


def label(metric: str) -> str:
    """Name of a metric for people: ``psnr_y`` becomes ``PSNR (y)``."""
    head, _, tail = metric.partition('_')
    return f'{head.upper()} ({tail})' if tail else head.upper()


def plain_task(task: str) -> str:
    """Name of a task for people: ``low_light`` becomes ``low light``."""
    return task.replace('_', ' ')


def unit_of(metric: str) -> str:
    """``dB`` or nothing."""
    return 'dB' if metric.lower().startswith('psnr') else ''


def number(value: Any) -> float | None:
    """The value if it is a finite number, else None."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def brief(metric: str, value: float, unit: bool = True, fine: bool = False) -> str:
    """A value with as many digits as mean something: ``21.8 dB`` (``21.83 dB`` when ``fine``), ``0.912``."""
    text = _write(value, _digits(metric, value, fine))
    return f'{text} {unit_of(metric)}' if unit and unit_of(metric) else text


def change(metric: str, before: float, after: float, fine: bool = False) -> str:
    """The signed difference, with the digits of the values: ``+6.5``."""
    return _write(after - before, _digits(metric, max(abs(before), abs(after)), fine), '+')


def _digits(metric: str, size: float, fine: bool) -> int:
    return 1 + fine if unit_of(metric) or abs(size) >= 10 else 3


def _write(value: float, digits: int, sign: str = '') -> str:
    if math.isnan(value):
        return '–'
    if math.isinf(value):
        return '∞' if value > 0 else f'{_MINUS}∞'
    return f'{value:{sign}.{digits}f}'.replace('-', _MINUS)


def stat(metric: str, before: Any, after: Any, higher: bool | None) -> Record:
    """Texts of one metric before and after; ``better`` is None where it cannot be said.

    Args:
        metric: Name of the metric.
        before: Its value for the input; None when not known.
        after: Its value for the output; None when not known.
        higher: Whether higher is better; None when not known.
    """
    known = isinstance(before, int | float) and isinstance(after, int | float) and not math.isnan(after - before)
    return {
        'label': label(metric),
        'unit': unit_of(metric),
        'arrow': {True: '↑', False: '↓', None: ''}[higher],
        'before': brief(metric, before, unit=False, fine=True) if isinstance(before, int | float) else '–',
        'after': brief(metric, after, unit=False, fine=True) if isinstance(after, int | float) else '–',
        'change': change(metric, before, after, fine=True) if known else '–',
        'better': (after > before) == higher if known and higher is not None and after != before else None,
    }


def primary_metric(metrics: Mapping[str, Any]) -> str:
    """The metric that stands for all: PSNR where there is one, else the first; empty if there is none."""
    return 'psnr' if 'psnr' in metrics else next(iter(metrics), '')


def shared_metric(entries: Iterable[Record]) -> str:
    """Of pictures whose primary metrics are not all the same, the one by which they are compared."""
    return primary_metric(dict.fromkeys(sorted(primary_metric(e.get('metrics', {})) for e in entries)))


def gain_of(entry: Record, record: Record) -> float | None:
    """How much better the primary metric of a picture became, negative when worse; None when not known.

    Args:
        entry: The picture's part of a validation.
        record: The validation.
    """
    metric = primary_metric(entry.get('metrics', {}))
    after, before = (number(entry.get(k, {}).get(metric)) for k in ('metrics', 'input_metrics'))
    if after is None or before is None:
        return None
    return before - after if record.get('higher_better', {}).get(metric) is False else after - before


def picture_count(record: Record) -> int:
    """How many pictures a validation covered."""
    return sum(t.get('n', 0) for t in record.get('per_task', {}).values()) or len(record.get('images', []))


def charts(train: list[Record], validations: dict[str, list[Record]]) -> list[Record]:
    """What the page's script draws: ``{title, note, views: [{label, axis, unit, log, stack, lines: [...]}]}``.

    A line is ``{name, x, y, base, style}``; ``base`` is the value before restoration, None in ``y`` leaves a gap. The
    lines of a view with ``stack`` are parts of a whole, drawn one upon the other.

    Args:
        train: Training records by iteration.
        validations: Validation records of each data set, by iteration.
    """
    found = []
    for dataset, records in validations.items():
        views = [
            _metric_view(metric, records) for metric in dict.fromkeys(m for r in records for m in r.get('metrics', {}))
        ]
        title = f'Quality during training · {dataset}' if len(validations) > 1 else 'Quality during training'
        note = 'Averages over the validation pictures. Dashed: the pictures as they came in.'
        found.append({'title': title, 'note': note, 'views': [v for v in views if v is not None]})
    kept, per_point = _thin(train)
    note = f'One point is the mean of {per_point} log records.' if per_point > 1 else ''
    views = [_train_view(name, '', kept, _reader('losses', name), 'loss') for name in _names('losses', kept)]
    views += [_train_view(name, unit, kept, reader) for name, unit, reader in _OTHER_VIEWS]
    found.append({'title': 'Training', 'note': note, 'views': [v for v in views if v is not None]})
    views = [_signal_view(name, kept) for name in _names('signals', kept)]
    told = f'What the training method tells beside its losses. {note}'.strip()
    found.append({'title': 'What the method did', 'note': told, 'views': [v for v in views if v is not None]})
    return [c for c in found if c['views']]


def _names(field: str, records: list[Record]) -> list[str]:
    return list(dict.fromkeys(name for r in records for name in r.get(field, {})))


def _reader(field: str, name: str) -> Reader:
    return lambda record: record.get(field, {}).get(name)


def _metric_view(metric: str, records: list[Record]) -> Record | None:
    """One metric over the iterations: a line for all pictures and one a task."""
    tasks = sorted({t for r in records for t in r.get('per_task', {})})
    lines = [_metric_line('all pictures', metric, 'main', [(r['iter'], r) for r in records])]
    for task in tasks if len(tasks) > 1 else []:
        blocks = [(r['iter'], r.get('per_task', {}).get(task, {})) for r in records]
        lines.append(_metric_line(plain_task(task), metric, 'task', blocks))
    lines = [line for line in lines if any(y is not None for y in line['y'])]
    unit = unit_of(metric)
    axis = f'{label(metric)} ({unit})' if unit else label(metric)
    return _view(label(metric), axis, unit, lines) if lines else None


def _view(title: str, axis: str, unit: str, lines: list[Record], log: bool = False, stack: bool = False) -> Record:
    return {'label': title, 'axis': axis, 'unit': unit, 'log': log, 'stack': stack, 'lines': lines}


def _metric_line(name: str, metric: str, style: str, blocks: list[tuple[int, Record]]) -> Record:
    bases = [number(b.get('input_metrics', {}).get(metric)) for _, b in blocks]
    return {
        'name': name,
        'x': [i for i, _ in blocks],
        'y': [number(b.get('metrics', {}).get(metric)) for _, b in blocks],
        'base': next((b for b in reversed(bases) if b is not None), None),
        'style': style,
    }


def _train_view(name: str, unit: str, records: list[Record], reader: Reader, kind: str = '') -> Record | None:
    """One quantity over the iterations; None if it was never recorded. A long loss or signal is smoothed as well."""
    x, y = [r['iter'] for r in records], [number(reader(r)) for r in records]
    known = [v for v in y if v is not None]
    if not known:
        return None
    log = kind == 'loss' and min(known) > 0 and max(known) / min(known) > _LOG_FROM
    lines = [_line(name, x, y)]
    if kind and len(known) >= _SMOOTH_FROM:
        lines = [_line('as logged', x, y, 'faint'), _line('smoothed', x, _smooth(y, log))]
    axis = f'loss {name}' if kind == 'loss' else f'{name} ({unit})' if unit else name
    return _view(name, f'{axis}, log scale' if log else axis, unit, lines, log)


def _line(name: str, x: list[int], y: list[float | None], style: str = 'main') -> Record:
    return {'name': name, 'x': x, 'y': y, 'base': None, 'style': style}


def _signal_view(name: str, records: list[Record]) -> Record | None:
    """A signal over the iterations that gave it, which may be few; a vector as shares of its sum, or a line a bin."""
    read = _reader('signals', name)
    vectors = {r['iter']: [number(v) for v in read(r)] for r in records if isinstance(read(r), list)}
    vectors = {at: row for at, row in vectors.items() if any(v is not None for v in row)}
    if not vectors:
        return _train_view(name, '', [r for r in records if number(read(r)) is not None], read, 'signal')
    shares = {at: _shares(row) for at, row in vectors.items() if any(row)}
    if shares and all(v is None or v >= 0 for row in vectors.values() for v in row):
        return _view(name, f'{name}, share of each bin (%)', '%', _bin_lines(shares), stack=True)
    return _view(name, name, '', _bin_lines(vectors))


def _bin_lines(rows: Mapping[int, list[float | None]]) -> list[Record]:
    count = min(map(len, rows.values()))
    return [_line(f'bin {i}', list(rows), [row[i] for row in rows.values()], 'bin') for i in range(count)]


def _shares(row: list[float | None]) -> list[float | None]:
    """Percent of the sum; an element without a value counts as 0."""
    total = math.fsum(v or 0.0 for v in row)
    return [100 * (v or 0.0) / total for v in row]


def _learning_rate(record: Record) -> Any:
    rate = record.get('lr')
    return rate[0] if isinstance(rate, list) and rate else rate


def _wait_percent(record: Record) -> float | None:
    share = number(record.get('data_share'))
    return None if share is None else 100 * share


_OTHER_VIEWS: tuple[tuple[str, str, Reader], ...] = (
    ('learning rate', '', _learning_rate),
    ('speed', 'images/s', lambda r: r.get('images_per_s')),
    ('wait for data', '%', _wait_percent),
)


def _smooth(values: list[float | None], log: bool) -> list[float | None]:
    """Centred running mean over a twentieth of the curve, geometric on a logarithmic axis; gaps stay gaps.

    The window shrinks towards the ends, so that the curve begins and ends where the values do.
    """
    level, back = (math.log, math.exp) if log else (float, float)
    half, end = max(len(values) // 40, 2), len(values) - 1
    smoothed: list[float | None] = []
    for index, value in enumerate(values):
        reach = min(half, index, end - index)
        near = [level(v) for v in values[index - reach : index + reach + 1] if v is not None]
        smoothed.append(None if value is None else back(math.fsum(near) / len(near)))
    return smoothed


def _thin(records: list[Record]) -> tuple[list[Record], int]:
    """Means of consecutive records, at most ``_MAX_POINTS`` of them, and how many records each stands for."""
    size = -(-len(records) // _MAX_POINTS)
    if size <= 1:
        return records, 1
    return [_mean(records[i : i + size]) for i in range(0, len(records), size)], size


def _mean(records: list[Record]) -> Record:
    """One record for several: the last iteration, and the mean of every finite number."""
    return {
        'iter': records[-1]['iter'],
        'losses': {k: _average(list(map(_reader('losses', k), records))) for k in _names('losses', records)},
        'signals': {k: _average_signal(list(map(_reader('signals', k), records))) for k in _names('signals', records)},
        'lr': _average([_learning_rate(r) for r in records]),
        'images_per_s': _average([r.get('images_per_s') for r in records]),
        'data_share': _average([r.get('data_share') for r in records]),
    }


def _average_signal(values: list[Any]) -> Any:
    """The mean of numbers, or of vectors element by element."""
    vectors = [v for v in values if isinstance(v, list)]
    return [_average(list(column)) for column in zip(*vectors)] if vectors else _average(values)


def _average(values: list[Any]) -> float | None:
    known = [v for v in map(number, values) if v is not None]
    return math.fsum(known) / len(known) if known else None
