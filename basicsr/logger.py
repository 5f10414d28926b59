"""Log lines and scalar curves: the console, the log file, TensorBoard and Weights & Biases."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from basicsr.errors import OptionError

if TYPE_CHECKING:
    from rich.console import Console

NAME = 'basicsr'
_FORMAT = '%(asctime)s %(levelname)s: %(message)s'
_WANDB_KEYS = ('project', 'resume_id', 'entity', 'name', 'mode')
_WANDB_ID_FILE = 'wandb_id.txt'


class _StderrHandler(logging.StreamHandler):
    """Plain lines to whatever ``sys.stderr`` is at that moment, so that a redirection is honoured."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        if self.stream is not None:  # pythonw and some services have none
            super().emit(record)


class _SilentHandler(logging.NullHandler):
    """Marks the logger of a rank that writes nothing."""


def get_root_logger(log_file: Path | None = None, level: int = logging.INFO, rank: int | None = None) -> logging.Logger:
    """The logger ``basicsr``, as in BasicSR; calling it again never doubles a line.

    The console gets lines through rich when the error stream is a terminal, plain lines otherwise.

    Args:
        log_file: Also written to, with timestamps; it takes the place of an earlier log file. None keeps what is set.
        level: Least level that is written.
        rank: Only rank 0 writes. None keeps what is set; at first it is ``RANK`` of the environment, or 0.

    Raises:
        OptionError: The log file cannot be written.
    """
    logger = logging.getLogger(NAME)
    logger.setLevel(level)
    logger.propagate = False
    silent = any(isinstance(h, _SilentHandler) for h in logger.handlers)
    set_up = silent or _has_console(logger)
    if rank is None:
        rank = int(silent) if set_up else int(os.environ.get('RANK', 0))
    if set_up and (rank != 0) != silent:
        _remove_handlers(logger, logger.handlers)
    if rank != 0:
        if not any(isinstance(h, _SilentHandler) for h in logger.handlers):
            logger.addHandler(_SilentHandler())
        return logger
    if not _has_console(logger):
        logger.addHandler(_console_handler())
    if log_file is not None:
        _set_log_file(logger, Path(log_file))
    return logger


def shared_console() -> Console:
    """The console that the logger writes to, or a new one on the error stream; a live bar must use the logger's."""
    from rich.console import Console

    consoles = (getattr(h, 'console', None) for h in logging.getLogger(NAME).handlers)
    return next((c for c in consoles if c is not None), None) or Console(stderr=True)


def _has_console(logger: logging.Logger) -> bool:
    """Whether the console is among the handlers; a program that embeds the toolbox may have added others."""
    return any(isinstance(h, _StderrHandler) or hasattr(h, 'console') for h in logger.handlers)


def _console_handler() -> logging.Handler:
    if sys.stderr is not None and sys.stderr.isatty():
        from rich.console import Console
        from rich.logging import RichHandler

        return RichHandler(console=Console(stderr=True), show_path=False, log_time_format='%H:%M:%S', markup=False)
    handler = _StderrHandler()
    handler.setFormatter(logging.Formatter(_FORMAT))
    return handler


def _set_log_file(logger: logging.Logger, path: Path) -> None:
    files = [h for h in logger.handlers if isinstance(h, logging.FileHandler)]
    if any(Path(h.baseFilename) == Path(os.path.abspath(path)) for h in files):
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(path, encoding='utf-8')
    except OSError as error:
        raise OptionError(f'The log file {path} cannot be written: {error.strerror}.') from error
    handler.setFormatter(logging.Formatter(_FORMAT))
    _remove_handlers(logger, files)
    logger.addHandler(handler)


def _remove_handlers(logger: logging.Logger, handlers: list[Any]) -> None:
    for handler in list(handlers):
        logger.removeHandler(handler)
        handler.close()


class ScalarWriters:
    """Sends scalars to TensorBoard and to Weights & Biases, whichever is asked for; neither is imported otherwise.

    Args:
        tb_dir: Folder of the TensorBoard events; None for none.
        wandb: Block ``logger.wandb`` as in BasicSR: ``project`` (null: off), and if wanted ``resume_id``, ``entity``,
            ``name`` and ``mode`` (``online`` or ``offline``); None for none.
        start_iter: Iteration resumed from. TensorBoard hides points after it that an earlier run left; W&B keeps the
            first value of every step.
        run_dir: Folder of the run, where W&B puts its files and the id by which a resumed run continues its curve.
        name: Name of the run in W&B.
        config: The run's options, shown by W&B.

    Raises:
        OptionError: A package is missing, or the block has a key that is not known.
    """

    def __init__(
        self,
        tb_dir: Path | None = None,
        wandb: Mapping[str, Any] | None = None,
        start_iter: int = 0,
        run_dir: Path | None = None,
        name: str | None = None,
        config: dict[str, Any] | None = None,
    ) -> None:
        self._tb = _open_tensorboard(Path(tb_dir), start_iter) if tb_dir is not None else None
        self._wandb = None
        if wandb is not None and _wandb_wanted(wandb):
            self._wandb = _open_wandb(wandb, start_iter, run_dir, name, config)

    def add(self, iteration: int, scalars: Mapping[str, float]) -> None:
        """Writes values, by names such as ``losses/l_pix``, at one iteration."""
        if self._tb is not None:
            for tag, value in scalars.items():
                self._tb.add_scalar(tag, float(value), iteration)
        if self._wandb is not None:
            self._wandb.log({k: float(v) for k, v in scalars.items()}, step=iteration)

    def close(self) -> None:
        """Writes what is still in memory and ends both; harmless when called twice."""
        if self._tb is not None:
            self._tb.close()
        if self._wandb is not None:
            self._wandb.finish()
        self._tb = self._wandb = None

    def __enter__(self) -> ScalarWriters:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _open_tensorboard(folder: Path, start_iter: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise OptionError('logger.use_tb_logger needs the package tensorboard: pip install tensorboard.') from error
    return SummaryWriter(log_dir=str(folder), purge_step=start_iter + 1 if start_iter else None)


def _wandb_wanted(block: Mapping[str, Any]) -> bool:
    unknown = [k for k in block if k not in _WANDB_KEYS]
    if unknown:
        raise OptionError(f"logger.wandb: unknown key '{unknown[0]}'; known are {', '.join(_WANDB_KEYS)}.")
    return block.get('project') is not None


def _open_wandb(block: Mapping[str, Any], start_iter: int, run_dir: Path | None, name: str | None, config: Any) -> Any:
    try:
        import wandb
    except ImportError as error:
        raise OptionError('logger.wandb needs the package wandb: pip install wandb.') from error
    id_file = Path(run_dir) / _WANDB_ID_FILE if run_dir is not None else None
    run_id = block.get('resume_id')
    if run_id is None and start_iter and id_file is not None and id_file.is_file():
        run_id = id_file.read_text(encoding='utf-8').strip()
    run = wandb.init(
        project=block['project'],
        entity=block.get('entity'),
        name=block.get('name') or name,
        mode=block.get('mode'),
        id=run_id,
        resume='allow' if run_id else None,
        dir=str(run_dir) if run_dir is not None else None,
        config=config,
    )
    if id_file is not None:
        id_file.write_text(f'{run.id}\n', encoding='utf-8')
    return run
