"""CORUN against its published code (tests/golden/make_aimnet_corun.py), and its own properties."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from basicsr.archs import build_network
from basicsr.archs.corun_arch import CORUN, ImageStep, SpectralAttention, TransmissionStep
from basicsr.checkpoint import load_network
from basicsr.errors import CheckpointError, OptionError
from tests.golden.recipe import fill, image

GOLDEN = Path(__file__).parent / 'golden'
FACTS = json.loads((GOLDEN / 'corun.json').read_text())
OUTPUTS = np.load(GOLDEN / 'corun.npz')
PUBLISHED = FACTS['layouts']['depth4']


def keys(net):
    return [[k, list(v.shape)] for k, v in net.state_dict().items()]


def filled(depth):
    net = fill(CORUN(depth))
    for name, p in net.named_parameters():
        if name.endswith('step_lambda'):
            p.data.abs_().add_(0.2)
    return net


@pytest.fixture(scope='module')
def small():
    return filled(2).eval()


def test_keys_shapes_and_count_are_the_published_ones():
    with torch.device('meta'):
        net = CORUN(depth=4)
    assert keys(net) == PUBLISHED['keys']
    assert sum(p.numel() for p in net.parameters()) == PUBLISHED['params'] == 18674262
    with torch.device('meta'):
        assert sum(p.numel() for p in CORUN(2).parameters()) == FACTS['layouts']['depth2']['params']
        assert len(CORUN().basic) == 1  # the published default is 3 stages


def test_a_seed_gives_the_published_initial_weights():
    torch.manual_seed(0)
    state = CORUN(2).state_dict()
    first = FACTS['layouts']['depth2']['first_weights_of_seed_0']
    assert list(state) == list(first)
    for key, value in state.items():
        np.testing.assert_allclose(value.flatten()[:2], first[key], rtol=0, atol=1e-7, err_msg=key)


@pytest.mark.parametrize('case', ['4_16x24', '3_13x19', '2_8x8'])
@pytest.mark.parametrize('dtype', [torch.float64, torch.float32])
@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
def test_all_stages_are_the_published_ones(case, dtype, memory_format):
    depth, size = case.split('_')
    h, w = map(int, size.split('x'))
    x = image((2, 3, h, w), 1)
    x[0, :, :2, :3] = 1
    net = filled(int(depth)).to(dtype=dtype, memory_format=memory_format).eval()
    x = x.to(dtype=dtype, memory_format=memory_format)
    with torch.inference_mode():
        images, transmissions = net.stages(x)
        assert torch.equal(net(x), images[-1])
    tolerance = 2e-6 if dtype == torch.float64 else 1e-5
    for name, found in (('images', images), ('transmissions', transmissions)):
        wanted = OUTPUTS[f'{name}_{case}']
        scale = max(1, np.abs(wanted).max())
        np.testing.assert_allclose(torch.stack(found), wanted, rtol=0, atol=tolerance * scale)


def test_steps_solve_the_scattering_model():
    """Steps of size 0 solve it exactly; steps of great size keep the last estimate."""
    clear, t = image((1, 3, 5, 6), 1) * 0.9, 0.1 + 0.8 * image((1, 1, 5, 6), 2)
    hazy = clear * t + 1 - t
    for size, wanted_image, wanted_t in ((0.0, clear, t), (1e12, hazy, torch.full_like(t, 0.5))):
        image_step, t_step = ImageStep().double(), TransmissionStep().double()
        torch.nn.init.constant_(image_step.step_lambda, size)
        torch.nn.init.constant_(t_step.step_lambda, size)
        torch.testing.assert_close(image_step(hazy, hazy, t), wanted_image, rtol=0, atol=1e-9)
        torch.testing.assert_close(t_step(hazy, clear, torch.full_like(t, 0.5)), wanted_t, rtol=0, atol=1e-9)


def test_white_pixels_divide_by_no_zero(small):
    x = torch.ones(1, 3, 8, 8, requires_grad=True)
    small(x).sum().backward()
    assert x.grad.isfinite().all()


def test_attention_is_that_among_channels():
    layer = fill(SpectralAttention(60)).double()
    x = image((2, 60, 4, 5), 1)
    q, k, v = (f(x.flatten(2).mT).unflatten(2, (2, 30)) for f in (layer.to_q, layer.to_k, layer.to_v))
    q, k = F.normalize(q, dim=1), F.normalize(k, dim=1)
    share = (torch.einsum('npha,nphb->nhab', k, q) * layer.rescale).softmax(-1)
    mixed = layer.proj(torch.einsum('nhab,nphb->npha', share, v).flatten(2)).mT.unflatten(2, (4, 5))
    wanted = mixed + layer.pos_emb(v.flatten(2).mT.unflatten(2, (4, 5)))
    torch.testing.assert_close(layer(x), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
def test_attention_keeps_the_memory_format(memory_format):
    x = image((2, 60, 4, 5), 1).float().contiguous(memory_format=memory_format)
    layer = fill(SpectralAttention(60)).to(memory_format=memory_format)
    assert layer(x).is_contiguous(memory_format=memory_format)


def test_features_of_the_encoder_may_be_decoded_again(small):
    x = image((1, 3, 13, 9), 1).float()
    with torch.inference_mode():
        padded = small.pad(x)
        assert padded.shape == (1, 3, 16, 16)
        features = small.encode(padded)
        before = [f.clone() for f in features]
        for _ in range(2):
            assert torch.equal(small.decode(padded, features)[..., :13, :9], small(x))
        assert all(torch.equal(a, b) for a, b in zip(features, before))


def test_sites_are_visited_in_order_with_their_shapes():
    net = filled(3).eval()
    seen = {}

    def look(name, feature):
        assert name not in seen
        seen[name] = feature
        return feature

    x = image((1, 3, 16, 24), 1).float()
    with torch.inference_mode():
        net(x, look)
        taps = net.read_taps(x)
    assert list(seen) == list(net.sites)
    for name, site in net.sites.items():
        assert seen[name].shape == (1, site.channels, 16 // site.stride, 24 // site.stride)
    assert list(taps) == [f'stage0.transmission.{n}' for n in ('encoder.0', 'encoder.1', 'encoder.2', 'bottleneck')]
    assert all(torch.equal(taps[name], seen[name]) for name in taps)


def test_the_places_where_qualiteacher_adds_its_embedding(small):
    names = [f'stage{n}.{which}.{place}' for n, which in ((0, 'transmission'), (0, 'image'), (1, 'image'))
             for place in ('encoder.2', 'fusion.0')]  # fmt: skip
    assert {(small.sites[name].channels, small.sites[name].stride) for name in names} == {(120, 4)}
    assert not any(name.startswith('stage1.transmission') for name in small.sites)
    x = image((1, 3, 8, 8), 1).float()
    with torch.inference_mode():
        plain = small(x)
        for name in names:
            changed = small(x, lambda site, y, name=name: y + 1 if site == name else y)
            assert (changed - plain).abs().max() > 1e-4, name


def test_every_parameter_gets_a_gradient():
    net = filled(3)
    images, transmissions = net.stages(image((1, 3, 16, 16), 1).float())
    sum(y.square().mean() for y in images + transmissions).backward()
    assert [k for k, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_bf16_autocast_stays_close(small):
    x = image((1, 3, 32, 32), 2).float()
    with torch.inference_mode(), torch.autocast('cpu', torch.bfloat16):
        low = small(x).float()
    with torch.inference_mode():
        high = small(x)
    assert 0 < (low - high).abs().mean() < 0.02 * high.abs().mean()


def test_images_of_a_batch_do_not_mix(small):
    x = image((3, 3, 16, 8), 1).float()
    with torch.inference_mode():
        torch.testing.assert_close(small(x)[1:2], small(x[1:2]), rtol=0, atol=1e-5)


def test_facts_for_the_engine():
    net = build_network({'type': 'CORUN', 'depth': 2})
    assert (net.multiple_of, net.min_size, net.halo, net.half_precision) == (8, 1, None, ('bf16',))
    with torch.inference_mode():
        assert net(torch.rand(1, 3, 1, 1)).shape == (1, 3, 1, 1)
    with pytest.raises(OptionError, match='depth is 1'):
        CORUN(depth=1)


def official(path, entries=('params', 'params_ema')):
    """A checkpoint as the published training saves it."""
    states = {entry: {k: torch.rand(shape) for k, shape in PUBLISHED['keys']} for entry in entries}
    torch.save(states, path)
    return states


def test_checkpoint_of_the_official_layout(tmp_path):
    states = official(tmp_path / 'CORUN.pth')
    net = CORUN(depth=4)
    assert load_network(net, tmp_path / 'CORUN.pth').endswith("entry 'params_ema'; 722 of 722 tensors loaded")
    assert all(torch.equal(v, states['params_ema'][k]) for k, v in net.state_dict().items())


def test_checkpoint_of_another_depth_is_refused(tmp_path):
    official(tmp_path / 'CORUN.pth', ['params'])
    with pytest.raises(CheckpointError, match=r"'params'.* 516 of 516 .*Unknown to the network: basic\.1\.trans_prox"):
        load_network(CORUN(depth=3), tmp_path / 'CORUN.pth')


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device')
def test_output_on_a_gpu():
    net = filled(3).double().to('cuda').eval()
    x = image((2, 3, 13, 19), 1)
    x[0, :, :2, :3] = 1
    with torch.inference_mode():
        found = torch.stack(net.stages(x.cuda())[0]).cpu()
    np.testing.assert_allclose(found, OUTPUTS['images_3_13x19'], rtol=0, atol=1e-5)
