"""Tables and pictures of docs/quality.md, from what benchmarks/quality.py measured."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from basicsr.errors import DataError
from basicsr.files import write_atomically, write_text
from basicsr.image_io import read_image, to_uint8
from benchmarks.quality_ladders import LADDERS, PAIRS, rungs
from benchmarks.quality_scores import LABELS, label, right_pairs, spearman

SEES, HALF, TURNED = 0.9, 0.7, 0.4  # share of pairs ranked rightly: sees it, partly, misses it; below it is inverted
TILE, EDGE = 176, 18  # side of a tile and height of its caption, in pixels
LARGEST = 140_000  # bytes of a picture
Record = dict[str, Any]


def records(folder: Path) -> dict[str, Record]:
    """The stored parts by name."""
    return {f.stem: json.loads(f.read_text(encoding='utf-8')) for f in sorted(folder.glob('*.json'))}


def write_page(page: Path, found: dict[str, Record]) -> list[str]:
    """Writes each table for which there are parts between its marks.

    Args:
        page: The Markdown file; it holds ``<!-- quality: NAME begin -->`` and ``... end -->`` for each section.
        found: The parts.

    Returns:
        The sections written.

    Raises:
        DataError: The page lacks a mark.
    """
    tables = all_tables(found)
    text = page.read_text(encoding='utf-8')
    for name, table in tables.items():
        if table:
            text = between(text, f'quality: {name}', table)
    write_text(page, text)
    return [name for name, table in tables.items() if table]


def all_tables(found: dict[str, Record]) -> dict[str, str]:
    """The table of each section of the page; empty where no part is there for it."""
    makers = {
        'verdict': verdict_table,
        'ladders': ladders_table,
        'pairs': pairs_table,
        'gains': gains_table,
        'agreement': agreement_table,
        'gaming': gaming_table,
        'speed': speed_table,
    }
    return {name: make(found) for name, make in makers.items()}


def between(text: str, name: str, table: str) -> str:
    """A page with a table between the marks ``<!-- name begin -->`` and ``<!-- name end -->``.

    Raises:
        DataError: The page lacks one of them.
    """
    begin, end = f'<!-- {name} begin -->', f'<!-- {name} end -->'
    if begin not in text or end not in text:
        raise DataError(f"The page has no marks '{begin}' and '{end}'.")
    before, after = text.split(begin)[0], text.split(end)[1]
    return f'{before}{begin}\n{table}\n{end}{after}'


def ladder_figures(found: dict[str, Record]) -> dict[str, dict[str, tuple[float, float]]]:
    """For each ladder and scorer: mean rank correlation with quality, and share of pairs ranked rightly."""
    figures: dict[str, dict[str, tuple[float, float]]] = {}
    for name in LADDERS:
        part = found.get(f'ladder_{name}')
        if part is None:
            continue
        figures[name] = {}
        for scorer, groups in part['scores'].items():
            good = [[part['better'][scorer] * v for v in group] for group in groups]
            rho = statistics.mean(spearman(g, range(len(g), 0, -1)) for g in good)
            figures[name][scorer] = rho, statistics.mean(right_pairs(g) for g in good)
    return figures


def verdict_table(found: dict[str, Record]) -> str:
    """What each scorer sees, sees partly, misses, and takes for the better image."""
    figures = ladder_figures(found)
    kinds: dict[str, dict[str, list[str]]] = {}
    for name, row in figures.items():
        for scorer, (_, share) in row.items():
            place = 0 if share >= SEES else 1 if share >= HALF else 2 if share >= TURNED else 3
            kinds.setdefault(scorer, {}).setdefault(str(place), []).append(LADDERS[name].title)
    lines = [[label(s), *(', '.join(kinds[s].get(str(i), [])) or '-' for i in range(4))] for s in ordered(kinds)]
    head = [
        'score',
        f'sees: {SEES:.0%} of pairs right, or more',
        f'in part: {HALF:.0%} to {SEES:.0%}',
        f'misses: {TURNED:.0%} to {HALF:.0%}',
        f'takes for better: below {TURNED:.0%}',
    ]
    return table(head, lines)


def ladders_table(found: dict[str, Record]) -> str:
    """Rank correlation with quality, and share of pairs ranked rightly, by degradation and scorer."""
    figures = ladder_figures(found)
    names = ordered({s for row in figures.values() for s in row})
    lines = []
    for ladder, row in figures.items():
        cells = [f'{row[s][0]:.2f} ({100 * row[s][1]:.0f})' if s in row else '' for s in names]
        lines.append([LADDERS[ladder].title, *cells])
    return _counted(found, table(['', *map(label, names)], lines))


def pairs_table(found: dict[str, Record]) -> str:
    """Share of real pairs in which the clean image is scored above the degraded one."""
    parts = {name: found.get(f'pairs_{name.lower()}') for name in PAIRS}
    names = ordered({s for part in parts.values() if part for s in part['scores']})
    lines = []
    for name, part in parts.items():
        if part is not None:
            cells = [f'{100 * _clean_first(part, s):.0f}' if s in part['scores'] else '' for s in names]
            lines.append([f'{name} ({part["settings"]["groups"]})', *cells])
    return table(['clean above degraded, %', *map(label, names)], lines)


def gains_table(found: dict[str, Record]) -> str:
    """Rank correlation of the gain in score with the gain in PSNR, over the outputs of restorers."""
    parts = {name: found.get(f'pairs_{name.lower()}') for name in PAIRS}
    parts = {name: part for name, part in parts.items() if part and part['settings']['peers']}
    names = ordered({s for part in parts.values() for s in part['scores']})
    lines = []
    for name, part in parts.items():
        psnr = _gains(part['psnr'], 1)
        row = [_gains(part['scores'][s], part['better'][s]) if s in part['scores'] else None for s in names]
        cells = ['' if r is None else f'{spearman(r, psnr):.2f}' for r in row]
        lines.append([f'{name} ({len(psnr)} outputs of {len(part["settings"]["peers"])} networks)', *cells])
    return table(['Spearman with the gain in PSNR', *map(label, names)], lines)


def agreement_table(found: dict[str, Record]) -> str:
    """Rank correlation between scores, of the change that every degradation of every photograph makes."""
    changes: dict[str, list[float]] = {}
    for name in LADDERS:
        part = found.get(f'ladder_{name}')
        for scorer, groups in (part or {'scores': {}})['scores'].items():
            sign = part['better'][scorer]
            changes.setdefault(scorer, []).extend(sign * (v - g[0]) for g in groups for v in g[1:])
    names = ordered(changes)
    longest = max(map(len, changes.values()), default=0)
    names = [n for n in names if len(changes[n]) == longest]
    rho = {(a, b): spearman(changes[a], changes[b]) for i, a in enumerate(names) for b in names[:i]}
    lines = [[label(a), *(f'{rho[a, b]:.2f}' if (a, b) in rho else '' for b in names[:-1])] for a in names[1:]]
    return table(['Spearman', *map(label, names[:-1])], lines)


def gaming_table(found: dict[str, Record]) -> str:
    """What gradient ascent on each score does to it, to PSNR and to the other scores: means over the crops."""
    parts = {name.removeprefix('gaming_'): part for name, part in found.items() if name.startswith('gaming_')}
    names = ordered({s for part in parts.values() for s in part['versions']})
    lines = []
    for scorer in ordered(parts):
        for mode in ('raw', 'clamped'):
            runs = [run for key, run in parts[scorer]['scores'].items() if key.startswith(mode)]
            states = {s: [statistics.mean(run[s][i] for run in runs) for i in (1, 2)] for s in ('psnr', *names)}
            cells = [_arrow(a, b, 2 if s == 'psnr' else _digits(a, b)) for s, (a, b) in states.items()]
            lines.append([label(scorer), mode, *cells])
    return table(['raised', 'by its', 'PSNR', *map(label, names)], lines)


def speed_table(found: dict[str, Record]) -> str:
    """Seconds a megapixel."""
    if 'speed' not in found:
        return ''
    part = found['speed']
    names = ordered(part['scores'])
    cells = [f'{part["scores"][s]:.3f}' for s in names]
    return table([f'{part["settings"]["machine"]}', *map(label, names)], [['s per megapixel', *cells]])


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Markdown; empty without lines."""
    rows = [list(head), ['---'] * len(head), *map(list, lines)]
    return '\n'.join(f'| {" | ".join(row)} |' for row in rows) if lines else ''


