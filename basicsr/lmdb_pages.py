"""Reads the pages of an LMDB file (data.mdb, format 1 of LMDB 0.9) without the LMDB library.

The library maps the file and trusts it: a file cut short kills the process with SIGBUS, a damaged page with SIGSEGV. It
must not be carried across a fork, and refuses to open one file twice in a process, even in a forked child. Here every
offset is checked against the file before it is followed, and a mapping has nothing that a fork could spoil.

The layout is that of ``MDB_page``, ``MDB_node`` and ``MDB_meta`` in LMDB's mdb.c, on 64-bit machines.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from basicsr.errors import DataError

MAGIC, FORMAT = 0xBEEFC0DE, 1
NO_PAGE = 2**64 - 1
PAGE_1_0 = 24  # bytes before the magic in LMDB 1.0, which has another layout
MOST_LEVELS = 32
PAGE = struct.Struct('=QHHHH')  # number, padding, flags, end of the pointers, start of the nodes
META = struct.Struct('=IIQQ48s48sQQ')  # magic, format, address, map size, free list, records, last page, transaction
TREE = struct.Struct('=IHHQQQQQ')  # page size, flags, depth, branch, leaf and overflow pages, entries, root
NODE = struct.Struct('=HHHH')  # low and high half of a size or page, flags (or top of the page), length of the key
POINTER = struct.Struct('=H')  # where in the page a node is
KEY_SIZE = struct.Struct('=H')  # the last field of a node
NUMBER = struct.Struct('=Q')
BRANCH, LEAF, OVERFLOW, META_PAGE = 1, 2, 4, 8
ELSEWHERE = 1  # flag of a node whose value has pages of its own
WILL_NEED = getattr(mmap, 'MADV_WILLNEED', None)
FETCHED_AHEAD = 1 << 16  # bytes from which a value is asked for in one go


class DamagedError(Exception):
    """A page that cannot be what LMDB wrote; says which."""


class Header(NamedTuple):
    """What the newer of the two meta pages says."""

    page_size: int
    map_size: int
    last_page: int
    transaction: int
    depth: int
    branch_pages: int
    leaf_pages: int
    overflow_pages: int
    entries: int
    root: int


class Record(NamedTuple):
    """Where in the file the value of a key lies, in bytes."""

    key: bytes
    offset: int
    size: int


class Node(NamedTuple):
    """One entry of a page: its key, and for a leaf the size and place of its value."""

    key: bytes
    child: int
    size: int
    value: int  # offset in the file
    flags: int


class Database:
    """A data.mdb, mapped read-only. Views of it stay valid as long as they are held, also in forked processes.

    Args:
        path: The file.

    Raises:
        DataError: The file is missing, cannot be read, or is not of LMDB.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open('rb') as file:
                self.size = file.seek(0, 2)
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if self.size else None
        except FileNotFoundError:
            raise DataError(f"There is no file '{path}'.") from None
        except OSError as error:
            raise DataError(f"'{path}' cannot be read: {error.strerror or error}.") from error
        if self._map is None:
            raise DataError(f"'{path}' is empty (0 bytes), not an LMDB.")
        with suppress(AttributeError, OSError):  # not on every system
            self._map.madvise(mmap.MADV_RANDOM)
        self._view = memoryview(self._map)
        self.header = self._read_header()

    def find(self, key: bytes) -> memoryview | None:
        """The value of a key, not copied; None if there is no such key.

        Raises:
            DamagedError: A page on the way is damaged or lies beyond the end of the file.
        """
        page = self.header.root
        if page == NO_PAGE:
            return None
        for _ in range(MOST_LEVELS):
            is_leaf, count = self._page(page)
            position = self._search(page, count, key, is_leaf)
            if is_leaf:
                return self._exact(page, position, count, key)
            page = self._node(page, position, False).child
        raise DamagedError('its pages go in a circle')

    def records(self, problems: list[str] | None = None) -> Iterator[Record]:
        """All records in the order of their keys, from the pages alone: no value is read.

        Args:
            problems: Takes a sentence for each damaged page, whose records are then left out.

        Raises:
            DamagedError: A page is damaged, and there is no list for it.
        """
        if self.header.root != NO_PAGE:
            yield from _Walk(self, problems).below(self.header.root, 0, b'', None)

    def check_length(self) -> None:
        """Refuses a file that was cut short.

        A file may lawfully be shorter than its header's last page: pages that a transaction took and gave back before
        its end are never written. So the pages in use are looked at, of a shorter file only.

        Raises:
            DataError: Records lie beyond the end of the file.
        """
        if self.size >= (self.header.last_page + 1) * self.header.page_size:
            return
        problems: list[str] = []
        whole = sum(1 for _ in self.records(problems))
        if problems:
            raise DataError(
                f"'{self.path}' is cut short or damaged: of {self.header.entries} records {whole} are whole in its "
                f'{self.size} bytes. Copy it again, or make it anew.'
            )

    def _read_header(self) -> Header:
        first = self._meta(0)
        page_size = TREE.unpack(first[4])[0]
        if page_size & (page_size - 1) or not 256 <= page_size <= 65536:
            raise DataError(f"'{self.path}' is damaged: its header declares pages of {page_size} bytes.")
        metas = [first, self._meta(page_size)]
        newest = max(metas, key=lambda meta: meta[7])
        tree = TREE.unpack(newest[5])
        if tree[1]:
            raise DataError(f"'{self.path}' is an LMDB with special keys, not one of images.")
        return Header(page_size, newest[3], newest[6], newest[7], *tree[2:])

    def _meta(self, offset: int) -> tuple:
        if offset + PAGE_1_0 + META.size > self.size:
            raise DataError(f"'{self.path}' is not an LMDB: it ends after {self.size} bytes, within its header.")
        meta = META.unpack_from(self._map, offset + PAGE.size)
        if META.unpack_from(self._map, offset + PAGE_1_0)[0] == MAGIC:
            raise DataError(f"'{self.path}' has the format of LMDB 1.0; only that of LMDB 0.9 can be read.")
        if meta[0] != MAGIC or not PAGE.unpack_from(self._map, offset)[2] & META_PAGE:
            raise DataError(f"'{self.path}' is not an LMDB, or its header is damaged.")
        if meta[1] != FORMAT:
            raise DataError(
                f"'{self.path}' has format {meta[1]} of LMDB; only format {FORMAT}, that of LMDB 0.9, can be read."
            )
        return meta

    def _page(self, number: int) -> tuple[bool, int]:
        """Whether a tree page is a leaf, and how many nodes it has."""
        start, size = number * self.header.page_size, self.header.page_size
        if start + size > self.size:
            raise DamagedError(f'page {number} lies beyond the end of the file')
        own, _, flags, lower, upper = PAGE.unpack_from(self._map, start)
        count = (lower - PAGE.size) >> 1
        if own != number or flags & 0xF not in (BRANCH, LEAF) or not PAGE.size <= lower <= upper <= size or not count:
            raise DamagedError(f'page {number} is damaged')
        return bool(flags & LEAF), count

    def _node(self, page: int, index: int, is_leaf: bool) -> Node:
        """A node of a page that ``_page`` has accepted."""
        start, size = page * self.header.page_size, self.header.page_size
        at = POINTER.unpack_from(self._map, start + PAGE.size + POINTER.size * index)[0]
        if at + NODE.size > size:
            raise DamagedError(f'page {page} is damaged')
        low, high, flags, key_size = NODE.unpack_from(self._map, start + at)
        begin = start + at + NODE.size
        end = begin + key_size
        if end > start + size:
            raise DamagedError(f'page {page} is damaged')
        key = self._map[begin:end]
        if not is_leaf:
            return Node(key, low | high << 16 | flags << 32, 0, 0, 0)
        if flags & ~ELSEWHERE:
            raise DamagedError(f'page {page} holds a record of a kind that image LMDBs do not have')
        return Node(key, 0, low | high << 16, end, flags)

    def _search(self, page: int, count: int, key: bytes, is_leaf: bool) -> int:
        """The last node whose key is not greater; in a branch the first node stands for all smaller keys."""
        low, high = (0, count) if is_leaf else (1, count)
        start, size, content = page * self.header.page_size, self.header.page_size, self._map
        places = struct.unpack_from(f'={count}H', content, start + PAGE.size)
        while low < high:
            middle = (low + high) >> 1
            at = places[middle] + NODE.size
            end = at + KEY_SIZE.unpack_from(content, start + at - KEY_SIZE.size)[0] if at <= size else size + 1
            if end > size:
                raise DamagedError(f'page {page} is damaged')
            if content[start + at : start + end] <= key:
                low = middle + 1
            else:
                high = middle
        return low - 1

    def _exact(self, page: int, position: int, count: int, key: bytes) -> memoryview | None:
        node = self._node(page, position, True) if 0 <= position < count else None
        if node is None or node.key != key:
            return None
        offset = self.place(node, page)
        if node.size >= FETCHED_AHEAD and WILL_NEED is not None:
            begin = offset - offset % mmap.PAGESIZE
            with suppress(OSError):
                self._map.madvise(WILL_NEED, begin, offset + node.size - begin)
        return self._view[offset : offset + node.size]

    def place(self, node: Node, page: int) -> int:
        """Where in the file the value of a leaf's node begins.

        Raises:
            DamagedError: The value does not lie within the file.
        """
        if not node.flags & ELSEWHERE:
            if node.value + node.size > (page + 1) * self.header.page_size:
                raise DamagedError(f'page {page} is damaged')
            return node.value
        if node.value + NUMBER.size > (page + 1) * self.header.page_size:
            raise DamagedError(f'page {page} is damaged')
        number = NUMBER.unpack_from(self._map, node.value)[0]
        start = number * self.header.page_size
        if start + PAGE.size + node.size > self.size:
            raise DamagedError(f"the value of '{node.key.decode(errors='replace')}' lies beyond the end of the file")
        own, _, flags, low, high = PAGE.unpack_from(self._map, start)
        if own != number or not flags & OVERFLOW or (low | high << 16) * self.header.page_size < PAGE.size + node.size:
            raise DamagedError(f"the page of '{node.key.decode(errors='replace')}' is damaged")
        return start + PAGE.size


