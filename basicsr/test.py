"""Tests a network by an option file: ``python basicsr/test.py -opt options/test/sample.yml``.

Every ``datasets.test*`` block is restored and scored. Images and ``<set>.json`` (scores of every image, protocol) go to
``results/<name>/``.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == '__main__' and not __package__:  # run as a script: import from the checkout, not from basicsr/ itself
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse

from basicsr.cli import add_option_arguments, explained, run_command
from basicsr.errors import OptionError


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line of BasicSR's test.py, and ``--import`` and ``--explain``."""
    parser = argparse.ArgumentParser(description='Test a network by an option file.')
    add_option_arguments(parser)
    parser.add_argument('-o', '--output', default='results', help='folder of the results (default: results)')
    return parser.parse_args(arguments)


def test(args: argparse.Namespace) -> int:
    """Checks the options, restores and scores every test set. Returns the exit code."""
    import json

    from basicsr import checkpoint, start
    from basicsr.archs import build_network
    from basicsr.data import build_dataset
    from basicsr.files import write_text
    from basicsr.logger import get_root_logger
    from basicsr.options import find_file, load
    from basicsr.validation import Validator

    options = load(args.opt, args.force_yml, args.plugins)
    sets = options.of_phase('test')
    if not sets or options.path.pretrain_network_g is None:
        raise OptionError(f'{args.opt}: a test needs at least one block datasets.test and path.pretrain_network_g.')
    accelerator = start.make_accelerator(options)
    folder = Path(args.output) / options.top.name
    logger = get_root_logger(rank=accelerator.process_index)
    path = options.path
    net = build_network(options.networks['g']).to(accelerator.device)
    logger.info(checkpoint.load_network(net, find_file(path.pretrain_network_g), path.strict_load_g, path.param_key_g))
    for block in sets:
        dataset = build_dataset(block, options.top.scale)
        validator = Validator(dataset, block, options.val.metrics, folder, accelerator.device)
        result = validator.run(net, 0, options.val.save_img)
        record = {**result.record(), 'options': options.resolved}
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / f'{block.name}.json', json.dumps(record, indent=1))
        logger.info(f'{result.line()} ({result.protocol})')
    return 0


test.__test__ = False  # type: ignore[attr-defined]  # pytest takes it for a test wherever it is imported


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    args = parse_arguments(arguments)
    return run_command(lambda: 0 if explained(args) else test(args))


if __name__ == '__main__':
    sys.exit(main())
