"""What runs of the studies have in common: where they stand, their training, and what is told of them."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from basicsr import checkpoint
from basicsr.errors import OptionError, TrainingError
from basicsr.files import archive, write_text
from basicsr.history import FILE_NAME, History
from basicsr.utils.misc import processor_name
from basicsr.yaml_io import dump_yaml
from benchmarks.qualiteacher_runs import iteration_of, rounded_to

ROOT = Path(__file__).resolve().parents[1]
SIGNALS = 30  # log lines of a training that are kept


@dataclass(frozen=True)
class StudyRun:
    """One run of a study.

    Attributes:
        variant: What is trained, and how.
        seed: Of the network and of its training.
        work: Folder of all runs.
        iterations: Length of the training; None as the base file says.
    """

    variant: str
    seed: int
    work: Path
    iterations: int | None = None

    @property
    def name(self) -> str:
        """Name of its folder, and of its result."""
        return f'{self.variant}_seed{self.seed}'

    @property
    def folder(self) -> Path:
        """Where it trains."""
        return self.work / 'runs' / self.name

    @property
    def weights(self) -> Path:
        """The weight file of its network, once it is trained."""
        return self.folder / 'models/net_g_latest.pth'


def run_training(run: StudyRun, document: dict[str, Any]) -> None:
    """Trains a run to its end; what was interrupted goes on, with other options it begins anew.

    Args:
        run: The run.
        document: Its whole option file, in plain containers.

    Raises:
        TrainingError: The training failed.
    """
    file, text = run.work / 'options' / f'{run.name}.yml', dump_yaml(document)
    same = file.is_file() and file.read_text(encoding='utf-8') == text
    if same and iteration_of(run.weights) == document['train']['total_iter']:
        return
    if not same and run.folder.exists():
        archive(run.folder)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, text)
    command = [sys.executable, str(ROOT / 'basicsr/train.py'), '-opt', str(file), '--auto_resume']
    if subprocess.run(command, cwd=ROOT).returncode:
        raise TrainingError(f"The training '{run.name}' failed or was interrupted; its messages are above.")


def facts_of_run(run: StudyRun, options: dict[str, Any]) -> dict[str, Any]:
    """What is told of a run beside its measurements: options, length, signals and the validations on the way."""
    records = History.read(run.folder / FILE_NAME)
    logged = [r for r in records if r['kind'] == 'train']
    return {
        'variant': run.variant, 'seed': run.seed, 'iterations': iteration_of(run.weights),
        'weights': checkpoint.sha256(run.weights)[:12], 'options': json.loads(json.dumps(options)),
        'curve': [[r['iter'], rounded_to(r['metrics']['psnr'])] for r in records if r['kind'] == 'val'],
        'signals': [_short(r) for r in logged[:: max(1, len(logged) // SIGNALS)]],
    }  # fmt: skip


def photos_folder(args: argparse.Namespace) -> Path:
    """The folder of clean photographs that a study's command line names.

    Raises:
        OptionError: It names none.
    """
    if args.photos is None:
        raise OptionError('Name the folder of clean photographs by --photos, or by the variable QUALIR_PHOTOS.')
    return args.photos


def data_folder(args: argparse.Namespace) -> Path:
    """The folder of real photographs that a study's command line names.

    Raises:
        OptionError: It names none.
    """
    if args.data is None:
        raise OptionError('Name the folder of real photographs by --data, or by the variable QUALIR_DATA.')
    return args.data


def machine() -> dict[str, Any]:
    """What a result says of where it was made."""
    return {'machine': {'processor': processor_name(), 'torch': str(torch.__version__)}}


def _short(record: dict[str, Any]) -> dict[str, Any]:
    told = {**record['losses'], **record.get('signals', {})}
    return {'iter': record['iter'], **{k: rounded_to(v) for k, v in told.items() if not isinstance(v, list)}}
