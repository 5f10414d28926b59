"""Scores folders or LMDBs of restored images by a named protocol: ``evaluate.py -i OUT -gt CLEAN --protocol derain-y``.

Leaves a table of all images as CSV, what the numbers rest on as JSON, and ``report.html``, in ``-o FOLDER``; older
results there are kept under another name. ``--list`` prints the protocols with their sources.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == '__main__' and not __package__:  # run as a script: import from the checkout
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
import time
from typing import TYPE_CHECKING, Any

from basicsr.cli import run_command
from basicsr.errors import EXIT_FAILED, OptionError

if TYPE_CHECKING:
    import torch

    from basicsr.evaluation import Measurement
    from basicsr.protocols import Protocol
    from basicsr.tools.evaluate_folders import Folder, Problem
    from basicsr.validation import ValResult

ROWS = 30  # images that the terminal shows
FEW = 8  # images for which starting processes does not pay


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description='Score restored images by a named protocol.',
        epilog='Exit code 1: scores were written, but images could not be read, compared or matched.',
    )
    parser.add_argument('-i', '--input', nargs='+', metavar='PATH', help='restored images: folders or LMDBs')
    parser.add_argument('-gt', '--gt', nargs='+', metavar='PATH', help='clean images: one for all inputs, or one each')
    parser.add_argument('-lq', '--lq', nargs='+', metavar='PATH', help='degraded images, likewise')
    parser.add_argument('--protocol', metavar='NAME', help='a protocol (see --list), or a YAML file that holds one')
    parser.add_argument(
        '--metrics', metavar='NAMES', help="metrics of one's own: niqe,brisque or {psnr_y: {type: calculate_psnr, ...}}"
    )
    parser.add_argument('-o', '--output', default='results/evaluate', metavar='FOLDER', help='default: %(default)s')
    parser.add_argument('--suffix', default='', help='what follows the name in restored images: _out of 0001_out.png')
    parser.add_argument(
        '--gt_by_prefix', nargs='?', const='_', metavar='END',
        help='1400_1.png belongs to the clean 1400.png: the name up to END (default: _)',
    )  # fmt: skip
    parser.add_argument('--partial', action='store_true', help='names without a partner do not make the exit code 1')
    parser.add_argument(
        '--num_worker', type=int, metavar='N', help='processes (default: one for each core, at most 16)'
    )
    parser.add_argument('--device', default='auto', metavar='DEVICE', help='auto, cpu, cuda, cuda:1 (default: auto)')
    parser.add_argument('--rows', type=int, default=ROWS, help='images that the terminal shows (default: %(default)s)')
    parser.add_argument(
        '--import', dest='plugins', action='append', default=[], metavar='MODULE',
        help='module or .py file of yours to import first',
    )  # fmt: skip
    parser.add_argument('--list', action='store_true', help='print the protocols with their sources, and stop')
    return parser.parse_args(arguments)


def evaluate(args: argparse.Namespace) -> int:
    """Matches, scores, shows and writes. Returns the exit code."""
    from basicsr.evaluation import Measurement
    from basicsr.registry import import_plugins
    from basicsr.results import ResultFolder, show
    from basicsr.tools.evaluate_folders import score_first, unmatched_text

    import_plugins(args.plugins)
    if args.num_worker is not None and args.num_worker < 0:
        raise OptionError(f'--num_worker is {args.num_worker}; it must be 0 or more.')
    protocol = _protocol(args)
    measurement = Measurement(protocol)
    folders = _folders(args, measurement)
    device = _device(args.device)
    score_first(folders[0], measurement, device)
    results_at = ResultFolder(Path(args.output))
    _keep_inputs(results_at.root, folders)
    with results_at.claimed() as archived:
        if archived is not None:
            print(f'Older results were kept as {archived}.')
        scored = [_score(folder, measurement, device, args.num_worker) for folder in folders]
        results = [result for result, _ in scored]
        for folder, (result, problems) in zip(folders, scored):
            results_at.write(result, _facts(folder, problems, device, args))
        _write_page(results_at.root, folders, scored)
    for result in results:
        _show_images(result, args.rows)
    show(results, average=_are_several_sets(folders))
    problems = [f'{f.name}: {p.key}: {p.text}' for f, (_, found) in zip(folders, scored) for p in found]
    unmatched = [line for folder in folders for line in unmatched_text(folder)]
    _tell('could not be scored', problems)
    _tell('without a partner', unmatched, counted=False)
    print(f'Written to {results_at.root}: report.html, and a .csv and a .json file of each set.')
    return EXIT_FAILED if problems or (unmatched and not args.partial) else 0


def _protocol(args: argparse.Namespace) -> Protocol:
    from basicsr.protocols import Protocol, checked_metrics, named, protocol_file

    if args.input is None:
        raise OptionError('Give the restored images: -i FOLDER (or --list to read which protocols there are).')
    if args.protocol is None and args.metrics is None:
        raise OptionError('Say how to score: --protocol NAME (--list prints them), or --metrics NAMES.')
    protocol = Protocol('')
    if args.protocol is not None:
        is_file = Path(args.protocol).suffix in ('.yml', '.yaml')
        protocol = protocol_file(Path(args.protocol)) if is_file else named(args.protocol)
    return protocol.with_metrics(checked_metrics(_blocks(args.metrics), '--metrics'))


def _blocks(text: str | None) -> Any:
    """Metric blocks from ``niqe,brisque`` or from YAML."""
    from basicsr.yaml_io import parse_value

    if text is None or text.lstrip().startswith('{'):
        return {} if text is None else parse_value(text)
    names = [name.strip().removeprefix('calculate_') for name in text.split(',') if name.strip()]
    return {name: {'type': f'calculate_{name}'} for name in names}


def _folders(args: argparse.Namespace, measurement: Measurement) -> list[Folder]:
    """The sets, opened and matched.

    Raises:
        DataError: One cannot be opened, or a metric needs images that were not given.
        OptionError: The numbers of inputs, clean and degraded folders do not agree.
    """
    from basicsr.tools.evaluate_folders import Pairing, open_folder

    given = {'img2' for _ in args.gt or ()} | {'lq' for _ in args.lq or ()}
    measurement.check(given, 'This command (-gt, -lq)')
    sides = {'clean': _for_each(args.gt, '-gt', args.input), 'degraded': _for_each(args.lq, '-lq', args.input)}
    pairing = Pairing(args.suffix, args.gt_by_prefix)
    folders = []
    for index, (name, root) in enumerate(zip(_names(args.input), args.input)):
        others = {kind: roots[index] for kind, roots in sides.items() if roots}
        folders.append(open_folder(name, {'restored': root, **others}, pairing))
    return folders


def _for_each(roots: list[str] | None, option: str, inputs: list[str]) -> list[str]:
    if roots is None:
        return []
    if len(roots) not in (1, len(inputs)):
        raise OptionError(f'{option} names {len(roots)} folders for {len(inputs)} inputs; give one, or one for each.')
    return roots * len(inputs) if len(roots) == 1 else roots


def _names(inputs: list[str]) -> list[str]:
    """A short name for each set: its folder's, with the folder above where that is not enough."""
    paths = [Path(i).resolve() for i in inputs]
    names = [p.stem if p.suffix == '.lmdb' else p.name for p in paths]
    if len(set(names)) < len(names):
        names = [f'{p.parent.name}_{name}' for p, name in zip(paths, names)]
    return [n if names.count(n) == 1 else f'{n}_{i}' for i, n in enumerate(names, 1)]


