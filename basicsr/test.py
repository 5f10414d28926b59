"""Tests a network by an option file: ``python basicsr/test.py -opt options/test/quickstart.yml``.

Every ``datasets.test*`` block is restored and scored. Images, ``<set>.csv`` (scores of every image) and ``<set>.json``
(means, protocol, checkpoint, versions) go to ``results/<name>/``; older results are kept under another name.
Starts in one process, or in several by ``torchrun --nproc_per_node N basicsr/test.py ...``.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == '__main__' and not __package__:  # run as a script: import from the checkout, not from basicsr/ itself
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from basicsr.cli import add_option_arguments, explained, run_command
from basicsr.errors import CheckpointError, OptionError

if TYPE_CHECKING:
    from basicsr.sections import Options
    from basicsr.validation import Validator, ValResult


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line of BasicSR's test.py, and ``--import``, ``--explain`` and ``--output``."""
    parser = argparse.ArgumentParser(description='Test a network by an option file.')
    add_option_arguments(parser)
    parser.add_argument('-o', '--output', default='results', help='folder of the results (default: results)')
    parser.add_argument(
        '--launcher', choices=['none', 'pytorch'], default='none', help='pytorch: insist on being started by torchrun'
    )
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def test(args: argparse.Namespace) -> int:
    """Checks the options, restores and scores every test set. Returns the exit code."""
    from basicsr import results, start
    from basicsr.logger import get_root_logger
    from basicsr.options import load

    options = load(args.opt, args.force_yml, args.plugins)
    _check_sets(options, args.opt)
    accelerator = start.make_accelerator(options, args.launcher)
    net, loaded, sha256 = _load_network(options)
    net.to(accelerator.device)
    folder = results.ResultFolder(Path(args.output) / options.top.name)
    validators = _validators(options, folder.root, accelerator)
    for validator in validators:
        validator.check(net)
    # All input but the images has been seen by now; only here are older results moved.
    with ExitStack() as held:
        archived: list[Path | None] = []
        start.on_main(accelerator, lambda: archived.append(held.enter_context(folder.claimed())))
        logger = get_root_logger(folder.root / f'test_{options.top.name}.log', rank=accelerator.process_index)
        if any(archived):
            logger.info(f'Older results of this name were kept as {archived[0]}.')
        logger.info(f'{loaded}; SHA-256 {sha256}')
        facts = results.facts_of_test(options, loaded, sha256, accelerator.device, accelerator.num_processes)
        scored = []
        for validator in validators:
            scored.append(_run(validator, net, accelerator.is_main_process))
            logger.info(scored[-1].line('Test of'))
            logger.info(f'Scored by {scored[-1].evaluation}')
            if accelerator.is_main_process:
                folder.write(scored[-1], facts)
        if accelerator.is_main_process:
            results.show(scored)
    start.leave(accelerator)
    return 0


def _check_sets(options: Options, file: str) -> None:
    """Makes sure that there is something to test, and that no two sets would share their result files."""
    sets = options.of_phase('test')
    if not sets or options.path.pretrain_network_g is None:
        raise OptionError(f'{file}: a test needs at least one block datasets.test and path.pretrain_network_g.')
    names = [block.name for block in sets]
    for block in sets:
        if names.count(block.name) > 1:
            raise OptionError(
                f"{file}: 'datasets.{block.key}' and another set are both called {block.name}; "
                'their results would overwrite each other. Give each a name of its own.'
            )


def _load_network(options: Options) -> tuple[Any, Any, str]:
    """The network with its weights, what was loaded, and the SHA-256 of the weight file.

    Raises:
        CheckpointError: The file cannot be used, or was replaced (by a training that goes on) while it was read.
    """
    from basicsr import checkpoint
    from basicsr.archs import build_network
    from basicsr.files import state_of
    from basicsr.options import find_file

    path, file = options.path, find_file(options.path.pretrain_network_g)
    net = build_network(options.networks['g'])
    before = state_of(file) if file.is_file() else None
    loaded = checkpoint.load_weights(net, file, path.strict_load_g, path.param_key_g)
    sha256 = checkpoint.sha256(file)
    if state_of(file) != before:
        raise CheckpointError(f'Checkpoint {file} was replaced while it was read. Start the test again.')
    return net, loaded, sha256


def _validators(options: Options, folder: Path, accelerator: Any) -> list[Validator]:
    from accelerate.utils import gather_object

    from basicsr.data import build_dataset
    from basicsr.validation import Validator

    return [
        Validator(
            build_dataset(block, options.top.scale), block, options.val, folder, accelerator.device,
            accelerator.process_index, accelerator.num_processes, gather_object,
        )
        for block in options.of_phase('test')
    ]  # fmt: skip


def _run(validator: Validator, net: Any, is_main: bool) -> ValResult:
    """Restores and scores one set, under a live bar on a terminal."""
    from basicsr.progress import TrainingProgress

    val = validator.val
    with TrainingProgress(len(validator.loader), enabled=is_main and val.pbar) as bar:
        bar.phase(f'testing {validator.options.name}')
        return validator.run(
            net, 0, val.save_img, progress=lambda done, _: bar.update(done), suffix=val.suffix or ''
        )  # fmt: skip


test.__test__ = False  # type: ignore[attr-defined]  # pytest takes it for a test wherever it is imported


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    args = parse_arguments(arguments)
    return run_command(lambda: 0 if explained(args) else test(args))


if __name__ == '__main__':
    sys.exit(main())
