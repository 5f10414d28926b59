"""Hand-written backward passes against PyTorch's own, on the plain expressions."""

import pytest
import torch
from torch import nn

from basicsr.archs import fused_ops
from basicsr.archs.fused_attention import can_fuse_attention
from basicsr.archs.fused_ops import (
    add_scaled,
    aligned_feed_forward,
    channel_mean,
    gated_attention,
    gelu_gate,
    repeated,
    simple_gate,
)  # fmt: skip
from basicsr.archs.restormer_blocks import ChannelAttention


def plain_gate(x):
    first, second = x.chunk(2, dim=1)
    return first * second


def plain_attention(x, conv):
    y = plain_gate(x)
    return y * conv(y.mean((2, 3), keepdim=True))


def plain_add_scaled(residual, x, conv, scale):
    return residual + conv(x) * scale


def run(function, tensors, module=None):
    """Values and the gradients of a weighted sum of them."""
    leaves = [t.detach().clone(memory_format=torch.preserve_format).requires_grad_() for t in tensors]
    out = function(*leaves, *([module] if module else []))
    weights = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view(out.shape).to(out)
    parameters = list(module.parameters()) if module else []
    return [out, *torch.autograd.grad((out * weights).sum(), [*leaves, *parameters])]


def features(channels, memory_format, dtype=torch.float64):
    torch.manual_seed(3)
    return torch.randn(2, channels, 5, 7, dtype=dtype).contiguous(memory_format=memory_format)


LAYOUTS = pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])


@LAYOUTS
def test_simple_gate(layout):
    x = features(12, layout)
    for ours, wanted in zip(run(simple_gate, [x]), run(plain_gate, [x])):
        torch.testing.assert_close(ours, wanted, rtol=0, atol=1e-12)
        assert ours.is_contiguous(memory_format=layout)


@LAYOUTS
def test_repeated_images(layout):
    x, index = features(3, layout), torch.tensor([1, 0, 1, 1])
    for ours, wanted in zip(run(lambda x: repeated(x, index), [x]), run(lambda x: x[index], [x])):
        torch.testing.assert_close(ours, wanted, rtol=0, atol=1e-12)
        assert ours.is_contiguous(memory_format=layout)


def test_an_image_that_is_not_repeated_gets_no_gradient():
    x = features(3, torch.channels_last).requires_grad_()
    (grad,) = torch.autograd.grad(repeated(x, torch.tensor([1, 1])).sum(), x)
    assert grad[0].abs().max() == 0
    assert torch.equal(grad[1], torch.full_like(grad[1], 2))


@LAYOUTS
def test_gated_attention(layout):
    conv = nn.Conv2d(6, 6, 1).double()
    x = features(12, layout)
    for ours, wanted in zip(run(gated_attention, [x], conv), run(plain_attention, [x], conv)):
        torch.testing.assert_close(ours, wanted, rtol=0, atol=1e-12)


@LAYOUTS
def test_add_scaled(layout):
    conv = nn.Conv2d(6, 6, 1).double()
    inputs = [features(6, layout), features(6, layout) * 2, torch.randn(1, 6, 1, 1, dtype=torch.float64)]

    def ours(residual, x, scale, conv):
        return add_scaled(residual, x, conv, scale)

    def plain(residual, x, scale, conv):
        return plain_add_scaled(residual, x, conv, scale)

    for mine, wanted in zip(run(ours, inputs, conv), run(plain, inputs, conv)):
        torch.testing.assert_close(mine, wanted, rtol=0, atol=1e-12)


def test_gradients_by_finite_differences():
    conv = nn.Conv2d(3, 3, 1).double()
    x = features(6, torch.contiguous_format).requires_grad_()
    assert torch.autograd.gradcheck(simple_gate, (x,))
    assert torch.autograd.gradcheck(lambda x, w, b: fused_ops._GatedAttention.apply(x, w, b),
                                    (x, conv.weight.flatten(1).detach().requires_grad_(), conv.bias))  # fmt: skip


@pytest.mark.parametrize('function', [simple_gate, gated_attention])
def test_half_precision_stays_close_to_full(function):
    conv = nn.Conv2d(16, 16, 1)
    x = features(32, torch.channels_last, torch.float32)
    module = conv if function is gated_attention else None
    with torch.autocast('cpu', torch.bfloat16):
        half = run(function, [x.bfloat16()], module)
    for ours, wanted in zip(half, run(function, [x], module)):
        assert (ours.float() - wanted).abs().mean() < 0.01 * wanted.abs().mean()


def test_nothing_but_the_input_is_kept_for_the_backward_pass():
    conv = nn.Conv2d(16, 16, 1)
    x = features(32, torch.channels_last, torch.float32).requires_grad_()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        gated_attention(x, conv)
    large = [t for t in kept if t.dim() == 4 and t.shape[2] > 1]
    assert len(large) == 1
    assert large[0].data_ptr() == x.data_ptr()


