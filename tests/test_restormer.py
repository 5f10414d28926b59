"""Restormer against the published code (tests/golden/make_restormer_family.py), and what the whole family shares."""

import hashlib
import json
import re
import zlib
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from basicsr.archs import build_network
from basicsr.archs.adair_arch import AdaIR
from basicsr.archs.promptir_arch import PromptIR
from basicsr.archs.restormer_arch import Restormer
from basicsr.archs.restormer_blocks import (
    ChannelAttention,
    LayerNorm,
    TransformerBlock,
    channel_affinity,
    window_starts,
)
from basicsr.checkpoint import load_network
from basicsr.errors import CheckpointError, OptionError
from basicsr.network import facts_of
from tests.golden.recipe import fill, image

GOLDEN = Path(__file__).parent / 'golden'
FACTS = json.loads((GOLDEN / 'restormer.json').read_text())
OUTPUTS = np.load(GOLDEN / 'restormer.npz')
SMALL = FACTS['small']
TINY = {'dim': 8, 'num_blocks': [1, 1, 1, 1], 'num_refinement_blocks': 1}
FAMILY = {'restormer': Restormer, 'promptir': PromptIR, 'adair': AdaIR}
LAYOUT = {'restormer': ('params', ''), 'promptir': ('state_dict', 'net.'), 'adair': ('state_dict', 'net.')}
FORMATS = [torch.contiguous_format, torch.channels_last]


def keys(net):
    return [[k, list(v.shape)] for k, v in net.state_dict().items()]


def golden(name):
    return json.loads((GOLDEN / f'{name}.json').read_text())


@pytest.fixture(scope='module', params=FAMILY)
def tiny(request):
    """A small network of each class."""
    return fill(FAMILY[request.param](**TINY)).eval()


def run(net, x, **arguments):
    with torch.inference_mode():
        return net(x, **arguments)


# As published


@pytest.mark.parametrize('name', FAMILY)
def test_keys_shapes_and_order_are_the_published_ones(name):
    with torch.device('meta'):
        net = FAMILY[name]()
    assert keys(net) == golden(name)['keys']


def test_parameter_counts_of_the_papers():
    with torch.device('meta'):
        counts = {name: sum(p.numel() for p in cls().parameters()) for name, cls in FAMILY.items()}
    assert counts == {'restormer': 26_126_644, 'promptir': 35_592_263, 'adair': 28_784_824}
    assert counts == {name: golden(name)['params'] for name in FAMILY}


@pytest.mark.parametrize('name', FACTS['layouts'])
def test_other_published_layouts(name):
    layout = FACTS['layouts'][name]
    with torch.device('meta'):
        net = Restormer(**layout['config'])
    assert sum(p.numel() for p in net.parameters()) == layout['params']
    assert hashlib.sha256(json.dumps(keys(net)).encode()).hexdigest() == layout['keys_sha256']


@pytest.mark.parametrize('name', FAMILY)
def test_a_seed_gives_the_published_initial_weights(name):
    facts = golden(name)
    torch.manual_seed(0)
    state = FAMILY[name](**facts['small']).state_dict()
    assert len(facts['first_weights_of_seed_0']) > 50
    for key, first in facts['first_weights_of_seed_0'].items():
        np.testing.assert_allclose(state[key].flatten()[:3], first, rtol=1e-6, err_msg=key)


@pytest.mark.parametrize('case', [n for n in OUTPUTS.files if not n.startswith('local')])
@pytest.mark.parametrize('memory_format', FORMATS)
@pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_output_is_the_published_one(case, memory_format, dtype, tolerance):
    name, size = case.split('-')
    config = FACTS['configs'][name]
    net = fill(Restormer(**config).to(dtype=dtype, memory_format=memory_format)).eval()
    x = image((2, config.get('inp_channels', 3), *map(int, size.split('x'))), 1)
    out = run(net, x.to(dtype=dtype, memory_format=memory_format))
    np.testing.assert_allclose(out, OUTPUTS[case], rtol=0, atol=tolerance)


@pytest.mark.parametrize('name', FAMILY)
@pytest.mark.parametrize('memory_format', FORMATS)
def test_gradients_are_the_published_ones(name, memory_format):
    """So are the parameters that get none: convolutions that are never used, and those before a rounding."""
    facts = golden(name)
    net = fill(FAMILY[name](**facts['small']).double().to(memory_format=memory_format))
    net(image((2, 3, 16, 24), 1).contiguous(memory_format=memory_format)).square().mean().backward()
    found = {k: None if p.grad is None else p.grad.norm().item() for k, p in net.named_parameters()}
    assert {k for k, v in found.items() if v is None} == {k for k, v in facts['gradient_lengths'].items() if v is None}
    for key, length in facts['gradient_lengths'].items():
        assert length is None or found[key] == pytest.approx(length, rel=1e-8, abs=1e-14), key


