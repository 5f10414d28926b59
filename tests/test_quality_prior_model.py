"""The image quality prior on any restoration network: who is told what, what is judged, runs by option file alone."""

import pytest
import torch
import yaml

from basicsr import train
from basicsr.errors import DataError, OptionError
from basicsr.registry import MODEL_REGISTRY, build

from .code_methods import COLOURFUL, part
from .runs import ROOT, differences, state
from .teachers import HOST, conditioned

HOSTS = {
    'NAFNet': HOST,
    'Restormer': {
        'type': 'Restormer', 'dim': 8, 'num_blocks': [1, 1, 1, 1], 'num_refinement_blocks': 1, 'heads': [1, 1, 2, 2],
    },
}  # fmt: skip
DATA = {
    'type': 'QualityPriorDataset', 'scores': str(ROOT / 'datasets/sample/scores/train.csv'),
    'dataset': {
        'type': 'OnlineDegradationDataset', 'dataroot_gt': str(ROOT / 'datasets/sample/train'), 'gt_size': 32,
        'degradations': [{'type': 'Haze'}],
    },
    'batch_size_per_gpu': 2, 'num_worker_per_gpu': 0,
}  # fmt: skip


def batch(count=4):
    """Clean images, and the same darker."""
    gt = torch.rand(count, 3, 24, 24, generator=torch.Generator().manual_seed(3))
    score = torch.linspace(0.15, 0.65, count)
    return {'lq': gt / 2, 'gt': gt, 'key': [f'image{n}' for n in range(count)], 'score': score}


def method(host='NAFNet', iteration=1, mode='film', **options):
    """The method in the midst of a run, on a network whose condition does something."""
    net = conditioned(HOSTS[host], mode=mode)
    block = {'type': 'QualityPriorModel', 'pixel_opt': {'type': 'L1Loss'}, 'drop_score': 0.0, **options}
    model = build(MODEL_REGISTRY, block, networks={'g': net}).train()
    model.start_iteration(iteration)
    return model


@pytest.mark.parametrize('host', HOSTS)
def test_the_network_is_told_the_score_of_the_clean_image(host):
    model, given = method(host), batch()
    losses = model(given)
    wanted = (model.net_g(given['lq'], score=given['score']) - given['gt']).abs().mean()
    assert set(losses) == {'l_pix'}
    torch.testing.assert_close(losses['l_pix'], wanted)
    without = (model.net_g(given['lq'], score=None) - given['gt']).abs().mean()
    assert (losses['l_pix'] - without).abs() > 1e-4
    torch.testing.assert_close(method(host, drop_score=1.0)(given)['l_pix'], without)


def test_further_losses_are_those_of_restoration():
    losses = method(fft_opt={'type': 'FFTLoss'}, gradient_opt={'type': 'GradientLoss'})(batch())
    assert set(losses) == {'l_pix', 'l_fft', 'l_gradient'}


def test_some_scores_are_dropped_and_a_batch_equals_its_parts():
    model, given = method(drop_score=0.5, quality_opt={'scorer': COLOURFUL, 'flip': True, 'crop': [0.5, 0.5]}), batch(8)
    losses = model(given)
    single = [model(part(given, n)) for n in range(8)]
    for name, value in losses.items():
        torch.testing.assert_close(value, torch.stack([each[name] for each in single]).mean(), msg=name)
    never, always = (method(drop_score=share)(given)['l_pix'] for share in (0.0, 1.0))
    assert losses['l_pix'] not in (never, always)


@pytest.mark.parametrize('host', HOSTS)
def test_the_image_asked_for_the_top_score_is_judged(host):
    model, given = method(host, quality_opt={'scorer': COLOURFUL, 'weight': 0.5}), batch()
    losses = model(given)
    top = model.net_g(given['lq'], score=torch.ones(4))
    reward = model.quality.judge.reward(top).mean()
    torch.testing.assert_close(losses['reward'], reward.detach())
    torch.testing.assert_close(losses['l_quality'], 0.5 * (1 - reward))
    torch.testing.assert_close(losses['l_pix'], method(host)(given)['l_pix'])
    losses['l_quality'].backward()
    assert sum(p.grad.abs().sum() for p in model.net_g.condition.parameters()) > 0
    asked = method(host, quality_opt={'scorer': COLOURFUL, 'score': 'gt'})(given)['reward']
    told = model.quality.judge.reward(model.net_g(given['lq'], score=given['score'])).mean()
    torch.testing.assert_close(asked, told.detach())


