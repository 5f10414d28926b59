"""LPIPS: a learned perceptual distance, with weights from files.

R. Zhang, P. Isola, A. A. Efros, E. Shechtman and O. Wang, "The unreasonable effectiveness of deep features as a
perceptual metric", CVPR 2018; version 0.1 of their package ``lpips``.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from basicsr.errors import CheckpointError, DataError, OptionError
from basicsr.metrics import metric
from basicsr.metrics.images import Image, Order, answer, pair_of_levels
from basicsr.registry import METRIC_REGISTRY
from basicsr.weights import find_weights_file

Net = Literal['alex', 'vgg', 'squeeze']

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of images in [-1,1]
MIN_SIDE = 32
TRUNKS = {  # torchvision's file names, the first one current
    'alex': ('alexnet-owt-7be5be79.pth', 'alexnet-owt-4df8aa71.pth'),
    'vgg': ('vgg16-397923af.pth',),
    'squeeze': ('squeezenet1_1-b8a52dc0.pth', 'squeezenet1_1-f364aa15.pth'),
}
TAPS = {  # layers of the trunk (indices of torchvision's ``features``) whose output is compared, and their channels
    'alex': {1: 64, 4: 192, 7: 384, 9: 256, 11: 256},
    'vgg': {3: 64, 8: 128, 15: 256, 22: 512, 29: 512},
    'squeeze': {1: 64, 4: 128, 7: 256, 9: 384, 10: 384, 11: 512, 12: 512},
}
VGG = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512)  # 0 is a pooling
FIRE = {3: (64, 16, 64), 4: (128, 16, 64), 6: (128, 32, 128), 7: (256, 32, 128)} | {
    9: (256, 48, 192), 10: (384, 48, 192), 11: (384, 64, 256), 12: (512, 64, 256)
}  # fmt: skip


@METRIC_REGISTRY.register()
@metric(higher_better=False)
def calculate_lpips(
    img: Image,
    img2: Image,
    crop_border: int = 0,
    input_order: Order = 'HWC',
    net: Net = 'alex',
    trunk: str | None = None,
    heads: str | None = None,
) -> Tensor | float:
    """Learned perceptual distance of each image (LPIPS v0.1; Zhang et al., CVPR 2018); 0 is equal, lower is better.

    The weights do not come with this project. The trunk is torchvision's ImageNet file, the heads are the file of the
    package ``lpips``; or one file holds both (a saved ``lpips.LPIPS``). Without a path they are looked for in the
    folder that QUALIR_WEIGHTS names, in ~/.cache/qualir/weights and where torchvision and pyiqa download to.

    Args:
        img: Restored images: a tensor (N, 3, H, W) or (3, H, W), RGB in [0, 1], or a numpy array in [0, 255], BGR.
        img2: Wanted images, of the same form and shape.
        crop_border: Pixels left out at each edge.
        input_order: Order of a numpy array; tensors are always CHW.
        net: Trunk: alex, vgg or squeeze.
        trunk: Weight file of the trunk with torchvision's keys, or of trunk and heads together; null searches for it.
        heads: Weight file of the linear heads, weights/v0.1/NET.pth of the package lpips; null searches for it.

    Returns:
        For tensors a float64 tensor (N,) on their device, for numpy arrays a float.

    Raises:
        DataError: Shapes that differ or cannot be used, not RGB, or smaller than 32 x 32 pixels.
        MissingWeightsError: A weight file is not on this machine; the text says which file goes where.
        CheckpointError: A weight file cannot be read or does not fit.
        OptionError: A wrong option.
    """
    if net not in TAPS:
        raise OptionError(f"calculate_lpips: net '{net}' is not known; allowed are {', '.join(TAPS)}.")
    pair = pair_of_levels('calculate_lpips', img, img2, crop_border, input_order)
    channels, *size = pair[0].shape[1:]
    if channels != 3 or min(size) < MIN_SIDE:
        text = f'needs RGB images of at least {MIN_SIDE} x {MIN_SIDE} pixels, got {channels} channels, '
        raise DataError(f'calculate_lpips: {text}{size[0]} x {size[1]}.')
    model = load_lpips(net, trunk, heads, str(pair[0].device))
    with torch.no_grad():
        return answer(model(*((x / 255).float() for x in pair)).double(), img)


class LPIPS(nn.Module):
    """The distance as a network in evaluation mode; its parameters need no gradient, its input may.

    Args:
        net: Trunk: alex, vgg or squeeze.
        trunk: Weights with torchvision's keys, ``features.0.weight``; the classifier's are left out.
        heads: Weights of the linear heads, ``lin0.model.1.weight``.

    Raises:
        CheckpointError: Weights are missing or of another shape.
    """

    def __init__(self, net: Net, trunk: Mapping[str, Tensor], heads: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.taps = TAPS[net]
        self.features = trunk_layers(net)
        self.heads = nn.ParameterList(torch.empty(c) for c in self.taps.values())
        self.register_buffer('shift', torch.tensor(SHIFT).view(1, 3, 1, 1))
        self.register_buffer('scale', torch.tensor(SCALE).view(1, 3, 1, 1))
        wanted = {k: trunk.get(f'features.{k}') for k in self.features.state_dict()}
        _fill(self.features.state_dict(), wanted, f'LPIPS ({net}), trunk', 'features.')
        found = {str(i): _flat(heads.get(f'lin{i}.model.1.weight')) for i in range(len(self.heads))}
        _fill(self.heads.state_dict(), found, f'LPIPS ({net}), heads', 'lin')
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor, others: Tensor) -> Tensor:
        """Distances.

        Args:
            images: (N,3,H,W) RGB in [0,1].
            others: The same.

        Returns:
            (N,).
        """
        x = (torch.cat((images, others)) * 2 - 1 - self.shift) / self.scale
        distance = images.new_zeros(len(images))
        heads = iter(self.heads)
        for number, layer in enumerate(self.features):
            x = layer(x)
            if number in self.taps:
                first, second = (x / (x.square().sum(1, keepdim=True).clamp(min=1e-20).sqrt() + 1e-10)).chunk(2)
                weights = next(heads)
                distance = distance + ((first - second).square() * weights[:, None, None]).sum(1).mean((1, 2))
        return distance


@lru_cache(maxsize=4)
def load_lpips(net: Net, trunk: str | None = None, heads: str | None = None, device: str = 'cpu') -> LPIPS:
    """The distance with weights from files, made once for each set of files and device.

    Args:
        net: Trunk: alex, vgg or squeeze.
        trunk: As for :func:`calculate_lpips`.
        heads: As for :func:`calculate_lpips`.
        device: Where to put it.

    Raises:
        MissingWeightsError: A file is not on this machine.
        CheckpointError: A file cannot be read or does not fit.
    """
    what = f'LPIPS ({net})'
    source = f'https://download.pytorch.org/models/{TRUNKS[net][0]}'
    stored = _read(find_weights_file(TRUNKS[net], trunk, f'{what}, trunk', source))
    both = _in_torchvision_keys(net, stored)
    if heads is not None or 'lin0.model.1.weight' not in both:
        names = (f'lpips_{net}.pth', f'lpips/{net}.pth', f'v0.1/{net}.pth', f'LPIPS_v0.1_{net}-{_HASHES[net]}.pth')
        source = f'the PyPI package lpips, where it is lpips/weights/v0.1/{net}.pth'
        return LPIPS(net, both, _read(find_weights_file(names, heads, f'{what}, heads', source))).to(device)
    return LPIPS(net, both, both).to(device)


_HASHES = {'alex': 'df73285e', 'vgg': 'a78928a0', 'squeeze': '4a5350f2'}  # in pyiqa's file names


def trunk_layers(net: Net) -> nn.Sequential:
    """The convolutional layers of torchvision's network up to the last one that is compared, without weights."""
    with torch.device('meta'):
        layers = {'alex': _alexnet, 'vgg': _vgg16, 'squeeze': _squeezenet}[net]()
    return nn.Sequential(*layers).to_empty(device='cpu')