def test_a_small_image_is_mirrored_at_its_edges_and_cropped_back(tiny):
    x = image((1, 3, 13, 6), 3).float()
    padded = F.pad(x, (0, 2, 0, 3), mode='reflect')
    torch.testing.assert_close(run(tiny, x), run(tiny, padded)[..., :13, :6])


@settings(deadline=None, max_examples=8)
@given(h=st.integers(1, 21), w=st.integers(1, 21))
def test_any_size_comes_back_finite(tiny, h, w):
    out = run(tiny, image((1, 3, h, w), 4).float())
    assert out.shape == (1, 3, h, w)
    assert out.isfinite().all()


# Weight files as their authors publish them


def published_file(name, folder):
    """Every key of the published network with a number of its own, in the layout of its official weights."""
    entry, prefix = LAYOUT[name]
    weights = {prefix + k: torch.full((1,), zlib.crc32(k.encode()) / 2**32).expand(s) for k, s in golden(name)['keys']}
    file = folder / f'{name}.{"pth" if entry == "params" else "ckpt"}'
    torch.save({entry: weights, 'epoch': 119}, file)
    return file


@pytest.mark.parametrize('name', FAMILY)
def test_official_weights_load_by_path(name, tmp_path):
    with torch.device('meta'):
        net = FAMILY[name]()
    net = net.to_empty(device='cpu')
    entry, prefix = LAYOUT[name]
    report = load_network(net, published_file(name, tmp_path))
    number = len(golden(name)['keys'])
    assert f"entry '{entry}'" in report
    assert (f"prefix '{prefix}' removed" in report) == bool(prefix)
    assert f'{number} of {number} tensors loaded' in report
    for key, value in net.state_dict().items():
        assert value.flatten()[-1].item() == pytest.approx(zlib.crc32(key.encode()) / 2**32, rel=1e-6), key


@pytest.mark.parametrize(
    ('name', 'other', 'missing', 'unknown'),
    [
        ('restormer', 'promptir', 'Missing in the file: .*prompt1.prompt_param', None),
        ('promptir', 'restormer', None, 'Unknown to the network: prompt1.prompt_param'),
        ('promptir', 'adair', 'Missing in the file: fre1.para1', 'Unknown to the network: prompt1.prompt_param'),
        ('adair', 'promptir', 'Missing in the file: prompt1.prompt_param', 'Unknown to the network: fre1.para1'),
    ],
)
def test_weights_of_another_network_are_refused_with_keys_of_both_sides(name, other, missing, unknown, tmp_path):
    with torch.device('meta'):
        net = FAMILY[other]()
    with pytest.raises(CheckpointError, match='is of another network') as caught:
        load_network(net, published_file(name, tmp_path))
    for text in (missing, unknown):
        assert text is None or re.search(text, str(caught.value)), str(caught.value)


# What the engine and the training methods rely on


def test_size_facts_for_the_engine():
    facts = facts_of(build_network({'type': 'Restormer', **TINY}))
    assert (facts.multiple_of, facts.min_size, facts.halo, facts.half_precision) == (8, 1, None, ('bf16', 'fp16'))


