"""Tiles against the whole image, the blend, memory that runs out, and the self-ensemble."""

import logging
import resource
import subprocess
import sys
import textwrap
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from basicsr.appetite import free_memory, is_out_of_memory, peak_bytes
from basicsr.archs import build_network
from basicsr.errors import DataError, OptionError, QualIRError
from basicsr.image_io import to_tensor
from basicsr.logger import get_root_logger
from basicsr.network import RestorationNetwork
from basicsr.tile_plan import plan_axis
from basicsr.tiling import OVERLAP, Restorer, Tiling
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


class Bounded(nn.Module):
    """Fails as a GPU does on tiles of more than so many pixels, all images of the batch together."""

    def __init__(self, pixels, error=OUT):
        super().__init__()
        self.pixels, self.error, self.seen = pixels, error, []

    def forward(self, x):
        self.seen.append((x.shape[0], *x.shape[2:]))
        if x.shape[0] * x.shape[2] * x.shape[3] > self.pixels:
            raise self.error
        return x * 0.5


@pytest.fixture(scope='module')
def unet():
    return fill(LocalUNet()).eval()


@pytest.fixture
def warnings():
    """Warnings of the engine's logger, which does not propagate to pytest's."""
    lines, handler = [], logging.Handler(logging.WARNING)
    handler.emit = lambda record: lines.append(record.getMessage())
    get_root_logger().addHandler(handler)
    yield lines
    get_root_logger().removeHandler(handler)


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
    for overlap in (0, 16, OVERLAP):
        restored = Restorer(AddsTileMean(), CPU, Tiling(600, overlap))(image)
        steps.append(float((restored - image).diff(dim=3).abs().max()))
    assert steps[0] > 5 * steps[1] > 10 * steps[2] > 0


# ---- memory


def test_out_of_memory_halves_the_tile_and_keeps_the_size(warnings):
    net, image = Bounded(100 * 100), noise(1, 3, 300, 200)
    restorer = Restorer(net, CPU, Tiling(None, 32))
    assert restorer.describe() == 'whole images'
    torch.testing.assert_close(restorer(image), image * 0.5)
    assert [s[1:] for s in net.seen[:2]] == [(300, 200), (122, 116)]  # tiles of at most 150, evenly shared out
    assert restorer.describe() == 'tiles of 64 px, overlap 32 px'
    assert warnings == [
        f'Memory ran out; going on with tiles of {n} px, overlap 32 px, for the images to come too. '
        '(CUDA out of memory. Tried to allocate 20 MiB.)'
        for n in (150, 64)
    ]


def test_the_smaller_tile_is_kept_for_the_next_image(warnings):
    net = Bounded(100 * 100)
    restorer = Restorer(net, CPU, Tiling(128, 32))
    restorer(noise(1, 3, 300, 200))
    tried, net.seen = len(warnings), []
    restorer(noise(1, 3, 290, 210))
    assert len(warnings) == tried == 1
    assert all(h * w <= 100 * 100 for _, h, w in net.seen)


def test_the_batch_is_halved_before_the_tile(warnings):
    net = Bounded(2 * 64 * 64)
    restorer = Restorer(net, CPU, Tiling(64, 16, 8))
    image = noise(1, 3, 64, 600)
    torch.testing.assert_close(restorer(image), image * 0.5)
    assert restorer.describe() == 'tiles of 64 px, overlap 16 px'
    assert [s[0] for s in net.seen[:3]] == [8, 4, 2]
    assert len(warnings) == 2


def test_nothing_fits():
    with pytest.raises(QualIRError, match=r'200x300 pixels, not even in tiles of 60 px: CUDA out of memory\. Tried'):
        Restorer(Bounded(10), CPU, Tiling(None, 0)).pixels(np.zeros((300, 200, 3), np.uint8))


def test_other_errors_pass_through(warnings):
    net = Bounded(10, RuntimeError('The size of tensor a must match.'))
    with pytest.raises(RuntimeError, match='must match'):
        Restorer(net, CPU)(noise(1, 3, 64, 64))
    assert len(net.seen) == 1
    assert warnings == []


@pytest.mark.parametrize(
    ('error', 'expected'),
    [
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"),
            True,
        ),
        (RuntimeError('DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes.'), True),
        (RuntimeError('MPS backend out of memory (MPS allocated: 1 GB)'), True),
        (RuntimeError('cuDNN error: CUDNN_STATUS_ALLOC_FAILED'), True),
        (torch.OutOfMemoryError('CUDA out of memory.'), True),
        (MemoryError(), True),
        (RuntimeError('expected scalar type Float'), False),
        (ValueError('DefaultCPUAllocator: not enough memory'), False),
    ],
)
def test_which_errors_mean_that_memory_ran_out(error, expected):
    assert is_out_of_memory(error) is expected


def in_a_process(code, *arguments, timeout=600):
    """Runs code in a fresh process of one thread, and returns what it prints as numbers."""
    root = Path(__file__).parents[1]
    head = f'import sys; sys.path.insert(0, {str(root)!r})\nimport torch; torch.set_num_threads(1)\n'
    command = [sys.executable, '-c', head + textwrap.dedent(code), *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=timeout, cwd=root)
    assert result.returncode == 0, result.stderr
    return [float(word) for word in result.stdout.split()], result.stderr


