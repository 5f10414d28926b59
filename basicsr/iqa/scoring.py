"""Scores all images of a folder or an LMDB, so that the same files come out however often the work is interrupted.

The images, in natural order of their names, are cut into chunks. A chunk is the unit of work: within it images of one
size share a batch, so the numbers do not depend on how many processes work, on which of them, or on where an earlier
command stopped.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

from basicsr.errors import DataError, OptionError, QualIRError
from basicsr.image_io import natural_key, to_tensor
from basicsr.image_source import ImageSource, open_source
from basicsr.iqa.ensemble_scorer import raw_scores
from basicsr.iqa.loading import scorer_block
from basicsr.iqa.score_journal import Row, ScoreJournal, difference, partial_folder
from basicsr.iqa.score_table import ScoreTable, digest_of
from basicsr.iqa.scorer import Scorer, build_scorer
from basicsr.iqa.scores import NAME_COLUMN, SCORE_COLUMN
from basicsr.lmdb_workers import default_workers, progress_bar, run_in_order
from basicsr.registry import import_plugins

VERSION = 1
BATCHES_IN_CHUNK = 4
WORTH_WORKERS = 64  # images from which starting processes pays


@dataclass(frozen=True)
class Scored:
    """What :func:`score_dataset` did.

    Attributes:
        out: The CSV.
        stats: The statistics.
        count: Images that were scored.
        resumed: How many of them, and of the bad ones, an earlier command had done.
        bad: Why an image could not be scored, by its name.
        finished_before: The files were there already, of the same images and scorer.
    """

    out: Path
    stats: Path
    count: int
    resumed: int
    bad: dict[str, str]
    finished_before: bool = False


class Task(NamedTuple):
    """A chunk, as it is sent to a process."""

    block: str  # of the scorer, as JSON
    imports: tuple[str, ...]
    root: str
    files: str  # digest of the files at the root
    device: str
    batch: int
    threads: int  # that decode ahead; 0 decodes as images are wanted
    number: int = 0
    names: Sequence[str] = ()


def score_dataset(
    root: str | Path,
    scorer: str | Path | dict[str, Any],
    out: str | Path,
    stats: str | Path | None = None,
    *,
    device: str = 'auto',
    batch: int = 4,
    workers: int | None = None,
    overwrite: bool = False,
    imports: Sequence[str] = (),
    command: str = '',
    show_progress: bool = False,
) -> Scored | None:
    """Scores a data set; killed at any moment, the same call goes on and ends with the same CSV, byte for byte.

    Args:
        root: A folder of images, an LMDB or another root that :func:`~basicsr.image_source.open_source` knows.
        scorer: As for :func:`~basicsr.iqa.load_scorer`; ``minmax`` without ``stats`` is over this data set.
        out: The CSV.
        stats: The statistics; None takes the name of the CSV with the ending ``.json``.
        device: ``cpu``, ``cuda``, ``cuda:1``, ..., or ``auto``.
        batch: Images of one size that are scored together, at most.
        workers: Processes on the CPU, of one thread each; threads that decode for a GPU; None chooses.
        overwrite: Replaces files that are there, and begins anew what was begun.
        imports: Plug-ins to import first, here and in every process.
        command: The command line, for the statistics.
        show_progress: Draws a bar if the error stream is a terminal.

    Returns:
        What was done; None on all processes of a launch but the first.

    Raises:
        OptionError: The options are wrong, or other scores are at ``out``.
        MissingWeightsError: Weights of a scorer are not on this machine.
        DataError: There are no images, none can be scored, or the work was begun with others.
    """
    out, stats = Path(out), Path(out).with_suffix('.json') if stats is None else Path(stats)
    _check_options(out, stats, batch, workers)
    import_plugins(list(imports))
    block = scorer_block(scorer)
    launch = _Launch(device)
    source = open_source(root)
    names = sorted(source.stems, key=natural_key)
    to_build, own_stats = _raw_block(block)
    work = Task(json.dumps(to_build), tuple(imports), str(root), '', launch.device, batch, launch.threads(workers))
    built = _scorer(work.block, work.imports, work.device)
    plan = _plan(block, built, source, names, work)
    if _is_finished(out, stats, plan, overwrite):
        return Scored(out, stats, 0, 0, {}, finished_before=True) if launch.rank == 0 else None
    tasks = _tasks(work._replace(files=plan['files']), names)
    with _opened(out, plan, launch, overwrite) as journal:
        resumed = sum(map(len, journal.done.values()))
        rows = _fill(journal, tasks, workers, launch, show_progress)
        if launch.rank:
            return None
        table = ScoreTable(built, own_stats, rows, str(root))
        table.write(out, stats, plan, command)
        journal.close(remove=True)
    return Scored(out, stats, len(table.names), resumed, table.bad)


def _check_options(out: Path, stats: Path, batch: int, workers: int | None) -> None:
    if batch < 1 or (workers is not None and workers < 0):
        raise OptionError('--batch must be at least 1 and --num_worker at least 0.')
    if out == stats:
        raise OptionError(f"The CSV and the statistics cannot both be '{out}'.")


class _Launch:
    """The processes of ``torchrun``, or this one alone, and the device that each computes on.

    Args:
        device: ``auto``, or what torch calls it.

    Raises:
        OptionError: There is no such device.
    """

    def __init__(self, device: str) -> None:
        self.rank, self.size = int(os.environ.get('RANK', 0)), int(os.environ.get('WORLD_SIZE', 1))
        gpu = torch.cuda.is_available()
        self.device = ('cuda' if gpu else 'cpu') if device == 'auto' else device
        try:
            kind = torch.device(self.device)
        except RuntimeError:
            raise OptionError(f'--device {device}: write cpu, cuda, cuda:1, ..., or auto.') from None
        if kind.type == 'cuda' and not gpu:
            raise OptionError(f'--device {device}: torch sees no GPU here.')
        self._state = None
        if self.size > 1:
            from accelerate import PartialState

            self._state = PartialState(cpu=kind.type == 'cpu')
            if kind.type == 'cuda':
                self.device = str(self._state.device)

    def threads(self, workers: int | None) -> int:
        """Threads that decode for a GPU; 0 on the CPU."""
        return 0 if self.device == 'cpu' else max(1, default_workers() if workers is None else workers)

    def wait(self) -> None:
        """Waits until all processes are here."""
        if self._state is not None:
            self._state.wait_for_everyone()


def _raw_block(block: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The block that gives raw scores, and how they are to be normalised over the data set itself, if they are."""
    if block.get('type') != 'Ensemble' or block.get('normalize', 'fixed') == 'fixed' or block.get('stats') is not None:
        return block, None
    own = {'normalize': block['normalize'], **({'clip': tuple(block['clip'])} if 'clip' in block else {})}
    return {key: value for key, value in block.items() if key not in ('normalize', 'clip')}, own


