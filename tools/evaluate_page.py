"""``report.html`` of ``tools/evaluate.py``: one file with every number, histograms, the best and the worst images.

Tables and histograms are in the page itself; a script only sorts the tables.
"""

from __future__ import annotations

import base64
import html
import math
import re
import statistics
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np

import basicsr
from basicsr.errors import DataError
from basicsr.image_io import to_uint8
from basicsr.report_figures import brief, label, number
from basicsr.tools.evaluate_folders import Folder, Problem, unmatched_text
from basicsr.validation import ImageResult, ValResult

Set = tuple[Folder, ValResult, Sequence[Problem]]

_HERE = Path(basicsr.__file__).resolve().parent
BINS = 24
WIDTH, HEIGHT = 400, 120  # of a histogram, in units of its drawing
PICKS = 3  # images shown of either end
SIDE = 320  # longest side of a shown image in pixels
QUALITY = 80  # of WebP
KINDS = {'degraded': 'input', 'restored': 'restored', 'clean': 'clean'}


def page(sets: Sequence[Set]) -> str:
    """The page of one evaluation.

    Args:
        sets: Each set with its scores and with the images that have none.
    """
    protocol = sets[0][1].evaluation.protocol
    notes = [
        ('Sets', [f'{k}: {v:,} images' if v else k for k, v in protocol.test_sets.items()]),
        ('Sources', protocol.sources),
        ('Disputed, unknown or left out', protocol.notes),
    ]
    slots = {
        'name': _text(', '.join(f.name for f, _, _ in sets)),
        'style': (_HERE / 'report_page.css').read_text(encoding='utf-8'),
        'script': (_HERE / 'evaluation_page.js').read_text(encoding='utf-8'),
        'summary': _text(' '.join(_sentence(s) for s in sets)),
        'protocol': _text(f'{sets[0][1].evaluation}.'),
        'sets': ''.join(_section(i, s, len(sets) > 1) for i, s in enumerate(sets)),
        'about': ''.join(_list(title, lines) for title, lines in notes) or '<p class="note">It has no name.</p>',
        'made': _text(f'Made on {time.strftime("%Y-%m-%d %H:%M")} by QualIR {basicsr.__version__}.'),
    }
    template = (_HERE / 'evaluation_page.html').read_text(encoding='utf-8')
    return re.sub(r'\{\{(\w+)\}\}', lambda match: slots[match[1]], template)  # in one pass: no text becomes a place


def _sentence(found: Set) -> str:
    folder, result, problems = found
    means = [f'{label(k)} {brief(k, v, fine=True)}' for k, v in result.metrics.items()]
    failed = f' {len(problems)} could not be scored.' if problems else ''
    return f'{folder.name}, {len(result.images):,} images: {", ".join(means) or "no scores"}.{failed}'


def _section(index: int, found: Set, several: bool) -> str:
    folder, result, problems = found
    heading = f'<h2 id="h-{index}">{_text(folder.name if several else "Scores")}</h2>'
    doubt = result.evaluation.protocol.doubt(len(result.images))
    notes = [doubt, *unmatched_text(folder), *(f'Not scored: {p.key}: {p.text}' for p in problems)]
    roots = '; '.join(f'{kind}: {root}' for kind, root in folder.roots().items())
    body = [
        heading, _summary(result), ''.join(f'<p class="note">{_text(n)}</p>' for n in notes if n),
        f'<p class="note">{_text(roots)}</p>', _histograms(result), _picks(folder, result), _table(result),
    ]  # fmt: skip
    return f'<section aria-labelledby="h-{index}">{"".join(body)}</section>'


def _summary(result: ValResult) -> str:
    """A row a metric: means of input and output, median, spread and both ends."""
    heads = ('metric', 'input', 'mean', 'median', 'std. deviation', 'lowest', 'highest')
    before, rows = result.summary()['input_metrics'], []
    for metric, higher in result.higher_better.items():
        values = [v for i in result.images if (v := number(i.metrics.get(metric))) is not None]
        cells = [_cell(metric, v) for v in (before.get(metric), result.metrics.get(metric), *_spread(values))]
        arrow = '↑' if higher else '↓'
        rows.append(f'<tr><th scope="row">{_text(label(metric))} {arrow}</th>{"".join(cells)}</tr>')
    head = ''.join(f'<th scope="col">{h}</th>' for h in heads)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def _spread(values: list[float]) -> tuple[float | None, ...]:
    if not values:
        return (None,) * 4
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return statistics.median(values), deviation, min(values), max(values)


def _cell(metric: str, value: float | None) -> str:
    if value is None:
        return '<td>–</td>'
    return f'<td data-value="{value!r}">{_text(brief(metric, value, unit=False, fine=True))}</td>'


def _histograms(result: ValResult) -> str:
    figures = [_histogram(m, result.images, higher) for m, higher in result.higher_better.items()]
    return f'<div class="charts" style="margin-top:24px">{"".join(figures)}</div>'


