"""The runs of the study of IQPIR: which variants there are, their option files, and their training."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from basicsr import checkpoint
from basicsr.errors import OptionError, TrainingError
from basicsr.files import archive, write_text
from basicsr.history import FILE_NAME, History
from basicsr.yaml_io import dump_yaml, read_document
from benchmarks.iqpir_data import Collection
from benchmarks.qualiteacher_runs import lay_over, rounded_to

ROOT = Path(__file__).resolve().parents[1]
BASE = ROOT / 'options/_base'
JUDGE = 'options/iqa/adapt.yml'
AUTOENCODER = {'type': 'IQPIRGAutoEncoder', 'width': 32, 'stride': 4, 'dim': 8, 'entries': 512}
OPTIMISED_ITERATIONS = 800
FIDELITY_ITERATIONS = 1500


def _rewarded(mode: str) -> dict[str, Any]:
    """What an optimisation by a judge changes in stage II."""
    reward = {
        'scorer': JUDGE, 'mode': mode, 'weight': 2.0, 'flip': True, 'tau_iters': OPTIMISED_ITERATIONS,
        'held_out': ['NIQE'], 'held_out_freq': 20,
    }  # fmt: skip
    scheduler = {'type': 'TrueCosineAnnealingLR', 'T_max': OPTIMISED_ITERATIONS, 'eta_min': 1e-6}
    optim = {'lr': 3e-4}
    train = {'total_iter': OPTIMISED_ITERATIONS, 'optim_g': optim, 'scheduler': scheduler, 'quality_opt': reward}
    return {'train': train, 'val': {'val_freq': None}, 'logger': {'print_freq': 20}}


def _faithful() -> dict[str, Any]:
    """What stage III changes: the second decoder alone learns, at full weight."""
    train = {
        'total_iter': FIDELITY_ITERATIONS, 'train_codes': False, 'w_schedule': [], 'w_cycle': 1, 'w_later': 1.0,
        'pixel_opt': {'type': 'L1Loss'}, 'perceptual_opt': {'type': 'FeatureLoss', 'loss_weight': 0.03},
        'scheduler': {'type': 'TrueCosineAnnealingLR', 'T_max': FIDELITY_ITERATIONS, 'eta_min': 1e-6},
    }  # fmt: skip
    network = {'residual_decoder': True, 'w': 1.0}
    return {'model_type': 'IQPIRJointModel', 'network_g': network, 'train': train, 'val': {'val_freq': 500}}


def _conditioned(mode: str) -> dict[str, Any]:
    return {'network_g': {'condition': mode}}


# by kind and name: the base file, the run it goes on from, and what it changes
VARIANTS: dict[str, tuple[str, str | None, dict[str, Any]]] = {
    'stage1_dual': ('iqpir_study_stage1.yml', None, {}),
    'stage1_shared': ('iqpir_study_stage1.yml', None, {'network_g': {'hq_input': 'shared'}}),
    'stage1_single': ('iqpir_study_stage1.yml', None, {'network_g': {'entries_hq': None}}),
    'stage2_none': (
        'iqpir_study_stage2.yml', 'stage1_dual',
        {**_conditioned('none'), 'train': {'use_score': False}, 'val': {'score': None}},
    ),
    'stage2_add': ('iqpir_study_stage2.yml', 'stage1_dual', _conditioned('vector_add')),
    'stage2_film': ('iqpir_study_stage2.yml', 'stage1_dual', {}),
    'stage2_waves': ('iqpir_study_stage2.yml', 'stage1_dual', {'network_g': {'frequencies': 8}}),
    # inputs are made from the poorer versions
    'stage2_revealed': ('iqpir_study_stage2.yml', 'stage1_dual', {'network_g': {'frequencies': 8}}),
    'stage2_single': (
        'iqpir_study_stage2.yml', 'stage1_single',
        {'network_g': {'entries_hq': None}, 'train': {'mask_hq_targets': False}},
    ),
    'stage3_film': ('iqpir_study_stage2.yml', 'stage2_film', _faithful()),
    'reward_off': ('iqpir_study_stage2.yml', 'stage2_film', {**_rewarded('feat_ste'), 'reward': False}),
    'reward_continuous': ('iqpir_study_stage2.yml', 'stage2_film', _rewarded('continuous')),
    'reward_feat_ste': ('iqpir_study_stage2.yml', 'stage2_film', _rewarded('feat_ste')),
    'reward_logit_st': ('iqpir_study_stage2.yml', 'stage2_film', _rewarded('logit_st')),
}  # fmt: skip


@dataclass(frozen=True)
class Run:
    """One run of the study.

    Attributes:
        variant: A key of :data:`VARIANTS`.
        seed: Of this training; the runs it goes on from have the same one, and stage I always 0.
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

    @property
    def before(self) -> Run | None:
        """The run that it goes on from."""
        name = VARIANTS[self.variant][1]
        if name is None:
            return None
        return Run(name, 0 if name.startswith('stage1') else self.seed, self.work, self.iterations)

    @property
    def is_autoencoder(self) -> bool:
        """Whether it is a run of stage I."""
        return self.before is None

    @property
    def has_knob(self) -> bool:
        """Whether its network takes a score."""
        return not self.is_autoencoder and self.variant != 'stage2_none'


