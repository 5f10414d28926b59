"""What the machine itself can do: large convolutions, matrix products and copies; a process of benchmarks/run.py."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == '__main__' and not __package__:  # run as a script: import from the checkout
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import json
from collections.abc import Callable

import torch

from benchmarks._common import answer, device, seconds_each

FORMATS = {'fp32': torch.float32, 'bf16': torch.bfloat16}
REPEATS = 5


def matmul(dtype: torch.dtype, side: int) -> float:
    """FLOP/s of a product of two square matrices."""
    a, b = (torch.rand(side, side, device=device()).to(dtype) for _ in range(2))
    return 2 * side**3 / fastest(lambda n: a @ b)


def convolution(dtype: torch.dtype, channels: int, side: int) -> float:
    """FLOP/s of a 3x3 convolution, in the faster of both memory layouts."""
    found = []
    for layout in (torch.contiguous_format, torch.channels_last):
        x = torch.rand(4, channels, side, side, device=device()).to(dtype).contiguous(memory_format=layout)
        conv = torch.nn.Conv2d(channels, channels, 3, padding=1, bias=False).to(device(), dtype, memory_format=layout)
        with torch.no_grad():
            found.append(2 * 9 * channels**2 * 4 * side**2 / fastest(lambda n, c=conv, x=x: c(x)))
    return max(found)


def copy(megabytes: int) -> float:
    """Bytes a second of a large copy, those read and those written."""
    source = torch.zeros(megabytes * 250_000, device=device())
    target = torch.empty_like(source)
    target.copy_(source)
    return 2 * source.nbytes / fastest(lambda n: target.copy_(source))


def fastest(work: Callable[[int], object]) -> float:
    """Seconds of the fastest of a few calls, the first left out."""
    return min(seconds_each(work, 1 + REPEATS)[1:])


def main() -> None:
    """Measures all; ``{"quick": true}`` takes small sizes, only to see that it runs."""
    quick, gpu = json.loads(sys.argv[1])['quick'], device().type == 'cuda'
    side, channels, image, megabytes = (
        (64, 8, 16, 1) if quick else (8192, 256, 256, 4000) if gpu else (2048, 128, 128, 400)
    )
    result = {}
    for name, dtype in FORMATS.items():
        result[f'matmul_{name}'] = matmul(dtype, side)
        result[f'convolution_{name}'] = convolution(dtype, channels, image)
    answer({**result, 'copy': copy(megabytes)})


if __name__ == '__main__':
    main()
