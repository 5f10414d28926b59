"""Weight files and run states: written whole or not at all, read without running code, and kept by a simple rule.

``models/net_g_<iter>.pth`` holds ``params``, ``params_ema`` and the options, for everyone.
``training_states/<iter>.state`` holds all that a run needs to go on bit for bit. Both contain tensors and
plain containers only.
"""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from basicsr.errors import CheckpointError
from basicsr.files import write_atomically

ENTRIES = ('params_ema', 'params', 'state_dict', 'model', 'model_state_dict', 'net')
PREFIXES = ('module.', '_orig_mod.', 'net.', 'net_g.', 'model.')


def save(state: Mapping[str, Any], path: Path) -> None:
    """Saves tensors and plain containers atomically.

    Raises:
        CheckpointError: The disk is full, or the folder cannot be written to. Nothing half-written stays.
    """
    try:
        write_atomically(path, lambda file: torch.save(dict(state), file))
    except (OSError, RuntimeError) as error:  # torch reports a failed write as RuntimeError
        raise CheckpointError(
            f'{path} could not be written: {_root_cause(error)}. Nothing was lost: the older checkpoints are whole.'
        ) from error


def read(path: str | Path) -> dict[str, Any]:
    """Reads a checkpoint onto the CPU without running any code it may carry.

    Args:
        path: A ``.pth``, ``.pt``, ``.ckpt`` or ``.state`` file of torch, or a ``.safetensors`` file.

    Raises:
        CheckpointError: Missing, truncated, not a checkpoint, or holding pickled code.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f'Checkpoint {path} does not exist.')
    try:
        if path.suffix == '.safetensors':
            return _read_safetensors(path)
        content = torch.load(path, map_location='cpu', weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f'Checkpoint {path} holds pickled Python objects, which could run code, or is no checkpoint; '
            'only files of tensors and plain containers are read.'
        ) from error
    except Exception as error:  # torch and safetensors raise many types for a damaged file
        raise CheckpointError(
            f'Checkpoint {path} cannot be read; it is damaged or no checkpoint: {_brief(error)}.'
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f'Checkpoint {path} holds a {type(content).__name__}, not a dictionary of tensors.')
    return content


def _read_safetensors(path: Path) -> dict[str, Any]:
    """The tensors, and of the header what tools/export_weights.py writes there: ``network_g`` and ``iter``."""
    from safetensors import safe_open

    with safe_open(path, framework='pt') as file:
        names = file.keys()  # the file itself is no iterable
        content: dict[str, Any] = {name: file.get_tensor(name) for name in names}
        told = file.metadata() or {}
    if 'network_g' in told:
        content['network_g'] = json.loads(told['network_g'])
    if told.get('iter', '').isdecimal():
        content['iter'] = int(told['iter'])
    return content


@dataclass(frozen=True)
class Weights:
    """Weights found in a checkpoint, and where.

    Attributes:
        tensors: The weights, without wrapper prefixes.
        entry: Entry of the file they were taken from; None when the file itself is the weights.
        prefixes: Wrapper prefixes that were removed, outermost first.
    """

    tensors: dict[str, torch.Tensor]
    entry: str | None
    prefixes: tuple[str, ...]

    def __str__(self) -> str:
        where = f"entry '{self.entry}'" if self.entry else 'the whole file'
        return where + ''.join(f", prefix '{p}' removed" for p in self.prefixes)


@dataclass(frozen=True)
class Loaded:
    """What was loaded into a network, and from where.

    Attributes:
        file: The weight file.
        entry: As in :class:`Weights`.
        prefixes: As in :class:`Weights`.
        matched: How many of the network's tensors were taken from the file.
        tensors: How many tensors the network has.
        iteration: Iteration at which the file says it was saved; None when it does not say.
        fresh: How many tensors the file does not have and need not have: they stay as the network began.
    """

    file: str
    entry: str | None
    prefixes: tuple[str, ...]
    matched: int
    tensors: int
    iteration: int | None
    fresh: int = 0

    def __str__(self) -> str:
        taken = Weights({}, self.entry, self.prefixes)
        fresh = f', {self.fresh} begin fresh' if self.fresh else ''
        return f'{self.file}: {taken}; {self.matched} of {self.tensors} tensors loaded{fresh}'


def find_weights(content: Mapping[str, Any], path: str | Path, key: str | None = None) -> Weights:
    """Finds the weights in a checkpoint of any common layout.

    Args:
        content: What :func:`read` returned.
        path: Its file, for messages.
        key: Entry to take; None takes the first of :data:`ENTRIES` that is there, else the file itself.

    Raises:
        CheckpointError: There is no such entry, or it holds no tensors.
    """
    if key is not None and key not in content:
        raise CheckpointError(f"Checkpoint {path} has no entry '{key}'; it has {', '.join(map(str, content))}.")
    entry = key or next((e for e in ENTRIES if isinstance(content.get(e), Mapping)), None)
    weights = content[entry] if entry else content
    weights = {k: v for k, v in weights.items() if isinstance(v, torch.Tensor)} if isinstance(weights, Mapping) else {}
    if not weights:
        raise CheckpointError(f'Checkpoint {path} holds no weights' + (f" under '{entry}'." if entry else '.'))
    removed = []
    for prefix in PREFIXES * 2:
        if all(k.startswith(prefix) for k in weights):
            weights = {k.removeprefix(prefix): v for k, v in weights.items()}
            removed.append(prefix)
    return Weights(weights, entry, tuple(removed))


def load_network(net: nn.Module, path: str | Path, strict: bool = True, key: str | None = None) -> str:
    """As :func:`load_weights`; returns one line that says what was taken and how much of it matched."""
    return str(load_weights(net, path, strict, key))


def load_weights(net: nn.Module, path: str | Path, strict: bool = True, key: str | None = None) -> Loaded:
    """Loads weights into a network.

    A network with a method ``convert_weights(weights) -> weights`` is first asked to translate the file's keys, as one
    that wraps another does; tensors that it adds count as fresh, not as loaded.

    Args:
        net: The network.
        path: The weight file.
        strict: Whether every key and shape must match. Without it, what matches is loaded.
        key: Entry of the file, see :func:`find_weights`.

    Returns:
        What was taken and how much of it matched; as text, one line.

    Raises:
        CheckpointError: Not readable, or of another network: the first keys that differ on either side are named. No
            match at all is an error even when not strict.
    """
    content = read(path)
    found = find_weights(content, path, key)
    convert = getattr(net, 'convert_weights', dict)
    weights, own = convert(found.tensors), net.state_dict()
    fitting = {k: v for k, v in weights.items() if k in own and own[k].shape == v.shape}
    read_ones = {id(v) for v in found.tensors.values()}
    matched = sum(id(v) in read_ones for v in fitting.values())
    if not matched or (strict and (len(fitting) < len(own) or len(weights) > len(own))):
        raise CheckpointError(_mismatch_text(path, str(found), weights, own, fitting))
    net.load_state_dict(fitting, strict=False)
    iteration = content.get('iter')
    iteration = iteration if isinstance(iteration, int) else None
    fresh = len(fitting) - matched
    return Loaded(str(path), found.entry, found.prefixes, matched, len(own), iteration, fresh)


def sha256(path: str | Path) -> str:
    """SHA-256 of a weight file, in hexadecimal digits.

    Raises:
        CheckpointError: It cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with open(path, 'rb') as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise CheckpointError(f'Checkpoint {path} cannot be read: {error.strerror}.') from error
    return digest.hexdigest()


