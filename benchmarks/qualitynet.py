"""What the learned scorer knows of photographs, strengths and restorers that it never saw, beside other scorers.

    python benchmarks/qualitynet.py --photos DIR [--ladders DIR] [--restored results/peers] [--weights DIR]

``--photos`` are clean photographs that it was not trained on, beside the sample's; ``--ladders`` ranked folders of a
restorer that it was not trained on (tools/restoration_ladders.py); ``--restored`` what published networks made of real
images (peer_figures.py). The result goes to ``docs/results/qualitynet.json`` and into ``docs/quality.md``.
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
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from basicsr.cli import run_command
from basicsr.image_io import list_images
from basicsr.iqa import Scorer
from basicsr.metrics import calculate_psnr, calculate_ssim
from benchmarks import quality_ladders
from benchmarks.quality_page import between, table
from benchmarks.quality_parts import better, rounded, save, shared
from benchmarks.quality_scores import label, right_pairs, scorers

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / 'docs/results/qualitynet.json'
PAGE = ROOT / 'docs/quality.md'
SAMPLE = ROOT / 'datasets/sample/val'
COMPARED = ('QualityNet', 'NIQE', 'BRISQUE', 'PIQE')
STEP_PSNR, STEP_SSIM = 1.0, 0.02  # two restorations are told apart where they differ by so much in both, alike
REAL = {  # degradation: folder of real photographs below the data's root
    'haze': 'real/haze',
    'rain': 'real/rain',
    'snow': 'real/snow',
    'low_light': 'real/lowlight',
    'underwater': 'real/underwater',
}
TYPED = ('haze', 'rain', 'snow', 'low_light', 'underwater', 'noise', 'blur', 'jpeg')


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description='The learned scorer on what it never saw.')
    parser.add_argument('--photos', type=Path, nargs='*', default=[], help='folders of clean photographs, held out')
    parser.add_argument('--ladders', type=Path, help='ranked folders of a restorer that was held out')
    parser.add_argument('--restored', type=Path, help='images restored by peers: results/peers of peer_figures.py')
    parser.add_argument(
        '--data', type=Path, default=os.environ.get('QUALIR_DATA'), help='real data; default: QUALIR_DATA'
    )
    parser.add_argument('--weights', type=Path, help='folder of published weights, for CNNIQA')
    parser.add_argument(
        '--processes', type=int, default=min(os.cpu_count() or 1, 8), help='processes that share the work'
    )
    parser.add_argument('--output', type=Path, default=RESULT, help='result file')
    parser.add_argument('--page', type=Path, default=PAGE, help='page that the tables go into')
    return parser.parse_args(arguments)


def study(args: argparse.Namespace) -> int:
    """Measures everything and writes it. Returns the exit code."""
    torch.set_num_threads(1)
    judges, reasons = scorers([{'type': t} for t in COMPARED], args.weights)
    print('\n'.join(reasons))
    photos = quality_ladders.photographs([SAMPLE, *args.photos])
    told = {'photos': len(photos), 'versions': {s.name: s.version for s in judges}}
    found = _stored(args.output, told)
    if 'ranked' not in found:
        found['ranked'] = {n: _of_ladder(n, photos, judges, args.processes) for n in quality_ladders.LADDERS}
    found['types'] = _types(found['ranked'])
    if args.ladders is not None and 'restored_ladders' not in found:
        found['restored_ladders'] = _of_ranked_folders(args.ladders, judges, args.processes)
    if args.data is not None and 'real_types' not in found:
        found['real_types'] = {k: _real_types(Path(args.data) / f, judges, args.processes) for k, f in REAL.items()}
    if args.restored is not None and args.data is not None and 'restored_real' not in found:
        found['restored_real'] = {
            n: _of_restored(args, n, judges) for n in quality_ladders.PAIRS if (args.restored / n).is_dir()
        }
    save(args.output, json.dumps(found, indent=1) + '\n')
    show(args, found)
    return 0


def _stored(file: Path, told: dict[str, Any]) -> dict[str, Any]:
    """What was measured before of the same photographs by the same scorers."""
    stored = json.loads(file.read_text(encoding='utf-8')) if file.is_file() else {}
    return stored if all(stored.get(k) == v for k, v in told.items()) else told


def _real_types(folder: Path, judges: Sequence[Scorer], processes: int) -> dict[str, int]:
    """How often each type is named in a folder of real photographs, the most frequent first."""
    files = list_images(folder)
    net = [s for s in judges if s.name == 'qualitynet']

    def named(number: int) -> str:
        return _judged(quality_ladders.file_tensor(files[number])[None], net)['types'][0]

    return dict(Counter(shared(named, len(files), processes)).most_common())


def _of_ladder(name: str, photos: dict[str, np.ndarray], judges: Sequence[Scorer], processes: int) -> dict[str, Any]:
    """Share of pairs ranked rightly by each scorer, and the types that QualityNet names, by strength."""
    part = quality_ladders.ladder_part(name, photos, seeds=1)
    groups = shared(lambda number: _judged(part.images(number), judges), part.groups, processes)
    right = {
        s.name: rounded(statistics.mean(right_pairs([better(s) * v for v in g['scores'][s.name]]) for g in groups))
        for s in judges
    }
    print(name, right, flush=True)
    return {'right': right, 'types': [g['types'] for g in groups]}


def _judged(images: Tensor, judges: Sequence[Scorer]) -> dict[str, Any]:
    with torch.no_grad():
        scores = {s.name: s.raw(images).tolist() for s in judges if s.name != 'qualitynet'}
        net = next(s for s in judges if s.name == 'qualitynet')
        quality, types = net.judge(images)
    kinds = [net.type_names[i] for i in types.argmax(dim=1).tolist()]
    return {'scores': {**scores, 'qualitynet': quality.tolist()}, 'types': kinds}


def _types(ranked: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Share of rightly named types: clean, and each degradation at every strength and at all but the weakest."""
    clean = [group[0] for name in TYPED for group in ranked[name]['types']]
    found = {'clean': {'all': _share(clean, 'clean'), 'visible': _share(clean, 'clean')}}
    for name in TYPED:
        groups = ranked[name]['types']
        seen, visible = [t for g in groups for t in g[1:]], [t for g in groups for t in g[2:]]
        found[name] = {'all': _share(seen, name), 'visible': _share(visible, name)}
    mean = {k: rounded(statistics.mean(f[k] for f in found.values())) for k in ('all', 'visible')}
    return {**found, 'mean': mean}


