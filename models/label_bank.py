"""A bank of pseudo-labels: the best that the teacher has made of each real image, kept while training goes on."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from basicsr.errors import OptionError

from .label_rows import BOX, CHANNELS, Layout, Parts, RowStore, Stored, Wires, layout_of_group, owner_of

Policy = Literal['topk', 'spread', 'all_better']
Rank = Literal['weighted', 'sum']

# Bytes of a record beside its labels and its name: entries of three dictionaries and a list. Measured as growth of the
# process's memory, 100,000 records of 736 bytes, CPython 3.11 on Linux: 234 to 369 a record, most right after a
# dictionary has grown; rounded up.
OVERHEAD = 512
STORED = -1  # in a plan: the labels that are stored, rather than those of an image of the batch
CHUNK = 32 * 2**20  # bytes that travel at once when a shared bank is saved


@dataclass
class Labels:
    """K pseudo-labels of each of B images, best first.

    Attributes:
        images: (B,K,3,H,W), RGB in [0,1].
        scores: (B,K), the ensemble's score in [0,1]; NaN where not valid.
        members: (B,K,M), each member's score in [0,1], higher better.
        grid: (B,K,t,t), confidence of the cells of a grid.
        valid: (B,K) bool, which of them there are.
    """

    images: Tensor
    scores: Tensor
    members: Tensor
    grid: Tensor
    valid: Tensor


class _Item(NamedTuple):
    """Labels that are offered for an image: how they are laid out, how many, and which process owns the image."""

    key: str
    layout: Layout
    slots: int
    owner: int


class _Plan(NamedTuple):
    """What a batch does, one image after another.

    Attributes:
        before: What each image's labels are merged with: None is nothing, STORED is what is stored, else those
            of an earlier image of the batch.
        turn: The round in which each can be merged.
        gone: Keys whose records are dropped.
        latest: The last image of the batch of each key that stays.
    """

    before: list[int | None]
    turn: list[int]
    gone: list[str]
    latest: dict[str, int]


class LabelBank:
    """Keeps the K best pseudo-labels of every image, by the image's name.

    Memory is limited: the image that was not seen for longest is dropped first. ``topk`` with ``sum`` is QualiTeacher's
    release, ``all_better`` with one label is Colabator's; the published code keeps its labels without limit, and loses
    them when training is resumed.

    With several processes each image belongs to one of them, by its name; labels travel there and back. The outcome,
    the dropped images included, is that of one process that sees the batches of all, in the order of the ranks. All
    processes must then call :meth:`update` and :meth:`state_dict` together.

    A step asks the device nothing: which images are new, and which are dropped, is known from names and sizes alone.
    Only ``device: cpu``, and several processes, wait for the GPU.

    Args:
        size: Labels kept of an image, K.
        policy: ``topk`` keeps the best. ``spread`` keeps the best and then, again and again, that whose score is
            farthest from those chosen. In ``all_better`` the n-th label of an image stands against the n-th that is
            stored (modulo K), and replaces it if none of its members' scores is lower.
        rank: What is best: the ensemble's score (``weighted``), or the unweighted sum of its members' (``sum``).
        memory_mb: Most memory for all images, of all processes together, in megabytes (2^20 bytes).
        dtype: How images are stored. ``uint8`` clips to [0,1] and rounds to 1/255.
        device: Where they are stored: in the computer's memory (``cpu``), or where they come from (``same``).

    Raises:
        OptionError: An argument is out of range.

    Sources: S. Huang et al., CVPR 2023 (Semi-UIR, reliable bank); C. Fang et al., NeurIPS 2024 (Colabator, label pool);
    QualiTeacher (github.com/fengyang1399-pixel/QualiTeacher).
    """

    def __init__(
        self,
        size: int = 3,
        policy: Policy = 'topk',
        rank: Rank = 'weighted',
        memory_mb: float = 1024,
        dtype: Stored = 'uint8',
        device: Literal['cpu', 'same'] = 'same',
    ) -> None:
        if size < 1 or not memory_mb > 0:
            raise OptionError(f'bank: size is {size} and memory_mb {memory_mb:g}; both must be above 0.')
        for name, value, known in (('policy', policy, Policy), ('rank', rank, Rank), ('dtype', dtype, Stored)):
            if value not in get_args(known):
                raise OptionError(f'bank: {name} is {value!r}; allowed are {", ".join(get_args(known))}.')
        self.size, self.policy, self.rank, self.dtype, self.device = size, policy, rank, dtype, device
        self.limit = int(memory_mb * 2**20)
        self._index: OrderedDict[str, Layout] = OrderedDict()  # of all processes; seen longest ago first
        self._rows = RowStore()  # of this process
        self._bytes = self._dropped = 0

    def __len__(self) -> int:
        """Images that have a record, of all processes together."""
        return len(self._index)

    @property
    def nbytes(self) -> int:
        """Bytes of all records, of all processes together: labels, name and :data:`OVERHEAD` of each.

        What a process really uses is more by a block (:data:`~basicsr.models.label_rows.BLOCK`) for each image size at
        most, of which a CPU gives only what is written to.
        """
        return self._bytes

    @property
    def stats(self) -> dict[str, float]:
        """For the log: images held, share of the memory that is used, images dropped for want of memory so far."""
        return {'images': len(self), 'fill': self._bytes / self.limit, 'dropped': self._dropped}

    @torch.no_grad()
    def update(self, keys: list[str], candidates: Labels, boxes: Tensor | None = None) -> Labels:
        """Offers labels to the bank.

        A label that is not valid, or has a NaN among its scores or in its grid, does not enter. Of equals the older
        stays, except in ``all_better``. A key that comes twice is dealt with twice, in turn. Labels that were stored
        with another box, image size or grid are void.

        Args:
            keys: Names of the B images.
            candidates: V labels of each; V may differ from K and may be 0.
            boxes: (B,6) long, which part of each image is seen; None: always the same part.

        Returns:
            The K labels that the bank now holds of each image, best first, rounded as they are stored; float32, on the
            device of the candidates. Slots that are not taken are zeros, not valid, and score NaN.

        Raises:
            ValueError: The shapes do not fit together.
            OptionError: The memory is too small for one image, or the number of members is not that of what is stored.
        """
        layout, wires = self._layout_of(keys, candidates, boxes), Wires()
        own = [_Item(key, layout, candidates.scores.shape[1], owner_of(key, wires.world)) for key in keys]
        offers = [(rank, item) for rank, batch in enumerate(wires.gather(own)) for item in batch]
        items = [item for _, item in offers]
        self._check(items)
        plan = self._plan(items)
        mine = {n: rank for n, (rank, item) in enumerate(offers) if item.owner == wires.rank}
        coming = [(rank, items[n].layout.nbytes(items[n].slots)) for n, rank in mine.items()]
        rows = layout.pack(self._stored_form(candidates, boxes))
        arrived = wires.exchange(list(rows), [item.owner for item in own], coming)
        merged = self._merged(items, plan, dict(zip(mine, arrived)))
        coming = [(item.owner, layout.nbytes(self.size)) for item in own]
        back = wires.exchange([merged[n] for n in mine], list(mine.values()), coming)
        self._store(merged, plan)
        blank = rows.new_zeros(0, layout.nbytes(self.size))
        return self._labels(layout, torch.stack(back).to(rows.device) if back else blank)

    def state_dict(self) -> dict[str, Any]:
        """All records, on the CPU: tensors and plain containers.

        With several processes all must call it at once; the first gets the records, the others get nothing.
        """
        wires, groups = Wires(), dict[Layout, list[str]]()
        for key, layout in self._index.items():
            groups.setdefault(layout, []).append(key)
        if wires.rank:
            for _ in self._rows_in_order(wires):
                pass
            return {}
        parts = {layout: layout.empty(len(keys), self.size) for layout, keys in groups.items()}
        filled = dict.fromkeys(groups, 0)
        for key, row in self._rows_in_order(wires):
            layout = self._index[key]
            for whole, one in zip(parts[layout], layout.unpack(row.unsqueeze(0), self.size)):
                whole[filled[layout]].copy_(one[0])
            filled[layout] += 1
        number = {layout: n for n, layout in enumerate(groups)}
        return {
            **self._kind(), 'dropped': self._dropped,
            'order': torch.tensor([number[layout] for layout in self._index.values()], dtype=torch.int64),
            'groups': [
                {**layout._asdict(), 'keys': keys, **parts[layout]._asdict()} for layout, keys in groups.items()
            ],
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes back what :meth:`state_dict` gave, of any number of processes; each keeps the images that it owns.

        The records are moved to their device when they are next used. Where the memory is smaller than it was, what was
        not seen for longest is dropped.

        Raises:
            ValueError: The state is that of a bank of another size, policy, rank or dtype, or is damaged.
            KeyError: An entry is missing.
        """
        for name, own in self._kind().items():
            if state[name] != own:
                raise ValueError(f'the bank of pseudo-labels was saved with {name} {state[name]}, and here it is {own}')
        groups = [(layout_of_group(group, self.size, self.dtype), group) for group in state['groups']]
        streams = [iter(range(len(group['keys']))) for _, group in groups]
        index, rows, wires = OrderedDict[str, Layout](), RowStore(), Wires()
        for number in state['order'].tolist():
            (layout, group), place = groups[number], next(streams[number])
            key = group['keys'][place]
            index[key] = layout
            if owner_of(key, wires.world) == wires.rank:
                one = (group[name][place : place + 1] for name in Parts._fields)
                rows.put(key, layout.pack(Parts(*one))[0], torch.device('cpu'))
        self._index, self._rows, self._dropped = index, rows, state['dropped']
        self._bytes = sum(self._cost(key, layout) for key, layout in index.items())
        for key in self._drop():
            self._rows.discard(key)

    def _kind(self) -> dict[str, Any]:
        return {'size': self.size, 'policy': self.policy, 'rank': self.rank, 'dtype': self.dtype}

    def _rows_in_order(self, wires: Wires) -> Iterator[tuple[str, Tensor]]:
        """All records on the first process, seen longest ago first; nothing on the others, which send theirs."""
        for keys in self._chunks():
            own = [key for key in keys if key in self._rows]
            coming = [(owner_of(key, wires.world), self._index[key].nbytes(self.size)) for key in keys]
            arrived = wires.exchange([self._rows[key] for key in own], [0] * len(own), [] if wires.rank else coming)
            yield from zip(keys, arrived)

    def _chunks(self) -> Iterator[list[str]]:
        chunk, used = [], 0
        for key, layout in self._index.items():
            chunk.append(key)
            used += layout.nbytes(self.size)
            if used >= CHUNK:
                yield chunk
                chunk, used = [], 0
        if chunk:
            yield chunk

    # ---- what is offered ------------------------------------------------------------------------------------------

    def _layout_of(self, keys: list[str], labels: Labels, boxes: Tensor | None) -> Layout:
        count, slots = labels.scores.shape
        height, width, cells = *labels.images.shape[-2:], labels.grid.shape[-1]
        wanted = {
            'images': (count, slots, CHANNELS, height, width), 'valid': (count, slots),
            'members': (count, slots, labels.members.shape[-1]), 'grid': (count, slots, cells, cells),
        }  # fmt: skip
        for name, shape in wanted.items():
            if getattr(labels, name).shape != shape:
                found = tuple(getattr(labels, name).shape)
                raise ValueError(f'LabelBank: {name} is {found} where scores are {(count, slots)}; it must be {shape}.')
        if len(keys) != count:
            raise ValueError(f'LabelBank: {len(keys)} keys for {count} images.')
        if boxes is not None and (boxes.shape != (count, BOX) or boxes.dtype != torch.int64):
            raise ValueError(f'LabelBank: boxes are {boxes.dtype} {tuple(boxes.shape)}, not int64 {(count, BOX)}.')
        return Layout(labels.members.shape[-1], cells, height, width, self.dtype)

    def _stored_form(self, labels: Labels, boxes: Tensor | None) -> Parts:
        found = (labels.scores.unsqueeze(-1), labels.members, labels.grid.flatten(2))
        numbers = torch.cat([part.float() for part in found], dim=-1)
        valid = labels.valid & ~numbers.isnan().any(-1)
        numbers = torch.cat((numbers, valid.unsqueeze(-1).float()), dim=-1)
        images = labels.images
        images = images.clamp(0, 1).mul_(255).round_().to(torch.uint8) if self.dtype == 'uint8' else images
        boxes = torch.zeros(len(numbers), BOX, dtype=torch.int64) if boxes is None else boxes
        return Parts(boxes.to(numbers.device), numbers, images.to(getattr(torch, self.dtype)))

    def _labels(self, layout: Layout, rows: Tensor) -> Labels:
        """Labels of stored bytes, best first."""
        _, numbers, images = layout.unpack(rows, self.size)
        if self.policy == 'all_better' and self.size > 1:  # its slots stand in an order of their own
            value = torch.where(_valid(numbers), self._value(layout, numbers), -torch.inf)
            numbers, images = _pick(_best_first(value), numbers, images)
        images = images.float().div_(255) if self.dtype == 'uint8' else images.float()
        scores, members, grid, _ = numbers.split([1, layout.members, layout.cells**2, 1], dim=-1)
        valid = _valid(numbers)
        scores = scores.squeeze(-1).masked_fill(~valid, torch.nan)
        return Labels(images, scores, members, grid.unflatten(-1, (layout.cells, layout.cells)), valid)

    # ---- which images stay ----------------------------------------------------------------------------------------

    def _cost(self, key: str, layout: Layout) -> int:
        return layout.nbytes(self.size) + OVERHEAD + len(key.encode())

    def _check(self, items: list[_Item]) -> None:
        """Refuses a batch before anything is changed; all processes see the same items, so all refuse it."""
        members = next((layout.members for layout in self._index.values()), None)
        for item in items:
            needed = self._cost(item.key, item.layout)
            if needed > self.limit:
                raise OptionError(
                    f'The bank may take {self.limit / 2**20:.3g} MB, and the {self.size} label(s) of one image of '
                    f'{item.layout.width}x{item.layout.height} pixels take {needed / 2**20:.3g} MB: raise '
                    'bank_memory_mb, or lower bank_size.'
                )
            members = item.layout.members if members is None else members
            if item.layout.members != members:
                raise OptionError(
                    f'The bank holds labels with scores of {members} member(s), and the scorer now gives '
                    f'{item.layout.members}: go on with the scorer that the run began with, or start a new run.'
                )

    def _plan(self, items: list[_Item]) -> _Plan:
        """What becomes of each image, as if they came one after another; the index is brought up to date."""
        plan = _Plan([], [], [], {})
        for n, item in enumerate(items):
            known = self._index.pop(item.key, None)
            if known is not None:
                self._bytes -= self._cost(item.key, known)
            before = plan.latest.get(item.key, STORED) if known == item.layout else None
            plan.before.append(before)
            plan.turn.append(plan.turn[before] + 1 if before is not None and before != STORED else 0)
            self._index[item.key] = item.layout
            self._bytes += self._cost(item.key, item.layout)
            plan.latest[item.key] = n
            for key in self._drop():
                plan.latest.pop(key, None)
                plan.gone.append(key)
        return plan

    def _drop(self) -> list[str]:
        """Takes images out of the index until it keeps to its memory."""
        gone = []
        while self._bytes > self.limit:
            key, layout = self._index.popitem(last=False)
            self._bytes -= self._cost(key, layout)
            gone.append(key)
        self._dropped += len(gone)
        return gone

    def _store(self, merged: dict[int, Tensor], plan: _Plan) -> None:
        for key in plan.gone:
            self._rows.discard(key)
        for key, n in plan.latest.items():
            if n in merged:  # the others belong to other processes
                home = torch.device('cpu') if self.device == 'cpu' else merged[n].device
                self._rows.put(key, merged[n], home)

    # ---- which labels stay ----------------------------------------------------------------------------------------

    def _merged(self, items: list[_Item], plan: _Plan, rows: dict[int, Tensor]) -> dict[int, Tensor]:
        """Bytes of each image's labels after its candidates, given as bytes, have been offered."""
        groups: dict[tuple[int, Layout, int], list[int]] = {}
        for n in rows:
            groups.setdefault((plan.turn[n], items[n].layout, items[n].slots), []).append(n)
        merged: dict[int, Tensor] = {}
        for (_, layout, slots), batch in sorted(groups.items(), key=lambda group: group[0][0]):
            new = torch.stack([rows[n] for n in batch])
            blank = new.new_zeros(layout.nbytes(self.size))
            found = [self._before(items[n].key, plan.before[n], merged, blank) for n in batch]
            old = layout.unpack(torch.stack(found), self.size)
            parts = self._merge(layout, old, layout.unpack(new, slots))
            merged.update(zip(batch, layout.pack(parts)))
        return merged

    def _before(self, key: str, before: int | None, merged: dict[int, Tensor], blank: Tensor) -> Tensor:
        if before is None:
            return blank
        return merged[before] if before != STORED else self._rows[key].to(blank.device, non_blocking=True)

    def _merge(self, layout: Layout, old: Parts, new: Parts) -> Parts:
        """The K labels that stay of those stored and those offered, for each of B images."""
        same = (old.boxes == new.boxes).all(1, keepdim=True)
        valid = torch.cat((_valid(old.numbers) & same, _valid(new.numbers)), dim=1)
        numbers = torch.cat((old.numbers, new.numbers), dim=1)
        value = torch.where(valid, self._value(layout, numbers), -torch.inf)
        if self.policy == 'topk':
            chosen = _best_first(value)[:, : self.size]
        elif self.policy == 'spread':
            chosen = _spread(value, numbers[..., 0], self.size)
        else:
            chosen = _all_better(valid, numbers[..., 1 : 1 + layout.members], self.size)
        numbers, images = _pick(chosen, numbers, torch.cat((old.images, new.images), dim=1))
        empty = ~valid.gather(1, chosen)
        images.masked_fill_(empty[..., None, None, None], 0)
        return Parts(new.boxes, numbers.masked_fill_(empty.unsqueeze(-1), 0), images)

    def _value(self, layout: Layout, numbers: Tensor) -> Tensor:
        return numbers[..., 0] if self.rank == 'weighted' else numbers[..., 1 : 1 + layout.members].sum(-1)


