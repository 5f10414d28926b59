"""Which images of a source a ``meta_info_file`` chooses."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from basicsr.errors import DataError
from basicsr.image_io import EXTENSIONS
from basicsr.image_lists import read_list
from basicsr.image_source import ImageSource

from .base_dataset import first_few


def listed_stems(file: str | Path, source: ImageSource) -> list[str]:
    """The stems of a list of single images, all of which must be there.

    Raises:
        DataError: As for ``read_list``, or an image is not in the source; the text names the first ones.
    """
    stems = [stem_of_name(name) for (name,) in read_list(file)]
    lost = [stem for stem in stems if stem not in source]
    if lost:
        raise DataError(f"meta_info_file '{file}' names images that '{source.root}' does not hold: {first_few(lost)}.")
    return stems


def stem_of_name(name: str) -> str:
    """A name without the ending of an image; other dots belong to the name."""
    path = PurePosixPath(name)
    return path.with_suffix('').as_posix() if path.suffix.lower() in EXTENSIONS else path.as_posix()
