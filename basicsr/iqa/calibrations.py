"""The calibrations that ship: which raw scores of a scorer count as 0 and 1, and the data behind them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from basicsr.errors import DataError, OptionError
from basicsr.iqa.scorer import Calibration

FOLDER = Path(__file__).parent / 'calibration'


def calibration_of(scorer: str, low: float | None = None, high: float | None = None) -> Calibration:
    """The calibration of a scorer: the two numbers of an option file, or else those that ship.

    Args:
        scorer: Type of the scorer, such as ``NIQE``.
        low: Raw score that counts as 0, or None.
        high: Raw score that counts as 1, or None.

    Raises:
        OptionError: Only one of the two is given, or they are equal.
        DataError: The file of the calibration is missing or damaged.
    """
    if (low is None) != (high is None):
        raise OptionError(f'{scorer}: low and high go together; give both, or neither for the calibration that ships.')
    if low is not None and high is not None:
        return Calibration(low, high, 'options')
    found = read_calibration(FOLDER / f'{scorer.lower()}.json')
    return Calibration(found['low'], found['high'], found['source'])


def read_calibration(path: Path) -> dict[str, Any]:
    """The content of a calibration file: ``low``, ``high``, ``source`` and what was measured.

    Raises:
        DataError: The file is missing or damaged.
    """
    try:
        found = json.loads(path.read_text(encoding='utf-8'))
        return {**found, 'low': float(found['low']), 'high': float(found['high']), 'source': str(found['source'])}
    except OSError as error:
        raise DataError(f"The calibration '{path}' cannot be read: {error.strerror}. Give low and high.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"The calibration '{path}' is damaged: {error!r}.") from error
