"""Tables of docs/results/iqpir.md, from the results of benchmarks/iqpir.py."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from basicsr.errors import DataError
from basicsr.files import write_text
from benchmarks.iqpir_runs import VARIANTS
from benchmarks.qualiteacher_scores import TRAINED
from benchmarks.quality_page import between, table
from benchmarks.quality_scores import LABELS, spearman

Result = dict[str, Any]
TITLES = {
    'stage1_dual': 'two books, the second of what the first leaves', 'stage1_shared': 'two books of the same features',
    'stage1_single': 'one book', 'stage2_none': 'no quality', 'stage2_add': 'added vector',
    'stage2_film': 'scale and shift', 'stage2_waves': 'scale and shift, 8 octaves',
    'stage2_single': 'scale and shift, one book', 'stage3_film': 'scale and shift, second decoder',
    'stage2_revealed': '8 octaves, input tells the quality', 'reward_off': 'no judge',
    'reward_continuous': 'continuous',
    'reward_feat_ste': 'feat_ste', 'reward_logit_st': 'logit_st',
}  # fmt: skip
NAMES = {**LABELS, TRAINED: 'trained on', 'psnr': 'PSNR', 'ssim': 'SSIM'}
DIGITS = {'psnr': 2, 'niqe': 2, 'piqe': 1, 'cnniqa': 1, 'uiqm': 2, 'entropy': 2}
TASKS = {  # side of a result: what it is called
    ('haze', 'real'): 'haze, real', ('low_light', 'real'): 'low light, real',
    ('underwater', 'real'): 'under water, real', ('rain', 'real'): 'rain, real',
    ('synthetic_Haze', ''): 'haze, synthetic', ('synthetic_Rain', ''): 'rain, synthetic',
    ('synthetic_Snow', ''): 'snow, synthetic', ('synthetic_LowLight', ''): 'low light, synthetic',
    ('synthetic_Underwater', ''): 'under water, synthetic',
}  # fmt: skip
PAIRS = {
    'haze': 'haze (SOTS)',
    'low_light': 'low light (LOL)',
    'underwater': 'under water (LSUI)',
    'rain': 'rain (Rain100L)',
}


UNCODED = ('off', 'continuous')
REWARDED = (TRAINED, 'niqe', 'piqe', 'cnniqa')


@dataclass
class Study:
    """All results.

    Attributes:
        runs: By variant, one a seed, sorted by seed.
        sweeps: By variant, one a seed.
        uncoded: By variant, what was measured where the generator sees features instead of codes.
        reference: Scores of the degraded photographs, if they were made.
    """

    runs: dict[str, list[Result]] = field(default_factory=dict)
    sweeps: dict[str, list[Result]] = field(default_factory=dict)
    uncoded: dict[str, list[Result]] = field(default_factory=dict)
    reference: Result | None = None

    def those(self, start: str) -> Iterator[tuple[str, list[Result]]]:
        """Variants that were run and whose name starts so, with their results, in the order of the study."""
        return ((v, self.runs[v]) for v in VARIANTS if v in self.runs and v.startswith(start))


def read_study(folder: Path) -> Study:
    """Reads all results of a folder.

    Raises:
        DataError: There are none.
    """
    study = Study()
    for file in sorted(folder.glob('*.json')):
        result = json.loads(file.read_text(encoding='utf-8'))
        if result['kind'] == 'reference':
            study.reference = result
        else:
            place = {'run': study.runs, 'sweep': study.sweeps, 'uncoded': study.uncoded}[result['kind']]
            place.setdefault(result['variant'], []).append(result)
    if not study.runs:
        raise DataError(f"There is no result in '{folder}'; make some with: iqpir.py run stage1_dual")
    return study


def write_page(page: Path, folder: Path) -> None:
    """Writes every table between its marks ``<!-- iqpir: NAME begin -->`` and ``... end -->``.

    Raises:
        DataError: The page lacks a mark, or there are no results.
    """
    study = read_study(folder)
    makers: dict[str, Callable[[Study], str]] = {
        'reconstruction': reconstruction_table, 'curve': curve_table, 'held_out': held_out_table,
        'pairs': pairs_table, 'reward': reward_table, 'knob': knob_table, 'runs': runs_table,
    }  # fmt: skip
    text = page.read_text(encoding='utf-8')
    for name, make in makers.items():
        text = between(text, f'iqpir: {name}', make(study))
    write_text(page, text)


def reconstruction_table(study: Study) -> str:
    """Stage I: how well unseen photographs come back, and how much of the books they use."""
    lines = []
    for variant, results in study.those('stage1'):
        found = [r['measured'] for r in results]
        use = [' / '.join(f'{100 * u:.0f}' for u in f['usage']) for f in found]
        lines.append([
            TITLES[variant], _over([statistics.mean(f['psnr']) for f in found], 2),
            _over([statistics.mean(f['ssim']) for f in found], 3), ', '.join(use), str(results[0]['iterations']),
            str(len(results)),
        ])  # fmt: skip
    return table(['books', 'PSNR, dB', 'SSIM', 'entries used, %', 'iterations', 'seeds'], lines)


def curve_table(study: Study) -> str:
    """PSNR of the validations on the way, of seed 0."""
    curves = {v: dict(r[0]['curve']) for v, r in study.those('stage1')}
    steps = sorted({i for c in curves.values() for i in c})
    shown = [i for n, i in enumerate(steps) if n % max(1, len(steps) // 8) == 0 or i == steps[-1]]
    lines = [[TITLES[v], *(f'{c[i]:.2f}' if i in c else '' for i in shown)] for v, c in curves.items()]
    return table(['PSNR, dB, at iteration', *map(str, shown)], lines)


def held_out_table(study: Study) -> str:
    """Held-out scores at the top of the knob, degraded photographs first; arrows say which way is better."""
    if study.reference is None:
        return ''
    variants = [*study.those('stage2'), *study.those('stage3')]
    lines = []
    for (task, side), title in TASKS.items():
        before = _side(study.reference, task, side)
        for judge in _held_out(before):
            cells = [_mean(before, judge)]
            cells += [
                _over([statistics.mean(_side(r, task, side)[judge]) for r in rs], _digits(judge)) for _, rs in variants
            ]
            lines.append([title, _name(study, judge), *cells])
    return table(['photographs', 'score', 'degraded', *(TITLES[v] for v, _ in variants)], lines)


def pairs_table(study: Study) -> str:
    """PSNR on real pairs and on synthetic degradations of unseen photographs."""
    if study.reference is None:
        return ''
    variants = [*study.those('stage2'), *study.those('stage3'), *study.those('reward')]
    sides = {**{(k, 'pairs'): t for k, t in PAIRS.items()}, **{k: t for k, t in TASKS.items() if not k[1]}}
    lines = []
    for (task, side), title in sides.items():
        cells = [_mean(_side(study.reference, task, side), 'psnr')]
        cells += [_over([statistics.mean(_side(r, task, side)['psnr']) for r in rs], 2) for _, rs in variants]
        lines.append([title, *cells])
    return table(['PSNR, dB', 'degraded', *(TITLES[v] for v, _ in variants)], lines)


def reward_table(study: Study) -> str:
    """What the optimisation by a judge gains in the score that is trained on, and in those that are held out."""
    before = study.runs.get('reward_off') or study.runs.get('stage2_film')
    if before is None:
        return ''
    shown = [(TITLES[v], before, r) for v, r in study.those('reward') if v != 'reward_off']
    if {'reward_off', 'reward_continuous'} <= set(study.uncoded):
        shown.insert(1, ('continuous, drawn without codes', *(study.uncoded[f'reward_{m}'] for m in UNCODED)))
    lines = []
    for title, off, results in shown:
        for part, real in (('real', True), ('synthetic', False)):
            cells = []
            for judge in (*REWARDED, 'psnr'):
                changes = [_change(a, b, judge, real) for a, b in zip(off, results)]
                cells.append(_over(changes, _digits(judge), True))
            gaps = [g for a, b in zip(off, results) if (g := _gap(a, b, real)) is not None]
            lines.append([title, part, *cells, _over(gaps, 2, True) if gaps else ''])
    names = [*(_name(study, judge) for judge in REWARDED), 'PSNR ↑']
    return table(['mode', 'photographs', *names, 'NIQE for each 0.1 of the score trained on'], lines)


def knob_table(study: Study) -> str:
    """Rank correlation between the quality asked for and what comes out, by task and score."""
    lines = []
    for variant, results in ((v, study.sweeps[v]) for v in VARIANTS if v in study.sweeps):
        for task, levels in results[0]['scores'].items():
            for judge in (TRAINED, *_held_out(levels[0])):
                sign = study.reference['better'][judge] if study.reference else 1
                found = [_knob(r, task, judge, sign) for r in results]
                ends = [statistics.mean(levels[n][judge]) for n in (0, -1)]
                digits = _digits(judge)
                span = f'{ends[0]:.{digits}f} to {ends[1]:.{digits}f}'
                lines.append([TITLES[variant], task.replace('_', ' '), _name(study, judge), _over(found, 2), span])
    return table(['condition', 'real photographs', 'score', 'Spearman', 'from 0.05 to 0.95'], lines)


def runs_table(study: Study) -> str:
    """What was run."""
    lines = [
        [f'`{v}`', ', '.join(str(r['seed']) for r in rs), str(rs[0]['iterations']), rs[0]['from'] or '']
        for v, rs in study.those('')
    ]
    return table(['run', 'seeds', 'iterations', 'goes on from'], lines)


def _knob(result: Result, task: str, judge: str, sign: int) -> float:
    means = [sign * statistics.mean(level[judge]) for level in result['scores'][task]]
    return spearman(result['levels'], means)


def _change(before: Result, after: Result, judge: str, real: bool) -> float:
    """Mean change over the real photographs of all tasks, or the synthetic ones; PSNR is that of the real pairs."""
    tasks = [('pairs' if judge == 'psnr' and real else side, task) for task, side in TASKS if bool(side) == real]
    a, b = ([x for side, task in tasks for x in _side(r, task, side)[judge]] for r in (before, after))
    return statistics.mean(b) - statistics.mean(a)


def _gap(before: Result, after: Result, real: bool) -> float | None:
    """How much a held-out score, NIQE, changes while the one that is trained on rises by a tenth; None: it does not."""
    gain = _change(before, after, TRAINED, real)
    return 0.1 * _change(before, after, 'niqe', real) / gain if gain > 0.005 else None


def _side(result: Result, task: str, side: str) -> dict[str, list[float]]:
    found = result['measured'][task]
    return found[side] if side else found


def _held_out(scores: dict[str, Any]) -> list[str]:
    return [k for k in scores if k not in (TRAINED, 'psnr', 'ssim', 'qualitynet', 'brisque')]


def _name(study: Study, judge: str) -> str:
    better = study.reference['better'].get(judge, 1) if study.reference else 1
    return f'{NAMES.get(judge, judge)} {"↑" if better > 0 else "↓"}'


def _digits(judge: str) -> int:
    return DIGITS.get(judge, 3)


def _mean(scores: dict[str, list[float]], judge: str) -> str:
    return f'{statistics.mean(scores[judge]):.{_digits(judge)}f}'


def _over(values: list[float], digits: int, signed: bool = False) -> str:
    """Mean over seeds, with the standard deviation where there are several."""
    mean = f'{statistics.mean(values):{"+" if signed else ""}.{digits}f}'
    return mean if len(values) < 2 else f'{mean} ± {statistics.stdev(values):.{digits}f}'
