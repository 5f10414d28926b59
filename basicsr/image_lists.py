"""Text files that name images: BasicSR's meta_info files, and lists of pairs."""

from __future__ import annotations

import re
from pathlib import Path

from basicsr.errors import DataError

_SIZE = re.compile(r'\s+\([\d,\s]*\)(\s+\d+)?$')


def read_list(file: str | Path, most: int = 1) -> list[tuple[str, ...]]:
    """Names with ending: one a line, with BasicSR's ``(h,w,c)`` after it or not, or several with tabs between.

    Lines that begin with ``#`` are comments. Sizes are not needed: images are measured when they are read.

    Args:
        file: The list.
        most: How many names a line may hold.

    Raises:
        DataError: The list cannot be read, names nothing, or has a line of more names.
    """
    try:
        lines = Path(file).read_text(encoding='utf-8').splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"The list '{file}' cannot be read: {getattr(error, 'strerror', None) or error}.") from error
    found = []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith('#'):
            continue
        names = tuple(_SIZE.sub('', name.strip()).replace('\\', '/') for name in line.strip().split('\t'))
        if len(names) > most:
            raise DataError(f'{file}:{number}: {len(names)} names with tabs between; a line holds at most {most}.')
        found.append(names)
    if not found:
        raise DataError(f"The list '{file}' names no image.")
    return found
