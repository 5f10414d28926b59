"""Sheets of the study of IQPIR: sample photographs, which may be shown."""

from __future__ import annotations

from pathlib import Path

import torch

from basicsr.data import build_block
from benchmarks.iqpir_runs import VARIANTS, Run
from benchmarks.iqpir_scores import SYNTHETIC
from benchmarks.qualiteacher_pictures import PHOTOS, SAMPLE, SIDE, captioned, write_sheet
from benchmarks.qualiteacher_scores import Network, as_stored

KNOB = (0.05, 0.35, 0.65, 0.95)
TITLES = {
    'stage1_dual': 'two books', 'stage1_single': 'one book', 'stage1_shared': 'two, shared',
    'stage2_none': 'no quality',
    'stage2_film': 'scale and shift', 'stage3_film': 'second decoder',
    'reward_continuous': 'continuous',
    'reward_feat_ste': 'feat_ste', 'reward_logit_st': 'logit_st',
}  # fmt: skip


def draw(folder: Path, work: Path, seed: int) -> None:
    """Draws the sheets ``iqpir_*.jpg`` of the runs that are there: reconstruction, restoration, the knob."""
    there = [v for v in VARIANTS if v in TITLES and Run(v, _seed(v, seed), work).weights.is_file()]
    networks = {v: Network(Run(v, _seed(v, seed), work).weights) for v in there}
    autoencoders = {v: n for v, n in networks.items() if v.startswith('stage1')}
    if autoencoders:
        _reconstruction(folder / 'iqpir_reconstruction.jpg', autoencoders)
    restorers = {v: n for v, n in networks.items() if v not in autoencoders}
    if restorers:
        _restoration(folder / 'iqpir_restoration.jpg', restorers)
    if 'stage2_film' in restorers:
        _knob(folder / 'iqpir_knob.jpg', restorers['stage2_film'])


@torch.inference_mode()
def _reconstruction(file: Path, networks: dict[str, Network]) -> None:
    tiles = []
    for number in range(len(PHOTOS)):
        _, clean = sample(number, 'Haze')
        tiles.append(captioned(clean, 'photograph'))
        tiles += [captioned(as_stored(n.net(clean)), TITLES[v]) for v, n in networks.items()]
    write_sheet(file, tiles, len(networks) + 1)


def _restoration(file: Path, networks: dict[str, Network]) -> None:
    tiles = []
    for number, kind in enumerate(SYNTHETIC):
        degraded, clean = sample(number % len(PHOTOS), kind)
        tiles.append(captioned(degraded, kind))
        for variant, network in networks.items():
            if network.conditioned:
                network.set(1.0)
            tiles.append(captioned(network.restore([degraded])[0], TITLES[variant]))
        tiles.append(captioned(clean, 'clean'))
    write_sheet(file, tiles, len(networks) + 2)


def _knob(file: Path, network: Network) -> None:
    tiles = []
    for number, kind in enumerate(SYNTHETIC):
        degraded, _ = sample(number % len(PHOTOS), kind)
        tiles.append(captioned(degraded, kind))
        for level in KNOB:
            network.set(level)
            tiles.append(captioned(network.restore([degraded])[0], f'asked for {level:g}'))
    write_sheet(file, tiles, len(KNOB) + 1)


def sample(number: int, kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """A sample photograph under a degradation, and clean, (1,3,H,W) each."""
    block = {
        'type': 'OnlineDegradationDataset', 'dataroot_gt': str(SAMPLE), 'val_size': SIDE,
        'degradations': [{'type': kind}],
    }  # fmt: skip
    dataset = build_block(block, 'val')
    samples = [dataset[i] for i in range(len(dataset))]
    chosen = [s for s in samples if Path(s['gt_path']).stem in PHOTOS][number]
    return chosen['lq'].unsqueeze(0), chosen['gt'].unsqueeze(0)


def _seed(variant: str, seed: int) -> int:
    return 0 if variant.startswith('stage1') else seed
