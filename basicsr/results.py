"""Result files of a test: ``results/<name>/<set>.csv``, one row an image, and ``<set>.json``, what the scores rest on.

Both are written whole or not at all. JSON has no NaN and no infinity: they are written as the strings ``"NaN"``,
``"Infinity"`` and ``"-Infinity"``, which ``float()`` reads.
"""

from __future__ import annotations

import csv
import hashlib
import importlib.metadata
import io
import json
import math
import platform
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch

import basicsr
from basicsr.checkpoint import Loaded
from basicsr.errors import OptionError
from basicsr.evaluation import check_alike, difference
from basicsr.files import archive, lock_folder, write_text
from basicsr.sections import Options
from basicsr.utils.misc import processor_name
from basicsr.validation import ValResult, mean_scores

if TYPE_CHECKING:
    from rich.console import Console

FORMAT = 1
INPUT = 'input_'  # begins the columns of the degraded input's scores
WIDTH = 200  # characters of a table that goes to a file
GIT_SECONDS = 20  # after which a checkout is taken to have no git


@dataclass(frozen=True)
class ResultFolder:
    """Where the results of one test lie, as in BasicSR: ``results/<name>/``.

    Attributes:
        root: The folder.
    """

    root: Path

    @contextmanager
    def claimed(self) -> Iterator[Path | None]:
        """Keeps older results under a new name, makes the folder, and lets no other test into it meanwhile.

        Yields:
            Where the older results now lie, if there were any.

        Raises:
            OptionError: Another test writes there, or the disk does not allow writing.
        """
        lock = lock_folder(self.root, 'test is writing into', 'The results')
        try:
            yield self._prepare()
        finally:
            lock.release()

    def _prepare(self) -> Path | None:
        try:
            archived = archive(self.root) if self.root.exists() and any(self.root.iterdir()) else None
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OptionError(f'The results cannot be kept in {self.root}: {error.strerror}.') from error
        return archived

    def write(self, result: ValResult, facts: dict[str, Any]) -> None:
        """Writes both files of a set.

        Args:
            result: Its scores.
            facts: What :func:`facts_of_test` gave.
        """
        for file, text in (('csv', table_text(result)), ('json', record_text(result, facts))):
            path = self.root / f'{result.dataset}.{file}'
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, text)


def table_text(result: ValResult) -> str:
    """The images as CSV: key, task, scores of output and input, height and width of the output, seconds."""
    scores = list(dict.fromkeys(k for i in result.images for k in i.metrics))
    before = list(dict.fromkeys(k for i in result.images for k in i.input_metrics))
    text = io.StringIO()
    rows = csv.writer(text, lineterminator='\n')
    timed = ['seconds'] if any(i.seconds is not None for i in result.images) else []
    rows.writerow(['key', 'task', *scores, *(f'{INPUT}{k}' for k in before), 'height', 'width', *timed])
    for i in result.images:
        values = [*(i.metrics.get(k, '') for k in scores), *(i.input_metrics.get(k, '') for k in before)]
        seconds = [] if i.seconds is None else [f'{i.seconds:.4f}']
        rows.writerow([i.key, i.task, *values, i.height, i.width, *seconds])
    return text.getvalue()


def record_text(result: ValResult, facts: dict[str, Any]) -> str:
    """The set as JSON: mean scores, the protocol, which images, and the facts of the test."""
    record = {
        'format': FORMAT,
        'dataset': result.dataset,
        'images': len(result.images),
        'keys_sha256': digest_of_keys(i.key for i in result.images),
        **result.summary(),
        'higher_better': result.higher_better,
        'protocol': str(result.evaluation),
        'protocol_digest': result.evaluation.protocol.digest,
        'protocol_parts': result.evaluation.parts(),
        'seconds': round(result.seconds, 3),
        'network_seconds': round(sum(i.seconds or 0.0 for i in result.images), 3),
        **facts,
    }
    return json.dumps(_plain(record), indent=1, allow_nan=False) + '\n'


def digest_of_keys(keys: Iterable[str]) -> str:
    """SHA-256 of the sorted names of images: equal for the same images, in whatever order."""
    return hashlib.sha256('\n'.join(sorted(keys)).encode('utf-8')).hexdigest()


def facts_of_test(options: Options, loaded: Loaded, sha256: str, device: torch.device, processes: int) -> dict:
    """What the scores of a test rest on, beside its data and protocol, in plain containers.

    Args:
        options: The checked options.
        loaded: What was loaded into the network.
        sha256: Of the weight file.
        device: Where the network runs.
        processes: How many processes share the images.
    """
    return {
        'network': options.networks['g'],
        'checkpoint': {**asdict(loaded), 'sha256': sha256},
        **facts_of_machine(device, processes),
        'options': options.resolved,
    }


def facts_of_machine(device: torch.device, processes: int) -> dict[str, Any]:
    """Versions, commit, machine and time, in plain containers.

    Args:
        device: Where the work is done.
        processes: How many processes share it.
    """
    return {
        'versions': {
            'qualir': basicsr.__version__, 'torch': str(torch.__version__), 'python': platform.python_version(),
            'cv2': cv2.__version__, 'numpy': np.__version__, **_version_of('pyiqa'),
        },
        'git': git_state(Path(basicsr.__file__).resolve().parents[1]),
        'machine': {
            'device': torch.cuda.get_device_name(device) if device.type == 'cuda' else processor_name(),
            'type': device.type, 'processes': processes, 'threads': torch.get_num_threads(),
        },
        'time': time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime()),
    }  # fmt: skip


