"""Codes of many images in one file, as ``tools/export_latents.py`` writes it and data sets read it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from basicsr.errors import DataError
from basicsr.files import write_atomically

VIEWS = ('orig', 'hflip')
INFO = 'qualir_codes'


class CodeFile:
    """Codes by the name of the image, of the image as it is and of its mirror image.

    A mirror image has codes of its own: those of the image, mirrored, are other ones. The file is a safetensors file
    with a tensor ``orig/NAME`` and ``hflip/NAME``, (K,h,w) whole numbers, for each image. It is not read into memory,
    and the open file does not travel to loader processes.

    Attributes:
        info: What the writer said: ``image_size`` [H,W] in pixels, ``book_sizes``, and where the codes come from.
        names: The images.

    Args:
        path: The file.

    Raises:
        DataError: It cannot be read, or holds no codes.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._open: Any = None
        handle = self._handle()
        self.info = _info(self.path, handle.metadata() or {})
        keys = handle.keys()  # the file itself is no iterable
        known = set(keys)
        first = f'{VIEWS[0]}/'
        self.names = [key.removeprefix(first) for key in keys if key.startswith(first)]
        lost = [name for name in self.names if f'{VIEWS[1]}/{name}' not in known]
        if lost or not self.names:
            what = f"no codes of the mirror image of '{lost[0]}'" if lost else 'no codes'
            raise DataError(f"'{self.path}' holds {what}.")
        self._known = set(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def __contains__(self, name: str) -> bool:
        return name in self._known

    def get(self, name: str, mirrored: bool = False) -> Tensor:
        """Codes (K,h,w) int64 of an image, or of its mirror image.

        Raises:
            DataError: There are none of this image.
        """
        if name not in self._known:
            raise DataError(f"'{self.path}' holds no codes of '{name}'.")
        return self._handle().get_tensor(f'{VIEWS[mirrored]}/{name}').to(torch.int64)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, '_open': None}

    def _handle(self) -> Any:
        if self._open is None:
            self._open = _opened(self.path)
        return self._open


def write_codes(path: Path, codes: Mapping[str, Mapping[str, Tensor]], info: Mapping[str, Any]) -> None:
    """Writes a file for :class:`CodeFile`, whole or not at all.

    Args:
        path: The file.
        codes: For each view, ``orig`` and ``hflip``, codes (K,h,w) by the name of the image.
        info: What :attr:`CodeFile.info` will be; plain containers.

    Raises:
        OSError: The disk is full, or the folder cannot be written to.
    """
    from safetensors.torch import save

    small = torch.int16 if max(info['book_sizes']) <= torch.iinfo(torch.int16).max else torch.int32
    tensors = {f'{view}/{name}': code.to(small).contiguous() for view, of in codes.items() for name, code in of.items()}
    data = save(tensors, metadata={'format': 'pt', INFO: json.dumps(info)})
    write_atomically(path, lambda file: file.write(data))


def _opened(path: Path) -> Any:
    from safetensors import safe_open

    try:
        return safe_open(path, framework='pt')
    except Exception as error:  # safetensors raises several types for a file that is none of its own
        reason = 'there is no such file' if not path.is_file() else (str(error).splitlines() or [''])[0].rstrip('.')
        raise DataError(f"The codes '{path}' cannot be read: {reason}.") from error


def _info(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    try:
        info = json.loads(metadata[INFO])
        height, width = info['image_size']
        return {**info, 'image_size': (int(height), int(width)), 'book_sizes': tuple(info['book_sizes'])}
    except (KeyError, ValueError, TypeError) as error:
        raise DataError(f"'{path}' is no file of codes of tools/export_latents.py ({error!r}).") from error
