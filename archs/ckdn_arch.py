"""CKDN: the quality of a restored image, judged by comparing it with the degraded image that it was made from.

Paper: Zheng, Yang, Fu, Zha and Luo, "Learning conditional knowledge distillation for degraded-reference image quality
assessment", ICCV 2021, arXiv:2108.07948. Published code: github.com/researchmm/CKDN (MIT). Keys and numbers are as
published; the code is written afresh.
"""

from __future__ import annotations

import argparse
from typing import Annotated, NamedTuple

import torch
from torch import Tensor, nn

from basicsr.errors import DataError, OptionError
from basicsr.registry import ARCH_REGISTRY
from basicsr.schema import Range

from .ckdn_preprocess import Resize, reference_view, restored_view

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
EXPANSION = 4  # channels of a bottleneck's output for each of its inner ones
# Which part of ResNet-50 each part of CKDN begins as; the heads have none.
ORIGINS = {
    'qse_1': 'conv1', 'dte_1': 'conv1', 'qse_2': 'layer1', 'dte_2': 'layer1', 'csp': 'layer2', 'aux_csp': 'layer2',
}  # fmt: skip
COUNTER = 'num_batches_tracked'  # of batch normalisation, which old files of torchvision lack

# The official checkpoint carries the command line of its training. A Namespace is a plain container: reading it runs
# no code. Networks are built before their weights are read, so that this comes in time.
torch.serialization.add_safe_globals([argparse.Namespace])


class CKDNOutput(NamedTuple):
    """What CKDN says of a batch.

    Attributes:
        dr: Scores (N,) in [0,1] of the restored images, by their degraded references; higher is better.
        fr: Scores (N,) by their pristine references.
        nr: Probability (N,) that the second restoration is better than the first, without a reference.
        delta: Mean squared difference (N,) of the features of the two references.
    """

    dr: Tensor
    fr: Tensor
    nr: Tensor
    delta: Tensor


class _Bottleneck(nn.Module):
    """A residual block of ResNet-50: 1x1, 3x3 and 1x1 convolutions with batch normalisation."""

    def __init__(self, c_in: int, inner: int, stride: int = 1) -> None:
        super().__init__()
        c_out = EXPANSION * inner
        self.conv1 = nn.Conv2d(c_in, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, c_out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(c_out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or c_in != c_out:
            self.downsample = nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out))

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