def _version_of(package: str) -> dict[str, str]:
    """The version of a package that metrics may come from, if it has been used."""
    if package not in sys.modules:
        return {}
    try:
        return {package: importlib.metadata.version(package)}
    except importlib.metadata.PackageNotFoundError:
        return {}


def git_state(root: Path) -> dict[str, Any] | None:
    """Commit of a checkout, and whether its files differ from it; None where there is no git or no checkout."""
    top = _git(root, 'rev-parse', '--show-toplevel')
    if not top or Path(top).resolve() != root.resolve():  # a folder that merely lies inside another checkout
        return None
    commit, changes = (
        _git(root, 'rev-parse', '--verify', 'HEAD'),
        _git(root, 'status', '--porcelain', '--untracked-files=no'),
    )
    return {'commit': commit, 'changed': bool(changes)} if commit and changes is not None else None


def _git(root: Path, *words: str) -> str | None:
    try:
        command = ['git', '-C', str(root), *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=GIT_SECONDS, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def mean_of_sets(results: Sequence[ValResult]) -> dict[str, dict[str, float]]:
    """Means over sets, each of which counts once however many images it has, as papers average their columns.

    Returns:
        ``metrics`` and ``input_metrics``; of each, what every set has.

    Raises:
        OptionError: The sets were not scored in the same way, or two have the same name.
    """
    names = [r.dataset for r in results]
    twice = next((n for n in names if names.count(n) > 1), None)
    if twice is not None:
        raise OptionError(f'No average is taken: two sets are called {twice}.')
    check_alike({r.dataset: r.evaluation for r in results})
    summaries, means = [r.summary() for r in results], {}
    for kind in ('metrics', 'input_metrics'):
        found = [s[kind] for s in summaries]
        shared = [k for k in (found[0] if found else {}) if all(k in f for f in found)]
        means[kind] = mean_scores([{k: f[k] for k in shared} for f in found])
    return means


def show(results: list[ValResult], average: bool = True) -> None:
    """Prints a table, a row for each set and task and one for their average, and under it the protocols.

    Args:
        results: The sets.
        average: Whether an average of several sets has a meaning; sets that were scored in unlike ways have none.
    """
    from rich.table import Table
    from rich.text import Text

    metrics = list(dict.fromkeys(k for r in results for k in r.metrics))
    timed = any(i.seconds is not None for r in results for i in r.images)
    table = Table()
    for title in ('set', 'task'):
        table.add_column(title, overflow='fold')
    for title in ('images', *metrics, *(['s/image'] if timed else [])):
        table.add_column(title, justify='right', overflow='fold')
    for result in results:
        for row in _rows(result, metrics, timed):
            table.add_row(*map(Text, row))  # not as markup: a name may hold brackets
    if average and _can_be_averaged(results):
        table.add_section()
        table.add_row(*map(Text, _average_row(results, metrics)))
    console = open_console()
    console.print(table)
    for line in _caption(results, average):
        console.print(Text(line), soft_wrap=True)


def open_console() -> Console:
    """Where tables are printed: as wide as the terminal; wide enough for many columns where there is none."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else WIDTH)


def _caption(results: list[ValResult], average: bool) -> list[str]:
    """The protocols, and what must be said of the sets."""
    unlike = difference({r.dataset: r.evaluation for r in results}) if average else ''
    doubts = {r.dataset: r.evaluation.protocol.doubt(len(r.images)) for r in results}
    return [
        *dict.fromkeys(str(r.evaluation) for r in results),
        *(f'{name}: {doubt}' for name, doubt in doubts.items() if doubt),
        *([f'No average: {unlike}.'] if unlike else []),
    ]


def _can_be_averaged(results: list[ValResult]) -> bool:
    return len(results) > 1 and not difference({r.dataset: r.evaluation for r in results})


def _average_row(results: list[ValResult], metrics: list[str]) -> list[str]:
    means = mean_of_sets(results)
    scores = [_arrow(means['input_metrics'].get(k), means['metrics'].get(k)) for k in metrics]
    return ['average of the sets', '', str(sum(len(r.images) for r in results)), *scores]


def _rows(result: ValResult, metrics: list[str], timed: bool) -> Iterator[list[str]]:
    """A row for each task, and one for all images where there are several tasks."""
    tasks = sorted({i.task for i in result.images})
    groups = [(t, [i for i in result.images if i.task == t]) for t in tasks]
    for task, images in [*groups, *([('all', result.images)] if len(groups) != 1 else [])]:
        after, before = (mean_scores([getattr(i, k) for i in images]) for k in ('metrics', 'input_metrics'))
        seconds = sum(i.seconds or 0.0 for i in images) / max(len(images), 1)
        scores = [_arrow(before.get(k), after.get(k)) for k in metrics]
        yield [result.dataset, task, str(len(images)), *scores, *([f'{seconds:.3f}'] if timed else [])]


def _arrow(before: float | None, after: float | None) -> str:
    return ' -> '.join(f'{v:.4f}' for v in (before, after) if v is not None)


def _plain(value: Any) -> Any:
    """Plain JSON values; a float that JSON does not have becomes a string."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return 'NaN' if math.isnan(value) else 'Infinity' if value > 0 else '-Infinity'
    return str(value) if isinstance(value, Path) else value
