"""Images per second of a NAFNet training step on the CPU, under the settings that the trainer chooses among.

``python benchmarks/train_step.py`` runs every setting in a process of its own, in turn, with and without another
process that keeps one core busy, and prints medians and ratios as JSON. ``--rounds`` says how often.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == '__main__' and not __package__:  # run as a script: import from the checkout
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
import json
import os
import statistics
import subprocess
import time

NETWORK = {'type': 'NAFNet', 'width': 16, 'enc_blk_nums': [1, 1, 2], 'middle_blk_num': 2, 'dec_blk_nums': [1, 1, 1]}
BATCH, SIZE, STEPS = 4, 112, 12
# name: (environment, memory layout)
SETTINGS: dict[str, tuple[dict[str, str], str]] = {
    'default spin, NCHW': ({}, 'contiguous'),
    'default spin, channels_last (the trainer)': ({}, 'channels_last'),
    'GOMP_SPINCOUNT=10000, channels_last': ({'GOMP_SPINCOUNT': '10000'}, 'channels_last'),
    'OMP_WAIT_POLICY=PASSIVE, channels_last': ({'OMP_WAIT_POLICY': 'PASSIVE'}, 'channels_last'),
    'one thread, channels_last': ({'OMP_NUM_THREADS': '1'}, 'channels_last'),
}


def measure(layout: str) -> float:
    """Median images per second over :data:`STEPS` steps, the first two left out."""
    import torch

    from basicsr.archs import build_network

    memory_format = torch.channels_last if layout == 'channels_last' else torch.contiguous_format
    net = build_network(NETWORK).to(memory_format=memory_format)
    images = torch.rand(BATCH, 3, SIZE, SIZE).contiguous(memory_format=memory_format)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    seconds = []
    for _ in range(STEPS):
        start = time.perf_counter()
        optimizer.zero_grad()
        (net(images) - images).abs().mean().backward()
        optimizer.step()
        seconds.append(time.perf_counter() - start)
    return BATCH / statistics.median(seconds[2:])


def run(name: str) -> float:
    """Measures one setting in a fresh process."""
    environment, layout = SETTINGS[name]
    clean = {k: v for k, v in os.environ.items() if not k.startswith(('OMP_', 'GOMP_'))}
    command = [sys.executable, __file__, '--measure', layout]
    result = subprocess.run(command, env={**clean, **environment}, capture_output=True, text=True, check=True)
    return float(result.stdout)


def table(rounds: int, busy: bool) -> dict[str, dict[str, float]]:
    """All settings in turn, ``rounds`` times."""
    other = subprocess.Popen([sys.executable, '-c', 'while True: pass']) if busy else None
    try:
        speeds = {name: [] for name in SETTINGS}
        for _ in range(rounds):
            for name, found in speeds.items():
                found.append(run(name))
    finally:
        if other is not None:
            other.kill()
    medians = {name: statistics.median(found) for name, found in speeds.items()}
    first = next(iter(medians.values()))
    return {n: {'images_per_s': round(m, 2), 'ratio': round(m / first, 2)} for n, m in medians.items()}


def main() -> None:
    """Prints the results."""
    parser = argparse.ArgumentParser(description='Speed of a training step on the CPU.')
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--measure', choices=['contiguous', 'channels_last'], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(measure(args.measure))
        return
    results = {'idle machine': table(args.rounds, busy=False), 'one core busy': table(args.rounds, busy=True)}
    print(json.dumps({'cores': os.cpu_count(), 'batch': BATCH, 'size': SIZE, **results}, indent=1))


if __name__ == '__main__':
    main()