def _histogram(metric: str, images: Iterable[ImageResult], higher: bool) -> str:
    """How many images have which score, in bars; the inputs' as a dashed outline."""
    images = list(images)
    after, before = (
        [v for i in images if (v := number(getattr(i, kind).get(metric))) is not None]
        for kind in ('metrics', 'input_metrics')
    )
    if not after:
        return ''
    low, high = min(after + before), max(after + before)
    high = high if high > low else low + 1e-6
    counts = [np.histogram(v, BINS, (low, high))[0].tolist() if v else [] for v in (after, before)]
    most = max(map(max, filter(None, counts)))
    bars = ''.join(_bars(c, most, kind, low, high, metric) for c, kind in zip(counts, ('bar-after', 'bar-before')))
    text = f'y="{HEIGHT + 16}"'
    axis = (
        f'<line class="rule" x1="0" x2="{WIDTH}" y1="{HEIGHT}" y2="{HEIGHT}"/><text {text}>{brief(metric, low)}</text>'
        f'<text {text} x="{WIDTH}" text-anchor="end">{brief(metric, high)}</text>'
    )
    title = f'{label(metric)}, {"higher" if higher else "lower"} is better' + (', input dashed' if before else '')
    drawing = f'<svg viewBox="0 0 {WIDTH} {HEIGHT + 20}" role="img" style="height:auto">{bars}{axis}</svg>'
    return f'<figure><h3>{_text(title)}</h3>{drawing}</figure>'


def _bars(counts: list[int], most: int, kind: str, low: float, high: float, metric: str) -> str:
    step, bars = WIDTH / BINS, []
    for i, count in enumerate(counts):
        if not count:
            continue
        height = HEIGHT * count / most
        ends = [brief(metric, low + (high - low) * (i + n) / BINS, fine=True) for n in (0, 1)]
        place = f'x="{i * step + 0.5:.1f}" y="{HEIGHT - height:.1f}" width="{step - 1:.1f}" height="{height:.1f}"'
        bars.append(f'<rect class="{kind}" {place}><title>{count}: {_text(" to ".join(ends))}</title></rect>')
    return ''.join(bars)


def _picks(folder: Folder, result: ValResult) -> str:
    """The worst and the best images by the first metric."""
    metric, higher = next(iter(result.higher_better.items()), ('', True))
    rated = [i for i in result.images if not math.isnan(i.metrics.get(metric, math.nan))]
    ranked = sorted(rated, key=lambda i: i.metrics[metric], reverse=higher)
    ends = {'Best': ranked[:PICKS], 'Worst': ranked[PICKS:][-PICKS:][::-1]}
    parts = []
    for title, images in ends.items():
        if images:
            shown = ''.join(_pick(folder, image, metric) for image in images)
            parts.append(f'<h3>{title} by {_text(label(metric))}</h3><div class="picks">{shown}</div>')
    return ''.join(parts)


def _pick(folder: Folder, image: ImageResult, metric: str) -> str:
    item = next(i for i in folder.items if i.key == image.key)
    pictures = []
    for kind, title in KINDS.items():
        stem = getattr(item, kind)
        url = thumbnail(folder, kind, stem) if stem is not None else None
        if url is not None:
            pictures.append(f'<div><img src="{url}" alt="{title}">{title}</div>')
    score = brief(metric, image.metrics[metric], fine=True)
    return f'<div><b>{_text(image.key)}</b> {_text(score)}<div class="trio">{"".join(pictures)}</div></div>'


def thumbnail(folder: Folder, kind: str, stem: str) -> str | None:
    """A small picture as an address that holds it; None if it cannot be read any more."""
    try:
        pixels = to_uint8(folder.sources[kind].pixels(stem))
    except DataError:
        return None
    ratio = min(SIDE / max(pixels.shape[:2]), 1)
    size = tuple(max(round(n * ratio), 1) for n in pixels.shape[1::-1])
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA) if ratio < 1 else pixels
    done, data = cv2.imencode('.webp', cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_WEBP_QUALITY, QUALITY])
    return f'data:image/webp;base64,{base64.b64encode(data).decode()}' if done else None


def _table(result: ValResult) -> str:
    """All images: scores of the output, and of the input where there are any."""
    metrics = list(result.higher_better)
    inputs = [m for m in metrics if any(m in i.input_metrics for i in result.images)]
    heads = ['image', *(label(m) for m in metrics), *(f'input {label(m)}' for m in inputs), 'size']
    rows = []
    for i in result.images:
        cells = [*(_cell(m, i.metrics.get(m)) for m in metrics), *(_cell(m, i.input_metrics.get(m)) for m in inputs)]
        size = f'<td data-value="{i.height * i.width}">{i.width} x {i.height}</td>'
        rows.append(f'<tr><th scope="row">{_text(i.key)}</th>{"".join(cells)}{size}</tr>')
    head = ''.join(f'<th scope="col">{_text(h)}</th>' for h in heads)
    body = f'<thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody>'
    return f'<h3>All images</h3><div class="scroll tall"><table class="sortable">{body}</table></div>'


def _list(title: str, lines: Sequence[str]) -> str:
    items = ''.join(f'<li>{_text(line)}</li>' for line in lines)
    return f'<h3>{title}</h3><ul>{items}</ul>' if items else ''


def _text(text: str) -> str:
    return html.escape(text)
