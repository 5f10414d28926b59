"""The runs of the study of QualiTeacher: their option files, their training, and what is kept of each."""

from __future__ import annotations

import copy
import hashlib
import json
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from basicsr import checkpoint
from basicsr.errors import CheckpointError, TrainingError
from basicsr.files import archive, write_text
from basicsr.history import FILE_NAME, History
from basicsr.yaml_io import dump_yaml, read_document
from benchmarks.qualiteacher_data import TASKS, Photos
from benchmarks.qualiteacher_scores import TRAINED_ON
from benchmarks.quality_parts import rounded

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / 'docs/results/qualiteacher'
BASE = ROOT / 'options/_base/qualiteacher_study.yml'
HOST_OPTIONS = 'options/quickstart.yml'
HOST_ITERATIONS = 3000
START = 0.2  # part of the iterations after which preference and crop consistency begin: 2000 of 10000 in the release
LOG_LINES = 10  # of a training
METHOD_FILES = (  # a digest of these tells results of unlike code apart
    'models/*_model.py', 'models/banked_teacher.py', 'models/label_*.py', 'archs/quality_conditioned_arch.py',
    'archs/nafnet_arch.py', 'basicsr/conditioning.py', 'basicsr/views.py', 'losses/basic_loss.py',
    'losses/preference_loss.py', 'data/semi_dataset.py', 'data/single_image_dataset.py',
    'data/photometric_degradation.py',
)  # fmt: skip


def _train(**keys: Any) -> dict[str, Any]:
    return {'train': keys}


BOLD: dict[str, Any] = {
    'model_type': 'QualiTeacherModel',
    'train': {
        'scorer': TRAINED_ON.relative_to(ROOT).as_posix(),
        'average_labels': True,  # the labels of an image weigh together what the one label of the others weighs
        'strength': [0.0, 1.4],
        'bank_policy': 'spread',
        'preference_opt': {'type': 'ScorePreferenceLoss', 'loss_weight': 0.2, 'detach_low': True},
        'low_scores': [0.2, 0.5],
        'crop_weight': 0.1,
    },
}
# as options/_base/qualiteacher_small.yml
ANCHORED = _train(strength=[0.0, 1.0], tell_pairs=True, preference_opt={'loss_weight': 0.05}, crop_weight=0.05)
SCORED = _train(scorer=BOLD['train']['scorer'])
CONDITIONED = {
    'type': 'QualityConditioned', 'mode': 'fourier', 'saturate': 1.0, 'frequencies': 1,
    'sites': ['middle_blks', 'decoders.*'],
}  # fmt: skip
# variant: what it changes in the base file, laid one over the other
VARIANTS: dict[str, tuple[dict[str, Any], ...]] = {
    'pretrained': (),
    'mean_teacher': ({'model_type': 'MeanTeacherModel'},),
    'colabator': ({'model_type': 'ColabatorModel'}, SCORED),
    'semi_uir': ({'model_type': 'SemiUIRModel'}, SCORED),
    'qualiteacher': (BOLD, ANCHORED),
    'qt_bold': (BOLD,),
    'qt_no_condition': (BOLD, ANCHORED, _train(preference_opt=None)),  # the preference compares outputs by their scores
    'qt_one_view': (BOLD, ANCHORED, _train(views=['hflip'])),
    'qt_no_preference': (BOLD, ANCHORED, _train(preference_opt=None)),
    'qt_no_crop': (BOLD, ANCHORED, _train(crop_weight=0.0)),
    'qt_topk': (BOLD, ANCHORED, _train(bank_policy='topk')),
    'qt_stronger': (BOLD, ANCHORED, _train(strength=[0.0, 1.2], preference_opt={'loss_weight': 0.1})),
    'qt_smooth': (BOLD, ANCHORED, _train(preference_opt={'loss_weight': 0.1}, reward_smooth=3.0)),
    'qt_untold': (BOLD, _train(strength=[0.0, 1.2], preference_opt={'loss_weight': 0.05}, crop_weight=0.05)),
    'qt_bold_released': (BOLD, _train(strength=None, bank_policy='topk')),
    'qt_bold_no_preference': (BOLD, _train(preference_opt=None)),
}
PLAIN = ('pretrained', 'mean_teacher', 'colabator', 'semi_uir', 'qt_no_condition')  # networks without a knob


