"""A QualiTeacher training step of this project beside the released one: seconds, memory, and that both learn the same.

    python benchmarks/qualiteacher_step.py [--rounds 5] [--quick] [--json docs/results/qualiteacher_step.json]

:class:`ReleasedStep` goes through a step in the order of the release (github.com/fengyang1399-pixel/QualiTeacher at
0e9a1618): one image at a time, one forward pass after another, every pseudo-label and then each of its cells scored by
itself, features of the contrast computed anew for every label, and a backward pass for every loss. It is written from a
description of the steps, not the release's code, which needs weights that are not free; networks, scorer, data, bank,
random numbers and options are those of this project's profile ``release``, with scorers and features that ship.

Each side runs in a process of its own, in turn. The losses of its first step must agree; otherwise nothing is written.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == '__main__' and not __package__:  # run as a script: import from the checkout
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
import json
import statistics
import subprocess
from collections.abc import Callable
from datetime import date
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from basicsr.data import build_dataset
from basicsr.ema import Ema
from basicsr.files import write_text
from basicsr.iqa.ensemble_scorer import raw_scores
from basicsr.loader import collate
from basicsr.memory import keep_freed_memory
from basicsr.models import build_model
from basicsr.models.label_bank import LabelBank, Labels
from basicsr.optim import build_optimizer
from basicsr.options import from_dict
from basicsr.start import load_pretrained
from basicsr.views import VIEWS
from basicsr.yaml_io import read_document
from benchmarks._common import SEED, peak_megabytes, seconds_each
from benchmarks.measure_steps import facts

ROOT = Path(__file__).resolve().parents[1]
PROFILE = ROOT / 'options/_base/qualiteacher_release.yml'
OUTPUT = ROOT / 'docs/results/qualiteacher_step.json'
SIDES = ('released', 'ours')
TOP = 1.0  # the score asked for at inference
WARM, STEPS = 2, 5  # of a process: not counted, counted
AGREE = 1e-3  # relative difference of a loss; labels are rounded to 1/255, so that one rounding error counts as much
SMALL = {'type': 'NAFNet', 'width': 16, 'enc_blk_nums': [1, 1, 2], 'middle_blk_num': 2, 'dec_blk_nums': [1, 1, 1]}
LARGE = {'type': 'NAFNet', 'width': 32, 'enc_blk_nums': [1, 1, 1, 28], 'middle_blk_num': 1, 'dec_blk_nums': [1] * 4}
TINY = {'type': 'NAFNet', 'width': 8, 'enc_blk_nums': [1], 'middle_blk_num': 1, 'dec_blk_nums': [1]}
QUICK = 'quick'  # to see whether the command works
SETTINGS: dict[str, dict[str, Any]] = {
    QUICK: {'host': TINY, 'batch': 1, 'size': 192, 'warm': 0, 'steps': 1},
    'NAFNet width 16, batch 1': {'host': SMALL, 'batch': 1, 'size': 288},
    'NAFNet width 16, batch 4': {'host': SMALL, 'batch': 4, 'size': 288},
    'NAFNet width 32, batch 1': {'host': LARGE, 'batch': 1, 'size': 288, 'warm': 1, 'steps': 3},
    'NAFNet width 32, batch 4': {'host': LARGE, 'batch': 4, 'size': 288, 'gpu': True},
}


# ---- the released step ----------------------------------------------------------------------------------------------


class ReleasedStep:
    """The losses and gradients of a batch, computed one after another.

    Args:
        model: A QualiTeacherModel in the midst of training, whose networks, losses, scorer and options are used.
        bank: Where labels are kept; None makes one like the model's.

    Raises:
        SystemExit: The model has an option that the release has not, and that is not written down here.
    """

    def __init__(self, model: Any, bank: LabelBank | None = None) -> None:
        own = model.bank
        self.model, self.scorer, self.preference = model, model.judge.scorer, model.cri_preference
        self.bank = bank or LabelBank(own.size, own.policy, own.rank, own.limit / 2**20, own.dtype, own.device)
        self.told: dict[str, Tensor] = {}
        unknown = {
            'drop_score': model.drop_score > 0, 'scattering_opt': model.cri_scattering is not None,
            'strength': model.strength is not None, 'tell_pairs': model.tell_pairs,
            'reward_smooth': model.judge.smooth > 0, 'gate': model.gate.kind != 'absolute',
            'held_out': bool(model.held_out),
            'preference_opt': getattr(self.preference, 'compares', 'scores') != 'scores',
            'mask': model.judge.mask == 'multiplication', 'network_g': not model.conditioned,
        }  # fmt: skip
        if any(unknown.values()):
            raise SystemExit(f'The released step does not know {", ".join(k for k, v in unknown.items() if v)}.')

    def backward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Adds the gradients of a batch to those of the student and returns its losses."""
        model, count = self.model, len(batch['lq'])
        self.told = {}
        outputs = [self._student(batch['lq'][n : n + 1], None) for n in range(count)]
        self._add(model.supervised_losses(torch.cat(outputs), batch['gt']), 1.0)
        for n in range(count):
            self._one_image({k: v[n : n + 1] for k, v in batch.items() if k.startswith('real')}, 1 / count)
        if model.drift_weight:
            self._add({'l_drift': model.drift_weight * model.net_g.condition.drift()}, 1.0)
        return self.told

    def _add(self, losses: dict[str, Tensor], factor: float) -> None:
        (sum(losses.values()) * factor).backward()
        for name, value in losses.items():
            self.told[name] = self.told.get(name, 0) + value.detach() * factor

    def _student(self, image: Tensor, score: float | Tensor | None) -> Tensor:
        return self.model.net_g(image, score=score)

    def _one_image(self, batch: dict[str, Any], factor: float) -> None:
        model = self.model
        weak, strong = model.real_inputs(batch)
        labels = self._labels(weak, batch)
        known = [k for k in range(self.bank.size) if bool(labels.valid[0, k])]
        share = model.ramp() / (max(len(known), 1) if model.average_labels else 1)
        for name, loss in (('l_label', model.cri_label), ('l_contrast', model.cri_contrast)):
            if loss is not None:  # 0 of an image without labels
                self.told.setdefault(name, torch.zeros((), device=weak.device))
        for k in known:
            losses = self._label_losses(strong, batch['real_strong'], labels, k)
            self._add({name: share * value for name, value in losses.items()}, factor)
        if model.crop_weight and model.iteration >= model.crop_start:
            self._add({'l_crop': model.crop_weight * self._crop_gap(strong, batch['real_key'][0])}, factor)
        if self.preference is not None and model.iteration >= model.preference_start:
            self._add({'l_preference': self._preference(strong, labels, known, batch['real_key'][0])}, factor)

    # ---- pseudo-labels

    @torch.no_grad()
    def _labels(self, weak: Tensor, batch: dict[str, Any]) -> Labels:
        """What the bank holds of an image once the teacher's views of it have been offered."""
        teacher, images = self.model.evaluation_network(), []
        for name in self.model.views:
            output = teacher(VIEWS[name].apply(weak), score=None)
            images.append(VIEWS[name].invert(output.float().clamp(0, 1)))
        judged = [self._judged(image) for image in images]
        scores, members = torch.cat([j[0] for j in judged]), torch.cat([j[1] for j in judged])
        grid = torch.stack([self._grid(image) for image in images])
        valid = torch.full_like(scores, self._passes(scores, members), dtype=torch.bool)
        new = Labels(torch.stack([i[0] for i in images])[None], scores[None], members[None], grid[None], valid[None])
        return self.bank.update(batch['real_key'], new, batch.get('real_box'))

    def _judged(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The score (1,) of an image, and its members' (1,M)."""
        raw = raw_scores(self.scorer, image)
        return self.scorer.combine(raw).float(), torch.stack(list(self.scorer.in_unit(raw).values()), dim=1).float()

    def _grid(self, image: Tensor) -> Tensor:
        """Confidence of the cells (t,t), scored one by one."""
        judge = self.model.judge
        if judge.mask == 'none' or judge.tiles == 1:
            return torch.ones(1, 1, device=image.device)
        rows = image.chunk(judge.tiles, dim=2)
        return torch.stack([torch.cat([self._confidence(c) for c in r.chunk(judge.tiles, dim=3)]) for r in rows])

    def _confidence(self, cell: Tensor) -> Tensor:
        units = self.scorer.in_unit(raw_scores(self.scorer, cell))
        weights = {name: getattr(self.scorer, 'options', {}).get(name) for name in units}
        total = weighted = torch.zeros(1, device=cell.device)
        for name, unit in units.items():
            weight = 1.0 if weights[name] is None else weights[name].weight
            total = total + weight
            weighted = weighted + weight * (1 - unit if name in self.model.judge.inverted else unit)
        return (weighted / total).float()

    def _passes(self, scores: Tensor, members: Tensor) -> bool:
        """The gate: scorers of every view agree, and views agree."""
        gate = self.model.gate
        compared = members if gate.columns is None else members[:, gate.columns]
        across = scores if gate.columns is None else compared[:, 0]
        limits, found = gate.thresholds, [compared.std(1).max() if compared.shape[1] > 1 else compared.new_zeros(())]
        found.append(across.std() if len(across) > 1 else across.new_zeros(()))
        return all(limit is None or bool(value <= limit) for value, limit in zip(found, limits))

    # ---- losses

    def _label_losses(self, strong: Tensor, plain: Tensor, labels: Labels, k: int) -> dict[str, Tensor]:
        """The losses of one label, with a forward pass of its own."""
        output = self._student(strong, labels.scores[:, k]).float()
        label, grid = labels.images[:, k], labels.grid[:, k : k + 1]
        mask = F.interpolate(grid, size=label.shape[-2:], mode='bilinear', align_corners=False)
        losses = {'l_label': (mask * self.model.cri_label(output, label)).mean()}
        if self.model.cri_contrast is not None:
            losses['l_contrast'] = self.model.cri_contrast(output, label, plain.float()).mean()
        return losses

    def _reward(self, image: Tensor) -> Tensor:
        return self.scorer(image.float().clamp(0, 1))

    def _crop_gap(self, strong: Tensor, key: str) -> Tensor:
        """Restored then cropped, and cropped then restored: how far their scores are apart."""
        model, draws = self.model, self.model._draws(f'{key} window')
        size = [max(1, int(n * model.crop_ratio)) for n in strong.shape[-2:]]
        first = model._window(draws, strong.shape[-2:], size)
        second = first if model.crop_same_window else model._window(draws, strong.shape[-2:], size)
        after = self._reward(self._student(strong, TOP)[..., first[0], first[1]])
        before = self._reward(self._student(strong[..., second[0], second[1]], TOP))
        return (after - before).abs().mean()

    def _preference(self, strong: Tensor, labels: Labels, known: list[int], key: str) -> Tensor:
        """-log sigma(beta (R_h - R_l - delta)) + lambda2 (-log sigma(beta (R_h - r_T)))."""
        loss, (low, high) = self.preference, self.model.low_scores
        wanted = low + (high - low) * self.model._draws(key).random()
        best = self._reward(self._student(strong, TOP))
        worse = self._reward(self._student(strong, wanted))
        worse = worse.detach() if loss.detach_low else worse
        value = -F.logsigmoid(loss.beta * (best - worse - loss.delta))
        if known and loss.anchor != 'none':
            taught = [float(labels.scores[0, k]) for k in known]
            anchor = max(taught) if loss.anchor == 'best' else min(taught)
            value = value - loss.lambda2 * F.logsigmoid(loss.beta * (best - anchor))
        return loss.loss_weight * value.mean()


# ---- what is measured -----------------------------------------------------------------------------------------------


def options_of(host: dict[str, Any], batch: int, size: int, **changes: Any) -> dict[str, Any]:
    """The profile ``release``, with scorers and features that ship, on the sample photographs; all losses from step 1.

    Args:
        host: Block of the network that is conditioned.
        batch: Pairs, and real photographs, of a step.
        size: Side of the images in pixels.
        changes: Other keys of the section ``train``.
    """
    options = read_document(PROFILE).values
    train, data = options['train'], options['datasets']['train']
    photos = ROOT / 'datasets/sample'
    data |= {'gt_size': size, 'batch_size_per_gpu': batch, 'num_worker_per_gpu': 0}
    data['paired'] = {
        'type': 'OnlineDegradationDataset', 'dataroot_gt': str(photos / 'train'), 'degradations': [{'type': 'Haze'}]
    }  # fmt: skip
    data['real']['dataroot_lq'] = str(photos / 'val')
    for key in ('perceptual_opt', 'contrast_opt'):
        train[key] = {k: v for k, v in train[key].items() if k not in ('backbone', 'layer_weights')}
    train |= {
        'scorer': str(ROOT / 'options/iqa/offline.yml'), 'inverted_members': ['niqe'],
        'gate_members': ['qualitynet', 'brisque'], 'preference_start': 1, 'crop_start': 1, **changes,
    }  # fmt: skip
    # A trained host, so that its labels have scores as they occur: those of one bin are restored once.
    path = {'pretrain_network_g': str(ROOT / 'model_zoo/quickstart.safetensors')} if host == SMALL else {}
    network = {**options['network_g'], 'host': host}
    return {**options, 'name': 'step', 'num_gpu': 0, 'network_g': network, 'path': path}


def prepared(options: dict[str, Any], batches: int) -> tuple[Any, Ema, list[dict[str, Any]]]:
    """A model in the midst of training, its teacher, and batches of the sample photographs.

    Parameters that start at 0, as NAFNet's residuals and the condition do, get small random values, so that every
    operation counts.
    """
    checked = from_dict(options)
    assert checked.train is not None
    torch.manual_seed(SEED)
    model = build_model(checked).train()
    load_pretrained(model, checked)
    with torch.no_grad():
        for parameter in model.net_g.parameters():
            if not parameter.any():
                parameter.normal_(std=0.02)
    average = Ema(model.net_g, checked.train.ema_decay)
    model.bind_averages({'g': average.net})
    block = checked.of_phase('train')[0]
    dataset, count = build_dataset(block), block.loader.batch_size_per_gpu
    samples = [dataset[n % len(dataset)] for n in range(batches * count)]
    return model, average, [collate(samples[n : n + count]) for n in range(0, len(samples), count)]


def our_step(model: Any) -> Callable[[dict[str, Any]], dict[str, Tensor]]:
    """What the trainer does with a batch before the optimiser steps."""

    def backward(batch: dict[str, Any]) -> dict[str, Tensor]:
        losses = {k: v for k, v in model(batch).items() if k.startswith('l_')}
        sum(losses.values()).backward()
        return {k: v.detach() for k, v in losses.items()}

    return backward


def measure(name: str, side: str, gpu: bool) -> dict[str, Any]:
    """Median seconds of a step, the most memory, and the losses of the first step."""
    setting, device = SETTINGS[name], torch.device('cuda' if gpu else 'cpu')
    warm, counted = setting.get('warm', WARM), setting.get('steps', STEPS)
    options = options_of(setting['host'], setting['batch'], setting['size'])
    if not gpu:
        keep_freed_memory()  # as the trainer does; for both sides
    model, average, batches = prepared(options, warm + counted)
    model.to(device=device, memory_format=torch.channels_last)
    average.net.to(device=device, memory_format=torch.channels_last)
    batches = [{k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()} for batch in batches]
    optimizer = build_optimizer(options['train']['optim_g'], model.net_g.parameters())
    backward = our_step(model) if side == 'ours' else ReleasedStep(model).backward
    losses: list[dict[str, Tensor]] = []

    def step(number: int) -> None:
        model.start_iteration(number + 1)
        optimizer.zero_grad(set_to_none=True)
        losses.append(backward(batches[number]))
        optimizer.step()
        average.update(model.net_g, number + 1)

    seconds = seconds_each(step, len(batches))[warm:]
    first = {k: float(v) for k, v in losses[0].items()}
    return {'seconds': statistics.median(seconds), 'peak_mb': peak_megabytes(), 'losses': first}


def in_a_process(name: str, side: str, gpu: bool) -> dict[str, Any]:
    """:func:`measure` in a fresh process."""
    command = [sys.executable, __file__, '--measure', name, '--side', side, *(['--gpu'] if gpu else [])]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(result.stdout.splitlines()[-1])


def row_of(name: str, gpu: bool, rounds: int) -> dict[str, Any]:
    """One row of the table: both sides in turn, changing who begins.

    Raises:
        SystemExit: Their losses differ.
    """
    found: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for number in range(rounds):
        for side in SIDES if number % 2 == 0 else SIDES[::-1]:
            found[side].append(in_a_process(name, side, gpu))
    pairs = list(zip(*(found[side] for side in SIDES), strict=True))
    difference = max(relative(a['losses'], b['losses']) for a, b in pairs)
    if difference > AGREE:
        raise SystemExit(f'{name}: losses differ by {difference:.1e} of their size; nothing is written.')
    ratios = [a['seconds'] / b['seconds'] for a, b in pairs]
    return {
        'setting': name, 'device': 'cuda' if gpu else 'cpu', 'size': SETTINGS[name]['size'],
        'steps': SETTINGS[name].get('steps', STEPS),
        **{f'{side}_s': [r['seconds'] for r in found[side]] for side in SIDES},
        **{f'{side}_peak_mb': [r['peak_mb'] for r in found[side]] for side in SIDES},
        'times_as_fast': statistics.median(ratios), 'range': [min(ratios), max(ratios)], 'loss_difference': difference,
    }  # fmt: skip


def relative(first: dict[str, float], second: dict[str, float]) -> float:
    """The largest difference of two sets of losses, as a part of the loss."""
    if set(first) != set(second):
        return float('inf')
    return max(abs(value - second[name]) / max(abs(value), 1e-12) for name, value in first.items())


def table(result: dict[str, Any]) -> str:
    """Markdown."""
    lines = ['| setting | on | released, s | ours, s | times as fast (rounds) | peak MB, released and ours |',
             '| --- | --- | --- | --- | --- | --- |']  # fmt: skip
    for row in result['rows']:
        seconds = [statistics.median(row[f'{side}_s']) for side in SIDES]
        peaks = [statistics.median(row[f'{side}_peak_mb']) for side in SIDES]
        low, high = row['range']
        lines.append(
            f'| {row["setting"]} | {row["device"]} | {seconds[0]:.3f} | {seconds[1]:.3f} | '
            f'{row["times_as_fast"]:.2f} ({low:.2f} to {high:.2f}) | {peaks[0]:.0f}, {peaks[1]:.0f} |'
        )
    return '\n'.join(lines)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description='A QualiTeacher step beside the released one.')
    parser.add_argument('--rounds', type=int, default=5, help='at least 3 (default: 5)')
    parser.add_argument('--json', type=Path, default=OUTPUT, metavar='FILE', help='where the result goes')
    parser.add_argument('--only', nargs='+', choices=[n for n in SETTINGS if n != QUICK], help='settings; default: all')
    parser.add_argument('--quick', action='store_true', help='one small setting, to see whether the command works')
    for hidden in ('--measure', '--side'):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    parser.add_argument('--gpu', action='store_true', help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure, args.side, args.gpu)))
        return
    if args.rounds < 3:
        parser.error('--rounds: at least 3')
    gpu = torch.cuda.is_available()
    chosen = {name: setting for name, setting in SETTINGS.items() if (name == QUICK) == args.quick}
    chosen = {name: chosen[name] for name in args.only or chosen}
    jobs = [(n, False) for n, s in chosen.items() if not s.get('gpu')] + [(n, True) for n in chosen if gpu]
    rows = [row_of(name, on_gpu, args.rounds) for name, on_gpu in jobs]
    result = {
        'date': date.today().isoformat(), **facts(), 'threads': torch.get_num_threads(), 'rounds': args.rounds,
        'rows': rows,
    }  # fmt: skip
    print(table(result))
    write_text(args.json, json.dumps(result, indent=1) + '\n')


if __name__ == '__main__':
    main()
