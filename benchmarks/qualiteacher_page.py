"""Tables of docs/results/qualiteacher.md, from the results of benchmarks/qualiteacher.py."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from basicsr.errors import DataError
from basicsr.files import write_text
from benchmarks.qualiteacher_data import TASKS
from benchmarks.qualiteacher_runs import VARIANTS
from benchmarks.qualiteacher_scores import TRAINED
from benchmarks.quality_page import between, table
from benchmarks.quality_scores import LABELS, spearman

TELLS = 0.75  # share of pairs whose clean side a judge must score higher to count
LEVEL = 0.8  # rank correlation between the requested and the given score that is looked for
DIGITS = {'psnr': 2, 'ssim': 3, TRAINED: 3, 'brisque': 1, 'piqe': 1, 'cnniqa': 1, 'fade': 3, 'uciqe': 3}
NAMES = {**LABELS, TRAINED: 'trained on', 'psnr': 'PSNR', 'ssim': 'SSIM'}
TITLES = {
    'pretrained': 'pretrained', 'mean_teacher': 'mean teacher', 'colabator': 'Colabator', 'semi_uir': 'Semi-UIR',
    'qualiteacher': '**QualiTeacher**', 'qt_bold': '**QualiTeacher, bold**',
    'qt_no_condition': 'no condition, no preference', 'qt_one_view': 'one view', 'qt_no_preference': 'no preference',
    'qt_no_crop': 'no crop consistency', 'qt_topk': 'released bank', 'qt_stronger': 'preference 0.1, strength to 1.2',
    'qt_smooth': 'preference 0.1, smoothed', 'qt_untold': 'pairs not told, strength to 1.2',
    'qt_bold_released': 'bold, released labels and bank', 'qt_bold_no_preference': 'bold, no preference',
}  # fmt: skip
MAIN = ('qualiteacher', 'qt_bold')
SIDES = ('real', 'pairs')
Result = dict[str, Any]


@dataclass
class Study:
    """All results.

    Attributes:
        runs: By task and variant, one a seed, sorted by seed.
        references: By task: scores of the degraded and of the clean photographs.
        sweeps: By task and variant, one a seed.
    """

    runs: dict[tuple[str, str], list[Result]] = field(default_factory=dict)
    references: dict[str, Result] = field(default_factory=dict)
    sweeps: dict[tuple[str, str], list[Result]] = field(default_factory=dict)

    @property
    def tasks(self) -> list[str]:
        """Tasks that there is anything of, in the order of tables."""
        return [t for t in TASKS if t in self.references]

    def variants(self, task: str) -> list[str]:
        """Variants that were run for a task."""
        return [v for v in VARIANTS if (task, v) in self.runs]


def read_study(folder: Path) -> Study:
    """Reads all results of a folder.

    Raises:
        DataError: There are none, or results that stand in one table do not rest on the same things.
    """
    study = Study()
    for file in sorted(folder.glob('*.json')):
        result = json.loads(file.read_text(encoding='utf-8'))
        if result['kind'] == 'reference':
            study.references[result['task']] = result
        else:
            place = study.runs if result['kind'] == 'run' else study.sweeps
            place.setdefault((result['task'], result['variant']), []).append(result)
    if not study.references:
        raise DataError(f"There is no result in '{folder}'; make some with: qualiteacher.py run --all")
    for results in (*study.runs.values(), *study.sweeps.values()):
        results.sort(key=lambda r: r['seed'])
    _check_alike(study)
    return study


def _check_alike(study: Study) -> None:
    for (task, variant), results in (*study.runs.items(), *study.sweeps.items()):
        wanted = study.references.get(task)
        if wanted is None:
            raise DataError(f"There is no result '{task}_reference'; make it with: qualiteacher.py run --all")
        for key in ('photos', 'versions'):
            if any(r[key] != wanted[key] for r in results):
                raise DataError(f"'{task}': results differ in '{key}'; remove the older files.")
        for key in ('options', 'iterations'):
            if len({r[key] for r in results}) > 1:
                raise DataError(f"'{task}', '{variant}': seeds differ in '{key}'; remove the older files.")


def write_page(page: Path, study: Study) -> None:
    """Writes every table between its marks ``<!-- qualiteacher: NAME begin -->`` and ``... end -->``.

    Raises:
        DataError: The page lacks a mark.
    """
    makers: dict[str, Callable[[Study], str]] = {
        'verdict': verdict_table, 'scores': scores_tables, 'differences': differences_tables, 'beats': beats_table,
        'knob': knob_table, 'judges': judges_table, 'photos': photos_table, 'runs': runs_table,
    }  # fmt: skip
    text = page.read_text(encoding='utf-8')
    for name, make in makers.items():
        text = between(text, f'qualiteacher: {name}', make(study))
    write_text(page, text)


# ---- what the judges are worth -------------------------------------------------------------------------------------


def clean_first(reference: Result, judge: str) -> float:
    """Share of the test pairs whose clean side a judge scores above the degraded one."""
    sign = reference['better'][judge]
    sides = zip(reference['clean'][judge], reference['pairs'][judge])
    return statistics.mean(float(sign * (clean - degraded) > 0) for clean, degraded in sides)


def telling(reference: Result) -> list[str]:
    """Held-out judges that tell clean from degraded, surest first."""
    share = {j: clean_first(reference, j) for j in reference['held_out']}
    return sorted((j for j in share if share[j] >= TELLS), key=lambda j: -share[j])


def _columns(reference: Result) -> list[tuple[str, str]]:
    """Side and score of each column: pairs, what is trained on, judges that tell, then the others."""
    told = telling(reference)
    others = [j for j in reference['held_out'] if j not in told]
    return [('pairs', 'psnr'), ('pairs', 'ssim'), *(('real', j) for j in (TRAINED, *told, *others))]


def _head(reference: Result) -> list[str]:
    told = telling(reference)
    found = []
    for _, name in _columns(reference):
        text = f'{NAMES.get(name, name)} {"↑" if reference["better"][name] > 0 else "↓"}'
        found.append(f'({text})' if name in reference['held_out'] and name not in told else text)
    return found


def judges_table(study: Study) -> str:
    """How often each judge prefers the clean side."""
    names = list(dict.fromkeys(j for t in study.tasks for j in (TRAINED, *study.references[t]['held_out'])))
    lines = []
    for task in study.tasks:
        reference = study.references[task]
        cells = [f'{100 * clean_first(reference, j):.0f}' if j in reference['clean'] else '' for j in names]
        lines.append([f'{_title(task)} ({len(reference["names"]["pairs"])})', *cells])
    return table(['clean above degraded, % of pairs', *(NAMES.get(n, n) for n in names)], lines)


# ---- scores --------------------------------------------------------------------------------------------------------


def mean_of(result: Result, side: str, name: str) -> float:
    """Mean of a score over the photographs of one side."""
    return statistics.mean(result[side][name])


def scores_tables(study: Study) -> str:
    """One table a task: mean and standard deviation over seeds of every score of every variant."""
    parts = []
    for task in study.tasks:
        reference = study.references[task]
        places = _columns(reference)
        lines = [['degraded', *(_number(mean_of(reference, *p), p[1]) for p in places), '']]
        for variant in study.variants(task):
            runs = study.runs[task, variant]
            cells = [_spread([mean_of(r, *p) for r in runs], p[1]) for p in places]
            lines.append([TITLES[variant], *cells, str(len(runs))])
        names = reference['names']
        counted = (
            f'{_title(task)}: {len(names["pairs"])} pairs for PSNR and SSIM, {len(names["real"])} real photographs'
        )
        parts.append(f'{counted} for the rest.\n\n{table(["", *_head(reference), "seeds"], lines)}')
    return '\n\n'.join(parts)


def differences_tables(study: Study, to: str = 'mean_teacher') -> str:
    """One table a task: differences to the mean teacher of the same seed, and how many of them are for the better."""
    parts = []
    for task in study.tasks:
        reference, lines = study.references[task], []
        for variant in study.variants(task):
            pairs = _paired(study, task, variant, to)
            if variant != to and pairs:
                cells = [_difference(pairs, place, reference['better'][place[1]]) for place in _columns(reference)]
                lines.append([TITLES[variant], *cells])
        if lines:
            parts.append(table([_title(task), *_head(reference)], lines))
    return '\n\n'.join(parts)


def _paired(study: Study, task: str, variant: str, to: str) -> list[tuple[Result, Result]]:
    """Runs of two variants by seed."""
    others = {r['seed']: r for r in study.runs.get((task, to), [])}
    return [(r, others[r['seed']]) for r in study.runs.get((task, variant), []) if r['seed'] in others]


def _gains(pairs: Sequence[tuple[Result, Result]], place: tuple[str, str]) -> list[float]:
    return [mean_of(a, *place) - mean_of(b, *place) for a, b in pairs]


def _difference(pairs: Sequence[tuple[Result, Result]], place: tuple[str, str], sign: int) -> str:
    gains = _gains(pairs, place)
    better = sum(sign * g > 0 for g in gains)
    return f'{statistics.mean(gains):+.{DIGITS.get(place[1], 2)}f} ({better}/{len(gains)})'


def beats_table(study: Study) -> str:
    """Share of real test photographs that a variant restores to a better score than another network does."""
    names = list(dict.fromkeys(j for t in study.tasks for j in (TRAINED, *telling(study.references[t]))))
    lines = []
    for task in study.tasks:
        for variant in study.variants(task):
            for to in ('pretrained', 'mean_teacher'):
                pairs = _paired(study, task, variant, to)
                if variant not in ('pretrained', to) and pairs:
                    lines.append([_title(task), TITLES[variant], TITLES[to], *_shares(study, task, pairs, names)])
    return table(['', 'of', 'against', *(NAMES.get(n, n) for n in names), 'in training'], lines)


def _shares(study: Study, task: str, pairs: Sequence[tuple[Result, Result]], names: Sequence[str]) -> list[str]:
    sign = study.references[task]['better']
    told = (TRAINED, *telling(study.references[task]))
    shares = {n: statistics.mean(share_above(a, b, n, sign[n]) for a, b in pairs) for n in names if n in told}
    wins = [w for a, _ in pairs if (w := last_signal(a, 'student_wins')) is not None]
    cells = [f'{100 * shares[n]:.0f}' if n in shares else '' for n in names]
    return [*cells, f'{100 * statistics.mean(wins):.0f}' if wins else '']


def share_above(result: Result, other: Result, name: str, sign: int) -> float:
    """Share of the real test photographs with a better score than in another result; a tie counts half."""
    gains = [sign * (a - b) for a, b in zip(result['real'][name], other['real'][name])]
    return statistics.mean((g > 0) + 0.5 * (g == 0) for g in gains)


def last_signal(result: Result, name: str, lines: int = 4) -> float | None:
    """Mean of a signal over the last lines of the log that have it."""
    values = [s[name] for s in result['signals'] if name in s][-lines:]
    return statistics.mean(values) if values else None


# ---- the knob ------------------------------------------------------------------------------------------------------


def knob_table(study: Study) -> str:
    """Rank correlation of the requested score with each given one: of the mean over photographs, and photo by photo."""
    names = list(dict.fromkeys(j for t in study.tasks for j in (TRAINED, *study.references[t]['held_out'])))
    lines = []
    for (task, variant), sweeps in study.sweeps.items():
        for guidance in sweeps[0]['scores']:
            cells = [_knob_cell(sweeps, guidance, n) for n in names]
            moved = statistics.mean(v for s in sweeps for v in s['moved'][guidance])
            ends = _psnr_of_ends(sweeps) if float(guidance) == 1 else ''
            lines.append([_title(task), TITLES[variant], guidance, *cells, f'{moved:.2f}', ends, str(len(sweeps))])
    head = ['', '', 'guidance', *(NAMES.get(n, n) for n in names), 'moved', 'PSNR', 'seeds']
    return table(head, lines)


def _knob_cell(sweeps: Sequence[Result], guidance: str, name: str) -> str:
    if name not in sweeps[0]['scores'][guidance][0]:
        return ''
    both = [knob_correlation(s, guidance, name) for s in sweeps]
    pooled, single = (statistics.mean(v) for v in zip(*both))
    return f'{pooled:.2f} ({single:.2f})'


def _psnr_of_ends(sweeps: Sequence[Result]) -> str:
    """Mean PSNR of the test pairs at the lowest and at the highest level."""
    low, high = (statistics.mean(statistics.mean(s['psnr'][end]) for s in sweeps) for end in (0, -1))
    return f'{low:.2f} → {high:.2f}'


def knob_correlation(sweep: Result, guidance: str, name: str) -> tuple[float, float]:
    """Spearman correlation of requested level and score, higher better: of means over photos, and photo by photo."""
    sign = sweep['better'][name]
    rows = [[sign * v for v in level[name]] for level in sweep['scores'][guidance]]
    pooled = spearman(sweep['levels'], [statistics.mean(row) for row in rows])
    return pooled, statistics.mean(spearman(sweep['levels'], photo) for photo in zip(*rows))


# ---- what is claimed -----------------------------------------------------------------------------------------------


def verdict_table(study: Study) -> str:
    """For each task: on how many telling judges QualiTeacher is better, what PSNR does, and whether the knob works."""
    lines = []
    for task in study.tasks:
        for variant in (v for v in MAIN if (task, v) in study.runs):
            rest = [_against(study, task, variant, to) for to in ('mean_teacher', 'colabator')]
            lines.append([_title(task), TITLES[variant], *rest, *_knob_verdict(study, task, variant)])
    head = ['', '', 'against the mean teacher', 'against Colabator', 'knob, trained on', 'knob, held out']
    return table(head, lines)


def _against(study: Study, task: str, variant: str, to: str) -> str:
    pairs, reference = _paired(study, task, variant, to), study.references[task]
    if not pairs:
        return ''
    judges = telling(reference)
    better = [j for j in judges if reference['better'][j] * statistics.mean(_gains(pairs, ('real', j))) > 0]
    worse = [NAMES.get(j, j) for j in judges if j not in better]
    but = f' (not {", ".join(worse)})' if worse else ''
    trained = statistics.mean(_gains(pairs, ('real', TRAINED)))
    psnr = statistics.mean(_gains(pairs, ('pairs', 'psnr')))
    text = f'better on {len(better)} of {len(judges)} held-out scores{but}'
    return f'{text}; trained on {trained:+.3f}; PSNR {psnr:+.2f} dB'


def _knob_verdict(study: Study, task: str, variant: str) -> list[str]:
    sweeps = study.sweeps.get((task, variant))
    if not sweeps:
        return ['', '']
    judges = telling(study.references[task])
    rho = {j: statistics.mean(knob_correlation(s, '1', j)[0] for s in sweeps) for j in (TRAINED, *judges)}
    reached = [NAMES.get(j, j) for j in judges if rho[j] >= LEVEL]
    text = f'at least {LEVEL} by {", ".join(reached)}' if reached else f'below {LEVEL} by all {len(judges)}'
    return [f'{rho[TRAINED]:.2f}', text]


# ---- what it rests on ----------------------------------------------------------------------------------------------


def photos_table(study: Study) -> str:
    """How many photographs each part of a task has."""
    lines = []
    for task in study.tasks:
        lists = study.references[task]['lists']
        kinds = TASKS[task]
        cells = [str(len(lists[p])) for p in ('adapt', 'real', 'pairs', 'left_out')]
        lines.append([_title(task), f'{kinds.real}, {kinds.degraded}', *cells])
    return table(['', 'from', 'adapted to', 'real, tested on', 'pairs, tested on', 'doubles left out'], lines)


def runs_table(study: Study) -> str:
    """Length and time of the trainings of each variant."""
    lines = []
    for variant in VARIANTS:
        runs = [r for (_, v), found in study.runs.items() if v == variant for r in found]
        if runs and runs[0]['iterations']:
            minutes = [r['minutes'] for r in runs]
            lengths = ', '.join(str(i) for i in sorted({r['iterations'] for r in runs}))
            codes = ', '.join(sorted({r['code'][:6] for r in runs}))
            lines.append([TITLES[variant], str(len(runs)), lengths, f'{statistics.mean(minutes):.1f}', codes])
    return table(['', 'runs', 'iterations', 'minutes each', 'code'], lines)


def _title(task: str) -> str:
    return {'low_light': 'low light', 'underwater': 'under water'}.get(task, task)


def _number(value: float, name: str) -> str:
    return f'{value:.{DIGITS.get(name, 2)}f}'


def _spread(values: Sequence[float], name: str) -> str:
    text = _number(statistics.mean(values), name)
    return f'{text} ± {_number(statistics.stdev(values), name)}' if len(values) > 1 else text
