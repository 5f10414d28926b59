"""Trains a network by an option file: ``python basicsr/train.py -opt options/quickstart.yml``.

Starts in one process, or in several by ``torchrun --nproc_per_node N basicsr/train.py ...`` or ``accelerate launch``.
Exit codes: 0 done, 1 failed, 2 refused before any work, 128 + n ended by signal n after saving.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == '__main__' and not __package__:  # run as a script: import from the checkout, not from basicsr/ itself
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse

from basicsr.cli import add_option_arguments, explained, run_command

DEBUG = ('logger:print_freq=1', 'logger:save_checkpoint_freq=8', 'val:val_freq=8')


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line of BasicSR's train.py, and ``--import`` and ``--explain``."""
    parser = argparse.ArgumentParser(description='Train a network by an option file.')
    add_option_arguments(parser)
    parser.add_argument(
        '--auto_resume', action='store_true', help='go on from the newest state of the run, if there is one'
    )
    parser.add_argument(
        '--debug',
        action='store_true',
        help='log every iteration, validate and save every 8; debug_ is put before the name',
    )
    parser.add_argument(
        '--launcher', choices=['none', 'pytorch'], default='none', help='pytorch: insist on being started by torchrun'
    )
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def train(args: argparse.Namespace) -> int:
    """Checks the options, builds everything, trains. Returns the exit code."""
    from basicsr import start
    from basicsr.data import build_dataset
    from basicsr.models import build_model
    from basicsr.options import load
    from basicsr.rng import seed_everything
    from basicsr.trainer import Trainer

    overrides = [*(args.force_yml or []), *(DEBUG if args.debug else ())]
    options = load(args.opt, overrides, args.plugins)
    if args.debug:
        options.top.name = f'debug_{options.top.name}'
    start.require_training(options)
    accelerator = start.make_accelerator(options, args.launcher)
    seed_everything(options.top.manual_seed)  # the same weights on every rank, then a stream of its own for each
    model = build_model(options)
    seed_everything(options.top.manual_seed, accelerator.process_index)
    folder = start.run_folder(options)
    if not start.is_resuming(options, folder, args.auto_resume):
        start.load_pretrained(model, options)
    datasets = {o.key: build_dataset(o, options.top.scale) for o in options.datasets.values() if o.phase != 'test'}
    trainer = Trainer(options, model, datasets, accelerator, folder)
    # All input has been seen by now; only here does the run touch its folder.
    with start.open_run(options, accelerator, folder, args.auto_resume) as state:
        start.log_start(options, accelerator, model, datasets)
        if state is not None:
            trainer.resume(state)
        code = trainer.run()
    start.leave(accelerator)
    return code


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    args = parse_arguments(arguments)
    return run_command(lambda: 0 if explained(args) else train(args))


if __name__ == '__main__':
    sys.exit(main())
