"""Processes that work for the making and checking of LMDBs, and the bar that shows how far they are."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

from basicsr.errors import QualIRError

Task, Result = TypeVar('Task'), TypeVar('Result')
WORTH_WORKERS = 1 << 26  # bytes of images from which starting processes pays
WAITING = 2  # tasks that are ready beyond one for each process; more would only fill the memory


def default_workers() -> int:
    """As many processes as this one may use cores, at most 16."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    return min(cores, 16)


def run_in_order(work: Callable[[Task], Result], tasks: Iterable[Task], workers: int) -> Iterator[Result]:
    """Results in the order of the tasks.

    Args:
        work: A function of a module, so that a process can find it.
        tasks: Small enough to be sent to a process.
        workers: Number of processes; below 2 the work is done in this one.

    Raises:
        QualIRError: A process was ended from outside.
    """
    if workers < 2:
        yield from map(work, tasks)
        return
    remaining = iter(tasks)
    with _pool(workers) as pool:
        waiting: deque[Future[Result]] = deque(pool.submit(work, task) for task in islice(remaining, workers + WAITING))
        try:
            while waiting:
                result = waiting.popleft().result()
                waiting.extend(pool.submit(work, task) for task in islice(remaining, 1))
                yield result
        except BrokenProcessPool:
            raise QualIRError(
                'A worker process ended unexpectedly, perhaps for want of memory. Run the same command again with '
                'fewer worker processes.'
            ) from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _pool(workers: int) -> ProcessPoolExecutor:
    """Processes that share nothing with this one: it may have threads, which a fork would leave in mid-work."""
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context('forkserver' if 'forkserver' in methods else 'spawn')
    if context.get_start_method() == 'forkserver':
        context.set_forkserver_preload(['basicsr.lmdb_make', 'basicsr.lmdb_check'])
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)


def _start_worker() -> None:
    """One thread each; Ctrl-C is the parent's business; and no worker outlives the parent."""
    import cv2

    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextmanager
def progress_bar(label: str, total: int, enabled: bool) -> Iterator[Callable[[int], None]]:
    """A bar on the error stream, if that is a terminal; gives what is to be called with the number just done."""
    if not enabled or sys.stderr is None or not sys.stderr.isatty():
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn('{task.description}'), MofNCompleteColumn(), BarColumn(bar_width=None))
    times = (TimeElapsedColumn(), TextColumn('left'), TimeRemainingColumn())
    with Progress(*columns, *times, console=Console(stderr=True), expand=True) as bar:
        task = bar.add_task(label, total=total)
        yield lambda count: bar.advance(task, count)
