"""What Proxy Fusion and its iterations cost, and what a training step does: parameters, MACs, seconds, memory.

MACs are multiplications with an addition in convolutions and matrix products, half of the operations that
``torch.utils.flop_counter`` counts. They are those of the published expressions: our Restormer multiplies two matrices
first that these apply one after the other, and fills channels up with zeros, and neither is a matter of the method.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from basicsr.appetite import peak_bytes
from basicsr.archs import build_network, fused_ops
from basicsr.archs.restormer_blocks import HeadedAttention
from basicsr.errors import DataError
from benchmarks._common import SEED, smooth, wait
from benchmarks.quality_parts import rounded
from benchmarks.sipl_runs import CROP, WAYS, new_model

SIZE = 256  # side of the image
BATCH = 4  # images of a training step, as in the study
LAYOUT = {'width': 32, 'enc_blk_nums': [1, 1, 1, 28], 'middle_blk_num': 1, 'dec_blk_nums': [1, 1, 1, 1]}
NETWORKS: dict[str, dict[str, Any]] = {
    'Restormer': {'type': 'Restormer'},
    'PromptIR': {'type': 'PromptIR', 'unused': False},
    'AdaIR': {'type': 'AdaIR'},
    'NAFNet': {'type': 'NAFNet', **LAYOUT},
}
# Billions of MACs at 256 x 256 that the published code was counted to have
PUBLISHED = {
    ('Restormer', 'alone'): 154.9, ('PromptIR', 'alone'): 172.7, ('PromptIR', 'plain'): 191.4,
    ('PromptIR', 'released'): 450.0,
}  # fmt: skip
WITHIN = 0.01
MOST = 2.2  # what the plain pass and one iteration may cost in plain passes
Form = Callable[[Tensor], Tensor]


def measure(name: str, size: int, rounds: int, device: torch.device) -> dict[str, Any]:
    """Parameters, MACs, seconds and memory of a network alone, in Proxy Fusion, refined, and in the released order.

    Args:
        name: A key of :data:`NETWORKS`.
        size: Side of the image in pixels.
        rounds: How often each is timed, in turn.
        device: Where.

    Raises:
        DataError: The count differs from what the published code was counted to have.
    """
    torch.manual_seed(SEED)
    net = build_network({'type': 'ProxyFusion', 'host': NETWORKS[name]}).eval().to(device)
    image = smooth((1, 3, size, size), torch.Generator().manual_seed(SEED)).to(device)
    calls = {form: torch.no_grad()(partial(restore, image)) for form, restore in forms_of(net).items()}
    macs = {form: rounded(macs_of(call) / 1e9) for form, call in calls.items()}
    if size == SIZE:
        check(name, macs)
    return {
        'parameters': {'alone': _parameters(net.host), 'plain': _parameters(net)}, 'macs': macs,
        'peak_mb': {form: rounded(peak_bytes(call) / 1e6) for form, call in calls.items()},
        'seconds': in_turn(calls, rounds, device),
    }  # fmt: skip


def forms_of(net: nn.Module) -> dict[str, Form]:
    """Ways to restore an image by a network in Proxy Fusion and by its host: what is compared."""

    def plain(image: Tensor, iterations: int = 0) -> Tensor:
        net.refine = iterations
        return net(image)

    def released(image: Tensor) -> Tensor:
        return net(image, privileged=net.privilege(plain(image)))

    return {'alone': net.host, 'plain': plain, 'refined': lambda image: plain(image, 1), 'released': released}


def check(name: str, macs: dict[str, float]) -> None:
    """Compares counts with those of the published code.

    Raises:
        DataError: They differ.
    """
    for (network, form), wanted in PUBLISHED.items():
        if network == name and abs(macs[form] / wanted - 1) > WITHIN:
            raise DataError(f'{name}, {form}: {macs[form]:.1f} billion MACs are counted; published are {wanted}.')


def training(backbone: str, rounds: int) -> dict[str, Any]:
    """MACs of a training step for each image, and seconds of a batch, of a backbone of the study in each way."""
    variants = {way: f'{backbone}_{way}' for way, told in WAYS.items() if not told.longer}
    steps = {way: partial(step, new_model(v, SEED).train(), batch_of(BATCH)) for way, v in variants.items()}
    return {
        'macs': {way: rounded(training_macs(variant) / 1e9) for way, variant in variants.items()},
        'seconds': in_turn(steps, rounds, torch.device('cpu')),
    }


def training_macs(variant: str) -> int:
    """MACs of a variant's training step of one image; where gradients go through, they take twice what the values take.

    The backward pass is not counted itself, for ``torch.utils.flop_counter`` takes the gradient of the weights of a
    depthwise convolution for that of a full one.
    """
    with torch.device('meta'):  # nothing is computed
        model, batch = new_model(variant, SEED), batch_of(1)
    every = macs_of(lambda: model(batch))
    without = macs_of(lambda: model.privileged(batch['gt'])) if hasattr(model, 'privileged') else 0
    return 3 * (every - without) + without


def batch_of(count: int) -> dict[str, Any]:
    """A batch of the study's size of crops; the images do not matter."""
    image = torch.rand(count, 3, CROP, CROP).contiguous(memory_format=torch.channels_last)
    return {'lq': image, 'gt': image.flip(0), 'key': ['image'] * count}


def step(model: nn.Module, batch: dict[str, Any]) -> None:
    """Losses of a batch and their gradients, in the trainer's memory format and the study's number format."""
    model.to(memory_format=torch.channels_last)
    with torch.autocast('cpu', torch.bfloat16):
        losses = model(batch)
    sum(v for k, v in losses.items() if k.startswith('l_')).backward()


def macs_of(call: Callable[[], Any]) -> int:
    """MACs of a call, without gradients."""
    with published_expressions(), torch.no_grad(), FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops() // 2


@contextmanager
def published_expressions() -> Iterator[None]:
    """Lets attention and feed-forward networks multiply what the published ones do while the context lasts."""
    attend, alignment = HeadedAttention._attend, fused_ops.ALIGNMENT
    HeadedAttention._attend, fused_ops.ALIGNMENT = _attend, 1
    try:
        with sdpa_kernel(SDPBackend.MATH):  # made of products, which are counted
            yield
    finally:
        HeadedAttention._attend, fused_ops.ALIGNMENT = attend, alignment


def _attend(self: HeadedAttention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention among channels, then the projection."""
    size, heads = v.shape[-2:], len(self.temperature)
    q, k, v = (t.flatten(2).unflatten(1, (heads, -1)) for t in (q, k, v))
    weights = (F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1) * self.temperature).softmax(-1)
    return self.project_out((weights @ v).flatten(1, 2).unflatten(2, size))


def in_turn(calls: dict[str, Callable[[], Any]], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of each call, one a round; in a round they take turns.

    On a CPU they are seconds of the processor, of the one thread that there is: other processes do not count.
    """
    clock = time.process_time if device.type == 'cpu' else time.perf_counter
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            wait()
            start = clock()
            call()
            wait()
            found[name].append(rounded(clock() - start))
    return found


def ratio(seconds: dict[str, list[float]], form: str, to: str) -> float:
    """Median over rounds of how often as long one takes as another."""
    return statistics.median(a / b for a, b in zip(seconds[form], seconds[to], strict=True))


def _parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())
