"""Schedules against BasicSR, NAFNet, Restormer and PyTorch run step by step (tests/golden), and their refusals."""

import json
import math
from pathlib import Path

import pytest

from basicsr.errors import OptionError
from basicsr.models import lr_scheduler
from basicsr.registry import SCHEDULER_REGISTRY, build

GOLDEN = Path(__file__).parent / 'golden'
BASICSR = json.loads((GOLDEN / 'schedulers.json').read_text())['rows']
PUBLISHED = [row[1:] for row in json.loads((GOLDEN / 'published.json').read_text())['schedulers']]
EXAMPLES = {
    'ConstantLR': {},
    'MultiStepLR': {'milestones': [400, 700]},
    'MultiStepRestartLR': {'milestones': [200, 700], 'restarts': [0, 500], 'restart_weights': [1, 0.5]},
    'CosineAnnealingRestartLR': {'periods': [300, 700], 'restart_weights': [1, 0.5], 'eta_min': 1e-7},
    'CosineAnnealingRestartCyclicLR': {'periods': [300, 700], 'eta_mins': [1e-4, 1e-7]},
    'TrueCosineAnnealingLR': {'T_max': 1000, 'eta_min': 1e-7},
    'LinearLR': {'total_iter': 1000},
    'VibrateLR': {'total_iter': 1000},
}


def make(name, **options):
    return build(SCHEDULER_REGISTRY, {'type': name, **options})


@pytest.mark.parametrize(('name', 'options', 'initial_lr', 'rates'), BASICSR + PUBLISHED)
def test_as_published(name, options, initial_lr, rates):
    schedule = make(name, **options)
    schedule.check(len(rates) - 1)
    assert [schedule.lr(initial_lr, step) for step in range(len(rates))] == pytest.approx(rates, rel=1e-9, abs=1e-15)


@pytest.mark.parametrize('name', EXAMPLES)
def test_starts_as_told_stays_positive_and_scales(name):
    schedule = make(name, **EXAMPLES[name])
    schedule.check(1000)
    rates = [schedule.lr(1e-3, step) for step in range(1000)]
    assert rates[0] == pytest.approx(1e-4 if name == 'VibrateLR' else 1e-3)
    assert all(0 <= r <= 1e-3 for r in rates)
    assert min(rates) > 0 or name == 'VibrateLR'  # its triangles touch 0, as published
    assert schedule.lr(1e-3, 777) == rates[777]  # no state: the order of the calls does not matter


def test_examples_are_all_there_is():
    assert set(EXAMPLES) == set(SCHEDULER_REGISTRY.index())


def test_restormer_as_released():
    schedule = make(
        'CosineAnnealingRestartCyclicLR', periods=[92000, 208000], restart_weights=[1, 1], eta_mins=[3e-4, 1e-6]
    )
    schedule.check(300000)
    assert {schedule.lr(3e-4, step) for step in (0, 1000, 92000)} == {3e-4}
    assert schedule.lr(3e-4, 92000 + 104000) == pytest.approx((3e-4 + 1e-6) / 2)
    assert schedule.lr(3e-4, 300000) == pytest.approx(1e-6)


def test_nafnet_as_released():
    schedule = make('TrueCosineAnnealingLR', T_max=200000, eta_min=1e-7)
    assert schedule.lr(1e-3, 50000) == pytest.approx(1e-7 + (1e-3 - 1e-7) * (2 + math.sqrt(2)) / 4)
    assert schedule.lr(1e-3, 200000) == pytest.approx(1e-7)


def test_both_names_of_multi_step():
    options = {'milestones': [10, 20], 'gamma': 0.5}
    assert [make('MultiStepLR', **options).lr(1.0, s) for s in (9, 10, 19, 20, 10**6)] == [1, 0.5, 0.5, 0.25, 0.25]
    assert isinstance(make('MultiStepLR', **options), lr_scheduler.MultiStepRestartLR)


@pytest.mark.parametrize(
    ('name', 'options', 'total_iter', 'text'),
    [
        ('CosineAnnealingRestartLR', {'periods': [250000]}, 300000, 'covers 250000 iterations, .* is 300000'),
        ('CosineAnnealingRestartCyclicLR', {'periods': [10, 20]}, 31, 'covers 30 iterations'),
        ('TrueCosineAnnealingLR', {'T_max': 10}, 11, 'covers 10'),
        ('LinearLR', {'total_iter': 10}, 11, 'covers 10'),
        ('VibrateLR', {'total_iter': 160}, 161, 'covers 160'),
        ('MultiStepLR', {'milestones': [20, 10]}, 30, r'milestones must be in ascending order, not \[20, 10\]'),
        ('MultiStepRestartLR', {'milestones': [5], 'restarts': [9, 0]}, 30, 'restarts must be in ascending order'),
    ],
)
def test_a_schedule_that_does_not_suit_the_run(name, options, total_iter, text):
    schedule = make(name, **options)
    with pytest.raises(OptionError, match=f'Scheduler {name}: .*{text}'):
        schedule.check(total_iter)


@pytest.mark.parametrize('name', EXAMPLES)
def test_a_shorter_run_is_fine(name):
    make(name, **EXAMPLES[name]).check(7)


@pytest.mark.parametrize(
    ('name', 'options', 'text'),
    [
        ('MultiStepLR', {'milestones': [5], 'gamma': 0}, 'gamma must be positive, not 0'),
        ('MultiStepLR', {'milestones': [-5]}, r'milestones must be 0 or more, not \[-5\]'),
        ('MultiStepRestartLR', {'milestones': [5], 'restarts': [0, 9], 'restart_weights': [1]}, '2 restarts but 1'),
        ('CosineAnnealingRestartLR', {'periods': []}, 'periods is empty'),
        ('CosineAnnealingRestartLR', {'periods': [5, 0]}, 'periods must be positive'),
        ('CosineAnnealingRestartLR', {'periods': [5, 5], 'restart_weights': [1]}, '2 periods but 1 restart_weights'),
        ('CosineAnnealingRestartLR', {'periods': [5], 'eta_min': -1e-7}, 'eta_mins must be 0 or more'),
        ('CosineAnnealingRestartCyclicLR', {'periods': [5, 5], 'eta_mins': [0]}, '2 periods but 1 eta_mins'),
        ('TrueCosineAnnealingLR', {'T_max': 0}, 'T_max must be positive'),
        ('TrueCosineAnnealingLR', {'T_max': 5, 'eta_min': -1.0}, 'eta_min must be 0 or more'),
        ('LinearLR', {'total_iter': 0}, 'total_iter must be positive'),
        ('VibrateLR', {'total_iter': 159}, '160 or more'),
    ],
)
def test_bad_options_are_refused(name, options, text):
    with pytest.raises(OptionError, match=text):
        make(name, **options)


@pytest.mark.parametrize('initial_lr', [0.0, -1e-3, float('nan')])
def test_a_rate_that_is_not_positive_is_refused(initial_lr):
    with pytest.raises(OptionError, match='must be positive'):
        make('ConstantLR').lr(initial_lr, 0)


@pytest.mark.parametrize('step', [-1, 11])
def test_a_step_outside_is_refused(step):
    with pytest.raises(OptionError, match=f'step {step} is outside'):
        make('LinearLR', total_iter=10).lr(1e-3, step)
