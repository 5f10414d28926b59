"""What benchmarks/run.py measures: networks, sizes and settings, as plain data that both environments can read."""

from __future__ import annotations

from typing import Any

Job = dict[str, Any]  # one measurement in a process of its own; JSON on that process's command line

PARTS = ('training', 'inference', 'loader', 'startup', 'limits')
OURS, BASICSR, PUBLISHED = 'this project', 'BasicSR 1.4.2', 'published network, plain PyTorch'
FP32, BF16 = 'fp32', 'bf16'

# constructor arguments, and what a step and an image are; the published sizes (NAFNet: width 32, GoPro layout)
FULL: dict[str, dict[str, Any]] = {
    'NAFNet': {
        'network': {'width': 32, 'enc_blk_nums': [1, 1, 1, 28], 'middle_blk_num': 1, 'dec_blk_nums': [1, 1, 1, 1]},
        'batch': 4, 'crop': 128, 'warm': 2, 'steps': 5, 'image': [512, 768], 'tile': 256, 'overlap': 64, 'images': 2,
    },
    'Restormer': {
        'network': {}, 'batch': 1, 'crop': 128, 'warm': 1, 'steps': 3, 'image': [256, 384], 'tile': 192,
        'overlap': 32, 'images': 1,
    },
}  # fmt: skip
QUICK: dict[str, dict[str, Any]] = {
    'NAFNet': {
        'network': {'width': 4, 'enc_blk_nums': [1], 'middle_blk_num': 1, 'dec_blk_nums': [1]},
        'batch': 2, 'crop': 16, 'warm': 1, 'steps': 2, 'image': [96, 160], 'tile': 96, 'overlap': 16, 'images': 1,
    },
    'Restormer': {
        'network': {'dim': 8, 'num_blocks': [1, 1, 1, 1], 'num_refinement_blocks': 1},
        'batch': 1, 'crop': 16, 'warm': 1, 'steps': 2, 'image': [96, 160], 'tile': 96, 'overlap': 16, 'images': 1,
    },
}  # fmt: skip


def training_jobs(sizes: dict[str, dict[str, Any]], gpu: bool, compiled: bool = True) -> list[Job]:
    """Training steps: BasicSR as it is, the published network in a plain loop, this project by its options.

    Args:
        sizes: :data:`FULL` or :data:`QUICK`.
        gpu: Whether there is a GPU: then the plain loop is compiled in bf16 too.
        compiled: Whether to measure the settings that compile at all.
    """
    jobs = []
    for name, size in sizes.items():
        jobs += [_job('training', name, size, BASICSR, FP32, channels_last=False)]
        plain: list[tuple[str, bool, bool]] = [(FP32, False, False), (FP32, True, False), (BF16, True, False)]
        plain += [(FP32, True, True)] + [(BF16, True, True)] * gpu
        jobs += [_job('training', name, size, PUBLISHED, p, c, k) for p, c, k in plain if compiled or not k]
        own = [(FP32, False), (BF16, False), (FP32, True), (BF16, True)]
        jobs += [_job('training', name, size, OURS, p, True, k) for p, k in own if compiled or not k]
    return jobs


def inference_jobs(sizes: dict[str, dict[str, Any]]) -> list[Job]:
    """Restoring one image: the published network called plainly, and this project's tiler, whole and in tiles."""
    jobs = []
    for name, size in sizes.items():
        whole = {**size, 'tile': None}
        jobs += [_job('inference', name, whole, PUBLISHED, FP32, channels_last=False)]
        jobs += [_job('inference', name, whole, PUBLISHED, BF16, channels_last=True)]
        for one in (whole, size):
            jobs += [_job('inference', name, one, OURS, p, channels_last=True) for p in (FP32, BF16)]
    return jobs


def _job(
    kind: str, name: str, size: dict[str, Any], side: str, precision: str, channels_last: bool, compiled: bool = False
) -> Job:
    return {
        'kind': kind, 'name': name, **size, 'side': side, 'precision': precision, 'channels_last': channels_last,
        'compile': compiled,
    }  # fmt: skip


def setting(job: Job) -> str:
    """A job's setting in a few words, as the tables have it."""
    words = [job['precision']]
    if job['side'] == PUBLISHED and job['channels_last']:
        words.append('channels_last')
    if job['compile']:
        words.append('compiled')
    if job['kind'] == 'inference':
        words.append('whole image' if job['tile'] is None else f'tiles of {job["tile"]} px, overlap {job["overlap"]}')
    return ', '.join(words)


def start_options(work: str, name: str, iterations: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Option files of the same small run, for this project and for BasicSR.

    Args:
        work: The folder with the images, in ``pairs/gt`` and ``pairs/lq``.
        name: Name of the run.
        iterations: Length of the run.
    """
    data = {
        'name': 'pairs', 'type': 'PairedImageDataset', 'dataroot_gt': f'{work}/pairs/gt',
        'dataroot_lq': f'{work}/pairs/lq', 'gt_size': 64, 'use_hflip': True, 'use_rot': True,
        'num_worker_per_gpu': 2, 'batch_size_per_gpu': 4, 'dataset_enlarge_ratio': 100,
    }  # fmt: skip
    common = {
        'name': name, 'scale': 1, 'num_gpu': 'auto', 'manual_seed': 0, 'network_g': {'type': 'FirstStepNet'},
        'train': {
            'total_iter': iterations, 'warmup_iter': -1, 'ema_decay': 0.0,
            'optim_g': {'type': 'Adam', 'lr': 0.0002, 'weight_decay': 0, 'betas': [0.9, 0.99]},
            'scheduler': {'type': 'MultiStepLR', 'milestones': [100000], 'gamma': 0.5},
            'pixel_opt': {'type': 'L1Loss', 'loss_weight': 1.0, 'reduction': 'mean'},
        },
        'logger': {'print_freq': 1, 'save_checkpoint_freq': 100000, 'use_tb_logger': False},
    }  # fmt: skip
    ours = {
        **common, 'model_type': 'RestorationModel', 'imports': [f'{work}/first_step_arch.py'],
        'datasets': {'train': data}, 'path': {'experiments_root': f'{work}/experiments'},
    }  # fmt: skip
    peer = {
        **common, 'model_type': 'SRModel',
        'path': {'pretrain_network_g': None, 'strict_load_g': True, 'resume_state': None},
        'datasets': {'train': {**data, 'io_backend': {'type': 'disk'}, 'use_shuffle': True}},
    }  # fmt: skip
    return ours, peer