def test_sites_have_the_declared_sizes(tiny):
    seen = {}

    def look(name, feature):
        seen[name] = tuple(feature.shape)
        return feature

    plain = run(tiny, image((2, 3, 32, 16), 5).float())
    torch.testing.assert_close(run(tiny, image((2, 3, 32, 16), 5).float(), visit=look), plain, rtol=0, atol=0)
    assert list(seen) == list(tiny.sites)
    assert seen == {n: (2, s.channels, 32 // s.stride, 16 // s.stride) for n, s in tiny.sites.items()}
    assert list(tiny.taps) == ['encoder_level1', 'encoder_level2', 'encoder_level3', 'latent']


def test_every_site_changes_the_output(tiny):
    x = image((1, 3, 16, 16), 6).float()
    plain = run(tiny, x)
    for site in tiny.sites:
        changed = run(tiny, x, visit=lambda name, f, site=site: f * 1.5 if name == site else f)
        assert not torch.allclose(changed, plain, atol=1e-4), site


def test_decoding_twice_from_the_same_features_gives_the_same(tiny):
    x = image((1, 3, 16, 24), 7).float()
    with torch.inference_mode():
        features = tiny.encode(x)
        before = [f.clone() for f in features]
        first = tiny.decode(x, features)
        other = tiny.decode(x, features, lambda name, f: f * 2 if name == 'decoder_level3' else f)
        again = tiny.decode(x, features)
    assert all(torch.equal(a, b) for a, b in zip(features, before))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)
    taps = tiny.read_taps(x)
    assert all(torch.equal(taps[name], f) for name, f in zip(tiny.taps, before))


def test_images_of_a_batch_do_not_mix(tiny):
    x = image((3, 3, 16, 8), 8).float()
    torch.testing.assert_close(run(tiny, x)[1:2], run(tiny, x[1:2]), rtol=0, atol=2e-5)


def test_input_is_left_unchanged(tiny):
    x = image((1, 3, 8, 8), 9).float()
    before = x.clone()
    run(tiny, x)
    assert torch.equal(x, before)


@pytest.mark.parametrize('memory_format', FORMATS)
def test_memory_format_is_kept_through_the_network(tiny, memory_format):
    net = fill(type(tiny)(**TINY)).to(memory_format=memory_format)
    seen = []
    hooked = [m for m in net.modules() if isinstance(m, TransformerBlock | LayerNorm | ChannelAttention)]
    for module in hooked:
        module.register_forward_hook(
            lambda module, args, out: seen.append(out.is_contiguous(memory_format=memory_format))
        )
    run(net, image((2, 3, 32, 32), 1).float().contiguous(memory_format=memory_format))
    assert len(seen) == len(hooked)
    assert all(seen)


def test_bf16_autocast_stays_close(tiny):
    """Mean absolute difference, as a part of the output's mean absolute value."""
    x = image((1, 3, 32, 24), 2).float()
    with torch.inference_mode(), torch.autocast('cpu', torch.bfloat16):
        low = tiny(x).float()
    high = run(tiny, x)
    assert 0 < (low - high).abs().mean() < 0.02 * high.abs().mean()


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'heads': [1, 3, 4, 8]}, '16 channels cannot be split into 3 equal heads'),
        ({'num_blocks': [1, 1, 1]}, r'num_blocks is \[1, 1, 1\]; it must have 4 entries'),
        ({'heads': [1, 2]}, r'heads is \[1, 2\]; it must have 4 entries'),
        ({'dim': 7}, 'dim is 7; it must be even'),
        ({'inp_channels': 6}, 'inp_channels is 6 and out_channels 3; they must be equal'),
    ],
)
@pytest.mark.parametrize('cls', FAMILY.values())
def test_arguments_that_do_not_fit_are_refused(cls, changes, message):
    if 'dim' in changes and cls is AdaIR:
        message = 'dim is 7; the frequency modules need at least 8'
    with pytest.raises(OptionError, match=message):
        cls(**{**TINY, **changes})


# Attention


def test_bf16_autocast_gives_bf16_attention_with_and_without_biases():
    for bias in (False, True):
        attention = ChannelAttention(8, 2, bias)
        with torch.autocast('cpu', torch.bfloat16):
            assert attention(torch.rand(1, 8, 6, 5)).dtype == torch.bfloat16


@pytest.mark.parametrize('scale', [1.0, 1e-4, 0.0])
def test_affinity_is_that_of_normalised_channels(scale):
    q, k = image((2, 12, 35), 1) - 0.5, image((2, 12, 35), 2) - 0.5
    q[:, 3] *= scale
    temperature = torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64).view(3, 1, 1)
    wanted = F.normalize(q, dim=2).unflatten(1, (3, 4)) @ F.normalize(k, dim=2).unflatten(1, (3, 4)).transpose(2, 3)
    torch.testing.assert_close(channel_affinity(q, k, temperature), wanted * temperature)


def test_affinity_of_channels_that_are_all_zero_has_finite_gradients():
    q, k = torch.zeros(1, 4, 9, requires_grad=True), torch.rand(1, 4, 9, requires_grad=True)
    channel_affinity(q, k, torch.ones(2, 1, 1)).sum().backward()
    assert q.grad.isfinite().all()
    assert k.grad.isfinite().all()