def ordered(names: Any) -> list[str]:
    """Scorers in the order of tables, unknown ones last."""
    places = list(LABELS)
    return sorted(names, key=lambda n: (places.index(n) if n in places else len(places), n))


def ladder_picture(photos: dict[str, np.ndarray], file: Path) -> None:
    """A photograph under every degradation at its fourth strength."""
    photo = next(iter(photos.values()))
    tiles = [captioned(photo, 'clean')]
    for ladder in LADDERS.values():
        view = rungs(photo, ladder.blocks()[3:4], (0, 0))[1]
        tiles.append(captioned(view.permute(1, 2, 0).numpy(), ladder.title))
    write_sheet(file, tiles, 5)


def gaming_picture(pictures: Path, names: Sequence[str], file: Path) -> None:
    """A noisy crop, and what ascent on each score makes of it; nothing is written if no crop is there."""
    kinds = ['clean', 'noisy', *(f'{n}_raw' for n in names)]
    files = {kind: pictures / f'0_{kind}.png' for kind in kinds}
    titles = {kind: kind if kind in ('clean', 'noisy') else f'after {label(kind[:-4])}' for kind in kinds}
    tiles = [captioned(_middle(read_image(f)), titles[kind]) for kind, f in files.items() if f.is_file()]
    if tiles:
        write_sheet(file, tiles, len(tiles))