@lru_cache(maxsize=2)
def _scorer(block: str, imports: tuple[str, ...], device: str) -> Scorer:
    import_plugins(list(imports))
    return build_scorer(json.loads(block)).eval().to(device)


@lru_cache(maxsize=2)
def _source(root: str, files: str) -> ImageSource:
    return open_source(root)


def _tasks(work: Task, names: list[str]) -> list[Task]:
    """The chunks of the list of images."""
    size = work.batch * BATCHES_IN_CHUNK
    starts = range(0, len(names), size)
    return [work._replace(number=i, names=names[at : at + size]) for i, at in enumerate(starts)]


def _check_members(scorer: Scorer) -> None:
    for name, member in scorer.members().items():
        if name in (NAME_COLUMN, SCORE_COLUMN):
            raise OptionError(f"A scorer cannot be called '{name}': the CSV has a column of that name.")
        if member.needs_degraded:
            raise OptionError(f"'{name}' compares with degraded images; a data set has none to compare with.")


def _plan(block: dict[str, Any], scorer: Scorer, source: ImageSource, names: list[str], work: Task) -> dict[str, Any]:
    """All that the scores depend on, as JSON holds it."""
    _check_members(scorer)
    odd = next((name for name in names if any('\ud800' <= letter <= '\udfff' for letter in name)), None)
    if odd is not None:
        raise DataError(f'{odd!r} is not a name in UTF-8, which a table needs; rename it.')
    plan = {
        'version': VERSION,
        'scorer': block,
        'members': {name: member.version for name, member in scorer.members().items()},
        'images': len(names),
        'names': digest_of(names),
        'files': digest_of(source.fingerprint()),
        'batch': work.batch,
        'device': torch.device(work.device).type,
    }
    return json.loads(json.dumps(plan))


def _is_finished(out: Path, stats: Path, plan: dict[str, Any], overwrite: bool) -> bool:
    """Whether the CSV of this very plan is there.

    Raises:
        OptionError: Something else is there and may not be replaced.
    """
    if overwrite or not out.exists():
        if stats.exists() and not overwrite and not partial_folder(out).is_dir():
            raise OptionError(f"'{stats}' is there already, without '{out}'; add --overwrite to replace it.")
        return False
    try:
        before = json.loads(stats.read_text(encoding='utf-8'))['plan']
    except (OSError, ValueError, KeyError, TypeError):
        before = None
    if before == plan:
        shutil.rmtree(partial_folder(out), ignore_errors=True)  # of a command killed in its last moment
        return True
    other = f'of something else ({difference(before, plan)})' if isinstance(before, dict) else 'of an unknown origin'
    raise OptionError(f"'{out}' is there already, {other}; add --overwrite to replace it, or choose another name.")


def _make_room(out: Path, overwrite: bool) -> None:
    if overwrite:
        shutil.rmtree(partial_folder(out), ignore_errors=True)
    out.parent.mkdir(parents=True, exist_ok=True)


