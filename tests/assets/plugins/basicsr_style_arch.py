# ruff: noqa: UP008
"""An architecture file as BasicSR's users write them: no annotations, names imported from BasicSR's places."""

import torch
from torch import nn as nn
from torch.nn import functional as F

from basicsr.archs.arch_util import ResidualBlockNoBN, Upsample, default_init_weights, make_layer
from basicsr.utils.registry import ARCH_REGISTRY


class ChannelAttention(nn.Module):
    def __init__(self, num_feat, squeeze_factor=4):
        super(ChannelAttention, self).__init__()
        self.attention = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(num_feat, num_feat // squeeze_factor, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(num_feat // squeeze_factor, num_feat, 1),
            nn.Sigmoid(),
        )

    def forward(self, x):
        return x * self.attention(x)


@ARCH_REGISTRY.register()
class PlainResNet(nn.Module):
    """A plain residual network.

    Args:
        num_in_ch (int): Channel number of inputs.
        num_feat (int): Channel number of intermediate features. Default: 8.
        upscale (int): Upsampling factor. Support 2^n and 3. Default: 1.
        img_range (float): Image range. Default: 1.
        rgb_mean (tuple[float]): Image mean in RGB orders.
    """

    def __init__(
        self,
        num_in_ch,
        num_out_ch=3,
        num_feat=8,
        num_block=2,
        upscale=1,
        res_scale=1,
        img_range=1.0,
        rgb_mean=(0.4488, 0.4371, 0.4040),
        norm_layer=None,
        **kwargs,
    ):
        super(PlainResNet, self).__init__()
        self.upscale = upscale
        self.img_range = img_range
        self.register_buffer('mean', torch.Tensor(rgb_mean).view(1, 3, 1, 1))
        self.conv_first = nn.Conv2d(num_in_ch, num_feat, 3, 1, 1)
        self.body = make_layer(ResidualBlockNoBN, num_block, num_feat=num_feat, res_scale=res_scale, pytorch_init=True)
        self.attention = ChannelAttention(num_feat)
        self.upsample = Upsample(upscale, num_feat)
        self.conv_last = nn.Conv2d(num_feat, num_out_ch, 3, 1, 1)
        default_init_weights([self.conv_first, self.conv_last], 0.1)

    def forward(self, x):
        base = x if self.upscale == 1 else F.interpolate(x, scale_factor=self.upscale, mode='bilinear')
        x = (x - self.mean) * self.img_range
        x = self.conv_first(x)
        x = self.attention(self.body(x)) + x
        return self.conv_last(self.upsample(x)) / self.img_range + base
