"""Training steps and inference of this project; each measurement is a process that benchmarks/run.py starts."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == '__main__' and not __package__:  # run as a script: import from the checkout
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import json
import os
import platform
from typing import Any

import torch

from benchmarks._common import (
    BETAS,
    LEARNING_RATE,
    SEED,
    answer,
    batches,
    device,
    inference_result,
    require_compiled,
    seconds_each,
    smooth,
    training_result,
    weights_file,
)

PAIRS, SIDE = 8, 96  # small images for the start of training


def prepare(job: dict[str, Any]) -> dict[str, Any]:
    """Writes initial weights and a few pairs of images; tells versions, machine and each network's operations.

    NAFNet's residuals start at zero, so that its blocks do nothing; here every parameter that starts at zero is given
    small random values, and every operation counts from the first step.
    """
    from basicsr.image_io import write_image

    generator = torch.Generator().manual_seed(SEED)
    for side in ('gt', 'lq'):
        for number in range(PAIRS):
            pixels = smooth((1, 3, SIDE, SIDE), generator)[0].permute(1, 2, 0).contiguous().numpy()
            write_image(Path(job['work']) / 'pairs' / side / f'{number}.png', pixels)
    networks = {name: _prepare_network(name, size, job['work']) for name, size in job['sizes'].items()}
    return {'networks': networks, **facts()}


def _prepare_network(name: str, size: dict[str, Any], work: str) -> dict[str, Any]:
    """Saves the initial weights; returns the operations, or why there is no such network."""
    from basicsr.archs import build_network
    from basicsr.errors import QualIRError

    torch.manual_seed(SEED)
    try:
        net = build_network({'type': name, **size['network']})
    except QualIRError as error:
        return {'reason': str(error).splitlines()[0]}
    with torch.no_grad():
        for parameter in net.parameters():
            if not parameter.any():
                parameter.normal_(std=0.05)
    torch.save({'params': net.state_dict()}, weights_file(work, name))
    return {'parameters': sum(p.numel() for p in net.parameters()), **operations(net.to('meta'), size)}


def operations(net: torch.nn.Module, size: dict[str, Any]) -> dict[str, float]:
    """Floating-point operations of convolutions and matrix products, two for a multiplication and an addition.

    Args:
        net: The network, on the device ``meta``: nothing is computed.
        size: What a training step and an image are.
    """
    from torch.utils.flop_counter import FlopCounterMode

    counts = []
    for shape, training in (((size['batch'], 3, size['crop'], size['crop']), True), ((1, 3, *size['image']), False)):
        with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(training):
            out = net(torch.empty(shape, device='meta'))
            if training:
                out.sum().backward()
        counts.append(counter.get_total_flops())
    megapixels = size['image'][0] * size['image'][1] / 1e6
    return {
        'training_flop_per_image': counts[0] / size['batch'],
        'inference_flop_per_megapixel': counts[1] / megapixels,
    }


def facts() -> dict[str, Any]:
    """The machine and the versions."""
    from basicsr import __version__
    from basicsr.utils.misc import processor_name

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        'machine': {
            'processor': processor_name(), 'cores': os.cpu_count(), 'gpu': gpu,
            'system': f'{platform.system()} {platform.machine()}',
        },
        'versions': {'python': platform.python_version(), 'qualir': __version__, 'torch': torch.__version__},
    }  # fmt: skip


def train(job: dict[str, Any]) -> dict[str, Any]:
    """The trainer's own iterations, built from options, fed with the given batches."""
    from basicsr import start
    from basicsr.data import build_dataset
    from basicsr.models import build_model
    from basicsr.options import from_dict
    from basicsr.rng import seed_everything
    from basicsr.trainer import Trainer

    options = from_dict(_options(job))
    accelerator = start.make_accelerator(options)
    seed_everything(SEED)
    model = build_model(options)
    start.load_pretrained(model, options)
    datasets = {o.key: build_dataset(o) for o in options.datasets.values()}
    trainer = Trainer(options, model, datasets, accelerator, start.run_folder(options))
    data, losses = batches(job), []
    trainer.wrapped.register_forward_hook(lambda module, args, out: losses.append(out['l_pix'].detach()))

    def step(number: int) -> None:
        trainer.feed_data([data[number]])
        trainer.optimize_parameters(number + 1)

    result = training_result(job, seconds_each(step, len(data)), losses)
    require_compiled(job)
    return result


def _options(job: dict[str, Any]) -> dict[str, Any]:
    pairs = Path(job['work']) / 'pairs'
    return {
        'name': 'benchmark', 'model_type': 'RestorationModel', 'num_gpu': 'auto', 'manual_seed': SEED,
        'datasets': {'train': {
            'type': 'PairedImageDataset', 'dataroot_gt': str(pairs / 'gt'), 'dataroot_lq': str(pairs / 'lq'),
            'gt_size': 32, 'batch_size_per_gpu': job['batch'], 'num_worker_per_gpu': 0,
        }},
        'network_g': {'type': job['name'], **job['network']},
        'path': {
            'pretrain_network_g': weights_file(job['work'], job['name']),
            'experiments_root': str(Path(job['work']) / 'experiments'),
        },
        'train': {
            'total_iter': 100_000, 'pixel_opt': {'type': 'L1Loss'},
            'optim_g': {'type': 'Adam', 'lr': LEARNING_RATE, 'betas': list(BETAS)},
            'scheduler': {'type': 'MultiStepLR', 'milestones': [100_000]},
            'mixed_precision': job['precision'], 'channels_last': job['channels_last'], 'compile': job['compile'],
        },
    }  # fmt: skip


def infer(job: dict[str, Any]) -> dict[str, Any]:
    """The project's tiler on the image, whole or in tiles."""
    from basicsr import checkpoint
    from basicsr.archs import build_network
    from basicsr.tiling import Restorer, Tiling

    net = build_network({'type': job['name'], **job['network']})
    checkpoint.load_network(net, weights_file(job['work'], job['name']), True, 'params')
    net = net.to(device(), memory_format=torch.channels_last if job['channels_last'] else torch.contiguous_format)
    restorer = Restorer(net.eval(), device(), Tiling(job['tile'], job['overlap']), precision=job['precision'])
    return inference_result(job, restorer)


def main() -> None:
    """Does the one job given as JSON."""
    job = json.loads(sys.argv[1])
    answer({'prepare': prepare, 'training': train, 'inference': infer}[job['kind']](job))


if __name__ == '__main__':
    main()
