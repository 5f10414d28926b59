"""AIM-Net against the published code of Semi-UIR (tests/golden/make_aimnet_corun.py), and its own properties."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from basicsr.archs import build_network
from basicsr.archs.aimnet_arch import AIMnet, GradientMap
from basicsr.archs.aimnet_util import (
    GuidedDeformConv,
    NonLocalSparseAttention,
    _attend_in_order,
    gaussian_blur,
    illumination_map,
)
from basicsr.checkpoint import load_network
from basicsr.errors import CheckpointError, DataError, OptionError
from tests.golden.recipe import fill, image, uniform

GOLDEN = Path(__file__).parent / 'golden'
FACTS = json.loads((GOLDEN / 'aimnet.json').read_text())
OUTPUTS = np.load(GOLDEN / 'aimnet.npz')
SMALL = FACTS['small']['config']
UNUSED = ('nl_top.', 'b_fea_conv.')


def keys(net):
    return [[k, list(v.shape)] for k, v in net.state_dict().items()]


def filled(**changes):
    net = fill(AIMnet(**SMALL, **changes))
    net.get_gradient = GradientMap()  # its two kernels are no weights
    return net


def smooth_levels(h, w):
    rows, columns = np.mgrid[:h, :w]
    slopes = np.stack((rows / h, columns / w, (rows + columns) / (h + w)), axis=2)
    return np.clip(280 * slopes - 20 + 60 * uniform((h, w, 3), 3), 0, 255).astype(np.uint8)


def to_tensor(levels):
    return torch.from_numpy(levels).permute(2, 0, 1)[None].float() / 255


@pytest.fixture(scope='module')
def small():
    return filled().eval()


def test_keys_shapes_and_count_are_the_published_ones():
    assert keys(AIMnet(**SMALL)) == FACTS['small']['keys']
    with torch.device('meta'):
        net = AIMnet()
    assert keys(net) == FACTS['published']['keys']
    assert sum(p.numel() for p in net.parameters()) == FACTS['published']['params'] == 1675281


def test_a_seed_gives_the_published_initial_weights():
    torch.manual_seed(0)
    for key, value in AIMnet(**SMALL).state_dict().items():
        first = FACTS['small']['first_weights_of_seed_0'][key]
        np.testing.assert_allclose(value.flatten()[:2], first, rtol=0, atol=1e-7, err_msg=key)


@pytest.mark.parametrize('size', ['48x48', '64x72', '61x50'])
@pytest.mark.parametrize('dtype', [torch.float64, torch.float32])
def test_output_is_the_published_one(size, dtype):
    net = filled().to(dtype).eval()
    h, w = map(int, size.split('x'))
    with torch.inference_mode():
        found = net.restore_with_gradient(image((1, 3, h, w), 1).to(dtype), image((1, 3, h, w), 2).to(dtype))
    for name, y in zip(('image', 'gradient'), found):
        assert y.shape == (1, 3, h, w)
        wanted = OUTPUTS[f'{name}_{size}']  # float32, and up to 60 with these weights
        tolerance = (1e-7 if dtype == torch.float64 else 3e-6) * np.abs(wanted).max()
        np.testing.assert_allclose(y[..., ::2, ::3], wanted, rtol=0, atol=tolerance)


def test_training_mode_draws_the_published_rotations():
    net = filled().double().train()
    torch.manual_seed(7)
    with torch.no_grad():
        y = net(image((2, 3, 48, 52), 1), la=image((2, 3, 48, 52), 2))
    np.testing.assert_allclose(y[..., ::2, ::3], OUTPUTS['training_48x52'], rtol=0, atol=1e-6)


def test_evaluation_repeats_and_training_draws(small):
    x = image((1, 3, 64, 64), 3).float()
    before = torch.get_rng_state()
    with torch.inference_mode():
        assert torch.equal(small(x), small(x))
        assert torch.equal(torch.get_rng_state(), before)
        net = filled().train()
        assert not torch.equal(net(x), net(x))


@pytest.mark.parametrize('size', ['37x300', '160x90'])
def test_illumination_is_the_published_one(size):
    h, w = map(int, size.split('x'))
    found = (illumination_map(to_tensor(smooth_levels(h, w))) * 255)[0].permute(1, 2, 0)
    wanted = torch.from_numpy(OUTPUTS[f'illumination_{size}']).float()
    assert (found - wanted).abs().max() <= 1
    assert (found.round() == wanted).float().mean() > 0.999
    assert wanted.std() > 20


@pytest.mark.parametrize('sigma', [15, 60, 90])
@pytest.mark.parametrize('shape', [(1, 7), (40, 33), (5, 1100)])
def test_blur_is_that_of_opencv(sigma, shape):
    cv2 = pytest.importorskip('cv2')
    levels = np.floor((uniform(shape, 1) + 0.5) * 256).astype(np.uint8)
    found = gaussian_blur(torch.from_numpy(levels).double()[None, None], sigma)
    np.testing.assert_array_equal(found[0, 0], cv2.GaussianBlur(levels, (0, 0), sigma))


def test_illumination_of_a_real_photo():
    folder = os.environ.get('QUALIR_DATA')
    if not folder:
        pytest.skip('QUALIR_DATA is not set: no real photographs')
    cv2 = pytest.importorskip('cv2')
    files = sorted(Path(folder, 'real/underwater').rglob('*.[jp][pn]g'))
    levels = cv2.imread(str(files[0]))[..., ::-1].copy()
    light = 1.0
    for sigma in (15, 60, 90):
        light = light + np.clip(np.log10(cv2.GaussianBlur(levels, (0, 0), sigma) + 1e-8), 0, 255)
    light = light / 3
    wanted = np.uint8((light - light.min()) / (np.ptp(light) + 1e-6) * 255)
    found = (illumination_map(to_tensor(levels)) * 255).round()[0].permute(1, 2, 0).numpy()
    assert np.abs(found - wanted).max() <= 1
    assert (found == wanted).mean() > 0.999


def test_illumination_of_each_image_is_its_own():
    x = torch.cat([to_tensor(smooth_levels(60, 50)), to_tensor(smooth_levels(60, 50)[::-1].copy()) / 2])
    both = illumination_map(x)
    assert torch.equal(both, torch.cat([illumination_map(x[:1]), illumination_map(x[1:])]))
    assert torch.equal(illumination_map(torch.full((1, 3, 9, 9), 0.3)), torch.zeros(1, 3, 9, 9))


def test_map_is_computed_where_it_is_not_given(small):
    x = to_tensor(smooth_levels(50, 61))
    with torch.inference_mode():
        y = small(x)
        assert torch.equal(y, small(x, la=illumination_map(x)))
        assert torch.equal(y, small(small.prepare(x)))
        assert not torch.allclose(y, small(x, la=torch.zeros_like(x)))


def test_padded_image_features_and_decoder_make_the_same_result(small):
    x = to_tensor(smooth_levels(50, 61))
    with torch.inference_mode():
        padded = small.pad(x)
        assert padded.shape == (1, 6, 52, 64)
        features = small.encode(padded)
        before = [f.clone() for f in features]
        for _ in range(2):
            assert torch.equal(small.decode(padded, features)[..., :50, :61], small(x))
        assert all(torch.equal(a, b) for a, b in zip(features, before))


def test_sites_are_visited_in_order_with_their_shapes(small):
    seen = {}

    def look(name, feature):
        seen[name] = feature
        return feature

    with torch.inference_mode():
        small(image((1, 3, 48, 52), 1).float(), look)
    assert list(seen) == list(small.sites)
    for name, site in small.sites.items():
        assert seen[name].shape == (1, site.channels, 48 // site.stride, 52 // site.stride)
    taps = small.read_taps(image((1, 3, 48, 52), 1).float())
    assert list(taps) == ['top.1', 'middle.1', 'bottleneck.1']
    assert all(torch.equal(taps[name], seen[name]) for name in taps)
    full = AIMnet().sites
    assert (full['bottleneck.1'].channels, full['bottleneck.2'].stride) == (128, 4)


@pytest.mark.parametrize('site', ['bottleneck.1', 'bottleneck.2'])
def test_a_visitor_changes_the_result(small, site):
    x = image((1, 3, 48, 48), 1).float()
    with torch.inference_mode():
        changed = small(x, lambda name, feature: feature + 1 if name == site else feature)
        assert (changed - small(x)).abs().max() > 1e-3


def test_every_parameter_that_is_used_gets_a_gradient():
    net = filled().train()
    restored, gradient = net.restore_with_gradient(image((1, 3, 48, 48), 1).float())
    (restored.square().mean() + gradient.square().mean()).backward()
    without = [k for k, p in net.named_parameters() if p.grad is None]
    assert all(k.startswith(UNUSED) for k in without)
    assert [k for k, p in net.named_parameters() if p.grad is not None and not p.grad.isfinite().all()] == []
    still = [k for k, p in net.named_parameters() if p.grad is not None and not p.grad.any()]
    assert still == []


@pytest.mark.parametrize('attend', ['first', 'all'])
def test_attention_is_softmax_attention_when_all_fall_into_three_chunks(attend):
    """With three chunks every position sees all of them, so the order does not matter."""
    layer = fill(NonLocalSparseAttention(8, attend)).double().eval()
    x = image((1, 8, 18, 24), 4)
    match = layer.conv_match(x).flatten(2).mT
    value = layer.conv_assembly(x).flatten(2).mT
    if attend == 'first':
        match, value = match[..., :1].expand_as(match), value[..., :1].expand_as(value)
    wanted = (match @ F.normalize(match, dim=-1, eps=5e-5).mT).softmax(-1) @ value
    torch.testing.assert_close(layer(x) - x, wanted.mT.unflatten(2, (18, 24)), rtol=0, atol=1e-10)


def test_attention_counts_the_filled_chunk_as_published():
    """The last positions of the order stand twice where the last chunk is not full."""
    match, value = image((1, 400, 2), 1) - 0.5, image((1, 400, 3), 2)
    order = torch.randperm(400, generator=torch.Generator().manual_seed(0))[None, None]
    filled_up = torch.cat([order[0, 0], order[0, 0, -32:]])
    scores = match[0] @ F.normalize(match[0], dim=-1).mT
    wanted = scores[:, filled_up].softmax(-1) @ value[0, filled_up]
    torch.testing.assert_close(_attend_in_order(match, value, order, 1)[0], wanted, rtol=0, atol=1e-12)


def test_deformable_convolution_with_fresh_offsets_is_half_a_convolution():
    torch.manual_seed(0)
    layer = GuidedDeformConv(4).double()
    x, guide = image((2, 4, 7, 9), 1), image((2, 4, 7, 9), 2)
    wanted = F.conv2d(x, layer.weight, padding=1) / 2
    torch.testing.assert_close(layer(x, guide), wanted, rtol=0, atol=1e-12)


def test_deformable_convolution_moves_whole_pixels():
    torch.manual_seed(0)
    layer = GuidedDeformConv(2).double()
    with torch.no_grad():
        layer.conv_offset_mask.bias[:18:2] = 2  # down
        layer.conv_offset_mask.bias[1:18:2] = -1  # to the left
        layer.conv_offset_mask.bias[18:] = 50  # masks of 1
    x = image((1, 2, 8, 6), 1)
    moved = F.pad(x, (1, 0, 0, 2))[..., 2:, :6]
    wanted = F.conv2d(F.pad(moved, (1, 1, 1, 1)), layer.weight)
    found = layer(x, torch.zeros_like(x))
    torch.testing.assert_close(found[..., 1:5, 1:5], wanted[..., 1:5, 1:5], rtol=0, atol=1e-12)


def test_bf16_autocast_stays_close():
    """With fresh weights, 0.9 % as measured; those of the recipe amplify every rounding, to 12 %."""
    torch.manual_seed(0)
    net = AIMnet().eval()
    x = to_tensor(smooth_levels(64, 64))
    with torch.inference_mode(), torch.autocast('cpu', torch.bfloat16):
        low = net(x).float()
    with torch.inference_mode():
        high = net(x)
    assert 0 < (low - high).abs().mean() < 0.02 * high.abs().mean()


@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last])
def test_memory_formats_agree(small, memory_format):
    x = to_tensor(smooth_levels(48, 56)).to(memory_format=memory_format)
    net = filled().to(memory_format=memory_format).eval()
    with torch.inference_mode():
        torch.testing.assert_close(net(x), small(x.contiguous()), rtol=1e-5, atol=1e-5)  # of values up to 60


def test_images_of_a_batch_do_not_mix(small):
    x = torch.cat([to_tensor(smooth_levels(48, 60)), to_tensor(smooth_levels(48, 60)) / 2])
    with torch.inference_mode():
        torch.testing.assert_close(small(x)[1:], small(x[1:]), rtol=0, atol=1e-5)


def test_facts_for_the_engine():
    net = build_network({'type': 'AIMnet', **SMALL, 'chan_factor': 2})
    assert (net.multiple_of, net.min_size, net.halo, net.half_precision) == (4, 48, None, ('bf16',))
    with pytest.raises(OptionError, match='tlc'):
        net.localize(384)


def test_too_small_images_are_refused(small):
    assert small.min_size == 48
    with pytest.raises(DataError, match='44x48 pixels is too small'):
        small(torch.rand(1, 3, 48, 44))
    with pytest.raises(DataError, match='an image of 1 channels'):
        small(torch.rand(1, 1, 48, 48))
    with pytest.raises(OptionError, match='n_feat 2'):
        AIMnet(n_feat=2)


def official(path, prefix='module.'):
    """A checkpoint as Semi-UIR's trainer saves it: of a DataParallel network, with its optimizer."""
    state = {prefix + k: torch.rand(shape) for k, shape in FACTS['published']['keys']}
    torch.save({'arch': 'DataParallel', 'epoch': 200, 'state_dict': state, 'optimizer_dict': {'state': {}}}, path)
    return state