def _mismatch_text(path: str | Path, taken: str, weights: dict, own: dict, fitting: dict) -> str:
    shapes = [k for k in weights if k in own and k not in fitting]
    parts = [f'Checkpoint {path} ({taken}) is of another network: {len(fitting)} of {len(own)} tensors match.']
    if shapes:
        k = shapes[0]
        parts.append(f"'{k}' is {list(weights[k].shape)} in the file and {list(own[k].shape)} in the network.")
    if missing := [k for k in own if k not in weights]:
        parts.append(f'Missing in the file: {", ".join(missing[:3])}{" ..." if len(missing) > 3 else ""}.')
    if foreign := [k for k in weights if k not in own]:
        parts.append(f'Unknown to the network: {", ".join(foreign[:3])}{" ..." if len(foreign) > 3 else ""}.')
    return ' '.join(parts)


def states(folder: Path) -> list[Path]:
    """State files of a run, newest first."""
    found = [p for p in folder.glob('*.state') if p.stem.isdigit()]
    return sorted(found, key=lambda p: int(p.stem), reverse=True)


def prune(models: Path, training_states: Path, keep_last: int, milestones: list[int]) -> None:
    """Deletes checkpoints that are neither among the newest ``keep_last`` nor milestones; best and latest stay."""
    old = [int(p.stem) for p in states(training_states)][keep_last:] if keep_last else []
    for iteration in set(old) - set(milestones):
        (training_states / f'{iteration}.state').unlink(missing_ok=True)
        for file in models.glob(f'net_*_{iteration}.pth'):
            file.unlink()


def _root_cause(error: BaseException) -> str:
    """The operating system's own words where there are any behind torch's."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return _brief(error)


def _brief(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip('.')