@contextmanager
def _opened(out: Path, plan: dict[str, Any], launch: _Launch, overwrite: bool) -> Iterator[ScoreJournal]:
    """The journal of this process; that of the first is there before the others' are opened."""
    if launch.rank == 0:
        _make_room(out, overwrite)
    journal = ScoreJournal(out, plan, 0) if launch.rank == 0 else None
    launch.wait()
    journal = journal or ScoreJournal(out, plan, launch.rank)
    launch.wait()
    try:
        yield journal
    except OSError as error:
        reason = error.strerror or error
        raise QualIRError(f"'{out}' cannot be written: {reason}. The same command goes on from here later.") from error
    finally:
        journal.close()


def _fill(
    journal: ScoreJournal, tasks: list[Task], workers: int | None, launch: _Launch, show_progress: bool
) -> list[Row]:
    """Scores the chunks of this process that are not scored yet; gives the first process the rows of all, in order."""
    own = tasks[launch.rank :: launch.size]
    left = [task for task in own if task.number not in journal.done]
    total, images = (sum(len(task.names) for task in some) for some in (own, left))
    on_gpu = launch.device != 'cpu'
    if workers is None:
        workers = default_workers() if images >= WORTH_WORKERS and launch.size == 1 else 1
    processes = 1 if on_gpu else min(workers, len(left))
    with progress_bar('images', total, show_progress and launch.rank == 0) as advance, _one_thread(not on_gpu):
        advance(total - images)
        for number, rows in run_in_order(_score_chunk, left, processes):
            journal.add(number, rows)
            advance(len(rows))
    launch.wait()
    if launch.rank:
        return []
    journal.read_all()
    return [row for task in tasks for row in journal.done[task.number]]


@contextmanager
def _one_thread(wanted: bool) -> Iterator[None]:
    """One thread of torch: sums come out the same on any number of cores."""
    before = torch.get_num_threads()
    if wanted:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _score_chunk(task: Task) -> tuple[int, list[Row]]:
    """Scores the images of a chunk; may run in a process of its own."""
    with _one_thread(task.device == 'cpu'), torch.no_grad(), _Reader(task) as reader:
        scorer = _scorer(task.block, task.imports, task.device)
        rows: dict[str, Row] = dict(reader.bad)
        for names in reader.by_size.values():
            for i in range(0, len(names), task.batch):
                found = _score_batch(scorer, reader, names[i : i + task.batch])
                rows.update((row.name, row) for row in found)
    return task.number, [rows[name] for name in task.names]


class _Reader:
    """The images of a chunk, decoded ahead by threads if the task says so.

    Args:
        task: The chunk.

    Attributes:
        by_size: Names of images by height and width, as their headers declare them.
        bad: Rows of those whose header cannot be read.
    """

    def __init__(self, task: Task) -> None:
        self.device, self.source = task.device, _source(task.root, task.files)
        self.by_size: dict[tuple[int, int], list[str]] = {}
        self.bad: dict[str, Row] = {}
        for name in task.names:
            try:
                info = self.source.info(name)
                self.by_size.setdefault((info.height, info.width), []).append(name)
            except DataError as error:
                self.bad[name] = Row(name, [], str(error))
        self._pool = ThreadPoolExecutor(task.threads) if task.threads else None
        ahead = [name for names in self.by_size.values() for name in names] if self._pool else []
        self._ahead = {name: self._pool.submit(self.source.pixels, name) for name in ahead if self._pool}

    def __enter__(self) -> _Reader:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def image(self, name: str) -> torch.Tensor:
        """An image (3,H,W) in [0,1].

        Raises:
            DataError: It cannot be read.
        """
        pixels = self._ahead[name].result() if name in self._ahead else self.source.pixels(name)
        return to_tensor(pixels)


def _score_batch(scorer: Scorer, reader: _Reader, names: list[str]) -> list[Row]:
    images, rows = {}, []
    for name in names:
        try:
            images[name] = reader.image(name)
        except DataError as error:
            rows.append(Row(name, [], str(error)))
    try:
        return rows + _scored(scorer, images, reader.device)
    except DataError as error:
        if len(images) == 1:
            return [*rows, *(Row(name, [], f"'{reader.source.path(name)}': {error}") for name in images)]
    return rows + [row for name in images for row in _score_batch(scorer, reader, [name])]


def _scored(scorer: Scorer, images: dict[str, torch.Tensor], device: str) -> list[Row]:
    if not images:
        return []
    raw = raw_scores(scorer, torch.stack(list(images.values())).to(device))
    columns = {name: values.double().cpu().tolist() for name, values in raw.items()}
    rows = []
    for i, image in enumerate(images):
        values = {name: column[i] for name, column in columns.items()}
        wrong = next((name for name, value in values.items() if not math.isfinite(value)), None)
        reason = f"'{image}': {wrong} gives {values[wrong]}." if wrong else ''
        rows.append(Row(image, [] if wrong else list(values.values()), reason))
    return rows