@dataclass(frozen=True)
class Run:
    """One run of the study.

    Attributes:
        task: A key of ``TASKS``.
        variant: A key of :data:`VARIANTS`.
        seed: Of the pretrained network and of this training.
        work: Folder of all runs.
        iterations: Length of the training; None as the base file says.
    """

    task: str
    variant: str
    seed: int
    work: Path
    iterations: int | None = None

    @property
    def name(self) -> str:
        """Name of its folder, and of its result."""
        return f'{self.task}_{self.variant}_seed{self.seed}'

    @property
    def folder(self) -> Path:
        """Where it trains."""
        return self.work / self.name

    @property
    def weights(self) -> Path:
        """The weight file of its network."""
        return host_weights(self.work, self.seed) if self.variant == 'pretrained' else _latest(self.folder)

    def claimed(self) -> FileLock | None:
        """The lock on this run, taken; None if another process works on it."""
        lock = FileLock(self.work / 'locks' / f'{self.name}.lock')
        Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return None
        return lock


def host_folder(work: Path, seed: int) -> Path:
    """Where the network of a seed is pretrained."""
    return work / f'host_seed{seed}'


def host_weights(work: Path, seed: int) -> Path:
    """The pretrained weights of a seed.

    Raises:
        CheckpointError: They are not there, or not trained to the end.
    """
    file = _latest(host_folder(work, seed))
    if iteration_of(file) != HOST_ITERATIONS:
        raise CheckpointError(f"'{file}' is not a finished host; make it with: qualiteacher.py pretrain --seeds {seed}")
    return file


def pretrain(work: Path, seed: int) -> None:
    """Trains the network of a seed on synthetic degradations of the sample photographs, or goes on with it.

    Raises:
        TrainingError: The training failed.
    """
    folder = host_folder(work, seed)
    if iteration_of(_latest(folder)) == HOST_ITERATIONS:
        return
    _start(
        ROOT / HOST_OPTIONS, folder.name, f'name={folder.name}', f'manual_seed={seed}',
        f'path:experiments_root={work.resolve()}', f'train:total_iter={HOST_ITERATIONS}',
        f'train:scheduler:T_max={HOST_ITERATIONS}', 'val:val_freq=1500',
    )  # fmt: skip


def train(run: Run, photos: Photos) -> None:
    """Trains a run to its end, going on from where it was interrupted; with other options it begins anew.

    Raises:
        CheckpointError: There is no pretrained network.
        TrainingError: The training failed.
    """
    document = options_of(run, photos)
    file, text = run.work / 'options' / f'{run.name}.yml', dump_yaml(document)
    same = file.is_file() and file.read_text(encoding='utf-8') == text
    if same and iteration_of(_latest(run.folder)) == document['train']['total_iter']:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    if not same and run.folder.exists():
        archive(run.folder)
    write_text(file, text)
    _start(file, run.name)


def options_of(run: Run, photos: Photos) -> dict[str, Any]:
    """The whole option file of a run, in plain containers.

    Raises:
        CheckpointError: There is no pretrained network.
    """
    document = variant_options(run.task, run.variant, run.iterations)
    document['datasets']['train']['real']['dataroot_lq'] = str(photos.adapt.resolve())
    paths = {
        'pretrain_network_g': str(host_weights(run.work, run.seed).resolve()),
        'experiments_root': str(run.work.resolve()),
    }
    return {'name': run.name, 'manual_seed': run.seed, **document, 'path': paths}


