"""The step of QualiTeacherModel against the released one, written down one image and one forward pass at a time."""

import math

import pytest
import torch
from torch.nn import functional as F

from basicsr.registry import ARCH_REGISTRY
from basicsr.yaml_io import read_document
from benchmarks.qualiteacher_step import (
    AGREE,
    PROFILE,
    QUICK,
    SETTINGS,
    SIDES,
    ReleasedStep,
    measure,
    options_of,
    our_step,
    prepared,
    relative,
    table,
)

HOST = {'type': 'NAFNet', 'width': 8, 'enc_blk_nums': [1], 'middle_blk_num': 1, 'dec_blk_nums': [1]}
JUDGE = {
    'type': 'Ensemble',
    'members': [  # the range of the second is wide, so that nothing is clipped
        {'type': 'Colourfulness', 'weight': 0.6},
        {'type': 'BRISQUE', 'weight': 0.4, 'grad': False, 'low': 300.0, 'high': 0.0},
    ],
}
FEATURES = {'backbone': {'type': 'DoubleFeatures'}, 'layer_weights': [0.5, 1.0]}
TINY = {
    'scorer': JUDGE,
    'inverted_members': ['colourfulness'],
    'gate_members': ['colourfulness', 'brisque'],
    'perceptual_opt': {'type': 'FeatureLoss', 'loss_weight': 0.04, **FEATURES},
    'contrast_opt': {'type': 'ContrastiveFeatureLoss', 'loss_weight': 0.2, 'eps': 0, **FEATURES},
}
CASES = {  # what differs from the profile `release`: in the section train, and in the network
    'release': ({}, {}),
    'refused': ({'gate_scorers': 0.12}, {}),
    'default': ({'inverted_members': None, 'bank_rank': 'weighted', 'crop_same_window': True}, {'mode': 'fourier'}),
    'paper': (
        {'average_labels': True, 'preference_opt': {'type': 'ScorePreferenceLoss', 'anchor': 'worst', 'beta': 5}},
        {'mode': 'film'},
    ),
    'spread': ({'bank_policy': 'spread', 'merge': 'never', 'bank_size': 2, 'views': ['identity', 'rot270']}, {}),
    'early': ({'preference_start': 9, 'crop_start': 9}, {}),
}


@ARCH_REGISTRY.register()
class DoubleFeatures(torch.nn.Module):
    """Features in double precision: the sign of a difference then does not hang on the order of a sum."""

    channels, strides = (6, 6), (2, 4)

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        for name, width in (('first', 3), ('second', 6)):
            weight = torch.randn(6, width, 3, 3, generator=generator, dtype=torch.float64)
            self.register_buffer(name, weight, persistent=False)

    def features(self, images):
        first = F.conv2d(images.double(), self.first, stride=2, padding=1).tanh()
        return [first, F.conv2d(first, self.second, stride=2, padding=1).tanh()]


def tiny(case='release', batch=2):
    """A model in double precision, but for its judges, and batches."""
    train, network = CASES[case]
    options = options_of(HOST, batch, 48, **{**TINY, **train})
    options['network_g'] |= network
    model, average, data = prepared(options, 2)
    for net in (model.net_g, average.net):
        net.double()
    again = {key: data[0][key] for key in ('real_key', 'real_box')}  # so that the bank has labels to compare with
    return model, [{k: v.double() if torch.is_tensor(v) and v.is_floating_point() else v for k, v in batch.items()}
                   for batch in (data[0], data[1] | again)]  # fmt: skip


def learned(backward, model, batches):
    """The losses of some steps, and their gradients added up."""
    model.zero_grad()
    losses = []
    for number, batch in enumerate(batches, start=1):
        model.start_iteration(number)
        losses.append({k: float(v) for k, v in backward(batch).items()})
    return losses, {n: p.grad.clone() for n, p in model.net_g.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(('case', 'batch'), [('release', 1), *((case, 2) for case in CASES)])
def test_losses_and_gradients_are_those_of_the_released_step(case, batch):
    model, batches = tiny(case, batch)
    released = ReleasedStep(model)
    ours, our_gradients = learned(our_step(model), model, batches)
    theirs, their_gradients = learned(released.backward, model, batches)
    for mine, other in zip(ours, theirs, strict=True):
        assert relative(other, mine) < 1e-5
    assert set(our_gradients) == set(their_gradients)
    for name, gradient in their_gradients.items():
        assert gradient.norm() > 0, name
        assert (our_gradients[name] - gradient).norm() <= 1e-5 * gradient.norm(), name


def test_the_cases_are_what_they_are_called():
    """Every loss is at work, and the gate refuses one image of each batch, of which the bank knows one by then."""
    model, batches = tiny('refused')
    for labelled, batch in zip((0.5, 1.0), batches, strict=True):
        model.start_iteration(1)
        told = model(batch)
        assert (float(told['gated']), float(told['labelled'])) == (0.5, labelled)
        losses = {k: float(v.detach()) for k, v in told.items() if k.startswith('l_')}
        assert set(losses) == {'l_pix', 'l_percep', 'l_label', 'l_contrast', 'l_preference', 'l_crop'}
        assert min(losses.values()) > 0


def test_the_comparison_can_fail():
    model, batches = tiny()
    ours, _ = learned(our_step(model), model, batches[:1])
    model.low_scores = (0.0, 0.1)
    theirs, _ = learned(ReleasedStep(model).backward, model, batches[:1])
    assert relative(theirs[0], ours[0]) > 1e-4
    assert relative(theirs[0], {**ours[0], 'l_more': 1.0}) == math.inf


def test_options_are_those_of_the_profile_but_for_what_does_not_ship():
    options, profile = options_of(HOST, 2, 288), read_document(PROFILE).values
    differ = {k for k, v in profile['train'].items() if options['train'][k] != v}
    assert differ == {'perceptual_opt', 'contrast_opt', 'scorer', 'inverted_members', 'gate_members',
                      'preference_start', 'crop_start'}  # fmt: skip
    for key in ('perceptual_opt', 'contrast_opt'):
        assert profile['train'][key] == {**profile['train'][key], **options['train'][key]}
    assert options['network_g'] == {**profile['network_g'], 'host': HOST}
    assert {s['size'] for name, s in SETTINGS.items() if name != QUICK} == {profile['datasets']['train']['gt_size']}


def test_what_is_not_written_down_is_refused():
    model, _ = tiny()
    model.drop_score = 0.1
    with pytest.raises(SystemExit, match='does not know drop_score'):
        ReleasedStep(model)


def test_both_sides_run_as_they_are_measured():
    results = [measure(QUICK, side, gpu=False) for side in SIDES]
    assert relative(*(r['losses'] for r in results)) < AGREE
    assert all(r['seconds'] > 0 and r['peak_mb'] > 0 for r in results)


def test_the_table_gives_medians():
    row = {
        'setting': 'a', 'device': 'cpu', 'released_s': [4.0, 2.0, 3.0], 'ours_s': [1.0, 1.0, 2.0],
        'released_peak_mb': [10, 30, 20], 'ours_peak_mb': [7, 8, 9], 'times_as_fast': 2.0, 'range': [1.5, 4.0],
    }  # fmt: skip
    assert table({'rows': [row]}).splitlines()[-1] == '| a | cpu | 3.000 | 1.000 | 2.00 (1.50 to 4.00) | 20, 8 |'
