"""Training steps and inference of BasicSR 1.4.2 and of the published networks; started by benchmarks/run.py.

Runs in an environment that holds ``basicsr==1.4.2``, ``spandrel`` and, for Restormer, ``spandrel_extra_arches`` or the
published file. BasicSR has neither network: its users register the published class, and so does this script.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import platform
import sys
from contextlib import nullcontext
from pathlib import Path

sys.path += [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[2] / 'tests/golden')]
import torch
from _common import (
    BETAS,
    LEARNING_RATE,
    answer,
    batches,
    device,
    inference_result,
    require_compiled,
    seconds_each,
    training_result,
    weights_file,
)
from _plan import BASICSR, BF16
from peers import import_torchvision


def published(name: str, file: str | None) -> type[torch.nn.Module]:
    """The class of a published network.

    Args:
        name: NAFNet or Restormer.
        file: The published restormer_arch.py, for an environment without ``spandrel_extra_arches``.
    """
    if name == 'NAFNet':
        from spandrel.architectures.NAFNet import NAFNet

        return NAFNet
    if file is None:
        from spandrel_extra_arches.architectures.Restormer import Restormer

        return Restormer
    spec = importlib.util.spec_from_file_location('restormer_arch', file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Restormer


def probe(file: str | None) -> dict[str, object]:
    """Versions, and which networks can be had here; a network that cannot has the reason as its value."""
    import basicsr  # noqa: F401

    packages = ('basicsr', 'torch', 'torchvision', 'spandrel', 'spandrel_extra_arches', 'numpy')
    versions = {'python': platform.python_version()}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = 'not installed'
    return {'versions': versions, 'networks': {name: _reason(name, file) for name in ('NAFNet', 'Restormer')}}


def _reason(name: str, file: str | None) -> str | None:
    try:
        published(name, file)
    except Exception as error:  # whatever a file given by the user raises
        return f'{type(error).__name__}: {error}'
    return None


def train_basicsr(job: dict) -> dict[str, object]:
    """BasicSR's own model, driven as its train.py drives it."""
    from basicsr.models import build_model
    from basicsr.utils.registry import ARCH_REGISTRY

    ARCH_REGISTRY.register(published(job['name'], job['restormer']))
    model = build_model({
        'name': 'peer', 'model_type': 'SRModel', 'scale': 1, 'num_gpu': torch.cuda.device_count(), 'dist': False,
        'is_train': True, 'rank': 0, 'world_size': 1, 'network_g': {'type': job['name'], **job['network']},
        'path': {'pretrain_network_g': weights_file(job['work'], job['name']), 'strict_load_g': True},
        'train': {
            'total_iter': 100_000, 'ema_decay': 0, 'pixel_opt': {'type': 'L1Loss', 'loss_weight': 1.0},
            'optim_g': {'type': 'Adam', 'lr': LEARNING_RATE, 'betas': BETAS},
            'scheduler': {'type': 'MultiStepLR', 'milestones': [100_000]},
        },
    })  # fmt: skip
    data, losses = batches(job), []

    def step(number: int) -> None:
        model.update_learning_rate(number + 1, warmup_iter=-1)
        model.feed_data(data[number])
        model.optimize_parameters(number + 1)
        losses.append(model.log_dict['l_pix'])

    return training_result(job, seconds_each(step, len(data)), losses)


def _published_network(job: dict) -> torch.nn.Module:
    net = published(job['name'], job['restormer'])(**job['network'])
    net.load_state_dict(torch.load(weights_file(job['work'], job['name']), weights_only=True)['params'])
    return net.to(device(), memory_format=_layout(job))


def _layout(job: dict) -> torch.memory_format:
    return torch.channels_last if job['channels_last'] else torch.contiguous_format


def _autocast(job: dict) -> torch.autocast | nullcontext:
    return torch.autocast(device().type, torch.bfloat16) if job['precision'] == BF16 else nullcontext()


def train_plain(job: dict) -> dict[str, object]:
    """The published network in the shortest loop there is."""
    net = _published_network(job)
    if job['compile']:
        net.compile()
    optimizer = torch.optim.Adam(net.parameters(), LEARNING_RATE, BETAS)
    data, losses = batches(job), []

    def step(number: int) -> None:
        lq, gt = (data[number][k].to(device(), memory_format=_layout(job), non_blocking=True) for k in ('lq', 'gt'))
        optimizer.zero_grad()
        with _autocast(job):
            output = net(lq)
        loss = torch.nn.functional.l1_loss(output.float(), gt)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())

    result = training_result(job, seconds_each(step, len(data)), losses)
    require_compiled(job)
    return result


def infer(job: dict) -> dict[str, object]:
    """The published network called once on the whole image."""
    net = _published_network(job).eval()

    def restore(image: torch.Tensor) -> torch.Tensor:
        with torch.no_grad(), _autocast(job):
            return net(image.to(device(), memory_format=_layout(job))).float().cpu()

    return inference_result(job, restore)


def main() -> None:
    """Answers one question."""
    parser = argparse.ArgumentParser()
    parser.add_argument('--restormer')
    parser.add_argument('--job')
    args = parser.parse_args()
    import_torchvision()
    if args.job is None:
        answer(probe(args.restormer))
        return
    job = {**json.loads(args.job), 'restormer': args.restormer}
    if job['kind'] == 'inference':
        answer(infer(job))
    else:
        answer((train_basicsr if job['side'] == BASICSR else train_plain)(job))


if __name__ == '__main__':
    main()