def _valid(numbers: Tensor) -> Tensor:
    return numbers[..., -1] > 0


def _pick(chosen: Tensor, *tensors: Tensor) -> list[Tensor]:
    """Slots (B,K) of each of several (B,S,...)."""
    batch, slots = tensors[0].shape[:2]
    rows = chosen + torch.arange(batch, device=chosen.device).unsqueeze(1) * slots
    return [t.flatten(0, 1).index_select(0, rows.flatten()).unflatten(0, chosen.shape) for t in tensors]


def _best_first(value: Tensor) -> Tensor:
    """Slots (B,S) by falling value; of equals the one that stands first, which is the older."""
    return torch.sort(value, dim=1, descending=True, stable=True).indices


def _spread(value: Tensor, score: Tensor, size: int) -> Tensor:
    """The best slot, then again and again the one whose score is farthest from those chosen; (B,size), best first."""
    order = _best_first(value)
    there = value.gather(1, order) > -torch.inf
    score = torch.where(there, score.gather(1, order), 0)
    distance = torch.where(there, torch.inf, -1.0)
    picks = []
    for _ in range(size):
        pick = distance.argmax(1, keepdim=True)
        picks.append(pick)
        distance = torch.minimum(distance, (score - score.gather(1, pick)).abs()).scatter(1, pick, -2.0)
    return order.gather(1, torch.cat(picks, dim=1).sort(dim=1).values)


def _all_better(valid: Tensor, members: Tensor, size: int) -> Tensor:
    """For each stored slot the last candidate that no member scored lower than what stood there; (B,size)."""
    held = torch.arange(size, device=valid.device).repeat(len(valid), 1)
    for n in range(size, valid.shape[1]):
        slot = (n - size) % size
        before = held[:, slot]
        rows = torch.arange(len(valid), device=valid.device)
        better = (members[:, n] >= members[rows, before]).all(1) | ~valid[rows, before]
        held[:, slot] = torch.where(valid[:, n] & better, n, before)
    return held