def test_checkpoint_of_the_official_layout(tmp_path):
    state = official(tmp_path / 'model_e200.pth')
    net = AIMnet()
    line = load_network(net, tmp_path / 'model_e200.pth')
    assert line.endswith("entry 'state_dict', prefix 'module.' removed; 200 of 200 tensors loaded")
    assert all(torch.equal(v, state[f'module.{k}']) for k, v in net.state_dict().items())


def test_checkpoint_of_another_network_is_refused(tmp_path):
    official(tmp_path / 'model.pth')
    with pytest.raises(CheckpointError, match=r"'dau_top\.0\.body\.0\.weight' is \[32, 32, 3, 3\] in the file"):
        load_network(AIMnet(n_feat=40), tmp_path / 'model.pth')
    official(tmp_path / 'foreign.pth', prefix='generator.')
    with pytest.raises(CheckpointError, match=r'0 of 200 .*Missing in the file: dau_top.*Unknown .*generator\.dau'):
        load_network(AIMnet(), tmp_path / 'foreign.pth', strict=False)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device')
def test_output_and_illumination_on_a_gpu():
    net = filled().double().to('cuda').eval()
    with torch.inference_mode():
        y = net(image((1, 3, 61, 50), 1).cuda(), la=image((1, 3, 61, 50), 2).cuda())
    np.testing.assert_allclose(y.cpu()[..., ::2, ::3], OUTPUTS['image_61x50'], rtol=0, atol=1e-5)
    x = to_tensor(smooth_levels(160, 90))
    assert (illumination_map(x.cuda()).cpu() - illumination_map(x)).abs().max() < 1.01 / 255
