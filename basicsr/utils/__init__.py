"""Helpers under the names that BasicSR's plug-ins import; each is loaded on its first use, to keep start-up cheap."""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    'crop_border': 'img_util',
    'get_root_logger': 'misc',
    'get_time_str': 'misc',
    'imfrombytes': 'img_util',
    'img2tensor': 'img_util',
    'imwrite': 'img_util',
    'mkdir_and_rename': 'misc',
    'scandir': 'misc',
    'set_random_seed': 'misc',
    'sizeof_fmt': 'misc',
    'tensor2img': 'img_util',
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f'basicsr.utils.{_HOME[name]}'), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