def _share(found: Sequence[str], wanted: str) -> float:
    return rounded(sum(f == wanted for f in found) / len(found))


def _of_ranked_folders(root: Path, judges: Sequence[Scorer], processes: int) -> dict[str, Any]:
    """Share of pairs ranked rightly in ladders of restored images, best first."""
    groups: dict[Path, list[Path]] = {}
    for file in sorted(root.rglob('*.png'), key=lambda f: (f.parent, int(f.stem))):
        groups.setdefault(file.parent, []).append(file)
    stacks = list(groups.values())

    def scored(number: int) -> dict[str, Any]:
        return _judged(torch.stack([quality_ladders.file_tensor(f) for f in stacks[number]]), judges)['scores']

    found = shared(scored, len(stacks), processes)
    right = {s.name: [right_pairs([better(s) * v for v in f[s.name]]) for f in found] for s in judges}
    among = {s.name: [right_pairs([better(s) * v for v in f[s.name][1:]]) for f in found] for s in judges}
    return {
        'ladders': len(stacks),
        'right': {k: rounded(statistics.mean(v)) for k, v in right.items()},
        'right_without_clean': {k: rounded(statistics.mean(v)) for k, v in among.items()},
    }


def _of_restored(args: argparse.Namespace, name: str, judges: Sequence[Scorer]) -> dict[str, Any]:
    """Pairs of images of one scene (degraded, clean, by each peer) on whose order PSNR and SSIM agree."""
    peers = sorted(p.name for p in (args.restored / name).iterdir() if p.is_dir())
    files = []
    for degraded, clean in quality_ladders.pair_files(args.data, name):
        restored = quality_ladders.restored_files(args.restored, name, peers, degraded.stem)
        if restored:
            files.append((clean, degraded, *restored))
    votes = shared(lambda number: _votes(files[number], judges), len(files), args.processes)
    pairs = [v for vote in votes for v in vote]
    among = [v for v in pairs if not v['clean']]
    return {
        'images': len(files), 'peers': peers, 'pairs': len(pairs), 'pairs_without_clean': len(among),
        'right': {s.name: _rate(pairs, s.name) for s in judges},
        'right_without_clean': {s.name: _rate(among, s.name) for s in judges},
    }  # fmt: skip


