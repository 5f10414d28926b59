"""Tiles against the whole image, the blend and the self-ensemble."""

from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from basicsr.errors import DataError, OptionError
from basicsr.image_io import to_tensor
from basicsr.network import RestorationNetwork
from basicsr.tile_plan import plan_axis
from basicsr.tiling import LARGEST_OVERLAP, Restorer, Tiling
from tests.golden.recipe import fill

CPU = torch.device('cpu')
OUT = torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 20 MiB.\nMore.')


class LocalUNet(RestorationNetwork):
    """Two levels of strided convolutions; pads inside as the published restorers do."""

    multiple_of, halo = 4, 24

    def __init__(self, pad_mode='constant'):
        super().__init__()
        self.__dict__['pad_mode'] = pad_mode
        self.intro, self.ending = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 3, 3, padding=1)
        self.down1, self.down2 = nn.Conv2d(6, 8, 2, 2), nn.Conv2d(8, 8, 2, 2)
        self.middle = nn.Conv2d(8, 8, 3, padding=1)
        self.up1, self.up2 = nn.ConvTranspose2d(8, 8, 2, 2), nn.ConvTranspose2d(8, 6, 2, 2)

    def encode(self, x, visit=None):
        first = F.gelu(self.intro(x))
        second = F.gelu(self.down1(first))
        return [first, second, F.gelu(self.middle(self.down2(second)))]

    def decode(self, x, features, visit=None):
        first, second, third = features
        return x + self.ending(self.up2(F.gelu(self.up1(third)) + second) + first)


class AddsTileMean(nn.Module):
    """Not local at all: every pixel sees the mean of what the network was given."""

    def forward(self, x):
        return x + x.mean((2, 3), keepdim=True)


@pytest.fixture(scope='module')
def unet():
    return fill(LocalUNet()).eval()


def noise(*shape, seed=0, dtype=torch.float32):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def whole(net, image):
    with torch.inference_mode():
        return net(image)


