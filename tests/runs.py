"""Helpers of the tests that train: an option file of tiny parts, and runs in this process or in one of their own."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import torch
import yaml

from basicsr import train

ROOT = Path(__file__).resolve().parents[1]
TINY = {
    'name': 'tiny',
    'num_gpu': 0,
    'imports': [str(ROOT / 'tests/plugins/tiny.py')],
    'datasets': {
        'train': {'type': 'TinyDataset', 'batch_size_per_gpu': 4, 'num_worker_per_gpu': 0},
        'val': {'type': 'TinyDataset', 'length': 5, 'num_worker_per_gpu': 0},
    },
    'network_g': {'type': 'TinyNet'},
    'train': {
        'total_iter': 12,
        'optim_g': {'type': 'AdamW', 'lr': 1e-3},
        'scheduler': {'type': 'TrueCosineAnnealingLR', 'T_max': 12},
        'ema_decay': 0.9,
        'pixel_opt': {'type': 'L1Loss'},
    },
    'val': {'val_freq': 4, 'metrics': {'psnr': {'type': 'calculate_psnr'}}, 'report': False},
    'logger': {'print_freq': 1, 'save_checkpoint_freq': 6},
}


def write_options(folder, changes=None, name='tiny.yml'):
    """Writes the tiny option file with changes such as ``{'train.total_iter': 3}`` and returns its path."""
    options = copy.deepcopy(TINY)
    options['path'] = {'experiments_root': str(folder / 'experiments')}
    for dotted, value in (changes or {}).items():
        *path, last = dotted.split('.')
        block = options
        for key in path:
            block = block.setdefault(key, {})
        block[last] = value
    file = folder / name
    file.write_text(yaml.safe_dump(options, sort_keys=False))
    return file


def run(folder, changes=None, *arguments):
    """Trains in this process; returns the exit code."""
    return train.main(['-opt', str(write_options(folder, changes)), *arguments])


def spawn(file, *arguments, launcher=(), **kwargs):
    """Starts ``python basicsr/train.py`` in a process of its own."""
    command = [sys.executable, *launcher, str(ROOT / 'basicsr/train.py'), '-opt', str(file), *arguments]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
        **kwargs,
    )


def state(folder, iteration, name='tiny'):
    """A state file of a run."""
    path = Path(folder) / 'experiments' / name / 'training_states' / f'{iteration}.state'
    return torch.load(path, weights_only=True)


def differences(first, second, path=''):
    """Places where two states differ in any bit; the saved options are left out."""
    if isinstance(first, dict) and isinstance(second, dict):
        keys = [*first, *(k for k in second if k not in first)]
        missing = [f'{path}.{k}' for k in keys if k not in first or k not in second]
        return missing + [d for k in keys if k in first and k in second and k != 'options'
                          for d in differences(first[k], second[k], f'{path}.{k}')]  # fmt: skip
    if isinstance(first, list | tuple):
        return [d for i, (a, b) in enumerate(zip(first, second, strict=True)) for d in differences(a, b, f'{path}.{i}')]
    if isinstance(first, torch.Tensor):
        return [] if first.dtype == second.dtype and torch.equal(first, second) else [path]
    return [] if first == second else [path]
