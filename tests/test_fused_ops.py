"""Hand-written backward passes against PyTorch's own, on the plain expressions."""

import pytest
import torch
from torch import nn

from basicsr.archs import fused_ops
from basicsr.archs.fused_ops import add_scaled, channel_mean, gated_attention, simple_gate


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
