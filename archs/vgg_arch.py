"""VGG as a frozen source of features, with torchvision's weight files.

K. Simonyan and A. Zisserman, "Very deep convolutional networks for large-scale image recognition", ICLR 2015.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from basicsr import checkpoint
from basicsr.errors import CheckpointError, OptionError
from basicsr.registry import ARCH_REGISTRY
from basicsr.weights import find_weights_file

WIDTHS = (64, 128, 256, 512, 512)  # of the five blocks; each but the first begins with a pooling
CONVS = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}  # convolutions in each block
FILES = {16: 'vgg16-397923af.pth', 19: 'vgg19-dcbb9e9d.pth'}  # torchvision's names
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
LAYERS = ('relu1_1', 'relu2_1', 'relu3_1', 'relu4_1', 'relu5_1')


class _Conv(nn.Module):
    """A 3x3 convolution and its ReLU."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        # Buffers that are not saved: they come from their own file, and no checkpoint shall carry a copy.
        self.register_buffer('weight', torch.empty(c_out, c_in, 3, 3), persistent=False)
        self.register_buffer('bias', torch.empty(c_out), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(F.conv2d(x, self.weight, self.bias, padding=1))


@ARCH_REGISTRY.register()
class VGGFeatures(nn.Module):
    """VGG19 or VGG16 up to the deepest feature that is asked for.

    The weights, torchvision's of ImageNet, do not come with this project. They are frozen and are no part of a
    checkpoint.

    Args:
        layers: Features that are given, shallow first: relu1_1 to relu5_4 (5_3 in VGG16).
        weights: Weight file, or a folder that holds it; null looks in the folder that QUALIR_WEIGHTS names, in
            ~/.cache/qualir/weights and where torchvision and pyiqa download to.
        input_norm: Whether images are normalised by the mean and deviation of ImageNet, which the weights were trained
            with. Semi-UIR, Colabator and QualiTeacher leave it out.
        depth: 19 or 16.

    Raises:
        OptionError: A layer that is not there, one twice, or out of order.
        MissingWeightsError: The weight file is not on this machine.
        CheckpointError: The file does not hold these weights.
    """

    def __init__(
        self,
        layers: tuple[str, ...] = LAYERS,
        weights: str | None = None,
        input_norm: bool = False,
        depth: Literal[16, 19] = 19,
    ) -> None:
        super().__init__()
        self.layers, self.depth = _checked_layers(tuple(layers), depth), depth
        blocks = [int(name[4]) - 1 for name in self.layers]
        self.channels = tuple(WIDTHS[b] for b in blocks)
        self.strides = tuple(2**b for b in blocks)
        self.net = nn.ModuleDict(_layers(depth, self.layers[-1]))
        shift, scale = (MEAN, STD) if input_norm else ((0.0,) * 3, (1.0,) * 3)
        self.register_buffer('mean', torch.tensor(shift).view(1, 3, 1, 1), persistent=False)
        self.register_buffer('std', torch.tensor(scale).view(1, 3, 1, 1), persistent=False)
        self._load(weights)
        self.eval()

    def features(self, images: Tensor) -> list[Tensor]:
        """The features of images (N,3,H,W) in [0,1] at :attr:`layers`; block b has stride 2^(b-1), rounded down."""
        x, found = (images - self.mean) / self.std, []
        for name, layer in self.net.items():
            x = layer(x)
            if name in self.layers:
                found.append(x)
        return found

    def forward(self, images: Tensor) -> Tensor:
        """The deepest feature."""
        return self.features(images)[-1]

    @torch.no_grad()
    def _load(self, given: str | None) -> None:
        what, name = f'VGGFeatures (VGG{self.depth})', FILES[self.depth]
        file = find_weights_file([name], given, what, f'https://download.pytorch.org/models/{name}')
        stored = checkpoint.find_weights(checkpoint.read(file), file).tensors
        place = 0  # in torchvision's ``features``, where each convolution is followed by its ReLU
        for layer in self.net.values():
            if isinstance(layer, _Conv):
                for key, parameter in (('weight', layer.weight), ('bias', layer.bias)):
                    _copy(stored, f'features.{place}.{key}', parameter, f'{what}: {file}')
                place += 1
            place += 1


def _layers(depth: int, last: str) -> dict[str, nn.Module]:
    """Convolutions, named after their ReLU, and poolings, in order, up to ``last``."""
    layers: dict[str, nn.Module] = {}
    c_in = 3
    for block, (width, count) in enumerate(zip(WIDTHS, CONVS[depth]), 1):
        if block > 1:
            layers[f'pool{block - 1}'] = nn.MaxPool2d(2)
        for number in range(1, count + 1):
            layers[f'relu{block}_{number}'] = _Conv(c_in, width)
            c_in = width
            if f'relu{block}_{number}' == last:
                return layers
    return layers


def _checked_layers(layers: tuple[str, ...], depth: int) -> tuple[str, ...]:
    known = [f'relu{b}_{n}' for b, count in enumerate(CONVS[depth], 1) for n in range(1, count + 1)]
    wrong = next((name for name in layers if name not in known), None)
    if wrong is not None:
        raise OptionError(f"VGGFeatures: layer '{wrong}' is not in VGG{depth}; allowed are {', '.join(known)}.")
    if not layers or list(layers) != sorted(set(layers)):
        raise OptionError(f'VGGFeatures: layers must be at least one, each once, shallow first, not {list(layers)}.')
    return layers


def _copy(stored: dict[str, Tensor], key: str, parameter: Tensor, what: str) -> None:
    """Copies one tensor; a network with a random layer must not exist."""
    value = stored.get(key)
    if value is None or value.shape != parameter.shape:
        state = 'is missing' if value is None else f'is of shape {tuple(value.shape)}'
        raise CheckpointError(f"{what}: '{key}' {state}; needed is {tuple(parameter.shape)}.")
    parameter.copy_(value)