@pytest.mark.skipif(not hasattr(resource, 'RLIMIT_AS') or sys.platform != 'linux', reason='needs a limit on memory')
def test_the_cpu_allocator_really_runs_out():
    numbers, warned = in_a_process("""
        import resource
        from basicsr.tiling import Restorer, Tiling
        net = torch.nn.Sequential(torch.nn.Conv2d(3, 64, 1), torch.nn.Conv2d(64, 3, 1)).eval()
        image = torch.rand(1, 3, 1200, 1200)
        small = net(image[..., :64, :64]).detach()
        used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 200 * 2**20,) * 2)  # the whole takes 369 MB at once
        restorer = Restorer(net, 'cpu', Tiling(None))
        restored = restorer(image)
        print((restored[..., :64, :64] - small).abs().max().item(), restorer._size)
    """)
    difference, size = numbers
    assert difference < 1e-6
    assert size in (600, 336, 300, 304)
    assert 'Memory ran out; going on with tiles of 600 px' in warned


PEAK = """
    import resource, numpy as np
    from basicsr.archs import build_network
    from basicsr.tiling import Restorer, Tiling
    height, width, size = map(int, sys.argv[1:])
    net = build_network({'type': 'NAFNet', 'width': 8, 'enc_blk_nums': [1], 'dec_blk_nums': [1]}).eval()
    if sys.argv[3] == '-1':
        tiling = Tiling()
    else:
        tiling = Tiling(size or None)
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    restorer = Restorer(net, 'cpu', tiling)
    restored = restorer.pixels(pixels)
    assert restored.shape == pixels.shape and (restored != pixels).any()
    print(before / 1e6, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)
"""


@pytest.mark.skipif(sys.platform != 'linux', reason='ru_maxrss has other units elsewhere')
def test_tiles_take_a_fraction_of_the_memory_of_the_whole():
    (before, tiles), _ = in_a_process(PEAK, 1200, 2000, 256)
    (_, one), _ = in_a_process(PEAK, 1200, 2000, 0)
    assert tiles - before < 0.15
    assert one - before > 4 * (tiles - before)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason='ru_maxrss has other units elsewhere')
def test_a_photograph_of_50_megapixels_takes_less_than_4_gigabytes():
    (_, peak), _ = in_a_process(PEAK, 5792, 8688, -1)
    assert peak < 4


def test_peak_bytes_counts_what_lives_at_once():
    def chain():
        x = torch.empty(1000, dtype=torch.float32)  # 4 kB
        y = x + 1  # 8 kB
        del x
        z = y * 2  # 8 kB
        z.add_(1)
        z.view(10, 100)
        del y, z
        torch.empty(100)

    assert peak_bytes(chain) == 8000
    assert peak_bytes(lambda: torch.empty(16).double()) == 64 + 128


def test_appetite_of_a_network_grows_with_its_width():
    def appetite(width):
        net = build_network({'type': 'NAFNet', 'width': width, 'enc_blk_nums': [1], 'dec_blk_nums': [1]}).eval()
        return peak_bytes(lambda: net(torch.zeros(1, 3, 64, 64))) / 64**2

    # at full resolution live at once: the block's input, and its widened features before and after a convolution
    assert 4 * 8 * 4 < appetite(8) < 4 * 8 * 10
    assert appetite(32) / appetite(8) == pytest.approx(4, rel=0.2)


def test_free_memory_is_plausible():
    free = free_memory(CPU)
    assert free is None or 1e7 < free < 1e14
    assert free_memory(torch.device('meta')) is None


def test_auto_leaves_small_images_whole_and_tiles_large_ones(monkeypatch):
    class Hungry(nn.Module):
        def __init__(self):
            super().__init__()
            self.seen = []

        def forward(self, x):
            self.seen.append(tuple(x.shape[-2:]))
            return x.repeat(1, 100, 1, 1)[:, :3]

    monkeypatch.setattr('basicsr.tiling.free_memory', lambda device: 600_000_000)
    net = Hungry()
    restorer = Restorer(net, CPU, Tiling('auto'))
    restorer.pixels(np.zeros((700, 700, 3), np.uint8))
    assert net.seen == [(700, 700)]  # and nothing was measured
    restorer.pixels(np.zeros((600, 1500, 3), np.uint8))
    assert net.seen[1] == (128, 128)
    assert all(h * w * 1200 < 300_000_000 for h, w in net.seen[2:])
    assert restorer.describe().startswith('whole images up to 0.5 megapixels, then tiles of ')
    count = len(net.seen)
    restorer.pixels(np.zeros((500, 1000, 3), np.uint8))
    assert net.seen[count:] == [(500, 1000)]


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


def test_networks_that_change_the_size_are_refused():
    with pytest.raises(OptionError, match='Upsample turns 10x8 pixels into 20x16; only networks that keep the size'):
        Restorer(nn.Upsample(scale_factor=2), CPU)(noise(1, 3, 8, 10))


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