def captioned(image: np.ndarray, text: str) -> np.ndarray:
    """A square tile (H,W,3) uint8 of the middle of an image, with a line of text below."""
    side = min(image.shape[:2])
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    square = to_uint8(np.ascontiguousarray(image[top : top + side, left : left + side]))
    square = square if side == TILE else cv2.resize(square, (TILE, TILE), interpolation=cv2.INTER_AREA)
    strip = np.full((EDGE, TILE, 3), 255, np.uint8)
    cv2.putText(strip, text, (4, EDGE - 5), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (40, 40, 40), 1, cv2.LINE_AA)
    return np.concatenate((square, strip))


def write_sheet(file: Path, tiles: Sequence[np.ndarray], columns: int) -> None:
    """Tiles in rows as JPEG, of the best quality below :data:`LARGEST` bytes."""
    blank = np.full_like(tiles[0], 255)
    padded = [*tiles, *[blank] * (-len(tiles) % columns)]
    rows = [np.concatenate(padded[i : i + columns], axis=1) for i in range(0, len(padded), columns)]
    sheet = cv2.cvtColor(np.concatenate(rows), cv2.COLOR_RGB2BGR)
    for quality in range(90, 40, -5):
        data = cv2.imencode('.jpg', sheet, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
        if len(data) < LARGEST:
            break
    write_atomically(file, lambda stream: stream.write(data))


def _counted(found: dict[str, Record], text: str) -> str:
    """A table below a line that says how many images and draws it rests on."""
    part = next((p for name, p in found.items() if name.startswith('ladder_')), None)
    if part is None:
        return text
    count, seeds = len(part['settings']['photos']), part['settings']['seeds']
    return f'{count} photographs, {seeds} {"draw" if seeds == 1 else "draws"} each:\n\n{text}'


def _middle(image: np.ndarray) -> np.ndarray:
    """The middle at full size, so that the pattern is seen."""
    top, left = ((n - min(n, TILE)) // 2 for n in image.shape[:2])
    return image[top : top + TILE, left : left + TILE]


def _clean_first(part: Record, scorer: str) -> float:
    sign = part['better'][scorer]
    return statistics.mean(float(sign * (g[1] - g[0]) > 0) for g in part['scores'][scorer])


def _gains(groups: Sequence[Sequence[float]], sign: int) -> list[float]:
    """Of each restored image against its degraded one."""
    return [sign * (v - g[0]) for g in groups for v in g[2:]]


def _arrow(before: float, after: float, digits: int) -> str:
    return f'{before:.{digits}f} → {after:.{digits}f}'


def _digits(*values: float) -> int:
    largest = max(abs(v) for v in values)
    return 0 if largest >= 100 else 1 if largest >= 10 else 2
