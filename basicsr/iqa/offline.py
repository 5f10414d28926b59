"""Builds networks of other packages without the downloads that these start on their own."""

from __future__ import annotations

import os
import re
import shutil
import socket
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from basicsr.errors import MissingWeightsError, QualIRError
from basicsr.weights import find_weights_file


@contextmanager
def no_downloads(what: str) -> Iterator[None]:
    """Whatever would be downloaded is an error that names the file and where to put it.

    Files that are in pyiqa's, torch's or Hugging Face's cache are used as always. A file of torch's hub that lies in a
    folder of :func:`~basicsr.weights.weight_folders` is linked into that cache. Not for several threads at once.

    Args:
        what: What is being built, for the message.

    Raises:
        MissingWeightsError: Something was to be downloaded.
    """

    def fetch_file(url: str, dst: str, *_: Any, **__: Any) -> None:
        _place(find_weights_file([Path(dst).name], None, what, url), Path(dst))

    def refuse_url(request: Any, *_: Any, **__: Any) -> None:
        url = getattr(request, 'full_url', request)
        raise MissingWeightsError(
            f'{what}: the weight file {url.rpartition("/")[2]} is not on this machine. Fetch it from {url} and put it '
            f'into {os.path.join(torch.hub.get_dir(), "clip")}, or allow the download: download: true.'
        )

    def refuse_host(host: Any, *_: Any, **__: Any) -> None:
        raise OSError(f'{_text(host)} was to be asked')

    constants = _hugging_face()
    functions = [(module, 'download_url_to_file', fetch_file) for module in _holders('download_url_to_file')]
    functions += [(urllib.request, 'urlopen', refuse_url), (socket, 'getaddrinfo', refuse_host)]
    try:
        with _replaced(functions), _offline(constants):
            yield
    except QualIRError:
        raise
    except (OSError, RuntimeError) as error:  # RuntimeError: how timm and transformers pass on what they met
        cause = next((e for e in _causes(error) if isinstance(e, OSError)), None)
        if cause is None:
            raise
        raise MissingWeightsError(_other_text(what, cause, constants)) from error


@contextmanager
def _replaced(functions: list[tuple[Any, str, Callable[..., Any]]]) -> Iterator[None]:
    """Replaces functions for a while. Who imports one meanwhile, and keeps it, gets the original's work afterwards."""
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in functions]
    active = [True]

    def switch(original: Callable[..., Any], other: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **kwargs: (other if active else original)(*args, **kwargs)

    try:
        for (owner, name, other), (_, _, original) in zip(functions, before):
            setattr(owner, name, switch(original, other))
        yield
    finally:
        active.clear()
        for owner, name, original in before:
            setattr(owner, name, original)


@contextmanager
def _offline(constants: Any) -> Iterator[None]:
    """Hugging Face answers from its cache only."""
    if constants is None:
        yield
        return
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _place(file: Path, wanted: Path) -> None:
    """Puts a link to a file, or a copy, where it is looked for."""
    wanted.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        try:
            wanted.symlink_to(file.resolve())
        except NotImplementedError:
            shutil.copyfile(file, wanted)


def _holders(name: str) -> list[Any]:
    """torch.hub, and the modules that hold its function of this name as their own."""
    original = getattr(torch.hub, name)
    return [module for module in list(sys.modules.values()) if vars(module).get(name) is original]


def _hugging_face() -> Any:
    try:
        from huggingface_hub import constants
    except ImportError:
        return None
    return constants


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _other_text(what: str, error: BaseException, constants: Any) -> str:
    """Names the file by the address that appears in the chain of errors; else repeats what the error says."""
    texts = [' '.join(str(e).split()) for e in _causes(error)]
    url = next((found[0] for text in texts if (found := re.search(r'https?://[^\s\'",]+[^\s\'",:.]', text))), None)
    part = f'of {url}' if url else f'({texts[0].rstrip(".")})'
    cache = f' It belongs into the cache of Hugging Face, {constants.HF_HUB_CACHE}.' if constants is not None else ''
    return f'{what}: the content {part} is not on this machine, and is fetched only with download: true.{cache}'


def _text(host: Any) -> str:
    return host.decode(errors='replace') if isinstance(host, bytes) else str(host)
