"""Seeds, folders and names, as BasicSR's plug-ins import them."""

from __future__ import annotations

import logging
import os
import platform
import random
import time
from collections.abc import Iterator
from pathlib import Path

from basicsr.files import archive


def get_root_logger(logger_name: str = 'basicsr') -> logging.Logger:
    """Returns the logger that the whole toolbox writes to; handlers belong to the command that runs."""
    return logging.getLogger(logger_name)


def set_random_seed(seed: int) -> None:
    """Seeds Python, numpy and PyTorch (the CPU and every accelerator)."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def get_time_str() -> str:
    """Returns the local time as ``20260131_235959``."""
    return time.strftime('%Y%m%d_%H%M%S')


def mkdir_and_rename(path: str | Path) -> None:
    """Makes a new, empty folder; one that stands in its place is first renamed to ``<path>_archived_<time>``."""
    path = Path(path)
    if path.exists():
        get_root_logger().warning('Folder %s exists already; renamed it to %s.', path, archive(path))
    path.mkdir(parents=True)


def scandir(
    dir_path: str | Path,
    suffix: str | tuple[str, ...] | None = None,
    recursive: bool = False,
    full_path: bool = False,
) -> Iterator[str]:
    """Yields the files of a folder in sorted order, leaving out names that begin with a dot.

    Args:
        dir_path: The folder.
        suffix: Only names with this ending, or one of these endings.
        recursive: Also the folders inside it.
        full_path: Paths that include ``dir_path``, instead of paths inside it.
    """
    for folder, folders, files in os.walk(dir_path, onerror=_raise):
        folders[:] = sorted(f for f in folders if recursive and not f.startswith('.'))
        for name in sorted(files):
            if not name.startswith('.') and (suffix is None or name.endswith(suffix)):
                path = os.path.join(folder, name)
                yield path if full_path else os.path.relpath(path, dir_path)


def sizeof_fmt(size: float, suffix: str = 'B') -> str:
    """Writes a number of bytes for people: ``1536`` as ``1.5 KB``, in steps of 1024."""
    for unit in ('', 'K', 'M', 'G', 'T', 'P', 'E', 'Z'):
        if abs(size) < 1024:
            return f'{size:3.1f} {unit}{suffix}'
        size /= 1024
    return f'{size:3.1f} Y{suffix}'


def _raise(error: OSError) -> None:
    raise error


def processor_name() -> str:
    """The processor's name, as far as the system tells."""
    cpu_info = Path('/proc/cpuinfo')
    lines = cpu_info.read_text(encoding='utf-8').splitlines() if cpu_info.is_file() else []
    names = (line.partition(':')[2].strip() for line in lines if line.startswith('model name'))
    return next(names, '') or platform.processor() or platform.machine()
