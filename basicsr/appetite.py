"""How much memory there is, how much a network takes, and which errors say that it was too little."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_SAYINGS = (  # what the allocators and libraries below torch say; only the CUDA allocator has an error of its own
    "defaultcpuallocator: can't allocate memory",
    'defaultcpuallocator: not enough memory',
    'backend out of memory',
    'alloc_failed',
    'bad_alloc',
    'could not allocate',
)
_GROUPS = (  # limit, use and its reclaimable part of a container: version 2, then version 1 of Linux' control groups
    ('memory.max', 'memory.current', 'inactive_file'),
    ('memory.limit_in_bytes', 'memory.usage_in_bytes', 'total_inactive_file'),
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that an allocation failed, on a GPU or a CPU."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _SAYINGS)


def free_memory(device: torch.device) -> int | None:
    """Bytes that can be had on a device without swapping; None where it cannot be known.

    On a CPU, what the system has available, or what a container's limit leaves of it.
    """
    if device.type == 'cuda':
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type != 'cpu':
        return None
    known = [n for n in (_available(), _left_in_groups()) if n is not None]
    return min(known) if known else None


def _available() -> int | None:
    with suppress(ImportError):
        import psutil  # accelerate brings it

        return int(psutil.virtual_memory().available)
    return None


def _left_in_groups() -> int | None:
    """What the limits of the control groups around this process leave; None where there are none."""
    left = []
    with suppress(OSError):
        for line in Path('/proc/self/cgroup').read_text(encoding='utf-8').splitlines():
            _, controllers, path = line.split(':', 2)
            if controllers in ('', 'memory'):
                root = Path('/sys/fs/cgroup', controllers)
                group = root / path.lstrip('/')
                names = _GROUPS[1 if controllers else 0]
                left += [_left_in(g, *names) for g in (group, *group.parents) if g == root or root in g.parents]
    return min((n for n in left if n is not None), default=None)


def _left_in(group: Path, limit: str, used: str, reclaimable: str) -> int | None:
    with suppress(OSError, ValueError):  # ValueError: there is no limit, the file says 'max'
        stat = dict(line.split() for line in (group / 'memory.stat').read_text(encoding='ascii').splitlines())
        most, now = (int((group / name).read_text(encoding='ascii')) for name in (limit, used))
        return most - now + int(stat.get(reclaimable, 0))
    return None


def peak_bytes(call: Callable[[], Any]) -> int:
    """The most memory that tensors made during a call take at any one time, on whatever device.

    Every operator's results are counted while their memory lives, by looking at each operator as it is dispatched.
    So the figure is the same on every machine, needs no counters of a device, which others may be reading, and no
    allocation has to fail. Not counted is what an operator uses inside itself (a convolution's reordered operands);
    callers leave room for it.
    """
    counter = _LiveBytes()
    with ExitStack() as around:
        if 'torch._dynamo' in sys.modules:  # compiled code allocates without dispatching; run as written it takes more
            around.enter_context(torch.compiler.set_stance('force_eager'))
        around.enter_context(torch.inference_mode(False))  # it would hide the parts of composite operators
        around.enter_context(torch.no_grad())
        around.enter_context(counter)
        call()
    return counter.peak


class _LiveBytes(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # asking the compiler to stay away would import all of it, a second and a half

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        before = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in before:
                storage = tensor.untyped_storage()
                self._alive[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self._alive = {key: (ref, size) for key, (ref, size) in self._alive.items() if not ref.expired()}
        self.peak = max(self.peak, sum(size for _, size in self._alive.values()))
        return result