# ---- the plan


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_plan_covers_the_axis_with_weights_that_sum_to_one(data):
    multiple = data.draw(st.sampled_from([1, 2, 4, 8, 16]))
    min_size = data.draw(st.integers(1, 24))
    least = max(2, -(-min_size // multiple)) * multiple
    size = least + multiple * data.draw(st.integers(0, 12))
    overlap = data.draw(st.integers(0, size - 1))
    context = data.draw(st.integers(0, overlap // 2))
    length = data.draw(st.integers(1, 500))
    spans = plan_axis(length, size, overlap, context, multiple, min_size)

    total = np.zeros(length)
    for span in spans:
        weights = np.array(span.weights())
        assert weights.size == span.right - span.left
        assert (weights > 0).all()
        total[span.left : span.right] += weights
        assert span.start <= span.left < span.right <= min(span.stop, length)
        assert span.start % multiple == span.stop % multiple == 0
    np.testing.assert_allclose(total, 1, rtol=0, atol=1e-12)
    assert len({s.stop - s.start for s in spans}) == 1
    assert min_size <= spans[0].stop - spans[0].start <= max(size, length, min_size) + multiple
    assert spans[-1].stop >= length > spans[-1].stop - max(multiple, min_size + multiple)
    if size - multiple >= overlap:  # else the multiple leaves no room for the overlap asked for
        for a, b in pairwise(spans):
            assert a.stop - b.start >= overlap
            assert b.left - b.start >= context
            assert a.stop - a.right >= context


def test_ramp_takes_the_whole_overlap_but_its_context():
    first, second = plan_axis(100, 60, 20, 3)
    assert (first.start, first.stop, second.start, second.stop) == (0, 60, 40, 100)
    assert (first.right, second.left, first.falling, second.rising) == (57, 43, 14, 14)
    assert max(abs(np.diff([0.0, *second.weights()[:20]]))) == pytest.approx(1 / 15)


def test_tiles_shrink_to_what_their_number_needs():
    spans = plan_axis(1100, 1024, 64, 8, 8)
    assert [(s.start, s.stop) for s in spans] == [(0, 584), (520, 1104)]  # not 2 x 1024 pixels


# ---- local networks


@pytest.mark.parametrize('pad_mode', ['constant', 'reflect'])
@pytest.mark.parametrize('batch', [1, 3])
@pytest.mark.parametrize(('height', 'width'), [(203, 251), (128, 128), (1, 300), (300, 1), (97, 98), (30, 31)])
@pytest.mark.parametrize(('size', 'overlap'), [(96, 0), (100, 48), (128, 64), (160, 150)])
def test_tiles_of_a_local_network_equal_the_whole(size, overlap, height, width, batch, pad_mode):
    net, image = fill(LocalUNet(pad_mode)).eval(), noise(1, 3, height, width)
    tiled = Restorer(net, CPU, Tiling(size, overlap, batch))(image)
    torch.testing.assert_close(tiled, whole(net, image), rtol=0, atol=1e-6)


def test_tiles_of_a_local_network_equal_the_whole_in_float64():
    net, image = fill(LocalUNet()).double().eval(), noise(2, 3, 150, 131, dtype=torch.float64)
    tiled = Restorer(net, CPU, Tiling(96, 10, 2))(image)
    assert tiled.dtype == torch.float64
    torch.testing.assert_close(tiled, whole(net, image), rtol=0, atol=1e-14)


def test_the_comparison_sees_a_halo_that_is_too_small():
    net, image = fill(LocalUNet()).eval(), noise(1, 3, 150, 150)
    net.halo = 0
    tiled = Restorer(net, CPU, Tiling(96, 0))(image)
    assert (tiled - whole(net, image)).abs().max() > 1e-4


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 180), st.integers(1, 180), st.integers(24, 44), st.integers(0, 60), st.integers(1, 4))
def test_any_size_equals_the_whole(unet, height, width, quarter, overlap, batch):
    image = noise(1, 3, height, width)
    tiled = Restorer(unet, CPU, Tiling(4 * quarter, overlap, batch))(image)
    torch.testing.assert_close(tiled, whole(unet, image), rtol=0, atol=1e-6)


def test_two_tiles_of_an_ensemble_equal_the_ensemble_of_the_whole(unet):
    image = noise(1, 3, 131, 90)
    tiled = Restorer(unet, CPU, Tiling(96, 48), self_ensemble=True)(image)
    one = Restorer(unet, CPU, Tiling(None), self_ensemble=True)(image)
    torch.testing.assert_close(tiled, one, rtol=0, atol=1e-6)


def test_network_without_a_declared_halo_has_its_border_cut_away():
    net = fill(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.GELU(), nn.Conv2d(8, 3, 3, padding=1))).eval()
    image = noise(1, 3, 150, 170)
    torch.testing.assert_close(Restorer(net, CPU, Tiling(96, 32))(image), whole(net, image), rtol=0, atol=1e-6)


# ---- pixels


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
@pytest.mark.parametrize('ensemble', [False, True])
@pytest.mark.parametrize('shape', [(210, 333, 3), (64, 64, 3), (1, 200, 3), (1, 1, 3)])
def test_identity_gives_the_pixels_back_bit_for_bit(dtype, ensemble, shape):
    highest = np.iinfo(dtype).max
    pixels = np.random.default_rng(0).integers(0, highest, shape, dtype, endpoint=True)
    pixels.flat[:2] = 0, highest
    before, told = pixels.copy(), []
    restorer = Restorer(nn.Identity(), CPU, Tiling(64, 40, 2), ensemble)
    restored = restorer.pixels(pixels, lambda done, total: told.append((done, total)))
    assert restored.dtype == dtype
    np.testing.assert_array_equal(restored, before)
    np.testing.assert_array_equal(pixels, before)
    assert told[-1][0] == told[-1][1]
    assert [d for d, _ in told] == sorted({d for d, _ in told})


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
def test_pixels_and_tensors_are_restored_alike(unet, dtype):
    pixels = np.random.default_rng(1).integers(0, np.iinfo(dtype).max, (150, 140, 3), dtype, endpoint=True)
    restorer = Restorer(unet, CPU, Tiling(96, 48))
    image = restorer(to_tensor(pixels)[None])[0].clamp(0, 1).permute(1, 2, 0).numpy()
    expected = np.rint(image * np.float32(np.iinfo(dtype).max)).astype(dtype)
    np.testing.assert_array_equal(restorer.pixels(pixels), expected)


def test_values_beyond_the_range_are_clipped():
    class Overshoots(nn.Module):
        def forward(self, x):
            return 3 * x - 1

    pixels = np.array([[[0, 100, 255]]], np.uint8)
    np.testing.assert_array_equal(Restorer(Overshoots(), CPU).pixels(pixels), [[[0, 45, 255]]])


def test_result_of_a_tensor_may_enter_a_loss():
    target = Restorer(nn.Identity(), CPU)(noise(1, 3, 8, 8))
    assert not target.is_inference()
    prediction = noise(1, 3, 8, 8, seed=1).requires_grad_()
    (prediction * target).sum().backward()
    torch.testing.assert_close(prediction.grad, target)


def test_a_small_image_is_mirrored_up_to_the_least_size():
    class Needs20(nn.Module):
        multiple_of, min_size = 8, 20

        def forward(self, x):
            assert x.shape[2] == x.shape[3] == 24
            return x

    image = noise(1, 3, 5, 20)
    torch.testing.assert_close(Restorer(Needs20(), CPU, Tiling(64, 8))(image), image, rtol=0, atol=0)


# ---- seams


@pytest.mark.parametrize(('size', 'overlap'), [(64, 16), (64, 40), (96, 32)])
def test_a_seam_adds_no_more_than_the_difference_over_the_ramp(size, overlap):
    image = torch.linspace(0, 1, 230)[None, None, None].expand(1, 3, 60, 230)  # tile means differ, rows are alike
    restored = Restorer(AddsTileMean(), CPU, Tiling(size, overlap))(image)
    spans = plan_axis(230, size, overlap, overlap // 16)
    means = [float(image[0, 0, 0, s.start : s.stop].mean()) for s in spans]
    bound = max((b - a) / (s.falling + 1) for a, b, s in zip(means, means[1:], spans))
    added = (restored - image)[0, 0, 0].diff()
    assert float(added.max()) == pytest.approx(bound, abs=2e-7)
    assert float(added.min()) >= -2e-7


def test_a_larger_overlap_makes_the_seam_smaller():
    image = torch.linspace(0, 1, 700).expand(1, 3, 700, 700)
    steps = []
    for overlap in (0, 16, LARGEST_OVERLAP):
        restored = Restorer(AddsTileMean(), CPU, Tiling(600, overlap))(image)
        steps.append(float((restored - image).diff(dim=3).abs().max()))
    assert steps[0] > 5 * steps[1] > 10 * steps[2] > 0


# ---- self-ensemble


def test_ensemble_is_the_mean_of_eight_passes():
    net, image = fill(LocalUNet()).eval(), noise(2, 3, 40, 64)
    passes = []
    for flip in (False, True):
        for turns in range(4):
            turned = torch.rot90(image.flip(3) if flip else image, turns, (2, 3))
            back = torch.rot90(whole(net, turned), 4 - turns, (2, 3))
            passes.append(back.flip(3) if flip else back)
    assert max((p - passes[0]).abs().max() for p in passes[1:]) > 1e-3
    expected = torch.stack(passes).mean(0)
    torch.testing.assert_close(Restorer(net, CPU, self_ensemble=True)(image), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(('height', 'width'), [(40, 40), (31, 77), (150, 201)])
def test_ensemble_leaves_an_equivariant_network_unchanged(height, width):
    class Blurs(nn.Module):
        def forward(self, x):
            return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False) ** 2

    image = noise(1, 3, height, width)
    restored = Restorer(Blurs(), CPU, Tiling(96, 32), self_ensemble=True)(image)
    torch.testing.assert_close(restored, whole(Blurs(), image), rtol=0, atol=1e-6)


# ---- precision, options, words


def test_half_precision_computes_inside_and_returns_float32():
    seen = []

    class Convolves(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x):
            seen.append((x.dtype, self.conv(x).dtype, x.is_contiguous(memory_format=torch.channels_last)))
            return self.conv(x)

    net, image = fill(Convolves()), noise(1, 3, 20, 20)
    restored = Restorer(net, CPU, precision='bf16')(image)
    assert seen == [(torch.float32, torch.bfloat16, True)]
    assert restored.dtype == torch.float32
    error = (restored - whole(net, image)).abs().mean()
    assert 0 < error < 0.01


def test_networks_may_forbid_a_precision():
    net = LocalUNet()
    net.half_precision = ()
    with pytest.raises(OptionError, match='LocalUNet does not keep its output in bf16; allowed for it: fp32'):
        Restorer(net, CPU, precision='bf16')
    with pytest.raises(OptionError, match='fp16 needs a GPU'):
        Restorer(LocalUNet(), CPU, precision='fp16')
    with pytest.raises(OptionError, match="'int8' is not known; allowed are fp32, bf16 and fp16"):
        Restorer(LocalUNet(), CPU, precision='int8')


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ((64, 64), 'Tile overlap 64 px must be smaller than the tile, 64 px'),
        ((0, 0), 'Tile size 0 is not allowed'),
        ((True, 0), 'Tile size True is not allowed'),
        (('large', 0), "Tile size 'large' is not allowed; give pixels, 'auto', or null"),
        ((64, -1), 'Tile overlap -1 and batch 1'),
        ((64, 8, 0), 'Tile overlap 8 and batch 0'),
    ],
)
def test_tilings_that_cannot_be(arguments, message):
    with pytest.raises(OptionError, match=message):
        Tiling(*arguments)