def _device(name: str) -> torch.device:
    import torch

    if name == 'auto':
        return torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise OptionError(f'--device {name} cannot be used: {str(error).splitlines()[0]}') from error
    return device


def _keep_inputs(output: Path, folders: list[Folder]) -> None:
    """Older results at the output's place are moved away: no input may lie there."""
    place = output.resolve()
    for folder in folders:
        for source in folder.sources.values():
            root = Path(source.root).resolve()
            if root == place or place in root.parents:
                raise OptionError(f'The output {output} holds the input {source.root}; give another folder by -o.')


def _score(
    folder: Folder, measurement: Measurement, device: torch.device, workers: int | None
) -> tuple[ValResult, list[Problem]]:
    """Scores of a set, and the images that have none."""
    from basicsr.evaluation import Evaluation
    from basicsr.lmdb_workers import default_workers, progress_bar
    from basicsr.tools.evaluate_folders import Problem, score_folder
    from basicsr.validation import ValResult

    if workers is None:
        workers = 0 if len(folder.items) < FEW else default_workers()
    start = time.perf_counter()
    with progress_bar(f'scoring {folder.name}', len(folder.items), True) as done:
        found = list(score_folder(folder, measurement, device, workers, done))
    problems = [f for f in found if isinstance(f, Problem)]
    images = [f for f in found if not isinstance(f, Problem)]
    evaluation = Evaluation(measurement.protocol, 'images read from files', precision=None)
    seconds, higher = time.perf_counter() - start, measurement.higher_better
    return ValResult(folder.name, 0, seconds, images, evaluation, higher), problems


