"""Medians, ratios and the tables of docs/benchmarks.md, from what benchmarks/run.py measured."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from benchmarks._plan import BASICSR, BF16, FP32, OURS, PARTS, PUBLISHED, setting

BEGIN, END = '<!-- benchmarks: begin -->', '<!-- benchmarks: end -->'
CURVE_TOLERANCE = (
    1e-4  # relative; Adam divides by the size of the gradient, and carries rounding further than SGD would
)
BASELINES = {'training': (BASICSR, FP32), 'inference': (PUBLISHED, f'{FP32}, whole image')}
RATES = {'training': 'images_per_s', 'inference': 'megapixels_per_s'}
Row = dict[str, Any]


def row_of(job: dict[str, Any], results: list[dict[str, Any]], reason: str | None) -> Row:
    """What all rounds of one job found.

    Args:
        job: The job.
        results: One result a round.
        reason: Why there is none, or not one from each round.
    """
    row = {'name': job['name'], 'side': job['side'], 'setting': setting(job), 'precision': job['precision']}
    if reason is not None or not results:
        return {**row, 'reason': reason}
    numbers = [k for k, v in results[0].items() if isinstance(v, int | float)]
    values = {key: [result[key] for result in results] for key in numbers}
    lists = {key: results[0][key] for key in ('losses', 'sample') if key in results[0]}
    return {**row, 'values': values, 'median': {k: statistics.median(v) for k, v in values.items()}, **lists}


def compare(part: str, rows: list[Row]) -> None:
    """Adds to each row its ratio to the baseline, and how far its losses or its image are from it.

    Args:
        part: ``training`` or ``inference``.
        rows: The rows of :func:`row_of`; changed in place. The samples of the images are dropped afterwards.
    """
    rate, baseline = RATES[part], BASELINES[part]
    bases = {row['name']: row for row in rows if (row['side'], row['setting']) == baseline and 'median' in row}
    for row in rows:
        base = bases.get(row['name'])
        if base is None or 'median' not in row:
            continue
        row['of_baseline'] = row['median'][rate] / base['median'][rate]
        if part == 'training':
            row['loss_difference'] = max(
                abs(a - b) / abs(b) for a, b in zip(row['losses'], base['losses'], strict=True)
            )
        else:
            row['image_difference'] = max(abs(a - b) for a, b in zip(row['sample'], base['sample'], strict=True))
    for row in rows:
        row.pop('sample', None)


def curve_faults(rows: list[Row]) -> list[str]:
    """Sentences about networks whose fp32 losses here are not those of BasicSR."""
    return [
        f'{row["name"]}, {row["setting"]}: the losses differ from those of {BASICSR} by {row["loss_difference"]:.1e}, '
        f'more than {CURVE_TOLERANCE:g}.'
        for row in rows
        if row['side'] == OURS and row['precision'] == FP32 and row.get('loss_difference', 0) > CURVE_TOLERANCE
    ]


def write_tables(results: dict[str, Any], page: Path) -> None:
    """Replaces what stands between the two marks of a page; makes the page where there is none.

    Raises:
        SystemExit: The page lacks the marks.
    """
    text = page.read_text(encoding='utf-8') if page.exists() else f'{BEGIN}\n{END}\n'
    if BEGIN not in text or END not in text:
        raise SystemExit(f'{page} has no lines {BEGIN} and {END}.')
    head, tail = text.partition(BEGIN)[0], text.partition(END)[2]
    page.write_text(f'{head}{BEGIN}\n{markdown(results)}\n{END}{tail}', encoding='utf-8')


def markdown(results: dict[str, Any]) -> str:
    """All tables."""
    parts = results['parts']
    makers = {
        'training': lambda part: _rates(part, 'training', 'images/s', f'x {BASICSR}', parts.get('limits')),
        'inference': lambda part: _rates(part, 'inference', 'megapixels/s', 'x published', parts.get('limits')),
        'loader': loader_table, 'startup': startup_table, 'limits': limits_table,
    }  # fmt: skip
    titles = {
        'training': 'Training step', 'inference': 'Inference', 'loader': 'Loader', 'startup': 'Start',
        'limits': 'Limits of the machine',
    }  # fmt: skip
    texts = [
        f'**{titles[name]}** ({_facts(parts[name])})\n\n{makers[name](parts[name])}' for name in PARTS if name in parts
    ]
    return '\n\n'.join(texts)


def _facts(part: dict[str, Any]) -> str:
    """On what a part was measured."""
    machine, versions, peer = part['machine'], part['versions'], part.get('peer_versions')
    where = machine['gpu'] or f'{machine["processor"]}, {machine["cores"]} cores'
    other = f'; peer: basicsr {peer["basicsr"]}, torch {peer["torch"]}, spandrel {peer["spandrel"]}' if peer else ''
    tiny = 'tiny networks, figures mean nothing; ' if part['quick'] else ''
    return (
        f'{tiny}{where}, {part["threads"]} threads, torch {versions["torch"]}, Python {versions["python"]}{other}; '
        f'median of {part["rounds"]} rounds in turn, {part["date"]}'
    )


def _rates(part: dict[str, Any], kind: str, unit: str, ratio: str, limits: dict[str, Any] | None) -> str:
    rows = []
    for row in part['rows']:
        if 'median' not in row:
            rows.append([row['name'], row['side'], row['setting'], f'not measured: {row["reason"]}', '', '', ''])
            continue
        values, times = row['values'][RATES[kind]], row.get('of_baseline')
        rate = f'{row["median"][RATES[kind]]:.3g} ({min(values):.3g} to {max(values):.3g})'
        share = share_of_peak(row, kind, part, limits)
        rows.append([
            row['name'], row['side'], row['setting'], rate, f'{times:.2f}' if times else '',
            f'{row["median"]["peak_mb"]:,.0f}', f'{share:.0%}' if share else '',
        ])  # fmt: skip
    heads = ['network', 'run by', 'setting', unit, ratio, 'peak MB', 'of the peak FLOP/s']
    notes = (_sizes(part), _differences(part['rows'], kind))
    return '\n\n'.join([table(heads, rows), *(note for note in notes if note)])


def share_of_peak(row: Row, kind: str, part: dict[str, Any], limits: dict[str, Any] | None) -> float | None:
    """The arithmetic that a setting gets done, in parts of the fastest product or convolution in its number format.

    Returns:
        None where the limits were not measured, or on another machine or other threads.
    """
    key = 'training_flop_per_image' if kind == 'training' else 'inference_flop_per_megapixel'
    count = part['networks'].get(row['name'], {}).get(key)
    if limits is None or 'median' not in limits or count is None:
        return None
    if any(limits[k] != part[k] for k in ('machine', 'threads', 'quick')):
        return None
    return row['median'][RATES[kind]] * count / peak(limits['median'], row['precision'])


def peak(limits: dict[str, float], precision: str) -> float:
    """FLOP/s of the faster of product and convolution; arithmetic in bf16 may use the units of fp32 too."""
    formats = (FP32, BF16) if precision == BF16 else (FP32,)
    return max(limits[f'{work}_{f}'] for work in ('matmul', 'convolution') for f in formats)


def _sizes(part: dict[str, Any]) -> str:
    """What a step or an image is."""
    texts = []
    for name, size in part['sizes'].items():
        count = part['networks'].get(name, {}).get('parameters')
        known = f' ({count:,} parameters)' if count else ''
        texts.append(
            f'{name}{known}: batch {size["batch"]} of {size["crop"]}x{size["crop"]}, {size["steps"]} steps after '
            f'{size["warm"]}; image {size["image"][1]}x{size["image"][0]}'
        )
    return '; '.join(texts) + '.'


def _differences(rows: list[Row], kind: str) -> str:
    key = 'loss_difference' if kind == 'training' else 'image_difference'
    what = (
        'Largest relative difference of the losses from those of BasicSR, same weights and batches'
        if kind == 'training'
        else 'Largest difference from the image of the published network'
    )
    found = [f'{row["name"]}, {row["setting"]}: {row[key]:.1e}' for row in rows if row['side'] == OURS and key in row]
    return f'{what}: {"; ".join(found)}.' if found else ''


def loader_table(part: dict[str, Any]) -> str:
    """Pairs a second, as benchmarks/loader.py found them."""
    if 'reason' in part:
        return f'Not measured: {part["reason"]}'
    rows = [
        [name, f'{row["pairs_per_s"]:.1f}', f'{row["of_basicsr"]:.2f}' if 'of_basicsr' in row else '']
        for name, row in part['found']['results'].items()
    ]
    return table(['source', 'pairs/s', f'x {BASICSR}'], rows)


def startup_table(part: dict[str, Any]) -> str:
    """Seconds of each kind of start."""
    rows = []
    for row in part['rows']:
        found = f'not measured: {row["reason"]}' if 'reason' in row else f'{row["median"]:.2f}'
        rows.append([row['what'], row['side'], found, f'{row["of_peer"]:.2f}' if 'of_peer' in row else ''])
    return table(['what', 'of', 'seconds', f'of {BASICSR}'], rows)


def limits_table(part: dict[str, Any]) -> str:
    """FLOP/s and bytes a second."""
    if 'reason' in part:
        return f'Not measured: {part["reason"]}'
    median = part['median']
    rows = [[f'{work}, {f}', f'{median[f"{work}_{f}"] / 1e9:,.0f} GFLOP/s'] for f in (FP32, BF16)
            for work in ('matmul', 'convolution')]  # fmt: skip
    return table(['', ''], [*rows, ['copy, read and written', f'{median["copy"] / 1e9:,.1f} GB/s']])


def table(heads: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = [heads, ['---'] * len(heads), *rows]
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)
