"""The runs of the study of IQPIR: which variants there are, their option files, and their training."""

from __future__ import annotations

from typing import Any

from basicsr.errors import OptionError
from basicsr.yaml_io import read_document
from benchmarks.iqpir_data import Collection
from benchmarks.qualiteacher_runs import iteration_of, lay_over
from benchmarks.study_runs import ROOT, StudyRun, facts_of_run, run_training

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


class Run(StudyRun):
    """One run of the study; those it goes on from have the same seed, and stage I always 0."""

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
    if iteration_of(run.weights) != document['train']['total_iter']:  # finished ones stay, whatever their options
        run_training(run, document)


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
    """What is told of a run beside its measurements."""
    return {**facts_of_run(run, variant_options(run)), 'from': run.before.name if run.before else None}


def _first(run: Run) -> Run:
    """The run of stage I that a run rests on."""
    return run if run.before is None else _first(run.before)
