"""How real made weather looks, as a number and as a picture.

``render`` degrades clean photographs, ``score`` trains a small classifier to tell them from real ones, ``sheet`` puts
both side by side, and ``table`` writes the scores into docs/realism.md, where all is explained.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == '__main__' and not __package__:  # run as a script: import from the checkout
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
import datetime
import json
import os
import shlex
import statistics
import tempfile
from typing import TYPE_CHECKING, Any

from basicsr.cli import run_command
from basicsr.errors import DataError, OptionError

if TYPE_CHECKING:
    from basicsr.tools.realism_folders import Rendering
    from basicsr.tools.realism_score import Photographs

ROOT = Path(__file__).resolve().parents[1]
RESULTS, PAGE = ROOT / 'docs/results/realism.json', ROOT / 'docs/realism.md'
BEGIN, END = '<!-- realism: begin -->', '<!-- realism: end -->'
TASKS = ('haze', 'rain', 'snow', 'low_light', 'underwater')
TEXTURE = ('rain', 'snow')  # tasks whose weather is in the fine detail; that of the others is in the colours
COMPARED = ('synthetic', 'clean', 'real')  # each against the real photographs; real ones are halved


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description='How real the degradations look; see docs/realism.md.')
    commands = parser.add_subparsers(dest='command', required=True)
    render = commands.add_parser('render', help='degrade clean photographs into a folder')
    _add_rendering(render)
    render.add_argument('--like', nargs='+', type=Path, metavar='DIR', help='reduce to the sizes of these')
    render.add_argument('--out', required=True, type=Path, metavar='DIR', help='new folder, or of an older render')
    score = commands.add_parser('score', help='train classifiers that tell degraded photographs from real ones')
    _add_rendering(score)
    score.add_argument('--real', required=True, nargs='+', type=Path, metavar='DIR', help='real ones in bad weather')
    score.add_argument('--synthetic', type=Path, metavar='DIR', help='degraded photographs; default: rendered for this')
    score.add_argument('--seeds', type=int, default=3, metavar='N', help='divisions into photographs (default: 3)')
    score.add_argument('--views', nargs='+', metavar='VIEW', help='photo, texture, colour (default: those of the task)')
    score.add_argument('--paired', action='store_true', help='real and clean photographs of one name show one scene')
    score.add_argument('--no-controls', action='store_true', help='leave out clean against real and real against real')
    score.add_argument('--label', help="store the result under this name, such as 'before' or 'after'")
    score.add_argument('--of', default='', metavar='TEXT', help='what the real photographs are, for the table')
    score.add_argument('--results', type=Path, default=RESULTS, metavar='FILE', help='where results are stored')
    sheet = commands.add_parser('sheet', help='rows of degraded and of real photographs, as one picture')
    sheet.add_argument('--synthetic', required=True, type=Path, metavar='DIR', help='degraded photographs')
    sheet.add_argument('--real', nargs='+', type=Path, metavar='DIR', help='real ones; may be left out')
    sheet.add_argument('--out', required=True, type=Path, metavar='FILE', help='picture to write (.jpg)')
    sheet.add_argument('--columns', type=int, default=5, metavar='N', help='photographs in a row (default: 5)')
    sheet.add_argument('--rows', type=int, default=2, metavar='N', help='rows of each kind (default: 2)')
    sheet.add_argument('--seed', type=int, default=0, metavar='N', help='of the choice of photographs (default: 0)')
    table = commands.add_parser('table', help='write the stored results into docs/realism.md')
    table.add_argument('--results', type=Path, default=RESULTS, metavar='FILE')
    table.add_argument('--page', type=Path, default=PAGE, metavar='FILE')
    return parser.parse_args(arguments)


def _add_rendering(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--task', required=True, choices=TASKS, help='which degradation')
    parser.add_argument(
        '--clean', nargs='+', type=Path, metavar='DIR', default=[ROOT / 'datasets/sample'],
        help='clean photographs (default: datasets/sample)',
    )  # fmt: skip
    parser.add_argument(
        '--degradations',
        type=Path,
        metavar='FILE',
        help='YAML list of blocks (default: that of the task)',
    )
    parser.add_argument('--checkout', type=Path, default=ROOT, metavar='DIR', help='whose degradations (default: this)')
    parser.add_argument('--seed', type=int, default=0, metavar='N', help='of the degradations (default: 0)')
    parser.add_argument('--variants', type=int, default=2, metavar='N', help='copies of a photograph (default: 2)')


def rendering(args: argparse.Namespace, like: list[Path] | None) -> Rendering:
    """What the arguments ask to render."""
    from basicsr.tools.realism_folders import Rendering

    given = (args.task, args.clean, like, args.degradations, args.checkout, args.seed, args.variants)
    return Rendering(*given)


def run_render(args: argparse.Namespace) -> int:
    """Degrades clean photographs. Returns the exit code."""
    from basicsr.tools.realism_folders import render

    about = render(rendering(args, args.like), args.out)
    print(f'{len(about["photographs"])} photographs in {args.out}')
    return 0


def run_score(args: argparse.Namespace) -> int:
    """Trains the classifiers, prints the figures and stores them. Returns the exit code."""
    import cv2
    import torch

    from basicsr.tools.realism_folders import load_synthetic, manifest, merged, render

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    views = _checked_views(args)
    like = None if args.paired else args.real  # photographs of one scene are of one size
    sets, scene_of = _given_sets(args, like)
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.synthetic or Path(temporary)
        about = manifest(folder) if args.synthetic else render(rendering(args, like), folder)
        sets['synthetic'] = merged(load_synthetic(folder), scene_of)
    _check_sets(sets, args.paired)
    compared = COMPARED[:1] if args.no_controls else COMPARED
    figures: dict[str, Any] = {}
    for view in views:
        figures[view] = {other: _figures(sets, other, view, args) for other in compared}
        if set(sets['synthetic']) == set(sets['clean']):
            figures[view]['recognised'] = _recognised(sets, view, args.seeds)
        print(f'{args.task}, {view}: {_summary(figures[view])}', flush=True)
    if args.label:
        _store(args, about, {kind: len(photos) for kind, photos in sets.items()}, figures)
    return 0


def _given_sets(args: argparse.Namespace, like: list[Path] | None) -> tuple[dict[str, Photographs], dict[str, str]]:
    """Real and clean photographs, copies of one scene together, and the scene of each clean one."""
    from basicsr.tools.realism_folders import load, merged, scenes

    clean, real = load(args.clean, like), load(args.real)
    scene_of = scenes(clean)
    sets = {'real': merged(real, scene_of if args.paired else scenes(real)), 'clean': merged(clean, scene_of)}
    _check_sets(sets, args.paired)
    return sets, scene_of


def _checked_views(args: argparse.Namespace) -> list[str]:
    from basicsr.tools.realism_score import VIEWS

    views = args.views or ['photo', 'texture' if args.task in TEXTURE else 'colour']
    if not set(views) <= set(VIEWS):
        raise OptionError(f'--views is {" ".join(views)}; it must list some of {", ".join(VIEWS)}.')
    if args.seeds < 1:
        raise OptionError(f'--seeds is {args.seeds}; it must be at least 1.')
    return views


def _check_sets(sets: dict[str, Photographs], paired: bool) -> None:
    least = 4  # two halves of two, so that one of each can be held out
    for kind, photos in sets.items():
        if len(photos) < least:
            raise DataError(f'There are {len(photos)} {kind} photographs; at least {least} are needed.')
    if paired:
        odd = sorted(set.union(*map(set, sets.values())) - set.intersection(*map(set, sets.values())))
        if odd:
            raise DataError(f"--paired needs photographs of the same names; '{odd[0]}' is not in all sets.")


def _figures(sets: dict[str, Photographs], other: str, view: str, args: argparse.Namespace) -> dict[str, list[float]]:
    """Accuracy and AUC of each seed, of one set against the real photographs."""
    from basicsr.tools.realism_score import Effort, halves, tell_apart

    found = []
    for seed in range(args.seeds):
        pair = halves(sets['real'], seed) if other == 'real' else (sets[other], sets['real'])
        found.append(tell_apart(*pair, view, seed, Effort(), args.paired and other != 'real'))
    accuracy, area = zip(*found)
    return {'accuracy': [round(a, 4) for a in accuracy], 'auc': [round(a, 4) for a in area]}


def _recognised(sets: dict[str, Photographs], view: str, seeds: int) -> dict[str, list[float]]:
    """AUC of each seed of a classifier that learned from degraded photographs: on real ones, and on its own kind."""
    from basicsr.tools.realism_score import Effort, recognise

    kinds = [sets[kind] for kind in ('clean', 'synthetic', 'real')]
    real, own = zip(*(recognise(*kinds, view, seed, Effort()) for seed in range(seeds)))
    return {'real': [round(a, 4) for a in real], 'synthetic': [round(a, 4) for a in own]}


def _summary(figures: dict[str, dict[str, list[float]]]) -> str:
    """The means of all figures in a line."""
    mean = statistics.mean
    told = [
        f'{kind} {100 * mean(f["accuracy"]):.1f} % (AUC {mean(f["auc"]):.3f})'
        for kind, f in figures.items()
        if kind in COMPARED
    ]
    text = f'told from real: {", ".join(told)}'
    found = figures.get('recognised')
    if found:
        text += f'; learned from synthetic, AUC on real {mean(found["real"]):.3f}'
        text += f', on synthetic {mean(found["synthetic"]):.3f}'
    return text


def _store(args: argparse.Namespace, about: dict[str, Any], counts: dict[str, int], figures: dict[str, Any]) -> None:
    """Adds a result to the file, in place of an older one of the same label, task and photographs."""
    from basicsr.files import write_text

    record = {
        'label': args.label,
        'task': args.task,
        'of': args.of,
        'paired': args.paired,
        'photographs': counts,
        'seeds': list(range(args.seeds)),
        'views': figures,
        'degradations': about.get('degradations', []),
        'version': about.get('version', 'unknown'),
        'date': datetime.date.today().isoformat(),
        'command': _command(),
    }
    same = ('label', 'task', 'of')
    kept = [r for r in _read(args.results) if any(r[key] != record[key] for key in same)]
    args.results.parent.mkdir(parents=True, exist_ok=True)
    write_text(args.results, json.dumps([*kept, record], indent=1, ensure_ascii=False) + '\n')


def _command() -> str:
    """The command line, with QUALIR_DATA for the folder that it names."""
    words = shlex.join(['python', 'tools/realism.py', *sys.argv[1:]])
    data = os.environ.get('QUALIR_DATA')
    return words.replace(data, '$QUALIR_DATA') if data else words


def _read(results: Path) -> list[dict[str, Any]]:
    if not results.is_file():
        return []
    try:
        return json.loads(results.read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise DataError(f"'{results}' cannot be read: {error}") from error


def run_sheet(args: argparse.Namespace) -> int:
    """Writes a sheet. Returns the exit code."""
    from basicsr.files import write_atomically
    from basicsr.tools.realism_page import encoded, sheet

    data = encoded(sheet(args.synthetic, args.real, args.columns, args.rows, args.seed))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(args.out, lambda file: file.write(data))
    return 0


def run_table(args: argparse.Namespace) -> int:
    """Writes the table into the page. Returns the exit code."""
    from basicsr.files import write_text
    from basicsr.tools.realism_page import table

    page = args.page.read_text(encoding='utf-8') if args.page.is_file() else ''
    if BEGIN not in page or END not in page:
        raise OptionError(f"'{args.page}' has no lines {BEGIN} and {END}.")
    head, _, rest = page.partition(BEGIN)
    write_text(args.page, f'{head}{BEGIN}\n{table(_read(args.results))}\n{END}{rest.partition(END)[2]}')
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    args = parse_arguments(arguments)
    commands = {'render': run_render, 'score': run_score, 'sheet': run_sheet, 'table': run_table}
    return run_command(lambda: commands[args.command](args))


if __name__ == '__main__':
    sys.exit(main())
