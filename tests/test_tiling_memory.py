"""The tiler when memory runs out, what it takes, and how auto chooses."""

import logging
import resource
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from basicsr.appetite import free_memory, is_out_of_memory, peak_bytes
from basicsr.archs import build_network
from basicsr.errors import QualIRError
from basicsr.logger import get_root_logger
from basicsr.tiling import Restorer, Tiling

CPU = torch.device('cpu')
OUT = torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 20 MiB.\nMore.')


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
    import numpy as np
    from basicsr.archs import build_network
    from basicsr.tiling import Restorer, Tiling
    height, width, size = map(int, sys.argv[1:])
    net = build_network({'type': 'NAFNet', 'width': 8, 'enc_blk_nums': [1], 'dec_blk_nums': [1]}).eval()
    if sys.argv[3] == '-1':
        tiling = Tiling()
    else:
        tiling = Tiling(size or None)
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
    def peak():  # ru_maxrss would begin with that of the process that started this one
        lines = open('/proc/self/status').read().splitlines()
        return int(next(line for line in lines if line.startswith('VmHWM')).split()[1])
    before = peak()
    restorer = Restorer(net, 'cpu', tiling)
    restored = restorer.pixels(pixels)
    assert restored.shape == pixels.shape and (restored != pixels).any()
    print(before / 1e6, peak() / 1e6)
"""


@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
def test_tiles_take_a_fraction_of_the_memory_of_the_whole():
    (before, tiles), _ = in_a_process(PEAK, 1200, 2000, 256)
    (_, one), _ = in_a_process(PEAK, 1200, 2000, 0)
    assert tiles - before < 0.15
    assert one - before > 4 * (tiles - before)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
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
