"""What the measuring processes of both environments share: inputs, clocks, memory. Needs PyTorch and nothing else."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

SEED = 0
LEARNING_RATE, BETAS = 2e-4, (0.9, 0.99)
SAMPLED = 509  # values of a restored image that are handed back for comparison


def device() -> torch.device:
    """The GPU if there is one."""
    return torch.device('cuda' if torch.cuda.is_available() else 'cpu')


def batches(job: dict[str, Any]) -> list[dict[str, torch.Tensor]]:
    """The batches of a training run, the same for every side: smooth clean images, and the same with noise."""
    generator = torch.Generator().manual_seed(SEED)
    shape, result = (job['batch'], 3, job['crop'], job['crop']), []
    for _ in range(job['warm'] + job['steps']):
        clean = smooth(shape, generator)
        noisy = (clean + 0.1 * torch.randn(shape, generator=generator)).clamp(0, 1)
        result.append({'lq': noisy, 'gt': clean})
    return result


def image(job: dict[str, Any]) -> torch.Tensor:
    """The image to restore, (1,3,H,W)."""
    return smooth((1, 3, *job['image']), torch.Generator().manual_seed(SEED))


def smooth(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Random images (N,C,H,W) in [0,1] without fine detail."""
    coarse = torch.rand((*shape[:2], 8, 8), generator=generator)
    return torch.nn.functional.interpolate(coarse, shape[2:], mode='bilinear', align_corners=False)


def weights_file(work: str, name: str) -> str:
    """Where the initial weights of a network lie, in the layout that both sides load."""
    return str(Path(work) / f'{name}.pth')


def wait() -> None:
    """Lets the GPU finish, so that the clock is read at the right time."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds_each(step: Callable[[int], object], count: int) -> list[float]:
    """Seconds that each of ``step(0)``, ``step(1)``, ... takes."""
    found = []
    for number in range(count):
        wait()
        start = time.perf_counter()
        step(number)
        wait()
        found.append(time.perf_counter() - start)
    return found


def peak_megabytes() -> float:
    """Most memory that this process has held: of the GPU if there is one, else resident."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e6
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 1e6 if sys.platform == 'darwin' else most * 1024 / 1e6


def training_result(job: dict[str, Any], seconds: list[float], losses: list[torch.Tensor]) -> dict[str, Any]:
    """What a training measurement hands back."""
    if len(losses) != len(seconds):
        raise SystemExit(f'{len(losses)} losses were seen in {len(seconds)} steps.')
    return {
        'images_per_s': job['batch'] / statistics.median(seconds[job['warm'] :]),
        'first_step_s': seconds[0],
        'peak_mb': peak_megabytes(),
        'losses': [float(loss) for loss in losses],
    }


def inference_result(job: dict[str, Any], restore: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, Any]:
    """Restores the image once unmeasured, then ``job['images']`` times."""
    inp, out = image(job), None

    def once(number: int) -> None:
        nonlocal out
        out = restore(inp)

    seconds = seconds_each(once, 1 + job['images'])[1:]
    assert out is not None
    flat = out.float().cpu().flatten()
    return {
        'megapixels_per_s': inp.shape[-2] * inp.shape[-1] / 1e6 / statistics.median(seconds),
        'peak_mb': peak_megabytes(),
        'sample': flat[:: max(1, len(flat) // SAMPLED)].tolist(),
    }


def require_compiled(job: dict[str, Any]) -> None:
    """Makes sure that a compiled setting was compiled: a fall-back must not be measured under its name."""
    from torch._dynamo.utils import counters

    if job['compile'] and not counters['stats'].get('unique_graphs'):
        raise SystemExit('torch.compile did not compile the network here.')


def answer(result: dict[str, Any]) -> None:
    """Hands a result to benchmarks/run.py: the last line printed."""
    print(json.dumps(result))
