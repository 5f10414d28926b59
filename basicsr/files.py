"""Files that are either whole or not there."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

from basicsr.errors import OptionError

TEMPORARY = '.*.tmp'  # what a killed run may leave behind; see remove_leftovers


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Writes a file so that, whatever happens, ``path`` is either the old file or the whole new one.

    Args:
        path: The file; its folder must exist.
        write: Is given the open binary file.

    Raises:
        OSError: The disk is full, or the folder cannot be written to. Whatever ``write`` raises is passed on. Nothing
            half-written stays in either case.
    """
    temporary = path.with_name(f'.{path.name}.{platform.node()}.{os.getpid()}.tmp')  # nodes may share folder and pids
    try:
        with temporary.open('wb') as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a UTF-8 text file atomically."""
    write_atomically(path, lambda file: file.write(text.encode('utf-8')))


def archive(folder: Path) -> Path:
    """Renames a folder to ``<folder>_archived_<time>``, a name that is not taken, and returns the new path."""
    wanted = folder.with_name(f'{folder.name}_archived_{time.strftime("%Y%m%d_%H%M%S")}')
    target, number = wanted, 0
    while target.exists():
        number += 1
        target = wanted.with_name(f'{wanted.name}_{number}')
    return folder.rename(target)


def remove_leftovers(folder: Path) -> None:
    """Deletes the temporary files that a killed process left in a folder or below it."""
    for file in folder.rglob(TEMPORARY):
        file.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Makes the rename itself durable; not every system can open a folder."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def state_of(file: Path) -> str:
    """Size and time of a file in a few characters, to tell whether it has changed since.

    Raises:
        OSError: There is no such file.
    """
    found = file.stat()
    return f'{found.st_size} {found.st_mtime_ns}'


def lock_folder(folder: Path, doing: str, what: str) -> FileLock:
    """Claims a folder for this process until it ends, however it ends. The lock lies beside it.

    Args:
        folder: The folder, which need not exist.
        doing: What another process is doing there if it holds the lock, such as ``run is training in``.
        what: What could not be kept if the lock cannot be made, such as ``The run``.

    Raises:
        OptionError: Another process holds it, or the disk does not allow writing.
    """
    lock = FileLock(folder.parent / f'.{folder.name}.lock')
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise OptionError(
            f'Another {doing} {folder} at this moment. Wait for it, or give this one another name.'
        ) from error
    except OSError as error:
        raise OptionError(f'{what} cannot be kept in {folder}: {error.strerror}.') from error
    return lock