def _alexnet() -> list[nn.Module]:
    pool = nn.MaxPool2d(3, 2)
    return [
        nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), pool,
        nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), pool,
        nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(),
    ]  # fmt: skip


def _vgg16() -> list[nn.Module]:
    layers: list[nn.Module] = []
    channels = 3
    for width in VGG:
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()] if width else [nn.MaxPool2d(2, 2)]
        channels = width or channels
    return layers


def _squeezenet() -> list[nn.Module]:
    first = [nn.Conv2d(3, 64, 3, 2), nn.ReLU()]
    return first + [Fire(*FIRE[i]) if i in FIRE else nn.MaxPool2d(3, 2, ceil_mode=True) for i in range(2, 13)]


class Fire(nn.Module):
    """A module of SqueezeNet (Iandola et al., 2016) with torchvision's names.

    Args:
        channels: That come in.
        squeezed: That are left in between.
        wide: Half of those that go out.
    """

    def __init__(self, channels: int, squeezed: int, wide: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, wide, 1)
        self.expand3x3 = nn.Conv2d(squeezed, wide, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.squeeze(x))
        return F.relu(torch.cat((self.expand1x1(x), self.expand3x3(x)), dim=1))


def _read(file: Path) -> dict[str, Tensor]:
    try:
        found = torch.load(file, map_location='cpu', weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        raise CheckpointError(f'LPIPS: {file} cannot be read as weights: {error}') from error
    if not isinstance(found, Mapping):
        raise CheckpointError(f'LPIPS: {file} holds {type(found).__name__}, not weights by name.')
    return dict(found)


def _in_torchvision_keys(net: Net, stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """The keys of a saved ``lpips.LPIPS``, ``net.slice1.0.weight``, as torchvision calls them; others unchanged."""
    renamed = {}
    for key, value in stored.items():
        parts = key.split('.')
        inside = parts[0] == 'net' and len(parts) > 2 and parts[1].startswith('slice')
        renamed['.'.join(['features', *parts[2:]]) if inside else key] = value
    return renamed


def _flat(weights: Tensor | None) -> Tensor | None:
    return None if weights is None else weights.flatten()


@torch.no_grad()
def _fill(parameters: Mapping[str, Tensor], found: Mapping[str, Tensor | None], what: str, prefix: str) -> None:
    """Copies weights into parameters, all or none: a distance with a random layer must not exist."""
    for key, parameter in parameters.items():
        value = found[key]
        if value is None or value.shape != parameter.shape:
            state = 'missing' if value is None else f'of shape {tuple(value.shape)}'
            raise CheckpointError(f"{what}: '{prefix}{key}' is {state}, needed is {tuple(parameter.shape)}.")
        parameter.copy_(value)
