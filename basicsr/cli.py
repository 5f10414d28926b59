"""What the commands share: their arguments, and how they end."""

from __future__ import annotations

import argparse
import multiprocessing
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from basicsr.errors import OptionError, QualIRError

INTERRUPTED = 130


def add_option_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of every command that reads an option file."""
    parser.add_argument('-opt', '--opt', metavar='FILE', help='option file (YAML)')
    parser.add_argument(
        '--force_yml', nargs='+', metavar='KEY:SUBKEY=VALUE', help='values that replace those of the file'
    )
    parser.add_argument(
        '--import',
        dest='plugins',
        action='append',
        default=[],
        metavar='MODULE',
        help='module or .py file of yours to import first',
    )
    parser.add_argument(
        '--explain', metavar='BLOCK', nargs='?', const='', help='print what a section, block or type accepts, and stop'
    )


def explained(args: argparse.Namespace) -> bool:
    """Answers ``--explain`` and returns True; otherwise makes sure that there is an option file.

    Raises:
        OptionError: Neither ``--explain`` nor ``-opt`` was given, or the topic is not known.
    """
    if args.explain is None and args.opt is None:
        raise OptionError('Give an option file: -opt options/quickstart.yml (or --explain to read what one may hold).')
    if args.explain is None:
        return False
    from basicsr.explain import explain
    from basicsr.registry import import_plugins

    import_plugins(args.plugins)
    print(explain(args.explain))
    return True


def run_command(work: Callable[[], int]) -> int:
    """Runs a command and turns what happens into an exit code; a user's mistake becomes its sentence, no traceback."""
    try:
        _refuse_foreign_copy()
        return work()
    except QualIRError as error:
        print(f'Error: {error}' if '\n' not in str(error) else f'Error:\n{error}', file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print('Interrupted.', file=sys.stderr)
        return INTERRUPTED
    except Exception:  # a mistake of ours, or of a plug-in: its traceback shall be seen, and the process end
        _end_children()
        raise


def _end_children() -> None:
    """Kills loader processes, which do not heed SIGTERM, by which Python would end them and wait.

    PyTorch has a handler that raises when one of them dies; it would strike while the traceback is being printed.
    """
    if hasattr(signal, 'SIGCHLD') and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for child in multiprocessing.active_children():
        child.kill()


def _refuse_foreign_copy() -> None:
    """PyPI's ``basicsr`` has the same import name; a mixture of the two must not start.

    Raises:
        OptionError: The imported package is not the one this file belongs to.
    """
    import basicsr

    here = Path(__file__).resolve().parent
    found = Path(basicsr.__file__ or '').resolve().parent
    if found != here:
        raise OptionError(f'Two packages are called basicsr: this command is in {here}, but Python imports {found}.')
