"""Pseudo-labels of an image as one row of bytes, and how such rows travel between processes."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

Stored = Literal['uint8', 'float16', 'float32']

BOX = 6  # whole numbers of a box, see SingleImageDataset
CHANNELS = 3
BLOCK = (
    32 * 2**20
)  # bytes of a block of rows: so many that the C library returns them to the system when they are freed


class Parts(NamedTuple):
    """Labels as they are stored: boxes (B,6) long, numbers (B,K,2+M+t*t) float32, images (B,K,3,H,W)."""

    boxes: Tensor
    numbers: Tensor
    images: Tensor


class Layout(NamedTuple):
    """Where the parts lie in the bytes of an image's labels: box, numbers (score, members, cells, valid), images."""

    members: int
    cells: int
    height: int
    width: int
    dtype: Stored

    @property
    def numbers(self) -> int:
        """Numbers that belong to a label."""
        return 2 + self.members + self.cells**2

    def ends(self, slots: int) -> tuple[int, int, int]:
        """Where the bytes of box, numbers and images of that many labels end."""
        box = 8 * BOX
        numbers = box + 4 * slots * self.numbers
        return box, numbers, numbers + slots * CHANNELS * self.height * self.width * getattr(torch, self.dtype).itemsize

    def nbytes(self, slots: int) -> int:
        """All bytes of that many labels; a multiple of 8, so that rows of a batch can be viewed as numbers."""
        return -(-self.ends(slots)[-1] // 8) * 8

    def pack(self, parts: Parts) -> Tensor:
        """Bytes (B,n) of parts."""
        slots = parts.images.shape[1]
        rows = [part.contiguous().view(torch.uint8).flatten(1) for part in parts]
        filling = rows[0].new_zeros(len(rows[0]), self.nbytes(slots) - self.ends(slots)[-1])
        return torch.cat([*rows, filling], dim=1)

    def unpack(self, rows: Tensor, slots: int) -> Parts:
        """Parts of bytes (B,n), as views."""
        box, numbers, images = self.ends(slots)
        return Parts(
            rows[:, :box].view(torch.int64),
            rows[:, box:numbers].view(torch.float32).unflatten(1, (slots, self.numbers)),
            rows[:, numbers:images].view(getattr(torch, self.dtype)).unflatten(1, self.shape(slots)),
        )

    def empty(self, count: int, slots: int) -> Parts:
        """Parts of that many images on the CPU, not filled in."""
        return Parts(
            torch.empty(count, BOX, dtype=torch.int64),
            torch.empty(count, slots, self.numbers),
            torch.empty(count, *self.shape(slots), dtype=getattr(torch, self.dtype)),
        )

    def shape(self, slots: int) -> tuple[int, int, int, int]:
        """Shape of the images of one record."""
        return slots, CHANNELS, self.height, self.width


class RowStore:
    """Rows of bytes by key, close together in large blocks.

    A tensor for each row would leave holes between the many short-lived tensors of a training step, as large as what is
    stored. Here the rows of one length have no gap: a row that goes is replaced by the last one. What is allocated
    beyond the rows is less than one block for each length in use.
    """

    def __init__(self) -> None:
        self._shelves: dict[int, _Shelf] = {}
        self._length: dict[str, int] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._length

    def __getitem__(self, key: str) -> Tensor:
        """The row of a key, as a view."""
        return self._shelves[self._length[key]].row(key)

    def put(self, key: str, row: Tensor, device: torch.device) -> None:
        """Copies a row (n,) to a device; the rows of its length go there with it."""
        length = len(row)
        if self._length.get(key) != length:
            self.discard(key)
            self._length[key] = length
        self._shelves.setdefault(length, _Shelf(length)).put(key, row, device)

    def discard(self, key: str) -> None:
        """Removes a row, if there is one."""
        length = self._length.pop(key, None)
        if length is not None and not self._shelves[length].remove(key):
            del self._shelves[length]


class _Shelf:
    """The rows of one length."""

    def __init__(self, length: int) -> None:
        self.shape = (max(1, BLOCK // length), length)
        self.blocks: list[Tensor] = []
        self.keys: list[str] = []
        self.place: dict[str, int] = {}

    def row(self, key: str) -> Tensor:
        return self._at(self.place[key])

    def put(self, key: str, row: Tensor, device: torch.device) -> None:
        for n, block in enumerate(self.blocks):
            if block.device != device:
                self.blocks[n] = block.to(device)
        if key not in self.place:
            self.place[key] = len(self.keys)
            self.keys.append(key)
            if len(self.keys) > len(self.blocks) * self.shape[0]:
                self.blocks.append(torch.empty(self.shape, dtype=torch.uint8, device=device))
        self.row(key).copy_(row)

    def remove(self, key: str) -> int:
        """Fills the place of a row with the last one; returns how many are left."""
        place, last = self.place.pop(key), self.keys.pop()
        if last != key:
            self._at(place).copy_(self._at(len(self.keys)))
            self.keys[place], self.place[last] = last, place
        if len(self.keys) <= (len(self.blocks) - 1) * self.shape[0]:
            self.blocks.pop()
        return len(self.keys)

    def _at(self, place: int) -> Tensor:
        block, row = divmod(place, self.shape[0])
        return self.blocks[block][row]


class Wires:
    """The processes that share a bank, and how labels travel between them; of one process they stay where they are."""

    def __init__(self) -> None:
        several = dist.is_available() and dist.is_initialized()
        self.world, self.rank = (dist.get_world_size(), dist.get_rank()) if several else (1, 0)

    def gather(self, value: Any) -> list[Any]:
        """The value of each process."""
        if self.world == 1:
            return [value]
        values = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def exchange(self, rows: list[Tensor], to: list[int], coming: list[tuple[int, int]]) -> list[Tensor]:
        """Sends bytes to other processes, and gets what they send.

        Args:
            rows: Bytes (n,), each with a length of its own.
            to: The process that each goes to.
            coming: From which process what number of bytes comes, in the order in which they are returned. Each process
                sends in the order of its rows.
        """
        if self.world == 1:
            return rows
        gpu = torch.cuda.is_available() and dist.get_backend() != 'gloo'
        device = torch.device('cuda' if gpu else 'cpu')
        outbound = sorted(range(len(rows)), key=to.__getitem__)
        inbound = sorted(range(len(coming)), key=lambda n: coming[n][0])
        sent = torch.cat([torch.empty(0, dtype=torch.uint8, device=device), *(rows[n].to(device) for n in outbound)])
        received = sent.new_empty(sum(size for _, size in coming))
        sizes = [(to[n], len(rows[n])) for n in outbound]
        dist.all_to_all_single(received, sent, self._splits(coming), self._splits(sizes))
        pieces = received.split([coming[n][1] for n in inbound])
        arrived = dict(zip(inbound, pieces))
        return [arrived[n] for n in range(len(coming))]

    def _splits(self, sizes: Sequence[tuple[int, int]]) -> list[int]:
        found = [0] * self.world
        for process, size in sizes:
            found[process] += size
        return found


def owner_of(key: str, world: int) -> int:
    """The process that keeps an image; the same in every run and on every machine."""
    return zlib.crc32(key.encode()) % world


def layout_of_group(group: dict[str, Any], size: int, dtype: Stored) -> Layout:
    """Layout of a saved group of records.

    Raises:
        ValueError: The tensors of the group are not of that layout.
    """
    layout = Layout(*(group[name] for name in Layout._fields))
    wanted = layout.empty(0, size)
    for name, like in zip(Parts._fields, wanted):
        found = group[name]
        if found.dtype != like.dtype or found.shape != (len(group['keys']), *like.shape[1:]) or layout.dtype != dtype:
            raise ValueError(f'{name} of the saved bank of pseudo-labels is {found.dtype} {tuple(found.shape)}')
    return layout
