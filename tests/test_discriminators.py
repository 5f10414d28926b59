"""Discriminators: layouts of published checkpoints, sizes, numbers."""

from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from basicsr.archs import build_network
from basicsr.errors import DataError


def patch_layout(ndf=64, n_layers=4):
    """Keys and shapes of CodeFormer's vqgan_discriminator.pth, as a plain list."""
    widths = [ndf * min(2**n, 8) for n in range(n_layers + 1)]
    shapes = {'main.0.weight': (ndf, 3, 4, 4), 'main.0.bias': (ndf,)}
    for n, (a, b) in enumerate(pairwise(widths)):
        shapes[f'main.{2 + 3 * n}.weight'] = (b, a, 4, 4)
        shapes |= {f'main.{3 + 3 * n}.{k}': (b,) for k in ('weight', 'bias', 'running_mean', 'running_var')}
        shapes[f'main.{3 + 3 * n}.num_batches_tracked'] = ()
    last = 2 + 3 * n_layers
    return shapes | {f'main.{last}.weight': (1, widths[-1], 4, 4), f'main.{last}.bias': (1,)}


def unet_layout(nf=64):
    """Keys and shapes of Real-ESRGAN's RealESRGAN_x4plus_netD.pth."""
    shapes = {'conv0.weight': (nf, 3, 3, 3), 'conv0.bias': (nf,), 'conv9.weight': (1, nf, 3, 3), 'conv9.bias': (1,)}
    sizes = [(1, 2, 4), (2, 4, 4), (4, 8, 4), (8, 4, 3), (4, 2, 3), (2, 1, 3), (1, 1, 3), (1, 1, 3)]
    for n, (a, b, k) in enumerate(sizes, start=1):
        shapes[f'conv{n}.weight_orig'] = (b * nf, a * nf, k, k)
        shapes |= {f'conv{n}.weight_u': (b * nf,), f'conv{n}.weight_v': (a * nf * k * k,)}
    return shapes


@pytest.mark.parametrize(
    ('block', 'layout', 'count'),
    [
        ({'type': 'PatchDiscriminator'}, patch_layout(), 6_960_961),
        ({'type': 'PatchDiscriminator', 'n_layers': 3}, patch_layout(n_layers=3), 2_765_633),
        ({'type': 'UNetDiscriminatorSN'}, unet_layout(), 4_376_897),
    ],
)
def test_layouts_are_those_of_published_checkpoints(block, layout, count):
    with torch.device('meta'):
        net = build_network(block)
    assert {k: tuple(v.shape) for k, v in net.state_dict().items()} == layout
    assert sum(p.numel() for p in net.parameters()) == count


@pytest.mark.parametrize(('n_layers', 'patch'), [(2, 34), (3, 70), (4, 142)])
def test_a_patch_is_as_wide_as_told(n_layers, patch):
    net = build_network({'type': 'PatchDiscriminator', 'ndf': 2, 'n_layers': n_layers}).eval()
    with torch.no_grad():
        for conv in (m for m in net.modules() if isinstance(m, nn.Conv2d)):
            conv.weight.abs_()  # so that no path cancels another
    x = torch.full((1, 3, 320, 320), 0.75, requires_grad=True)
    net(x)[0, 0, 5, 5].backward()
    assert int((x.grad[0].abs().sum((0, 1)) > 0).sum()) == patch


@pytest.mark.parametrize('norm', ['batch', 'none'])
def test_patches_of_an_image(norm):
    net = build_network({'type': 'PatchDiscriminator', 'ndf': 4, 'n_layers': 2, 'norm': norm})
    assert net(torch.rand(2, 3, 32, 48)).shape == (2, 1, 6, 10)
    with pytest.raises(DataError, match='12'):
        net(torch.rand(1, 3, 8, 32))


def test_images_enter_the_patch_discriminator_in_minus_one_to_one():
    net = build_network({'type': 'PatchDiscriminator', 'ndf': 4, 'n_layers': 1, 'norm': 'none'})
    x = torch.rand(1, 3, 16, 16)
    wanted = 2 * x - 1
    for layer in net.main:
        wanted = layer(wanted)
    assert torch.equal(net(x), wanted)


def test_unet_is_what_it_was_published_as():
    """Against the forward written out, in evaluation mode, where spectral norms stand still."""
    net = build_network({'type': 'UNetDiscriminatorSN', 'num_feat': 4}).eval()
    x = torch.rand(2, 3, 32, 24)

    def conv(n, x, stride=1):
        module = getattr(net, f'conv{n}')
        weight = module.weight
        if hasattr(module, 'weight_orig'):
            flat = module.weight_orig.flatten(1)
            weight = module.weight_orig / torch.dot(module.weight_u, flat @ module.weight_v)
        return F.conv2d(x, weight, module.bias, stride, 1)

    def act(x):
        return F.leaky_relu(x, 0.2)

    def up(x):
        return F.interpolate(x, scale_factor=2, mode='bilinear', align_corners=False)

    x0 = act(conv(0, x))
    x1 = act(conv(1, x0, 2))
    x2 = act(conv(2, x1, 2))
    x3 = act(conv(3, x2, 2))
    x4 = act(conv(4, up(x3))) + x2
    x5 = act(conv(5, up(x4))) + x1
    x6 = act(conv(6, up(x5))) + x0
    wanted = conv(9, act(conv(8, act(conv(7, x6)))))
    assert torch.allclose(net(x), wanted, atol=1e-6)


def test_unet_takes_any_size_and_its_skips_can_be_left_out():
    net = build_network({'type': 'UNetDiscriminatorSN', 'num_feat': 4}).eval()
    x = torch.rand(1, 3, 37, 21)
    assert net(x).shape == (1, 1, 37, 21)
    with_skips = net(x)
    net.skip_connection = False
    assert not torch.allclose(net(x), with_skips)
    with pytest.raises(DataError, match='small'):
        net(torch.rand(1, 3, 7, 40))


@pytest.mark.parametrize('kind', ['PatchDiscriminator', 'UNetDiscriminatorSN'])
def test_two_passes_can_be_differentiated_together(kind):
    """In place in neither: real and generated images go through before one backward pass."""
    net = build_network({'type': kind, **({'ndf': 4, 'n_layers': 2} if kind[0] == 'P' else {'num_feat': 4})})
    x = torch.rand(2, 3, 32, 32, requires_grad=True)
    before = x.detach().clone()
    (net(x).mean() - net(torch.rand(2, 3, 32, 32)).mean()).backward()
    assert x.grad.abs().sum() > 0
    assert torch.equal(x, before)
    assert all(p.grad is not None for p in net.parameters())
