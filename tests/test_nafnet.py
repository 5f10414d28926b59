"""NAFNet against spandrel's copy of the published code (tests/golden/make_nafnet.py), and its own properties."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from basicsr.archs import build_network
from basicsr.archs.arch_util import LayerNorm2d
from basicsr.archs.nafnet_arch import NAFBlock, NAFNet, NAFNetLocal
from basicsr.errors import OptionError
from tests.golden.recipe import fill, image

GOLDEN = Path(__file__).parent / 'golden'
FACTS = json.loads((GOLDEN / 'nafnet.json').read_text())
SMALL = FACTS['small']['config']
TINY = {'width': 4, 'middle_blk_num': 1, 'enc_blk_nums': [1, 1], 'dec_blk_nums': [1, 1]}


def keys(net):
    return [[k, list(v.shape)] for k, v in net.state_dict().items()]


@pytest.fixture(scope='module')
def tiny():
    return fill(NAFNet(**TINY)).eval()


def test_keys_and_shapes_are_the_published_ones():
    assert keys(NAFNet(**SMALL)) == FACTS['small']['keys']


@pytest.mark.parametrize('name', FACTS['layouts'])
def test_published_layouts(name):
    layout = FACTS['layouts'][name]
    with torch.device('meta'):
        net = NAFNet(**layout['config'])
    assert sum(p.numel() for p in net.parameters()) == layout['params']
    assert hashlib.sha256(json.dumps(keys(net)).encode()).hexdigest() == layout['keys_sha256']


def test_parameter_counts_of_the_paper():
    counts = {name: round(layout['params'] / 1e6, 2) for name, layout in FACTS['layouts'].items()}
    assert counts == {'GoPro-width32': 17.11, 'GoPro-width64': 67.89, 'SIDD-width32': 29.16, 'SIDD-width64': 115.98}


def test_a_seed_gives_the_published_initial_weights():
    torch.manual_seed(0)
    state = NAFNet(**SMALL).state_dict()
    for key, first in FACTS['small']['first_weights_of_seed_0'].items():
        np.testing.assert_allclose(state[key].flatten()[:3], first, rtol=1e-6, err_msg=key)


@pytest.mark.parametrize('size', ['16x24', '13x19', '1x1'])
@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize('dtype', [torch.float64, torch.float32])
def test_output_is_the_published_one(size, memory_format, dtype):
    net = fill(NAFNet(**SMALL)).to(dtype=dtype, memory_format=memory_format).eval()
    h, w = map(int, size.split('x'))
    x = image((2, 3, h, w), 1).to(dtype=dtype, memory_format=memory_format)
    with torch.inference_mode():
        out = net(x)
    np.testing.assert_allclose(out, np.load(GOLDEN / 'nafnet.npz')[size], rtol=0, atol=1e-5)


def test_fresh_block_is_exactly_the_identity():
    x = torch.randn(2, 8, 5, 7)
    assert torch.equal(NAFBlock(8)(x), x)


def test_fresh_network_ignores_its_blocks_and_is_affine():
    torch.manual_seed(0)
    net = NAFNet(**SMALL).double()
    a, b = torch.rand(2, 1, 3, 16, 16, dtype=torch.float64)
    before = net(a)
    torch.testing.assert_close(net((a + b) / 2), (before + net(b)) / 2, rtol=0, atol=1e-12)
    with torch.no_grad():
        for block in (m for m in net.modules() if isinstance(m, NAFBlock)):
            block.conv3.weight.mul_(5)
            block.conv5.weight.mul_(5)
    assert torch.equal(net(a), before)
    with torch.no_grad():
        net.encoders[0][0].beta.fill_(1)
    assert not torch.allclose(net(a), before)


@settings(deadline=None, max_examples=25)
@given(h=st.integers(1, 21), w=st.integers(1, 21))
def test_any_size_is_padded_with_zeros_and_cropped_back(tiny, h, w):
    x = torch.rand(1, 3, h, w)
    padded = torch.zeros(1, 3, -(-h // 4) * 4, -(-w // 4) * 4)
    padded[..., :h, :w] = x
    with torch.inference_mode():
        torch.testing.assert_close(tiny(x), tiny(padded)[..., :h, :w])


def test_images_of_a_batch_do_not_mix(tiny):
    x = torch.rand(3, 3, 12, 8)
    with torch.inference_mode():
        torch.testing.assert_close(tiny(x)[1:2], tiny(x[1:2]))


def test_input_is_left_unchanged(tiny):
    x = torch.rand(1, 3, 8, 8)
    before = x.clone()
    tiny(x)
    assert torch.equal(x, before)


@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
def test_memory_format_is_kept_through_the_network(memory_format):
    net = NAFNet(**TINY).to(memory_format=memory_format)
    seen = []
    for block in (m for m in net.modules() if isinstance(m, NAFBlock | LayerNorm2d)):
        block.register_forward_hook(
            lambda module, args, out: seen.append(out.is_contiguous(memory_format=memory_format))
        )
    net(torch.rand(2, 3, 16, 16).to(memory_format=memory_format))
    assert len(seen) == 15
    assert all(seen)


def test_every_parameter_gets_a_gradient():
    net = fill(NAFNet(**TINY))
    net(torch.rand(1, 3, 8, 8)).square().mean().backward()
    assert [k for k, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_bf16_autocast_stays_close(tiny):
    x = image((1, 3, 16, 16), 2).float()
    with torch.inference_mode(), torch.autocast('cpu', torch.bfloat16):
        low = tiny(x).float()
    with torch.inference_mode():
        high = tiny(x)
    assert (low - high).abs().max() < 0.03 * high.abs().max()


def test_size_facts_for_the_engine():
    net = build_network({'type': 'NAFNet', **TINY})
    assert (net.multiple_of, net.min_size) == (4, 1)
    assert NAFNet().multiple_of == 1


def test_unlike_levels_are_refused():
    with pytest.raises(OptionError, match='enc_blk_nums has 2 levels and dec_blk_nums 1'):
        NAFNet(enc_blk_nums=[1, 1], dec_blk_nums=[1])


def reference_layer_norm(x, weight, bias, eps):
    mean = x.mean(1, keepdim=True)
    variance = (x - mean).square().mean(1, keepdim=True)
    return (x - mean) / (variance + eps).sqrt() * weight.view(1, -1, 1, 1) + bias.view(1, -1, 1, 1)


@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
def test_layer_norm_and_its_gradients(memory_format):
    norm = fill(LayerNorm2d(6)).double()
    x = (image((2, 6, 3, 4), 1) * 1e-3).contiguous(memory_format=memory_format).requires_grad_()  # eps 1e-6 matters
    grad = image((2, 6, 3, 4), 2)
    out = norm(x)
    assert out.is_contiguous(memory_format=memory_format)
    got = torch.autograd.grad(out, (x, norm.weight, norm.bias), grad)
    wanted_out = reference_layer_norm(x, norm.weight, norm.bias, 1e-6)
    wanted = torch.autograd.grad(wanted_out, (x, norm.weight, norm.bias), grad)
    torch.testing.assert_close((out, *got), (wanted_out, *wanted))


def test_layer_norm_keeps_the_format_of_a_slice():
    wide = torch.rand(2, 8, 5, 5)
    assert LayerNorm2d(4)(wide[:, :4]).is_contiguous()
    sliced = wide.contiguous(memory_format=torch.channels_last)[:, :4]
    assert LayerNorm2d(4)(sliced).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device')
@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
def test_output_on_a_gpu(memory_format):
    net = fill(NAFNet(**SMALL)).to('cuda', torch.float64, memory_format=memory_format)
    x = image((2, 3, 13, 19), 1).to('cuda', memory_format=memory_format)
    np.testing.assert_allclose(net(x).detach().cpu(), np.load(GOLDEN / 'nafnet.npz')['13x19'], rtol=0, atol=1e-5)


@pytest.mark.parametrize('size', ['16x16', '40x56', '13x70', '24x20'])
@pytest.mark.parametrize('by', ['class', 'localize'])
def test_windowed_means_are_the_published_ones(size, by):
    if by == 'class':
        net = NAFNetLocal(**SMALL, train_size=(1, 3, 16, 16))
    else:
        net = NAFNet(**SMALL)
        net.localize(24)
    net = fill(net).double().eval()
    h, w = map(int, size.split('x'))
    x, wanted = image((2, 3, h, w), 1), np.load(GOLDEN / 'nafnet_local.npz')[size]
    with torch.inference_mode():
        np.testing.assert_allclose(net(x), wanted, rtol=0, atol=1e-6)  # windowed sums are float64, as theirs
        net.localize(None)
        whole = net(x)
    assert np.allclose(whole, wanted, rtol=0, atol=1e-6) == (max(h, w) <= 24)


def test_local_variant_has_the_keys_of_the_plain_one():
    assert keys(NAFNetLocal(**SMALL)) == FACTS['small']['keys']


def test_sites_are_visited_in_their_order_with_their_shapes_and_may_be_changed(tiny):
    x = torch.rand(1, 3, 13, 18)
    seen = []

    def note(name, feature):
        seen.append((name, feature.shape[1], 16 // feature.shape[2]))
        return feature

    with torch.inference_mode():
        plain = tiny(x)
        assert torch.equal(tiny(x, note), plain)
        assert seen == [(name, site.channels, site.stride) for name, site in tiny.sites.items()]
        taps = tiny.read_taps(x)
        assert list(taps) == list(tiny.taps) == ['encoders.0', 'encoders.1', 'middle_blks']
        for place in tiny.sites:
            changed = tiny(x, lambda name, feature, place=place: feature * 2 if name == place else feature)
            assert not torch.allclose(changed, plain), place
        features = tiny.encode(tiny.pad(x))
        kept = [f.clone() for f in features]
        again = [tiny.decode(tiny.pad(x), features)[..., :13, :18] for _ in range(2)]
    assert torch.equal(again[0], plain)
    assert torch.equal(again[1], plain)
    assert all(torch.equal(a, b) for a, b in zip(features, kept))