def test_tiles_that_the_network_does_not_allow():
    with pytest.raises(OptionError, match='Tiles of 7 px are too small for LocalUNet, which needs 8 px'):
        Restorer(LocalUNet(), CPU, Tiling(7, 0))
    with pytest.raises(OptionError, match='must be smaller than the tile, 64 px'):
        Restorer(LocalUNet(), CPU, Tiling(67, 65))


def test_networks_that_change_the_size_run_on_whole_images_only():
    image, net = noise(1, 3, 80, 100), nn.Upsample(scale_factor=2)
    assert torch.equal(Restorer(net, CPU)(image), net(image))
    pixels = np.arange(8 * 10 * 3, dtype=np.uint8).reshape(8, 10, 3)
    assert np.array_equal(Restorer(net, CPU).pixels(pixels), pixels.repeat(2, 0).repeat(2, 1))
    with pytest.raises(OptionError, match='Upsample turns 58x48 pixels into 116x96; only networks that keep the size'):
        Restorer(net, CPU, Tiling(64, 16))(image)


class KnowsTheWhole(nn.Module):
    """Adds the mean of the whole image, which ``prepare`` computes."""

    def prepare(self, x):
        return torch.cat([x, x.mean((1, 2, 3), keepdim=True).expand(-1, 1, *x.shape[2:])], 1)

    def forward(self, x):
        x = x if x.shape[1] == 4 else self.prepare(x)
        return x[:, :3] + x[:, 3:]


