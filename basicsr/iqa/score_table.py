"""The table and the statistics of a scored data set, as files."""

from __future__ import annotations

import copy
import csv
import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from basicsr import __version__
from basicsr.errors import DataError
from basicsr.files import write_text
from basicsr.iqa.ensemble_scorer import Ensemble
from basicsr.iqa.score_journal import Row
from basicsr.iqa.scorer import Scorer
from basicsr.iqa.scores import NAME_COLUMN, PERCENTILES, SCORE_COLUMN, Stats

DIGITS = 6  # significant, in the CSV


class ScoreTable:
    """All rows, the scores that follow from them, and the statistics.

    Args:
        scorer: What scored.
        own: How to normalise over these very rows, or None.
        rows: In the order of the CSV.
        root: The data, for messages.

    Raises:
        DataError: Not one image could be scored.
    """

    def __init__(self, scorer: Scorer, own: dict[str, Any] | None, rows: list[Row], root: str) -> None:
        self.members = list(scorer.members())
        self.bad = {row.name: row.reason for row in rows if row.reason}
        self.names = [row.name for row in rows if not row.reason]
        if not self.names:
            first = next(iter(self.bad.values()))
            raise DataError(f"None of the {len(rows)} images in '{root}' can be scored; the first: {first}")
        self.raw = np.array([row.raw for row in rows if not row.reason], dtype=np.float64)
        versions = {name: member.version for name, member in scorer.members().items()}
        self.stats: Stats = {
            name: {**statistics(self.raw[:, i]), 'version': versions[name]} for i, name in enumerate(self.members)
        }
        if own is not None and isinstance(scorer, Ensemble):
            scorer = copy.copy(scorer)  # a process may score with it again
            scorer.limits = {}
            scorer.normalize_over(self.stats, **own, source=root)
        columns = {name: torch.from_numpy(self.raw[:, i]) for i, name in enumerate(self.members)}
        self.score = scorer.combine(columns).numpy()

    def write(self, out: Path, stats: Path, plan: dict[str, Any], command: str) -> None:
        """Writes the statistics, and then the CSV, which says that all is done."""
        content = {
            'created_by': f'qualir {__version__} tools/score_dataset.py',
            'command': command,
            'count': len(self.names),
            'names': digest_of(self.names),
            'members': self.stats,
            'score': statistics(self.score),
            'unreadable': self.bad,
            'plan': plan,
        }
        stats.parent.mkdir(parents=True, exist_ok=True)
        write_text(stats, json.dumps(content, indent=1, ensure_ascii=False) + '\n')
        write_text(out, self.text())

    def text(self) -> str:
        """The CSV."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator='\n')
        writer.writerow([NAME_COLUMN, *(name for name in self.members if name != SCORE_COLUMN), SCORE_COLUMN])
        for name, raw, score in zip(self.names, self.raw, self.score):
            writer.writerow([name, *(f'{value:.{DIGITS}g}' for value in (*raw, score))])
        return file.getvalue()


def statistics(values: np.ndarray) -> dict[str, Any]:
    """Minimum, maximum, mean, percentiles and number of values (N,)."""
    percentiles = np.percentile(values, PERCENTILES).tolist()
    return {
        'min': float(values.min()),
        'max': float(values.max()),
        'mean': float(values.mean()),
        'percentiles': {f'{percent:g}': value for percent, value in zip(PERCENTILES, percentiles)},
        'count': len(values),
    }


def digest_of(lines: Sequence[str]) -> str:
    """Sixteen hex digits of a list of names."""
    return hashlib.sha256('\n'.join(lines).encode('utf-8', 'surrogateescape')).hexdigest()[:16]
