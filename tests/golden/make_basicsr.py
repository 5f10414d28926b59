"""Writes archs.npz, losses.json, metrics.json, schedulers.json and utils.npz: what BasicSR 1.4.2 of PyPI computes.

    python3.11 -m venv peer && peer/bin/pip install basicsr==1.4.2
    peer/bin/python tests/golden/make_basicsr.py

Run by its path, so that ``basicsr`` is the installed one and not that of the checkout.
"""

import json
from pathlib import Path

import cv2
import numpy as np
import torch
from peers import import_torchvision
from recipe import DISTORTIONS, fill, image, uniform

import_torchvision()

from basicsr.archs import arch_util  # noqa: E402
from basicsr.losses import basic_loss  # noqa: E402
from basicsr.metrics import calculate_psnr, calculate_ssim  # noqa: E402
from basicsr.models import lr_scheduler  # noqa: E402
from basicsr.utils import img2tensor, tensor2img  # noqa: E402

HERE = Path(__file__).parent
ASSETS = HERE.parent / 'assets'
PHOTOS = ('astronaut', 'chelsea', 'coffee', 'rocket')

LOSSES = [
    (name, options, weighting)
    for name, extra in (('L1Loss', {}), ('MSELoss', {}), ('CharbonnierLoss', {'eps': 1e-6}))
    for reduction in ('mean', 'sum', 'none')
    for options in ({'loss_weight': 0.7, 'reduction': reduction, **extra},)
    for weighting in (None, 1, 3)  # channels of the weights
]
SCHEDULES = [
    ('MultiStepRestartLR', {'milestones': [10, 20, 20, 35], 'gamma': 0.5}),
    ('MultiStepRestartLR', {'milestones': [0, 5, 12, 30, 40], 'restarts': [12, 30], 'restart_weights': [0.5, 0.25]}),
    ('CosineAnnealingRestartLR', {'periods': [60], 'restart_weights': [1], 'eta_min': 1e-7}),
    ('CosineAnnealingRestartLR', {'periods': [10, 20, 30], 'restart_weights': [1, 0.5, 0.25], 'eta_min': 1e-6}),
]


def metrics():
    rows = []
    for photo in PHOTOS:
        clean = cv2.imread(str(ASSETS / f'{photo}.png'))
        spoilt = {'jpeg': cv2.imread(str(ASSETS / f'{photo}_jpeg.png'))}
        spoilt |= {name: distort(clean) for name, distort in DISTORTIONS.items()}
        for name, img in spoilt.items():
            for border in (0, 4):
                for y in (False, True):
                    options = {'crop_border': border, 'test_y_channel': y}
                    scores = [float(f(img, clean, **options)) for f in (calculate_psnr, calculate_ssim)]
                    rows.append([photo, name, options, *scores])
    return rows


def losses():
    pred, target = image((2, 3, 6, 5), 1).float(), image((2, 3, 6, 5), 2).float()
    rows = []
    for name, options, channels in LOSSES:
        weight = None if channels is None else image((2, channels, 6, 5), 3).float()
        value = getattr(basic_loss, name)(**options)(pred, target, weight)
        rows.append([name, options, channels, list(value.shape), float(value.double().sum())])
    return rows


def schedule(scheduler_class, options, initial_lr, steps):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=initial_lr)
    scheduler = scheduler_class(optimizer, **options)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        scheduler.step()
    return rates


def schedulers():
    rows = [
        [name, options, 1e-3, schedule(getattr(lr_scheduler, name), options, 1e-3, 60)] for name, options in SCHEDULES
    ]
    options = {'T_max': 60, 'eta_min': 1e-7}
    torch_class = torch.optim.lr_scheduler.CosineAnnealingLR
    return [*rows, ['TrueCosineAnnealingLR', options, 1e-3, schedule(torch_class, options, 1e-3, 61)]]


def archs():
    x = image((1, 4, 6, 8), 1).float()
    flow = torch.from_numpy(uniform((1, 6, 8, 2), 2)).float() * 6
    found = {'residual': fill(arch_util.ResidualBlockNoBN(4, res_scale=0.5))(x)}
    found |= {f'upsample{s}': fill(arch_util.Upsample(s, 4))(x) for s in (2, 3, 4)}
    for mode, padding in (('bilinear', 'zeros'), ('nearest', 'zeros'), ('bilinear', 'border')):
        found[f'flow_warp_{mode}_{padding}'] = arch_util.flow_warp(x, flow, mode, padding)
    found['resize_flow_ratio'] = arch_util.resize_flow(x[:, :2], 'ratio', [0.5, 2.0])
    found['resize_flow_shape'] = arch_util.resize_flow(x[:, :2], 'shape', [9, 4])
    found['pixel_unshuffle'] = arch_util.pixel_unshuffle(x, 2)
    torch.manual_seed(0)
    found['init_conv'] = arch_util.ResidualBlockNoBN(4).conv1.weight
    linear = torch.nn.Linear(5, 4)
    arch_util.default_init_weights(linear, 2, 0.5, nonlinearity='relu')
    found |= {'init_linear': linear.weight, 'init_linear_bias': linear.bias}
    found['trunc_normal'] = arch_util.trunc_normal_(torch.empty(50), 0.1, 0.5, -0.4, 0.6)
    found |= {
        f'dcn:{k}': v for k, v in arch_util.DCNv2Pack(4, 6, 3, padding=1, deformable_groups=2).state_dict().items()
    }
    found = {k: v.detach().numpy() for k, v in found.items()}
    return {
        k: np.zeros(v.shape, np.bool_) if k.startswith('dcn:') else v for k, v in found.items()
    }  # only their shapes


def utils():
    photo = cv2.imread(str(ASSETS / 'coffee.png'))[:8, :9]
    batch = image((5, 3, 4, 6), 4).float() * 3 - 1
    return {
        'img2tensor': img2tensor(photo).numpy(),
        'img2tensor_bgr': img2tensor(photo, bgr2rgb=False, float32=False).numpy(),
        'colour': tensor2img(batch[0], min_max=(-1, 1)),
        'colour_rgb_float': tensor2img(batch[:1], rgb2bgr=False, out_type=np.float32),
        'grey': tensor2img(batch[0, :1]),
        'plane': tensor2img(batch[0, 0]),
        'grid': tensor2img(batch),
        'grid_grey': tensor2img(batch[:, :1]),
    }


def write(name, content):
    (HERE / name).write_text(
        json.dumps({'source': 'BasicSR 1.4.2 (PyPI)', 'rows': content}, separators=(',', ':')) + '\n'
    )


def main():
    write('metrics.json', metrics())
    write('losses.json', losses())
    write('schedulers.json', schedulers())
    np.savez_compressed(HERE / 'archs.npz', **archs())
    np.savez_compressed(HERE / 'utils.npz', **utils())


if __name__ == '__main__':
    main()