def test_tiles_know_what_the_network_prepares_from_the_whole_image():
    net, image = KnowsTheWhole(), noise(2, 3, 150, 130)
    torch.testing.assert_close(Restorer(net, CPU, Tiling(64, 16))(image), net(image), rtol=0, atol=1e-6)
    pixels = np.random.default_rng(0).integers(0, 120, (150, 130, 3), dtype=np.uint8)
    tiled, at_once = (Restorer(net, CPU, tiling).pixels(pixels) for tiling in (Tiling(64, 16), Tiling(None)))
    assert np.array_equal(tiled, at_once)


def test_the_default_overlap_is_a_share_of_the_tile():
    for size, overlap in ((64, 25), (600, 240), (2000, 256)):
        assert Restorer(nn.Identity(), CPU, Tiling(size)).describe() == f'tiles of {size} px, overlap {overlap} px'


@pytest.mark.parametrize('pixels', [np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8)])
def test_pixels_that_are_no_image(pixels):
    with pytest.raises(DataError, match='must be'):
        Restorer(nn.Identity(), CPU).pixels(pixels)


def test_description():
    net = LocalUNet()
    assert Restorer(net, CPU).describe() == 'whole images'
    assert Restorer(net, CPU, Tiling('auto')).describe() == 'whole images'
    assert Restorer(net, CPU, Tiling(514, 64)).describe() == 'tiles of 512 px, overlap 64 px'
    assert Restorer(net, CPU, Tiling(512, 16)).describe() == 'tiles of 512 px, overlap 48 px'  # twice the halo
    text = Restorer(net, CPU, Tiling(512, 64), self_ensemble=True, precision='bf16').describe()
    assert text == 'tiles of 512 px, overlap 64 px, self-ensemble x8, bf16'


# ---- a device


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
def test_on_a_gpu(dtype):
    net = fill(LocalUNet()).eval().cuda()
    pixels = np.random.default_rng(1).integers(0, np.iinfo(dtype).max, (350, 240, 3), dtype, endpoint=True)
    restored = Restorer(net, 'cuda', Tiling(128, 64, 2)).pixels(pixels)
    one = Restorer(net, 'cuda', Tiling('auto')).pixels(pixels)
    assert np.abs(restored.astype(int) - one.astype(int)).max() <= (1 if dtype == np.uint8 else 64)
