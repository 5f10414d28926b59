"""Lists of images: BasicSR's meta_info files, and lists of pairs."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from basicsr.errors import DataError
from basicsr.image_io import EXTENSIONS
from basicsr.image_source import ImageSource

from .base_dataset import first_few


def read_list(file: str | Path, most: int) -> list[tuple[str, ...]]:
    """Stems that a list names: one a line, with BasicSR's ``(h,w,c)`` after it or not, or several with tabs between.

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
        raise DataError(f"meta_info_file '{file}' cannot be read: {error}.") from error
    found = []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith('#'):
            continue
        names = tuple(_stem(name) for name in line.strip().split('\t'))
        if len(names) > most:
            raise DataError(f'{file}:{number}: {len(names)} names with tabs between; a line holds at most {most}.')
        found.append(names)
    if not found:
        raise DataError(f"meta_info_file '{file}' names no image.")
    return found


def listed_stems(file: str | Path, source: ImageSource) -> list[str]:
    """The stems of a list of single images, all of which must be there.

    Raises:
        DataError: As for :func:`read_list`, or an image is not in the source; the text names the first ones.
    """
    stems = [names[0] for names in read_list(file, most=1)]
    lost = [stem for stem in stems if stem not in source]
    if lost:
        raise DataError(f"meta_info_file '{file}' names images that '{source.root}' does not hold: {first_few(lost)}.")
    return stems


def _stem(name: str) -> str:
    path = PurePosixPath(re.sub(r'\s+\([\d,\s]*\)(\s+\d+)?$', '', name.strip()).replace('\\', '/'))
    return path.with_suffix('').as_posix() if path.suffix.lower() in EXTENSIONS else path.as_posix()