def _votes(files: Sequence[Path], judges: Sequence[Scorer]) -> list[dict[str, Any]]:
    """For each pair that counts: whether one of the two is the clean image, and which scorers are right."""
    images = torch.stack([quality_ladders.file_tensor(f) for f in files])
    clean = images[:1].expand_as(images)
    quality = list(zip(calculate_psnr(images, clean).tolist(), calculate_ssim(images, clean).tolist()))
    scores = _judged(images, judges)['scores']
    found = []
    for i, first in enumerate(quality):
        for j, second in enumerate(quality):
            if first[0] >= second[0] + STEP_PSNR and first[1] >= second[1] + STEP_SSIM:
                right = {s.name: better(s) * (scores[s.name][i] - scores[s.name][j]) > 0 for s in judges}
                found.append({'clean': i == 0, **right})
    return found


def _rate(votes: Sequence[dict[str, Any]], name: str) -> float | None:
    return rounded(sum(v[name] for v in votes) / len(votes)) if votes else None


def show(args: argparse.Namespace, found: dict[str, Any]) -> None:
    """Writes the two tables into the page, and prints them."""
    tables = {'unseen': ranking_table(found), 'types': types_table(found), 'real': real_table(found)}
    text = args.page.read_text(encoding='utf-8')
    for name, made in tables.items():
        text = between(text, f'qualitynet: {name}', made)
        print(made)
    save(args.page, text)


def ranking_table(found: dict[str, Any]) -> str:
    """Share of pairs ranked rightly, in percent, by what was shown."""
    rows = {f'{quality_ladders.LADDERS[n].title}': r['right'] for n, r in found['ranked'].items()}
    for title, part in _restored_parts(found):
        rows[title] = part['right']
        rows[f'{title}, the clean image left out'] = part['right_without_clean']
    names = list(found['versions'])
    lines = [[title, *(_percent(right[n]) for n in names)] for title, right in rows.items()]
    return table(['pairs ranked rightly, %', *map(label, names)], lines)


def _restored_parts(found: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    parts = []
    if 'restored_ladders' in found:
        part = found['restored_ladders']
        parts.append((f'{part["ladders"]} ladders of a restorer of another seed', part))
    for name, part in found.get('restored_real', {}).items():
        parts.append((f'{name}, {part["images"]} real images by {len(part["peers"])} published networks', part))
    return parts


def _percent(share: float | None) -> str:
    return '-' if share is None else f'{100 * share:.1f}'


def types_table(found: dict[str, Any]) -> str:
    """Share of types named rightly, in percent."""
    types = found['types']
    lines = [[k, *(f'{100 * types[name][k]:.1f}' for name in types)] for k in ('all', 'visible')]
    titles = {'all': 'all five strengths', 'visible': 'all but the weakest'}
    return table(['type named rightly, %', *types], [[titles[line[0]], *line[1:]] for line in lines])


def real_table(found: dict[str, Any]) -> str:
    """What QualityNet says of real photographs, by what they show."""
    lines = []
    for kind, counts in found.get('real_types', {}).items():
        total = sum(counts.values())
        other = ', '.join(f'{k} {v}' for k, v in counts.items() if k != kind)
        lines.append([kind, str(total), f'{counts.get(kind, 0)} ({100 * counts.get(kind, 0) / total:.0f}%)', other])
    return table(['real photographs of', 'images', 'named so', 'named otherwise'], lines)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command. Returns the exit code."""
    args = parse_arguments(arguments)
    return run_command(lambda: study(args))


if __name__ == '__main__':
    sys.exit(main())