@pytest.mark.parametrize('window', [(1, 1), (2, 3), (5, 4), (4, 9), (9, 9)])
def test_channel_mean_is_the_mean_of_the_nearest_whole_window(window):
    x = features(2, torch.contiguous_format)
    ours = channel_mean(x, window).expand_as(x)
    sides = [min(k, n) for k, n in zip(window, x.shape[2:])]
    for i in range(5):
        for j in range(7):
            top, left = (min(max(p - (k - 1) // 2, 0), n - k) for p, k, n in zip((i, j), sides, x.shape[2:]))
            wanted = x[:, :, top : top + sides[0], left : left + sides[1]].mean((2, 3))
            torch.testing.assert_close(ours[:, :, i, j], wanted, rtol=0, atol=1e-12)


def test_compiled_network_has_the_same_gradients():
    pytest.importorskip('torch._dynamo')
    conv = nn.Conv2d(6, 6, 1).double()
    x = features(12, torch.contiguous_format)
    compiled = torch.compile(gated_attention, backend='aot_eager')
    for ours, wanted in zip(run(compiled, [x], conv), run(plain_attention, [x], conv)):
        torch.testing.assert_close(ours, wanted, rtol=0, atol=1e-12)


@LAYOUTS
def test_gelu_gate(layout):
    def plain(x):
        gate, value = x.chunk(2, dim=1)
        return nn.functional.gelu(gate) * value

    for ours, wanted in zip(run(gelu_gate, [features(12, layout)]), run(plain, [features(12, layout)])):
        torch.testing.assert_close(ours, wanted, rtol=0, atol=1e-12)
        assert ours.is_contiguous(memory_format=layout)


@LAYOUTS
@pytest.mark.parametrize('hidden', [5, 16, 17])
@pytest.mark.parametrize('bias', [False, True])
def test_filled_up_channels_change_nothing(layout, hidden, bias):
    torch.manual_seed(0)
    net = nn.ModuleList([
        nn.Conv2d(6, 2 * hidden, 1, bias=bias),
        nn.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden, bias=bias),
        nn.Conv2d(hidden, 6, 1, bias=bias),
    ]).double()  # fmt: skip

    def plain(x, net):
        gate, value = net[1](net[0](x)).chunk(2, dim=1)
        return net[2](nn.functional.gelu(gate) * value)

    ours = run(lambda x, net: aligned_feed_forward(x, *net), [features(6, layout)], net)
    for mine, wanted in zip(ours, run(plain, [features(6, layout)], net)):
        torch.testing.assert_close(mine, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize('heads', [1, 2, 4])
@pytest.mark.parametrize('bias', [False, True])
def test_attention_among_channels_has_the_gradients_of_the_plain_one(heads, bias):
    torch.manual_seed(1)
    block = ChannelAttention(8, heads, bias).double().to(memory_format=torch.channels_last)
    nn.init.uniform_(block.temperature, 0.5, 2)

    def plain(x, block):
        return block.attend(*block.qkv_dwconv(block.qkv(x)).chunk(3, dim=1))

    x = features(8, torch.channels_last)
    assert can_fuse_attention(block.qkv(x))
    for ours, wanted in zip(run(lambda x, block: block(x), [x], block), run(plain, [x], block)):
        torch.testing.assert_close(ours, wanted, rtol=0, atol=1e-11)


def test_attention_of_an_all_zero_channel_is_finite():
    """Normalising divides by 1e-12 there; the hand-written gradient must not divide by zero."""
    block = ChannelAttention(8, 2, False).double().to(memory_format=torch.channels_last)
    with torch.no_grad():
        block.qkv.weight[3] = 0
    out = run(lambda x, block: block(x), [features(8, torch.channels_last)], block)
    assert all(t.isfinite().all() for t in out)


def test_attention_is_computed_plainly_where_that_is_better():
    block = ChannelAttention(8, 2, False)
    x = features(24, torch.channels_last, torch.float32).requires_grad_()
    assert can_fuse_attention(x)
    assert not can_fuse_attention(features(24, torch.contiguous_format, torch.float32).requires_grad_())
    assert not can_fuse_attention(x.half())
    with torch.no_grad():
        assert not can_fuse_attention(x)
        plain = block(x[:, :8])
    torch.testing.assert_close(block(x[:, :8].contiguous(memory_format=torch.channels_last)), plain)


def test_attention_in_half_precision_stays_close_to_full():
    torch.manual_seed(1)
    block = ChannelAttention(16, 2, False).to(memory_format=torch.channels_last)
    x = features(16, torch.channels_last, torch.float32)
    with torch.autocast('cpu', torch.bfloat16):
        half = run(lambda x, block: block(x), [x], block)
    for ours, wanted in zip(half, run(lambda x, block: block(x), [x], block)):
        assert (ours.float() - wanted).abs().mean() < 0.03 * wanted.abs().mean()