@ARCH_REGISTRY.register()
class CKDN(nn.Module):
    """Conditional knowledge distillation network: 13,387,650 parameters in 290 tensors, as published.

    Quality features of a restored image (``qse``) minus those of its reference (``dte``), degraded or pristine alike,
    give a score (``csp``, ``fc_``). Two restorations of one scene are ranked by the difference of their quality
    features alone (``aux_csp``, ``fc1_``).

    Checkpoints of the release (entry ``state_dict``, prefix ``module.``) and of pyiqa (prefix ``net.``) load as they
    are. So does a weight file of torchvision's ResNet-50, of which the parts begin as copies, the heads afresh: that is
    where training starts, ``path: {pretrain_network_g: resnet50-19c8e357.pth}``.

    Args:
        resize: How images are brought to size: ``pil`` as the release does, 8-bit and to the bit; ``tensor`` as pyiqa
            does, without rounding.
        short_side: Pixels to which the shorter side is resized.
        crop: Side of the centre that is seen.

    Raises:
        OptionError: The crop is larger than the shorter side.
    """

    def __init__(
        self,
        resize: Resize = 'pil',
        short_side: Annotated[int, Range(32)] = 329,
        crop: Annotated[int, Range(32)] = 288,
    ) -> None:
        super().__init__()
        if crop > short_side:
            raise OptionError(f'CKDN: crop is {crop}; it must be at most short_side, {short_side}.')
        self.resize, self.short_side, self.crop = resize, short_side, crop
        self.qse_1 = _stem()
        self.qse_2 = _blocks(64, 64, 3)
        self.csp = _blocks(256, 128, 4, stride=2)
        self.dte_1 = _stem()
        self.dte_2 = _blocks(64, 64, 3)
        self.aux_csp = _blocks(256, 128, 4, stride=2)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        self.fc_ = _head()
        self.fc1_ = _head()
        self.register_buffer('mean', torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer('std', torch.tensor(STD).view(1, 3, 1, 1), persistent=False)

    def forward(
        self, restored: Tensor, degraded: Tensor, second: Tensor, pristine: Tensor, stop_grad: bool = False
    ) -> CKDNOutput:
        """What training needs of four images of each scene, (N,3,H,W) RGB in [0,1] each, of any size.

        Args:
            restored: The restored images that are scored.
            degraded: What they were restored from.
            second: Other restorations of the same scenes, to be ranked against the first.
            pristine: The scenes as they were.
            stop_grad: Whether ``delta`` pulls only the features of the degraded images, as in common distillation; as
                released, both ends move.
        """
        first, other = self.quality(restored), self.quality(second)
        reference, clean = self.reference(degraded), self.reference(pristine)
        described = _pooled(self.csp(torch.cat((first - reference, first - clean))))  # one batch, one set of statistics
        dr, fr = _probability(self.fc_, described).chunk(2)
        nr = _probability(self.fc1_, _pooled(self.aux_csp(first - other)))
        target = clean.detach() if stop_grad else clean
        return CKDNOutput(dr, fr, nr, (reference - target).float().square().mean((1, 2, 3)))

    def score(self, restored: Tensor, reference: Tensor) -> Tensor:
        """Scores (N,) in [0,1] of restored images by references, degraded or pristine, (N,3,H,W) in [0,1] each."""
        difference = self.quality(restored) - self.reference(reference)
        return _probability(self.fc_, _pooled(self.csp(difference)))

    def quality(self, restored: Tensor) -> Tensor:
        """Quality features of images, (N,256,crop/4,crop/4)."""
        view = restored_view(restored, self.short_side, self.crop, self.resize)
        return self.qse_2(self.maxpool(self.qse_1(self._normalised(view))))

    def reference(self, images: Tensor) -> Tensor:
        """Features of images as references, of the same shape."""
        view = reference_view(images, self.short_side, self.crop, self.resize)
        return self.dte_2(self.maxpool(self.dte_1(self._normalised(view))))

    def convert_weights(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weights as they are, or those that training starts from where they are ResNet-50's; heads stay fresh."""
        if 'layer1.0.conv1.weight' not in weights:
            return dict(weights)
        found = {}
        for key, own in self.state_dict().items():
            part, _, rest = key.partition('.')
            source = f'{ORIGINS[part]}.{rest}' if part in ORIGINS else None
            if source in weights:
                found[key] = weights[source]
            elif source is None or source.endswith(COUNTER):
                found[key] = own
        return found

    def _normalised(self, images: Tensor) -> Tensor:
        if images.shape[1] != 3:
            raise DataError(f'CKDN: images must be RGB (N,3,H,W), not {tuple(images.shape)}.')
        return (images - self.mean) / self.std


def _stem() -> nn.Conv2d:
    """The first convolution of ResNet-50; what follows it there, normalisation and ReLU, is left out as published."""
    conv = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode='fan_out', nonlinearity='relu')
    return conv


def _blocks(c_in: int, inner: int, count: int, stride: int = 1) -> nn.Sequential:
    """A stage of ResNet-50, begun as torchvision begins it."""
    rest = [_Bottleneck(EXPANSION * inner, inner) for _ in range(count - 1)]
    stage = nn.Sequential(_Bottleneck(c_in, inner, stride), *rest)
    for module in stage.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode='fan_out', nonlinearity='relu')
    return stage


def _head() -> nn.Sequential:
    hidden = [nn.Linear(512, 2048), nn.ReLU(inplace=True), nn.Dropout()]
    return nn.Sequential(*hidden, nn.Linear(2048, 2048), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(2048, 1))


def _pooled(features: Tensor) -> Tensor:
    return features.mean((2, 3))


def _probability(head: nn.Sequential, described: Tensor) -> Tensor:
    """What a head says, (N,) in [0,1], in float32 or finer."""
    logit = head(described).squeeze(1)
    return torch.sigmoid(logit if logit.dtype == torch.float64 else logit.float())
