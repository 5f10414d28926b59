"""Pairs per second of BasicSR 1.4.2's own training loader; started by benchmarks/loader.py in BasicSR's environment."""

import argparse
import sys
import time
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / 'tests/golden'))
from peers import import_torchvision

import_torchvision()

from basicsr.data import build_dataloader, build_dataset  # noqa: E402
from basicsr.data.data_sampler import EnlargedSampler  # noqa: E402


def main() -> None:
    """Prints the rate."""
    parser = argparse.ArgumentParser()
    parser.add_argument('--work', required=True)
    parser.add_argument('--workers', type=int, required=True)
    parser.add_argument('--seconds', type=float, required=True)
    args = parser.parse_args()
    options = {
        'name': 'peer', 'type': 'PairedImageDataset', 'phase': 'train', 'scale': 1,
        'dataroot_gt': f'{args.work}/full/gt.lmdb', 'dataroot_lq': f'{args.work}/full/lq.lmdb',
        'io_backend': {'type': 'lmdb'}, 'gt_size': 256, 'use_hflip': True, 'use_rot': True,
        'num_worker_per_gpu': args.workers, 'batch_size_per_gpu': 8,
    }  # fmt: skip
    dataset = build_dataset(options)
    sampler = EnlargedSampler(dataset, 1, 0, 10_000)
    feed = iter(build_dataloader(dataset, options, num_gpu=1, dist=False, sampler=sampler, seed=0))

    def rate(seconds: float) -> float:
        pairs, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            pairs += len(next(feed)['gt'])
        return pairs / (time.perf_counter() - start)

    rate(2.0)
    print(rate(args.seconds))


if __name__ == '__main__':
    main()
