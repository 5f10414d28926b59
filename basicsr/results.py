"""Result files of a test: ``results/<name>/<set>.csv``, one row an image, and ``<set>.json``, what the scores rest on.

Both are written whole or not at all. JSON has no NaN and no infinity: they are written as the strings ``"NaN"``,
``"Infinity"`` and ``"-Infinity"``, which ``float()`` reads.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import platform
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

import basicsr
from basicsr.checkpoint import Loaded
from basicsr.errors import OptionError
from basicsr.files import archive, lock_folder, write_text
from basicsr.sections import Options
from basicsr.utils.misc import processor_name
from basicsr.validation import ValResult, mean_scores

FORMAT = 1
INPUT = 'input_'  # begins the columns of the degraded input's scores
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
    rows.writerow(['key', 'task', *scores, *(f'{INPUT}{k}' for k in before), 'height', 'width', 'seconds'])
    for i in result.images:
        values = [*(i.metrics.get(k, '') for k in scores), *(i.input_metrics.get(k, '') for k in before)]
        rows.writerow([i.key, i.task, *values, i.height, i.width, f'{i.seconds:.4f}'])
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
        'protocol': str(result.protocol),
        'protocol_parts': result.protocol.parts(),
        'seconds': round(result.seconds, 3),
        'network_seconds': round(sum(i.seconds for i in result.images), 3),
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
        'versions': {
            'qualir': basicsr.__version__, 'torch': str(torch.__version__), 'python': platform.python_version(),
            'cv2': cv2.__version__, 'numpy': np.__version__,
        },
        'git': git_state(Path(basicsr.__file__).resolve().parents[1]),
        'machine': {
            'device': torch.cuda.get_device_name(device) if device.type == 'cuda' else processor_name(),
            'type': device.type, 'processes': processes, 'threads': torch.get_num_threads(),
        },
        'time': time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime()),
        'options': options.resolved,
    }  # fmt: skip


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


def show(results: list[ValResult]) -> None:
    """Prints a table, a row for each set and task, and under it the protocols."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    metrics = list(dict.fromkeys(k for r in results for k in r.metrics))
    protocols = '\n'.join(dict.fromkeys(str(r.protocol) for r in results))
    table = Table(caption=Text(protocols), caption_justify='left')
    for title in ('set', 'task'):
        table.add_column(title, overflow='fold')
    for title in ('images', *metrics, 's/image'):
        table.add_column(title, justify='right')
    for result in results:
        for row in _rows(result, metrics):
            table.add_row(*map(Text, row))  # not as markup: a name may hold brackets
    Console().print(table)


def _rows(result: ValResult, metrics: list[str]) -> Iterator[list[str]]:
    """A row for each task, and one for all images where there are several tasks."""
    tasks = sorted({i.task for i in result.images})
    groups = [(t, [i for i in result.images if i.task == t]) for t in tasks]
    for task, images in [*groups, *([('all', result.images)] if len(groups) != 1 else [])]:
        after, before = (mean_scores([getattr(i, k) for i in images]) for k in ('metrics', 'input_metrics'))
        seconds = sum(i.seconds for i in images) / max(len(images), 1)
        scores = [_arrow(before.get(k), after.get(k)) for k in metrics]
        yield [result.dataset, task, str(len(images)), *scores, f'{seconds:.3f}']


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
