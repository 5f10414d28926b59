"""Tables of docs/results/sipl.md, from the results of benchmarks/sipl.py."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from basicsr.errors import DataError
from basicsr.files import write_text
from benchmarks.quality_page import between, table
from benchmarks.sipl_cost import MOST, NETWORKS, ratio
from benchmarks.sipl_runs import ABLATED, ABLATIONS, BACKBONES, VARIANTS, WAYS, way_of
from benchmarks.sipl_scores import FED, STEPS

Result = dict[str, Any]
SYNTHETIC = {
    'synthetic_Haze': 'haze', 'synthetic_Rain': 'rain', 'synthetic_Snow': 'snow', 'synthetic_LowLight': 'low light',
    'synthetic_Underwater': 'under water',
}  # fmt: skip
REAL = {'haze': 'SOTS', 'low_light': 'LOL', 'underwater': 'LSUI', 'rain': 'Rain100L'}
GROUPS = {'synthetic': SYNTHETIC, 'real pairs': REAL}
HOSTS = {'nafnet': 'NAFNet', 'restormer': 'Restormer', 'promptir': 'PromptIR'}
PASSES = {'plain': 'plain pass', 'refined': 'refined once'}
SCORES = {'psnr': 'PSNR, dB ↑', 'ssim': 'SSIM ↑', 'niqe': 'NIQE ↓', 'piqe': 'PIQE ↓'}
DIGITS = {'psnr': 2, 'ssim': 3, 'niqe': 2, 'piqe': 1}
PICTURES = {'restoration': 'Restorations', 'dictionary': 'Dictionaries'}
FEEDING = {'fixed': 'input stays', 'refed': 'output fed in'}


@dataclass
class Study:
    """All results.

    Attributes:
        runs: By variant, one a seed, sorted by seed.
        steps: By variant, one a seed.
        costs: Of the published networks.
        training: Of a step of each backbone of the study, by its name.
        reference: Scores of the degraded photographs, if they were made.
    """

    runs: dict[str, list[Result]] = field(default_factory=dict)
    steps: dict[str, list[Result]] = field(default_factory=dict)
    costs: list[Result] = field(default_factory=list)
    training: dict[str, Result] = field(default_factory=dict)
    reference: Result | None = None

    def add(self, result: Result) -> None:
        """Puts a result in its place."""
        kind = result['kind']
        if kind == 'reference':
            self.reference = result
        elif kind == 'cost':
            self.costs.append(result)
        elif kind == 'training':
            self.training[result['backbone']] = result
        else:
            place = self.runs if kind == 'run' else self.steps
            place.setdefault(result['variant'], []).append(result)

    def passes(self) -> Iterator[tuple[str, str, str, list[Result]]]:
        """Backbone, way and pass of every row of the main tables, with its results, in the order of the study."""
        for backbone in BACKBONES:
            for way in WAYS:
                results = self.runs.get(f'{backbone}_{way}', [])
                for which in results[0]['measured'] if results else ():
                    yield backbone, way, which, results


def read_study(folder: Path) -> Study:
    """Reads all results of a folder.

    Raises:
        DataError: There are none.
    """
    study, files = Study(), sorted(folder.glob('*.json'))
    for result in sorted((json.loads(f.read_text(encoding='utf-8')) for f in files), key=lambda r: r.get('seed', 0)):
        study.add(result)
    if not files:
        raise DataError(f"There is no result in '{folder}'; make some with: sipl.py run nafnet_alone")
    return study


def write_page(page: Path, folder: Path, sheets: Path) -> None:
    """Writes every table between its marks ``<!-- sipl: NAME begin -->`` and ``... end -->``, and leads to the sheets.

    Args:
        page: The Markdown file.
        folder: The results.
        sheets: Folder of the pictures; those that were not drawn are left out.

    Raises:
        DataError: The page lacks a mark, or there are no results.
    """
    study = read_study(folder)
    makers: dict[str, Callable[[Study], str]] = {
        'gain': gain_table, **{score: lambda s, score=score: score_table(s, score) for score in SCORES},
        'steps': steps_table, 'sets': sets_table, 'ablations': ablation_table, 'moves': moves_table,
        'cost': cost_table, 'time': time_table, 'training': training_table, 'runs': runs_table,
    }  # fmt: skip
    text = page.read_text(encoding='utf-8')
    for name, make in makers.items():
        text = between(text, f'sipl: {name}', make(study))
    for name, title in PICTURES.items():
        file = sheets / f'sipl_{name}.jpg'
        link = f'![{title}]({Path(os.path.relpath(file, page.parent)).as_posix()})' if file.is_file() else ''
        text = between(text, f'sipl: {name} picture', link)
    write_text(page, text)


# ---- restoration ---------------------------------------------------------------------------------------------------


def gain_table(study: Study) -> str:
    """What each way of training gains in PSNR over the backbone alone of the same seed."""
    lines = []
    for backbone, way, which, results in study.passes():
        for other in ('alone', 'alone_long'):
            found = _paired(study.runs.get(f'{backbone}_{other}', []), results)
            if way not in ('alone', other) and found:
                lines.append([*_row(backbone, way, which), WAYS[other].title, *_gains(found, which), str(len(found))])
    head = ['network', 'trained', 'against', *(f'{group}, dB' for group in GROUPS), 'sets that gain', 'seeds']
    return table(head, lines)


def score_table(study: Study, score: str) -> str:
    """A score on every test set, and its mean over synthetic degradations and over real pairs."""
    rows = [(*_row(b, w, which), which, results) for b, w, which, results in study.passes()]
    if study.reference is not None:
        rows.insert(0, ('degraded', '', 'degraded', [study.reference]))
    lines = []
    for title, trained, which, results in rows:
        cells = []
        for sets in GROUPS.values():
            cells += [_over([_mean(r, which, [s], score) for r in results], DIGITS[score]) for s in sets]
            cells.append(_over([_mean(r, which, sets, score) for r in results], DIGITS[score]))
        lines.append([title, trained, *cells, str(len(results)) if trained else ''])
    titles = [t for group, sets in GROUPS.items() for t in (*sets.values(), f'mean, {group}')]
    return table([SCORES[score], 'trained', *titles, 'seeds'], lines)


def _row(backbone: str, way: str, which: str) -> tuple[str, str]:
    title = WAYS[way].title
    return HOSTS[backbone], title if WAYS[way].wrapper is None else f'{title}, {PASSES[which]}'


def _paired(before: Sequence[Result], after: Sequence[Result]) -> list[tuple[Result, Result]]:
    """Results of the same seeds."""
    seeds = {r['seed']: r for r in before}
    return [(seeds[r['seed']], r) for r in after if r['seed'] in seeds]


def _gains(pairs: Sequence[tuple[Result, Result]], which: str) -> list[str]:
    cells = [
        _over([_mean(b, which, sets, 'psnr') - _mean(a, 'plain', sets, 'psnr') for a, b in pairs], 2, signed=True)
        for sets in GROUPS.values()
    ]
    every = [s for sets in GROUPS.values() for s in sets]
    changes = [statistics.mean(_mean(b, which, [s], 'psnr') - _mean(a, 'plain', [s], 'psnr') for a, b in pairs)
               for s in every]  # fmt: skip
    return [*cells, f'{sum(c > 0 for c in changes)} of {len(every)}']


# ---- iterations ----------------------------------------------------------------------------------------------------


def steps_table(study: Study) -> str:
    """Means over the sets of each group after every iteration, with and without feeding the output in."""
    lines = []
    for variant, results in _in_order(study.steps):
        for group, sets in GROUPS.items():
            for score in ('psnr', 'ssim', 'niqe'):
                for fed in FED:
                    cells = [
                        _over([_step(r, fed, sets, score, n) for r in results], DIGITS[score]) for n in range(STEPS + 1)
                    ]
                    lines.append([_title(variant), group, SCORES[score], FEEDING[fed], *cells, str(len(results))])
    head = ['network', 'sets', 'score', 'next iteration', 'plain', *map(str, range(1, STEPS + 1)), 'seeds']
    return table(head, lines)


def sets_table(study: Study) -> str:
    """PSNR of SIPL on every set after every iteration."""
    lines = []
    for variant, results in _in_order(study.steps):
        if variant not in [f'{b}_sipl' for b in BACKBONES]:
            continue
        for sets in GROUPS.values():
            for name, title in sets.items():
                cells = [
                    _over([_step(r, fed, [name], 'psnr', n) for r in results], 2)
                    for fed in FED for n in range(fed == 'refed', STEPS + 1)
                ]  # fmt: skip
                lines.append([_title(variant), title, *cells])
    counts = [str(n) for n in range(1, STEPS + 1)]
    return table(['PSNR, dB', 'set', 'plain', *counts, *(f'{n}, {FEEDING["refed"]}' for n in counts)], lines)


def _step(result: Result, fed: str, sets: Iterable[str], score: str, number: int) -> float:
    found = result['measured'][fed]
    return statistics.mean(statistics.mean(found[s][number][score]) for s in sets)


# ---- ablations -----------------------------------------------------------------------------------------------------


def ablation_table(study: Study) -> str:
    """Variants of SIPL on one backbone: both passes, both groups of sets."""
    lines = []
    for variant, results in _ablations(study):
        cells = [
            _over([_mean(r, which, sets, score) for r in results], DIGITS[score])
            for sets in GROUPS.values() for score in ('psnr', 'ssim') for which in PASSES
        ]  # fmt: skip
        lines.append([way_of(variant)[1].title, *cells, str(len(results))])
    heads = [f'{SCORES[s]}, {g}, {title}' for g in GROUPS for s in ('psnr', 'ssim') for title in PASSES.values()]
    return table([HOSTS[ABLATED], *heads, 'seeds'], lines)


def moves_table(study: Study) -> str:
    """How far training moved the dictionary of each level, and all other weights."""
    lines = []
    for variant, results in _ablations(study):
        moved = [r['moved'] for r in results]
        levels = [_over([1000 * m['dictionaries'][n] for m in moved], 2) for n in range(len(moved[0]['dictionaries']))]
        others = _over([1000 * m['others'] for m in moved], 2)
        lines.append([way_of(variant)[1].title, *levels, others, str(len(results))])
    head = ['moved by, in thousandths', 'dictionary 1', 'dictionary 2', 'dictionary 3', 'all other weights', 'seeds']
    return table(head, lines)


def _ablations(study: Study) -> list[tuple[str, list[Result]]]:
    names = [f'{ABLATED}_{way}' for way in ('sipl', *ABLATIONS)]
    return [(name, study.runs[name]) for name in names if name in study.runs]


# ---- cost ----------------------------------------------------------------------------------------------------------


def cost_table(study: Study) -> str:
    """Parameters and MACs of published networks alone, in Proxy Fusion, per iteration, and in the released order."""
    lines = []
    for result in _costs(study):
        counts, macs = result['parameters'], result['macs']
        ratios = [f'{macs[form] / macs["plain"]:.2f}' for form in ('refined', 'released')]
        lines.append([
            result['network'], *(f'{counts[k]:,}' for k in ('alone', 'plain')),
            *(f'{macs[k]:.1f}' for k in ('alone', 'plain')), f'{macs["refined"] - macs["plain"]:.1f}',
            f'{macs["refined"]:.1f}', f'{macs["released"]:.1f}', *ratios,
        ])  # fmt: skip
    head = [
        'network', 'parameters alone', 'with Proxy Fusion', 'GMACs alone', 'plain pass', 'an iteration more',
        'refined once', 'in the released order', f'refined / plain (at most {MOST})', 'released / plain',
    ]  # fmt: skip
    return table(head, lines)


def time_table(study: Study) -> str:
    """Seconds and memory of the same."""
    lines = []
    for result in sorted(study.costs, key=lambda r: (r['device'], [*NETWORKS].index(r['network']))):
        seconds, forms = result['seconds'], ('alone', 'plain', 'refined', 'released')
        ratios = [f'{ratio(seconds, form, "plain"):.2f}' for form in ('refined', 'released')]
        lines.append([
            result['network'], result['device'], *(f'{statistics.median(seconds[f]):.3g}' for f in forms), *ratios,
            *(f'{result["peak_mb"][f]:.0f}' for f in forms), str(result['rounds']),
        ])  # fmt: skip
    names = ['alone', 'plain pass', 'refined once', 'released order']
    head = ['network', 'on', *(f'{n}, s' for n in names), 'refined / plain', 'released / plain']
    return table([*head, *(f'{n}, MB' for n in names), 'rounds'], lines)


def training_table(study: Study) -> str:
    """What a training step of the study costs."""
    lines = []
    for backbone, result in ((b, study.training[b]) for b in BACKBONES if b in study.training):
        for way, macs in result['macs'].items():
            seconds = result['seconds']
            lines.append([
                HOSTS[backbone], WAYS[way].title, f'{macs:.2f}', f'{macs / result["macs"]["alone"]:.2f}',
                f'{statistics.median(seconds[way]):.3f}', f'{ratio(seconds, way, "alone"):.2f}',
            ])  # fmt: skip
    return table(['network', 'trained', 'GMACs an image', 'times alone', 's a step', 'times alone'], lines)


def runs_table(study: Study) -> str:
    """What was run."""
    lines = [
        [f'`{v}`', ', '.join(str(r['seed']) for r in rs), str(rs[0]['iterations'])] for v, rs in _in_order(study.runs)
    ]
    return table(['run', 'seeds', 'iterations'], lines)


def _costs(study: Study) -> list[Result]:
    """One result a network: counts are the same on every device."""
    found = {r['network']: r for r in study.costs}
    return [found[name] for name in NETWORKS if name in found]


# ---- numbers -------------------------------------------------------------------------------------------------------


def _in_order(results: dict[str, list[Result]]) -> list[tuple[str, list[Result]]]:
    return [(v, results[v]) for v in VARIANTS if v in results]


def _title(variant: str) -> str:
    backbone, way = way_of(variant)
    return f'{HOSTS[backbone]}, {way.title}'


def _mean(result: Result, which: str, sets: Iterable[str], score: str) -> float:
    """Mean over sets of means over images."""
    found = result['measured'][which]
    return statistics.mean(statistics.mean(found[s][score]) for s in sets)


def _over(values: Sequence[float], digits: int, signed: bool = False) -> str:
    """Mean over seeds, with the standard deviation where there are several."""
    mean = f'{statistics.mean(values):{"+" if signed else ""}.{digits}f}'
    return mean if len(values) < 2 else f'{mean} ± {statistics.stdev(values):.{digits}f}'
