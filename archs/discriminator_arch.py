"""Discriminators: networks that tell generated images from real ones, patch by patch or pixel by pixel."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import spectral_norm

from basicsr.errors import DataError
from basicsr.registry import ARCH_REGISTRY
from basicsr.schema import Range

Count = Annotated[int, Range(1)]
SLOPE = 0.2  # of the leaky ReLUs


@ARCH_REGISTRY.register()
class PatchDiscriminator(nn.Module):
    """PatchGAN: one number for each of many overlapping patches of an image.

    Isola et al., "Image-to-Image Translation with Conditional Adversarial Networks", CVPR 2017, arXiv:1611.07004, with
    the keys (``main.0`` ...) that VQGAN, CodeFormer and IQPIR save: ``n_layers`` convolutions of stride 2, one of
    stride 1, and the last one.

    Args:
        nc: Channels of the images.
        ndf: Channels of the first layer; they double up to 8 times as many.
        n_layers: Convolutions of stride 2; 4 in CodeFormer (a patch is 142 pixels wide), 3 in VQGAN (70).
        norm: Batch normalisation, as published, or none. Without it an image is judged alone, which suits batches of
            one or two.
    """

    def __init__(
        self, nc: Count = 3, ndf: Count = 64, n_layers: Count = 4, norm: Literal['batch', 'none'] = 'batch'
    ) -> None:
        super().__init__()
        self.stride = 2**n_layers
        layers: list[nn.Module] = [nn.Conv2d(nc, ndf, 4, 2, 1), nn.LeakyReLU(SLOPE, inplace=True)]
        width = ndf
        for n in range(1, n_layers + 1):
            before, width = width, ndf * min(2**n, 8)
            stride = 2 if n < n_layers else 1
            layers.append(nn.Conv2d(before, width, 4, stride, 1, bias=norm == 'none'))
            layers.append(nn.BatchNorm2d(width) if norm == 'batch' else nn.Identity())  # the place keeps its number
            layers.append(nn.LeakyReLU(SLOPE, inplace=True))
        layers.append(nn.Conv2d(width, 1, 4, 1, 1))
        self.main = nn.Sequential(*layers)
        self.main.apply(_init_as_dcgan)

    def forward(self, x: Tensor) -> Tensor:
        """Judges images.

        Args:
            x: (N,nc,H,W) in [0,1]; inside they are put into [-1,1].

        Returns:
            (N,1,h,w), high where they look real; h and w are H and W divided by ``2 ** n_layers``, less 2.

        Raises:
            DataError: The images are smaller than 3 strides.
        """
        if min(x.shape[-2:]) < 3 * self.stride:
            raise DataError(
                f'PatchDiscriminator: images of {x.shape[-1]} x {x.shape[-2]} pixels are too small; it needs '
                f'{3 * self.stride}: raise gt_size or lower n_layers.'
            )
        return self.main(2 * x - 1)


@ARCH_REGISTRY.register()
class UNetDiscriminatorSN(nn.Module):
    """A U-Net with spectral normalisation: one number for each pixel, which sees the whole and the details.

    Real-ESRGAN (Wang et al., ICCVW 2021, arXiv:2107.10833), after Schonfeld et al., CVPR 2020, with the keys of
    BasicSR's network of this name (``conv0`` ... ``conv9``); FeMaSR and RIDCP train with it too.

    Args:
        num_in_ch: Channels of the images.
        num_feat: Channels at full size; 8 times as many at an eighth of it.
        skip_connection: Whether features of the way down are added on the way up.
    """

    def __init__(self, num_in_ch: Count = 3, num_feat: Count = 64, skip_connection: bool = True) -> None:
        super().__init__()
        self.skip_connection = skip_connection
        self.conv0 = nn.Conv2d(num_in_ch, num_feat, 3, 1, 1)
        for n, (a, b) in enumerate(((1, 2), (2, 4), (4, 8)), start=1):
            self.add_module(f'conv{n}', spectral_norm(nn.Conv2d(a * num_feat, b * num_feat, 4, 2, 1, bias=False)))
        for n, (a, b) in enumerate(((8, 4), (4, 2), (2, 1), (1, 1), (1, 1)), start=4):
            self.add_module(f'conv{n}', spectral_norm(nn.Conv2d(a * num_feat, b * num_feat, 3, 1, 1, bias=False)))
        self.conv9 = nn.Conv2d(num_feat, 1, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Judges images.

        Args:
            x: (N,num_in_ch,H,W) in [0,1], as published; sides of at least 8.

        Returns:
            (N,1,H,W), high where they look real.

        Raises:
            DataError: The images are smaller than 8 pixels.
        """
        if min(x.shape[-2:]) < 8:
            raise DataError(f'UNetDiscriminatorSN: images of {x.shape[-1]} x {x.shape[-2]} pixels are too small.')
        down = [_leaky(self.conv0(x))]
        for conv in (self.conv1, self.conv2, self.conv3):
            down.append(_leaky(conv(down[-1])))
        x = down.pop()
        for conv in (self.conv4, self.conv5, self.conv6):
            skip = down.pop()
            # Twice the size, but for sides that are no multiple of 8, which the published network refuses.
            x = F.interpolate(x, size=skip.shape[-2:], mode='bilinear', align_corners=False)
            x = _leaky(conv(x))
            x = x + skip if self.skip_connection else x
        return self.conv9(_leaky(self.conv8(_leaky(self.conv7(x)))))


def _leaky(x: Tensor) -> Tensor:
    return F.leaky_relu(x, SLOPE, inplace=True)


@torch.no_grad()
def _init_as_dcgan(module: nn.Module) -> None:
    """Normal weights of deviation 0.02, around 1 for normalisations (Radford et al., ICLR 2016), as in VQGAN."""
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)