def test_the_reward_of_the_top_score_rises_and_that_of_no_score_stays():
    """With a table, only its last row is asked for; the scorer is Colourfulness, whose gradient is simple."""
    model, given = method(mode='embedding', quality_opt={'scorer': COLOURFUL, 'weight': 1.0}), batch()
    without = model.net_g(given['lq'], score=None).detach()
    optimizer = torch.optim.Adam(model.net_g.condition.parameters(), 1e-2)
    rewards = []
    for _ in range(15):
        optimizer.zero_grad()
        losses = model(given)
        losses['l_quality'].backward()
        optimizer.step()
        rewards.append(losses['reward'].item())
    assert rewards[-1] > rewards[0] + 0.01
    assert torch.equal(model.net_g(given['lq'], score=None), without)


def test_when_it_counts_and_what_is_measured():
    quality = {'scorer': COLOURFUL, 'start': 4, 'held_out': ['UCIQE'], 'held_out_freq': 2}
    model, given = method(quality_opt=quality), batch()
    seen = {}
    for iteration in range(1, 5):
        model.start_iteration(iteration)
        seen[iteration] = model(given)
    assert [sorted(losses) for losses in seen.values()] == [
        ['l_pix'], ['held_out_uciqe', 'l_pix'], ['l_pix'], ['held_out_uciqe', 'l_pix', 'l_quality', 'reward'],
    ]  # fmt: skip
    torch.testing.assert_close(seen[2]['held_out_uciqe'], seen[4]['held_out_uciqe'])


def test_what_is_refused():
    net = build_plain()
    with pytest.raises(OptionError, match=r'NAFNet takes no scores; write \{type: Qual'):
        build(MODEL_REGISTRY, {'type': 'QualityPriorModel', 'pixel_opt': {'type': 'L1Loss'}}, networks={'g': net})
    with pytest.raises(OptionError, match='mode feat_ste needs a network of codes'):
        method(quality_opt={'scorer': COLOURFUL, 'mode': 'feat_ste'})
    given = batch()
    del given['score']
    with pytest.raises(
        DataError, match='QualityPriorModel: the batch has no score; train with QualityPriorDataset, or'
    ):
        method()(given)
    with pytest.raises(DataError, match='niqe judges images from 96 x 96'):
        method(quality_opt={'scorer': COLOURFUL, 'start': 99, 'held_out': ['NIQE']})(batch())


def build_plain():
    """A host without a condition."""
    return conditioned().host


@pytest.mark.parametrize('host', HOSTS)
def test_an_option_file_alone_brings_it_and_a_resumed_run_repeats(tmp_path, host):
    options = {
        'name': 'prior', 'model_type': 'QualityPriorModel', 'num_gpu': 0,
        'datasets': {'train': DATA},
        'network_g': {'type': 'QualityConditioned', 'host': HOSTS[host], 'mode': 'film', 'saturate': 1.0},
        'train': {
            'total_iter': 4, 'optim_g': {'type': 'AdamW', 'lr': 1e-3}, 'ema_decay': 0.9, 'drop_score': 0.5,
            'pixel_opt': {'type': 'L1Loss'}, 'quality_opt': {'scorer': COLOURFUL, 'start': 2, 'flip': True},
        },
        'val': {'report': False},
        'logger': {'print_freq': 1, 'save_checkpoint_freq': 2},
    }  # fmt: skip
    for name, stops in (('whole', ()), ('stopped', (2,))):
        options['path'] = {'experiments_root': str(tmp_path / name / 'experiments')}
        file = tmp_path / f'{name}.yml'
        file.write_text(yaml.safe_dump(options, sort_keys=False))
        for stop in stops:
            assert train.main(['-opt', str(file), '--force_yml', f'train:total_iter={stop}']) == 0
        assert train.main(['-opt', str(file), '--auto_resume']) == 0
    assert differences(state(tmp_path / 'whole', 4, 'prior'), state(tmp_path / 'stopped', 4, 'prior')) == []
