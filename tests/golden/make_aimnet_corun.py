"""Writes aimnet.json, aimnet.npz, corun.json and corun.npz: keys, first weights and outputs of the published networks.

The published files are read from snapshots of their repositories, given on the command line; none of their code stands
here. Layers that they import from packages with compiled parts are replaced by plain formulae.

    git clone https://github.com/Huang-ShiRui/Semi-UIR && git -C Semi-UIR checkout 14eb75d
    git clone https://github.com/cnyvfang/CORUN-Colabator && git -C CORUN-Colabator checkout b1103fe
    python tests/golden/make_aimnet_corun.py Semi-UIR/{model,attention,deform_conv,estimate_illumination}.py \
        CORUN-Colabator/corun_colabator/archs/corun_arch.py

Needs torch, numpy, einops and opencv-python.
"""

import argparse
import ast
import importlib.util
import json
import sys
import types
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from recipe import fill, image, uniform

HERE = Path(__file__).parent
AIMNET = {'n_feat': 8, 'n_RCB': 1}
SIZES = ((48, 48), (64, 72), (61, 50))  # the last is padded to 64 x 52
ROTATIONS_SEED = 0


def deformable_convolution(x, offset, mask, weight, bias, stride, padding, dilation, groups, deform_groups):
    """DCNv2, equation (1) of arXiv:1811.11168, with the bilinear kernel written out; zeros outside the image."""
    assert (bias, stride, padding, dilation, groups, deform_groups) == (None, 1, 1, 1, 1, 1)
    n, c, h, w = x.shape
    rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing='ij')
    out = x.new_zeros(n, weight.shape[0], h, w)
    for tap in range(9):
        y = rows + tap // 3 - 1 + offset[:, 2 * tap]
        z = columns + tap % 3 - 1 + offset[:, 2 * tap + 1]
        sampled = torch.zeros_like(x)
        for p in (y.floor(), y.floor() + 1):
            for q in (z.floor(), z.floor() + 1):
                share = (1 - (y - p).abs()) * (1 - (z - q).abs())
                share = share * ((p >= 0) & (p < h) & (q >= 0) & (q < w))
                place = (p.clamp(0, h - 1) * w + q.clamp(0, w - 1)).long().view(n, 1, h * w).expand(-1, c, -1)
                sampled = sampled + share[:, None] * x.flatten(2).gather(2, place).view_as(x)
        out = out + torch.einsum('oc,nchw->nohw', weight[:, :, tap // 3, tap % 3], sampled * mask[:, tap, None])
    return out


def stand_in(name, **content):
    module = types.ModuleType(name)
    module.__dict__.update(content)
    sys.modules[name] = module
    return module


def load(name, path, package=None):
    spec = importlib.util.spec_from_file_location(f'{package}.{name}' if package else name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def published_aimnet(model, attention, deform_conv):
    stand_in('mmcv')
    stand_in('mmcv.ops', modulated_deform_conv2d=deformable_convolution)
    stand_in('utils', torch=torch, nn=torch.nn, F=F, np=np, count_parameters=None)
    load('attention', attention)
    load('deform_conv', deform_conv)
    return load('model', model).AIMnet


def published_illumination(path):
    """The one function of a script that would begin to read folders when imported."""
    tree = ast.parse(Path(path).read_text())
    tree.body = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    names = {'cv2': cv2, 'np': np}
    exec(compile(tree, path, 'exec'), names)
    return names['luminance_estimation']


def published_corun(path):
    registry = types.SimpleNamespace(register=lambda: lambda cls: cls)
    for name in ('basicsr', 'basicsr.utils', 'torchvision'):
        stand_in(name)
    stand_in('basicsr.utils.registry', ARCH_REGISTRY=registry)
    sys.modules['torchvision'].transforms = None
    stand_in('archs').__path__ = [str(Path(path).parent)]
    stand_in('archs.arch_util', to_2tuple=None, trunc_normal_=None)
    return load('corun_arch', path, 'archs').CORUN


def facts(make):
    torch.manual_seed(0)
    net = make()
    state = net.state_dict()
    return {
        'keys': [[k, list(v.shape)] for k, v in state.items()],
        'params': sum(p.numel() for p in net.parameters() if p.requires_grad),
        'first_weights_of_seed_0': {k: [round(x, 8) for x in v.flatten()[:2].tolist()] for k, v in state.items()},
    }


@contextmanager
def repeatable():
    """Fixes what the published attention leaves open: rotations come from a fixed seed, and sorting is stable."""
    published = torch.randn

    def draw(shape, dtype, device):
        return published(shape, generator=torch.Generator().manual_seed(ROTATIONS_SEED)).to(device, dtype)

    torch.randn = draw
    try:
        with stable_sorting():
            yield
    finally:
        torch.randn = published


@contextmanager
def stable_sorting():
    """Keeps the order of equal hash codes; the default of torch leaves it to the processor."""
    published = torch.Tensor.sort
    torch.Tensor.sort = lambda self, dim: published(self, dim=dim, stable=True)
    try:
        yield
    finally:
        torch.Tensor.sort = published


def fill_aimnet(net):
    """Weights of the recipe, except the two kernels that are no weights."""
    kernels = {k: v.clone() for k, v in net.state_dict().items() if k.startswith('get_gradient')}
    fill(net).load_state_dict(kernels, strict=False)
    return net.double()


def aimnet(make, illumination):
    outputs = {}
    net = fill_aimnet(make(**AIMNET)).eval()
    for h, w in SIZES:
        x, la = image((1, 3, h, w), 1), image((1, 3, h, w), 2)
        padding = (0, -w % 4, 0, -h % 4)
        padded = [F.pad(t, padding, 'reflect') for t in (x, la)]
        with torch.no_grad(), repeatable():
            found = net(*padded)
        for name, y in zip(('image', 'gradient'), found):
            outputs[f'{name}_{h}x{w}'] = y[..., :h:2, :w:3].float().numpy()
    torch.manual_seed(7)
    with torch.no_grad(), stable_sorting():
        found = net.train()(image((2, 3, 48, 52), 1), image((2, 3, 48, 52), 2))
    outputs['training_48x52'] = found[0][..., ::2, ::3].float().numpy()
    for h, w in ((37, 300), (160, 90)):
        outputs[f'illumination_{h}x{w}'] = illumination(smooth_levels(h, w))
    np.savez_compressed(HERE / 'aimnet.npz', **outputs)
    source = 'github.com/Huang-ShiRui/Semi-UIR 14eb75d'
    small = {'config': AIMNET, **facts(lambda: make(**AIMNET))}
    full = {k: v for k, v in facts(make).items() if k != 'first_weights_of_seed_0'}
    write('aimnet.json', {'source': source, 'small': small, 'published': {'config': {}, **full}})


def smooth_levels(h, w):
    """An 8-bit colour image of slopes and noise with dark and bright parts."""
    rows, columns = np.mgrid[:h, :w]
    slopes = np.stack((rows / h, columns / w, (rows + columns) / (h + w)), axis=2)
    return np.clip(280 * slopes - 20 + 60 * uniform((h, w, 3), 3), 0, 255).astype(np.uint8)


def fill_corun(net):
    """Weights of the recipe; step sizes positive, as training keeps them."""
    fill(net)
    for name, p in net.named_parameters():
        if name.endswith('step_lambda'):
            p.data.abs_().add_(0.2)
    return net.double()


def corun(make):
    outputs = {}
    for depth, (h, w) in ((4, (16, 24)), (3, (13, 19)), (2, (8, 8))):
        net = fill_corun(make(depth)).eval()
        x = image((2, 3, h, w), 1)
        x[0, :, :2, :3] = 1  # white, where the published steps avoid a division by zero
        with torch.no_grad():
            images, transmissions = net(F.pad(x, (0, -w % 8, 0, -h % 8), 'reflect'), finetune=True)
        for name, found in (('images', images), ('transmissions', transmissions)):
            outputs[f'{name}_{depth}_{h}x{w}'] = torch.stack(found[::-1])[..., :h, :w].float().numpy()
    np.savez_compressed(HERE / 'corun.npz', **outputs)
    layouts = {f'depth{d}': {'config': {'depth': d}, **facts(lambda d=d: make(d))} for d in (2, 4)}
    del layouts['depth2']['keys'], layouts['depth4']['first_weights_of_seed_0']
    write('corun.json', {'source': 'github.com/cnyvfang/CORUN-Colabator b1103fe', 'layouts': layouts})


def write(name, content):
    (HERE / name).write_text(json.dumps(content, separators=(',', ':')) + '\n')


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ('model', 'attention', 'deform_conv', 'estimate_illumination', 'corun_arch'):
        parser.add_argument(name)
    args = parser.parse_args()
    aimnet(
        published_aimnet(args.model, args.attention, args.deform_conv),
        published_illumination(args.estimate_illumination),
    )
    corun(published_corun(args.corun_arch))


if __name__ == '__main__':
    main()
