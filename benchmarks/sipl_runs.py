"""The runs of the study of SIPL: which variants there are, their option files, and their training."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import nn

from basicsr.errors import OptionError
from basicsr.models import build_model
from basicsr.options import from_dict
from basicsr.rng import seed_everything
from basicsr.yaml_io import read_document
from benchmarks.qualiteacher_runs import lay_over
from benchmarks.sipl_data import Clean
from benchmarks.study_runs import ROOT, StudyRun, facts_of_run, run_training

BASE = ROOT / 'options/_base/sipl_study.yml'
CROP = 64  # of the training; a dictionary of this size has as many tokens as the features of a crop have pixels
RAW_WEIGHT = 0.5  # of the losses on the plain path; the release has none
SHALLOW = {'dim': 16, 'num_blocks': [1, 1, 1, 2], 'num_refinement_blocks': 1, 'heads': [1, 2, 4, 8]}
BACKBONES: dict[str, dict[str, Any]] = {
    'nafnet': {
        'type': 'NAFNet', 'width': 16, 'enc_blk_nums': [1, 1, 2], 'middle_blk_num': 2, 'dec_blk_nums': [1, 1, 1],
    },
    'restormer': {'type': 'Restormer', **SHALLOW},
    'promptir': {'type': 'PromptIR', **SHALLOW, 'unused': False},
}  # fmt: skip
# What a training step of SIPL costs in steps of the backbone alone, in MACs; ``sipl.py cost`` counts them.
LONGER = {'nafnet': 6.7, 'restormer': 3.3, 'promptir': 2.7}


@dataclass(frozen=True)
class Way:
    """How a backbone is trained.

    Attributes:
        title: What tables call it.
        wrapper: Block of the network around it, but for its ``host``; None for the backbone alone.
        train: What it changes in the section ``train``.
        longer: Whether it trains for as many iterations as SIPL's compute pays for.
    """

    title: str
    wrapper: dict[str, Any] | None = None
    train: dict[str, Any] = field(default_factory=dict)
    longer: bool = False


def _proxy(title: str, train: dict[str, Any] | None = None, **network: Any) -> Way:
    """Proxy fusion that differs from that of the study in some keys of its network or of the section ``train``."""
    block = {'type': 'ProxyFusion', 'size': CROP, **network}
    return Way(title, block, {'raw_weight': RAW_WEIGHT, **(train or {})})


WAYS: dict[str, Way] = {  # of every backbone
    'alone': Way('alone'),
    'alone_long': Way('alone, equal compute', longer=True),
    'skips': Way('privileged skips', {'type': 'PrivilegedSkips'}, {'raw_weight': RAW_WEIGHT}),
    'sipl': _proxy('SIPL'),
}
ABLATIONS: dict[str, Way] = {  # of the first backbone
    'quarter': _proxy('a quarter of the tokens', size=CROP // 2),
    'zeros': _proxy('zeros, with the guard', dict_init='zeros'),
    'as_published': _proxy('zeros, as published', dict_init='zeros', as_published=True),
    'privilege_gt': _proxy('features of the clean image itself', {'privilege': 'gt'}),
    'random_proxy': _proxy('random proxy', {'random_proxy': True}),
    'released': _proxy('no loss on the plain path (released)', {'raw_weight': 0.0}),
    'steps1': _proxy('one iteration trained too', {'steps': 1}),
    'graft': _proxy('begun as the backbone', graft=True),
}
ABLATED = next(iter(BACKBONES))
VARIANTS: dict[str, tuple[str, Way]] = {
    **{f'{b}_{w}': (b, way) for b in BACKBONES for w, way in WAYS.items()},
    **{f'{ABLATED}_{w}': (ABLATED, way) for w, way in ABLATIONS.items()},
}


class Run(StudyRun):
    """One run of the study; ``iterations`` are those of equal ones, longer ones have more in proportion."""

    @property
    def refines(self) -> bool:
        """Whether its network improves on its own output.

        Raises:
            OptionError: There is no such variant.
        """
        return way_of(self.variant)[1].wrapper is not None


def way_of(variant: str) -> tuple[str, Way]:
    """Name of the backbone, and the way, of a variant.

    Raises:
        OptionError: There is no such variant.
    """
    if variant not in VARIANTS:
        raise OptionError(f"There is no variant '{variant}'; there are {', '.join(VARIANTS)}.")
    return VARIANTS[variant]


def train(run: Run, photos: Clean) -> None:
    """Trains a run to its end; what was interrupted goes on, with other options it begins anew.

    Raises:
        TrainingError: The training failed.
    """
    run_training(run, options_of(run, photos))


def options_of(run: Run, photos: Clean) -> dict[str, Any]:
    """The whole option file of a run, in plain containers."""
    document = variant_options(run.variant, run.iterations)
    document['datasets']['train']['dataroot_gt'] = str(photos.train.resolve())
    document['datasets']['val']['dataroot_gt'] = str(photos.test.resolve())
    path = {'experiments_root': str((run.work / 'runs').resolve())}
    return {'name': run.name, **document, 'manual_seed': run.seed, 'path': path}


def variant_options(variant: str, iterations: int | None = None) -> dict[str, Any]:
    """The part of the option file that is the same on every machine.

    Raises:
        OptionError: There is no such variant.
    """
    backbone, way = way_of(variant)
    document = read_document(BASE).values
    host, wrapped = BACKBONES[backbone], way.wrapper is not None
    lay_over(document, {'train': way.train, 'network_g': {**way.wrapper, 'host': host} if wrapped else host})
    if wrapped:
        document['model_type'] = 'SIPLModel'
    settings = document['train']
    count = iterations or settings['total_iter']
    count = round(count * LONGER[backbone]) if way.longer else count
    settings['total_iter'] = settings['scheduler']['T_max'] = count
    document['val']['val_freq'] = max(1, count // 2)
    return document


def new_model(variant: str, seed: int) -> nn.Module:
    """The method and the network of a variant as its training begins with them."""
    document = {'name': variant, **variant_options(variant)}
    for part in ('train', 'val'):
        document['datasets'][part]['dataroot_gt'] = str(ROOT / 'datasets/sample/train')  # is not opened
    seed_everything(seed)
    return build_model(from_dict(document))


def facts_of(run: Run) -> dict[str, Any]:
    """What is told of a run beside its measurements."""
    return facts_of_run(run, variant_options(run.variant, run.iterations))