def test_affinity_in_half_precision_does_not_overflow():
    q = torch.full((1, 2, 4096), 30.0, dtype=torch.float16)  # products add up to 3.7 million, where 65,504 is the limit
    torch.testing.assert_close(
        channel_affinity(q, q, torch.ones(1, 1, 1)).float(), torch.ones(1, 1, 2, 2), rtol=0, atol=5e-3
    )


@pytest.mark.parametrize('kind', ['WithBias', 'BiasFree'])
@pytest.mark.parametrize('memory_format', FORMATS)
def test_layer_norm_is_the_published_formula(kind, memory_format):
    norm = fill(LayerNorm(6, kind)).double()
    x = (image((2, 6, 3, 4), 1) * 1e-2).contiguous(memory_format=memory_format)  # eps 1e-5 matters
    out = norm(x)
    deviation = (x.var(1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    weight = norm.body.weight.view(1, -1, 1, 1)
    if kind == 'WithBias':
        wanted = (x - x.mean(1, keepdim=True)) / deviation * weight + norm.body.bias.view(1, -1, 1, 1)
    else:
        wanted = x / deviation * weight
    torch.testing.assert_close(out, wanted)
    assert out.is_contiguous(memory_format=memory_format)


# Windows (TLC)


@pytest.mark.parametrize('memory_format', FORMATS)
@pytest.mark.parametrize(('dtype', 'tolerance'), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_output_in_overlapping_windows_is_the_published_one(memory_format, dtype, tolerance):
    net = fill(Restormer(**SMALL).to(dtype=dtype, memory_format=memory_format)).eval()
    x = image((1, 3, 40, 56), 1).to(dtype=dtype, memory_format=memory_format)
    whole = run(net, x)
    net.localize(24)
    windowed = run(net, x)
    np.testing.assert_allclose(windowed[..., ::2], OUTPUTS['local-40x56'], rtol=0, atol=tolerance)
    assert (windowed - whole).abs().max() > 1e-3
    torch.testing.assert_close(run(net, x.repeat(2, 1, 1, 1))[1:], windowed, rtol=0, atol=tolerance)
    net.localize(None)
    assert torch.equal(run(net, x), whole)


def test_a_window_as_large_as_the_image_changes_nothing():
    for cls in FAMILY.values():
        net = fill(cls(**TINY)).eval()
        x = image((1, 3, 40, 24), 1).float()
        whole = run(net, x)
        net.localize(40)
        assert torch.equal(run(net, x), whole)
        net.localize(24)
        assert not torch.allclose(run(net, x), whole, atol=1e-5)


@pytest.mark.parametrize(
    ('size', 'window', 'starts'),
    [(40, 24, [0, 16]), (56, 24, [0, 16, 32]), (20, 12, [0, 8]), (24, 24, [0]), (7, 9, [0]), (10, 3, [0, 3, 6, 7])],
)
def test_windows_cover_a_side_evenly(size, window, starts):
    assert window_starts(size, window) == starts


@given(size=st.integers(1, 300), window=st.integers(1, 300))
def test_windows_leave_no_gap(size, window):
    starts = window_starts(size, window)
    assert starts[0] == 0
    assert starts[-1] + window >= size
    assert all(0 < b - a <= window for a, b in pairwise(starts))
    assert max(starts) <= max(size - window, 0)


def test_windows_shrink_with_the_levels():
    net = Restormer(**TINY)
    net.localize(20)
    found = {name: getattr(net, name)[0].attn.window for name in net.sites}
    assert list(found.values()) == [20, 10, 5, 2, 5, 10, 20, 20]


def test_a_window_below_the_multiple_is_refused():
    with pytest.raises(OptionError, match='the tlc window is 7 px; at least 8'):
        Restormer(**TINY).localize(7)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device')
@pytest.mark.parametrize('memory_format', FORMATS)
def test_output_on_a_gpu(memory_format):
    net = fill(Restormer(**SMALL)).to('cuda', torch.float64, memory_format=memory_format).eval()
    x = image((2, 3, 16, 24), 1).to('cuda', memory_format=memory_format)
    np.testing.assert_allclose(run(net, x).cpu(), OUTPUTS['with_bias-16x24'], rtol=0, atol=1e-9)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device')
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision_on_a_gpu(tiny, dtype):
    net = fill(type(tiny)(**TINY)).eval().cuda()
    x = image((1, 3, 256, 264), 1).float().cuda()
    high = run(net, x)
    with torch.autocast('cuda', dtype):
        low = run(net, x).float()
    assert (low - high).abs().mean() < 0.02 * high.abs().mean()