def train(run: Run, photos: Collection) -> None:
    """Trains a run to its end, after those that it goes on from; what was interrupted goes on.

    Raises:
        TrainingError: A training failed.
    """
    if run.before is not None:
        train(run.before, photos)
    document = options_of(run, photos)
    if _iteration(run.weights) == document['train']['total_iter']:
        return
    file, text = run.work / 'options' / f'{run.name}.yml', dump_yaml(document)
    same = file.is_file() and file.read_text(encoding='utf-8') == text
    if not same and run.folder.exists():
        archive(run.folder)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, text)
    command = [sys.executable, str(ROOT / 'basicsr/train.py'), '-opt', str(file), '--auto_resume']
    if subprocess.run(command, cwd=ROOT).returncode:
        raise TrainingError(f"The training '{run.name}' failed or was interrupted; its messages are above.")


def options_of(run: Run, photos: Collection) -> dict[str, Any]:
    """The whole option file of a run, in plain containers."""
    document = variant_options(run)
    inner, val = document['datasets']['train']['dataset'], document['datasets']['val']
    inner['dataroot_lq' if run.is_autoencoder else 'dataroot_gt'] = str(photos.train.resolve())
    if not run.is_autoencoder and run.variant != 'stage2_revealed':
        inner['dataroot_source'] = str(photos.sources.resolve())
    document['datasets']['train']['scores'] = str(photos.scores.resolve())
    val['dataroot_gt'] = str(photos.test.resolve())
    if run.is_autoencoder:
        val['dataroot_lq'] = val['dataroot_gt']
    path = {'experiments_root': str((run.work / 'runs').resolve())}
    if run.before is not None:
        document['train']['autoencoder_path'] = str(_first(run).weights.resolve())
        if not run.before.is_autoencoder:
            path['pretrain_network_g'] = str(run.before.weights.resolve())
    return {'name': run.name, **document, 'manual_seed': run.seed, 'path': path}


def variant_options(run: Run) -> dict[str, Any]:
    """The part of the option file that is the same on every machine.

    Raises:
        OptionError: There is no such variant.
    """
    if run.variant not in VARIANTS:
        raise OptionError(f"There is no variant '{run.variant}'; there are {', '.join(VARIANTS)}.")
    base, _, change = VARIANTS[run.variant]
    document = read_document(BASE / base).values
    lay_over(document, {k: v for k, v in change.items() if k != 'reward'})
    if change.get('reward') is False:
        # the same training without the judge's loss, which only measures
        document['train']['quality_opt'] |= {'start': document['train']['total_iter'] + 1}
    if run.iterations:
        document['train']['total_iter'] = run.iterations
        document['train']['scheduler']['T_max'] = run.iterations
    return document


def facts_of(run: Run) -> dict[str, Any]:
    """What is told of a run beside its measurements: options, length, signals and the validations on the way."""
    records = History.read(run.folder / FILE_NAME)
    logged = [r for r in records if r['kind'] == 'train']
    return {
        'variant': run.variant, 'seed': run.seed, 'iterations': _iteration(run.weights),
        'weights': checkpoint.sha256(run.weights)[:12], 'from': run.before.name if run.before else None,
        'options': json.loads(json.dumps(variant_options(run))),
        'curve': [[r['iter'], rounded_to(r['metrics']['psnr'])] for r in records if r['kind'] == 'val'],
        'signals': [_short(r) for r in logged[:: max(1, len(logged) // 30)]],
    }  # fmt: skip


def _first(run: Run) -> Run:
    """The run of stage I that a run rests on."""
    return run if run.before is None else _first(run.before)


def _short(record: dict[str, Any]) -> dict[str, Any]:
    told = {**record['losses'], **record.get('signals', {})}
    return {'iter': record['iter'], **{k: rounded_to(v) for k, v in told.items() if not isinstance(v, list)}}


def _iteration(file: Path) -> int | None:
    """At which iteration a weight file was saved; None if it is not there."""
    return checkpoint.read(file).get('iter') if file.is_file() else None
