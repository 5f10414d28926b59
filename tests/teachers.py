"""Helpers of the tests of mean teachers: small networks, batches and option files on sample photographs."""

import copy

import torch
import yaml

from basicsr.data import build_dataset
from basicsr.ema import Ema
from basicsr.loader import collate
from basicsr.options import dataset_options
from basicsr.registry import ARCH_REGISTRY, MODEL_REGISTRY, build

from .runs import ROOT

HOST = {'type': 'NAFNet', 'width': 8, 'enc_blk_nums': [1], 'middle_blk_num': 1, 'dec_blk_nums': [1]}
JUDGE = {
    'type': 'Ensemble',
    'members': [{'type': 'Colourfulness', 'weight': 0.6}, {'type': 'BRISQUE', 'weight': 0.4, 'grad': False}],
}
DATA = {
    'type': 'SemiDataset',
    'gt_size': 48,
    'paired': {
        'type': 'OnlineDegradationDataset', 'dataroot_gt': str(ROOT / 'datasets/sample/train'),
        'degradations': [{'type': 'Haze'}],
    },
    'real': {
        'type': 'SingleImageDataset', 'dataroot_lq': str(ROOT / 'datasets/sample/val'), 'real_mode': 'fixed_crop',
        'use_hflip': False, 'use_rot': False,
    },
    'strong': [{'type': 'SemiUIRAugment'}],
}  # fmt: skip
METHOD = {
    'MeanTeacherModel': {},
    'SemiUIRModel': {'scorer': JUDGE},
    'ColabatorModel': {'scorer': JUDGE},
    'QualiTeacherModel': {
        'scorer': JUDGE, 'preference_opt': {'type': 'ScorePreferenceLoss'}, 'gate_scorers': 1.0, 'gate_views': 1.0,
    },
}  # fmt: skip


def conditioned(host=None, mode='fourier', wake=True, **options):
    """A QualityConditioned network; ``wake`` gives the condition, and NAFNet's silent blocks, weights other than 0."""
    torch.manual_seed(1)
    net = build(ARCH_REGISTRY, {'type': 'QualityConditioned', 'host': host or HOST, 'mode': mode, **options})
    return awake(net) if wake else net


def awake(net):
    """Gives every parameter that is 0 throughout small random values."""
    with torch.no_grad():
        for p in net.parameters():
            if not p.any():
                p.normal_(std=0.1)
    return net


def method(kind, net=None, iteration=7, **options):
    """A training method with its teacher, in the midst of a run."""
    torch.manual_seed(2)
    net = net or conditioned()
    block = {'type': kind, 'pixel_opt': {'type': 'L1Loss'}, **copy.deepcopy(METHOD[kind]), **options}
    model = build(MODEL_REGISTRY, block, networks={'g': net})
    model.bind_averages({'g': Ema(net, 0.9).net})
    model.start_iteration(iteration)
    return model.train()


def batch(count=4, **options):
    """The first samples of the sample photographs as a batch."""
    dataset = build_dataset(dataset_options({**copy.deepcopy(DATA), **options}, 'train'), 1)
    return collate([dataset[n] for n in range(count)])


def part(whole, n):
    """Sample ``n`` of a batch as a batch of one."""
    return {k: v[n : n + 1] for k, v in whole.items()}


def gradients(model, given):
    """The losses of a batch, and the gradients of their sum by name."""
    model.zero_grad()
    losses = model(given)
    sum(v for k, v in losses.items() if k.startswith('l_')).backward()
    return losses, {n: p.grad.clone() for n, p in model.net_g.named_parameters() if p.grad is not None}


def write_options(folder, kind='QualiTeacherModel', network=None, **train):
    """An option file of a short run; returns its path."""
    method_keys = {**copy.deepcopy(METHOD[kind]), 'pixel_opt': {'type': 'L1Loss'}}
    options = {
        'name': 'teacher', 'model_type': kind, 'num_gpu': 0,
        'datasets': {'train': {**copy.deepcopy(DATA), 'batch_size_per_gpu': 2, 'num_worker_per_gpu': 0}},
        'network_g': network or {'type': 'QualityConditioned', 'host': HOST, 'mode': 'fourier'},
        'path': {'experiments_root': str(folder / 'experiments')},
        'train': {'total_iter': 6, 'optim_g': {'type': 'AdamW', 'lr': 1e-3}, 'ema_decay': 0.9, **method_keys, **train},
        'val': {'report': False},
        'logger': {'print_freq': 1, 'save_checkpoint_freq': 3},
    }  # fmt: skip
    file = folder / 'teacher.yml'
    file.write_text(yaml.safe_dump(options, sort_keys=False))
    return file
