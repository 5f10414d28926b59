"""Where weight files of metrics, scorers and backbones are looked for; nothing is ever downloaded."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from basicsr.errors import MissingWeightsError

ENVIRONMENT = 'QUALIR_WEIGHTS'


def weight_folders() -> list[Path]:
    """Folders that are searched, the first one first; not all need exist.

    The folder that the environment variable ``QUALIR_WEIGHTS`` names, ``~/.cache/qualir/weights``, and those that
    torchvision and pyiqa download to.
    """
    own = os.environ.get(ENVIRONMENT)
    return [*([Path(own).expanduser()] if own else []), _own_cache(), *_foreign_caches()]


def find_weights_file(names: Sequence[str], given: str | None, what: str, source: str = '') -> Path:
    """Finds a weight file on this machine.

    Args:
        names: What the file may be called, the likeliest name first.
        given: Path that the user gave, to the file or to a folder that holds it; None searches
            :func:`weight_folders` and the folders directly inside them.
        what: Whose weights these are, for the message, such as ``LPIPS (alex), trunk``.
        source: Where the file can be had, for the message.

    Returns:
        The file.

    Raises:
        MissingWeightsError: There is none; the text says which file goes where and where it comes from.
    """
    if given is not None:
        path = Path(given).expanduser()
        found = path if path.is_file() else _inside(path, names)
        if found is None:
            state = f'the folder holds no {_either(names)}' if path.is_dir() else 'there is no such file'
            raise MissingWeightsError(f"{what}: weights were given as '{given}', but {state}.{_origin(names, source)}")
        return found
    folders = weight_folders()
    found = next((f for folder in folders if (f := _inside(folder, names))), None)
    if found is None:
        searched = ', '.join(map(str, folders))
        raise MissingWeightsError(
            f'{what}: the weight file {_either(names)} is not on this machine; put it into {folders[0]} or give its '
            f'path.{_origin(names, source)} Searched: {searched} (${ENVIRONMENT} names a folder to search first).'
        )
    return found


def _inside(folder: Path, names: Sequence[str]) -> Path | None:
    """The first of ``names`` in a folder, or else in a folder of it."""
    if not folder.is_dir():
        return None
    candidates = (f for name in names for f in (folder / name, *sorted(folder.glob(f'*/{name}'))))
    return next((f for f in candidates if f.is_file()), None)


def _own_cache() -> Path:
    return Path.home() / '.cache' / 'qualir' / 'weights'


def _foreign_caches() -> list[Path]:
    import torch  # commands that only print help do without it

    hub = Path(torch.hub.get_dir())
    return [hub / 'checkpoints', hub / 'pyiqa']


def _either(names: Sequence[str]) -> str:
    return ' or '.join(names)


def _origin(names: Sequence[str], source: str) -> str:
    return f' {names[0]} comes from {source}.' if source else ''