def _facts(folder: Folder, problems: list[Problem], device: torch.device, args: argparse.Namespace) -> dict[str, Any]:
    from basicsr.results import facts_of_machine

    return {
        'folders': folder.roots(),
        'matching': {'suffix': args.suffix, 'gt_by_prefix': args.gt_by_prefix},
        'not_scored': {p.key: p.text for p in problems},
        'unmatched': folder.unmatched,
        **facts_of_machine(device, 1),
    }


def _write_page(root: Path, folders: list[Folder], scored: list[tuple[ValResult, list[Problem]]]) -> None:
    from basicsr.files import write_text
    from basicsr.tools.evaluate_page import page

    write_text(root / 'report.html', page([(f, r, p) for f, (r, p) in zip(folders, scored)]))


def _are_several_sets(folders: list[Folder]) -> bool:
    """Whether the inputs are several test sets, and not several methods on one, whose average would mean nothing."""
    marks = [f.roots().get('clean') or f.roots().get('degraded') or tuple(i.key for i in f.items) for f in folders]
    return len(set(marks)) == len(marks) > 1


def _show_images(result: ValResult, rows: int) -> None:
    """Prints a row for each image, at most so many."""
    from rich.table import Table
    from rich.text import Text

    from basicsr.results import open_console

    if rows < 1 or not result.images:
        return
    metrics = list(result.higher_better)
    table = Table(title=Text(result.dataset), title_justify='left')
    table.add_column('image', overflow='fold')
    for metric in metrics:
        table.add_column(metric, justify='right', overflow='fold')
    for image in result.images[:rows]:
        pairs = [(image.input_metrics.get(m), image.metrics[m]) for m in metrics]
        cells = [' -> '.join(f'{v:.4f}' for v in pair if v is not None) for pair in pairs]
        table.add_row(*map(Text, [image.key, *cells]))
    open_console().print(table)
    if len(result.images) > rows:
        print(f'... and {len(result.images) - rows} more, in {result.dataset}.csv.')


def _tell(what: str, lines: list[str], counted: bool = True) -> None:
    if lines:
        print(f'{len(lines)} images {what}:' if counted else f'Images {what}:', file=sys.stderr)
        print('\n'.join(f'  {line}' for line in lines), file=sys.stderr)


def list_protocols() -> int:
    """Prints every protocol: what it computes, for which sets, its sources and what is disputed."""
    from basicsr.protocols import built_in

    for protocol in built_in().values():
        print(protocol)
        sets = ', '.join(f'{name} {count:,}' if count else name for name, count in protocol.test_sets.items())
        for title, lines in (('sets', [sets]), ('source', protocol.sources), ('note', protocol.notes)):
            print('\n'.join(f'  {title}: {line}' for line in lines if line))
        print()
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Runs the command. Returns the exit code."""
    args = parse_arguments(arguments)
    return run_command(lambda: list_protocols() if args.list else evaluate(args))


if __name__ == '__main__':
    sys.exit(main())