class _Walk:
    """One pass over the tree; no page is entered twice, and every key must lie where a search would look for it."""

    def __init__(self, database: Database, problems: list[str] | None) -> None:
        self._database, self._problems = database, problems
        self._seen: set[int] = set()

    def below(self, page: int, depth: int, least: bytes, limit: bytes | None) -> Iterator[Record]:
        """The records under a page, whose keys must be at least ``least`` and less than ``limit``."""
        try:
            self._enter(page, depth)
            is_leaf, count = self._database._page(page)
        except DamagedError as error:
            self._note(error)
            return
        nodes = self._nodes(page, count, is_leaf, least, limit)
        if is_leaf:
            for node in nodes:
                yield from self._record(node, page)
            return
        borders = [least, *(node.key for node in nodes[1:])]
        for node, low, high in zip(nodes, borders, [*borders[1:], limit]):
            yield from self.below(node.child, depth + 1, low, high)

    def _enter(self, page: int, depth: int) -> None:
        if page in self._seen or depth >= MOST_LEVELS:
            raise DamagedError(f'page {page} is used twice')
        self._seen.add(page)

    def _nodes(self, page: int, count: int, is_leaf: bool, least: bytes, limit: bytes | None) -> list[Node]:
        """The nodes of a page that are in order."""
        nodes: list[Node] = []
        for index in range(count):
            try:
                node = self._database._node(page, index, is_leaf)
            except DamagedError as error:
                self._note(error)
                continue
            if not is_leaf and index == 0:
                nodes.append(node)  # its key stands for nothing
                continue
            if (nodes and (is_leaf or len(nodes) > 1) and node.key <= nodes[-1].key) or not _within(
                node.key, least, limit
            ):
                self._note(DamagedError(f'page {page} has keys out of order, at entry {index}'))
                continue
            nodes.append(node)
        return nodes

    def _record(self, node: Node, page: int) -> Iterator[Record]:
        try:
            offset = self._database.place(node, page)
            if node.flags & ELSEWHERE:
                self._enter(offset // self._database.header.page_size, 0)
        except DamagedError as error:
            self._note(error)
            return
        yield Record(node.key, offset, node.size)

    def _note(self, error: DamagedError) -> None:
        if self._problems is None:
            raise error
        self._problems.append(str(error))


def _within(key: bytes, least: bytes, limit: bytes | None) -> bool:
    return least <= key and (limit is None or key < limit)