def variant_options(task: str, variant: str, iterations: int | None = None) -> dict[str, Any]:
    """The part of the option file that is the same for every seed and machine."""
    document = read_document(BASE).values
    for change in VARIANTS[variant]:
        lay_over(document, change)
    if variant not in PLAIN:
        document['network_g'] = {**CONDITIONED, 'host': document['network_g']}
    document['datasets']['train']['paired']['degradations'] = [{'type': TASKS[task].degradation}]
    settings = document['train']
    settings['total_iter'] = iterations or settings['total_iter']
    document['logger']['print_freq'] = max(1, settings['total_iter'] // LOG_LINES)
    if document['model_type'] == BOLD['model_type']:
        settings['preference_start'] = settings['crop_start'] = max(1, round(START * settings['total_iter']))
    return document


def facts_of(run: Run, photos: Photos) -> dict[str, Any]:
    """What the result of a run rests on: digests of options, code, photographs and pretrained weights; signals."""
    facts: dict[str, Any] = {
        'task': run.task, 'variant': run.variant, 'seed': run.seed, 'photos': photos.digest,
        'host': checkpoint.sha256(host_weights(run.work, run.seed))[:12],
    }  # fmt: skip
    if run.variant == 'pretrained':
        return {**facts, 'iterations': 0, 'minutes': 0, 'options': '', 'code': '', 'signals': []}
    document = variant_options(run.task, run.variant, run.iterations)
    records = [r for r in History.read(run.folder / FILE_NAME) if r['kind'] == 'train']
    loader = document['datasets']['train']
    seconds = loader['batch_size_per_gpu'] / statistics.median(r['images_per_s'] for r in records)
    iterations = document['train']['total_iter']
    return {
        **facts, 'iterations': iterations, 'minutes': rounded(iterations * seconds / 60),
        'options': _digest(json.dumps(document, sort_keys=True).encode(), TRAINED_ON.read_bytes()),
        'code': code_digest(), 'signals': [_signals(r) for r in records],
    }  # fmt: skip


def code_digest() -> str:
    """A few characters that change with the code of the methods."""
    files = sorted(f for pattern in METHOD_FILES for f in ROOT.glob(pattern))
    return _digest(*(f.read_bytes() for f in files))


def save(file: Path, result: dict[str, Any]) -> None:
    """Writes a result with one line for each of its entries."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = ',\n'.join(f' {json.dumps(k)}: {_told(v)}' for k, v in result.items())
    write_text(file, f'{{\n{lines}\n}}\n')


def _told(value: Any) -> str:
    if not isinstance(value, dict) or not any(isinstance(v, dict | list) for v in value.values()):
        return json.dumps(value)
    return '{\n' + ',\n'.join(f'  {json.dumps(k)}: {json.dumps(v)}' for k, v in value.items()) + '\n }'


def _signals(record: dict[str, Any]) -> dict[str, Any]:
    """Losses and signals of a line of the history, with few digits."""
    told = {**record['losses'], **record.get('signals', {})}
    short = {k: [rounded_to(x) for x in v] if isinstance(v, list) else rounded_to(v) for k, v in told.items()}
    return {'iter': record['iter'], **short}


def rounded_to(value: float, digits: int = 4) -> float:
    """A number with few significant digits."""
    return float(f'{value:.{digits}g}')


def lay_over(target: dict[str, Any], change: dict[str, Any]) -> None:
    """Replaces in nested dictionaries what ``change`` names."""
    for key, value in change.items():
        if isinstance(value, dict) and isinstance(target.get(key), dict):
            lay_over(target[key], value)
        else:
            target[key] = copy.deepcopy(value)


def _digest(*parts: bytes) -> str:
    return hashlib.sha256(b'\0'.join(parts)).hexdigest()[:12]


def _latest(folder: Path) -> Path:
    return folder / 'models/net_g_latest.pth'


def iteration_of(file: Path) -> int | None:
    """At which iteration a weight file was saved; None if it is not there."""
    return checkpoint.read(file).get('iter') if file.is_file() else None


def _start(options: Path, name: str, *overrides: str) -> None:
    command = [sys.executable, str(ROOT / 'basicsr/train.py'), '-opt', str(options), '--auto_resume']
    command += ['--force_yml', *overrides] if overrides else []
    if subprocess.run(command, cwd=ROOT).returncode:
        raise TrainingError(f"The training '{name}' failed or was interrupted; its messages are above.")
