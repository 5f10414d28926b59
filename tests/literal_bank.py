"""The bank of pseudo-labels written down as plainly as can be, and random batches to compare it with the real one."""

import math
from collections import OrderedDict
from dataclasses import fields

import torch

from basicsr.models.label_bank import OVERHEAD, Labels

FIELDS = [f.name for f in fields(Labels)]


def random_labels(generator, batch, slots, side=4, members=2, cells=1, steps=4):
    """Labels with coarse scores, so that there are ties whose sums are exact, and with what must not enter."""

    def coarse(*shape):
        return torch.randint(steps + 1, shape, generator=generator) / steps

    images = torch.randint(256, (batch, slots, 3, side, side), generator=generator) / 255
    scores, valid = coarse(batch, slots), coarse(batch, slots) > 0
    scores[coarse(batch, slots) > 0.99 if slots else scores > 2] = math.nan
    return Labels(images, scores, coarse(batch, slots, members), coarse(batch, slots, cells, cells), valid)


def boxes_of(batch, kind=0):
    return torch.full((batch, 6), kind, dtype=torch.int64)


def labels_with(members, scores=None, side=4, fill=None):
    """Labels of one image from members' scores (V,M); the score is their mean unless it is given."""
    members = torch.tensor(members, dtype=torch.float32)[None]
    scores = members.mean(-1) if scores is None else torch.tensor([scores], dtype=torch.float32)
    images = torch.rand(1, members.shape[1], 3, side, side) if fill is None else torch.full(
        (1, members.shape[1], 3, side, side), fill)  # fmt: skip
    return Labels(images, scores, members, torch.ones(1, members.shape[1], 1, 1), torch.ones_like(scores).bool())


def rows(labels, start, stop=None):
    return Labels(*(getattr(labels, f)[start : start + 1 if stop is None else stop] for f in FIELDS))


def joined(parts):
    return Labels(*(torch.cat([getattr(p, f) for p in parts]) for f in FIELDS))


def same(a, b):
    return all(torch.equal(getattr(a, f).nan_to_num(-1), getattr(b, f).nan_to_num(-1)) for f in FIELDS)


class Literal:
    """The same bank written down as plainly as can be: lists, one image after another, no tensors but the labels."""

    def __init__(self, size, policy, rank, limit):
        self.size, self.policy, self.rank, self.limit = size, policy, rank, limit
        self.records = OrderedDict()

    def update(self, keys, labels, boxes):
        return joined([self.one(k, rows(labels, n), tuple(boxes[n].tolist())) for n, k in enumerate(keys)])

    def one(self, key, new, box):
        shape = (new.images.shape[-2:], new.grid.shape[-1])
        known = self.records.pop(key, None)
        held = known[2] if known is not None and known[:2] == (shape, box) else [None] * self.size
        offered = [tuple(getattr(new, f)[0, v] for f in FIELDS) for v in range(new.scores.shape[1])]
        offered = [o if bool(o[4]) and not o[1].isnan() and not o[2].isnan().any() else None for o in offered]
        held = getattr(self, self.policy)(held, offered)
        self.records[key] = (shape, box, held)
        while sum(map(self.cost, self.records)) > self.limit:
            self.records.popitem(last=False)
        return self.best_first(held, new)

    def cost(self, key):
        (height, width), cells = self.records[key][0]
        payload = 48 + self.size * (4 * (4 + cells**2) + 3 * height * width)
        return math.ceil(payload / 8) * 8 + OVERHEAD + len(key)

    def value(self, label):
        return float(label[1] if self.rank == 'weighted' else label[2].sum())

    def ranked(self, held, offered):
        return sorted((x for x in held + offered if x is not None), key=self.value, reverse=True)  # stable

    def padded(self, chosen):
        return chosen + [None] * (self.size - len(chosen))

    def topk(self, held, offered):
        return self.padded(self.ranked(held, offered)[: self.size])

    def spread(self, held, offered):
        ranked = self.ranked(held, offered)
        chosen = [0] if ranked else []
        while len(chosen) < min(self.size, len(ranked)):
            left = [n for n in range(len(ranked)) if n not in chosen]
            chosen.append(max(left, key=lambda n: min(abs(ranked[n][1] - ranked[c][1]) for c in chosen)))
        return self.padded([ranked[n] for n in sorted(chosen)])

    def all_better(self, held, offered):
        held = list(held)
        for n, new in enumerate(offered):
            old = held[n % self.size]
            if new is not None and (old is None or bool((new[2] >= old[2]).all())):
                held[n % self.size] = new
        return held

    def best_first(self, held, like):
        blank = (torch.zeros(like.images.shape[2:]), torch.tensor(math.nan), torch.zeros(like.members.shape[-1]),
                 torch.zeros(like.grid.shape[2:]), torch.tensor(False))  # fmt: skip
        slots = self.padded(self.ranked(held, []))
        return Labels(*(torch.stack([(s or blank)[n] for s in slots])[None] for n in range(5)))


def random_steps(seed, count=12):
    """Batches of few keys, so that they come again, also within a batch, in changing sizes and boxes."""
    generator = torch.Generator().manual_seed(seed)

    def draw(n):
        return int(torch.randint(n, (), generator=generator))

    for _ in range(count):
        batch, side, cells = 1 + draw(4), (4, 4, 4, 5)[draw(4)], (1, 1, 2)[draw(3)]
        keys = [f'image {draw(6)}' for _ in range(batch)]
        boxes = torch.stack([boxes_of(1, draw(8) // 7)[0] for _ in range(batch)])
        yield keys, random_labels(generator, batch, draw(4), side, cells=cells), boxes
