"""Photographs of the study of SIPL: clean ones as they are, reduced once and kept beside the runs.

None is in two parts: which ones are trained on and which are tested on is decided as in the study of IQPIR.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from basicsr.files import write_text
from basicsr.image_io import write_image
from benchmarks.iqpir_data import SIDE, TEST_SIDE, split
from benchmarks.qualiteacher_data import key_of, reduced

SIDES = {'train': SIDE, 'test': TEST_SIDE}  # longest side of the photographs of each part, in pixels


@dataclass(frozen=True)
class Clean:
    """Prepared photographs.

    Attributes:
        train: Folder of those to train on.
        test: Folder of those to test on, which no run sees.
    """

    train: Path
    test: Path


def clean_photos(photos: Path, work: Path) -> Clean:
    """The clean photographs of a folder, reduced; done once and kept in ``work/photos``.

    Args:
        photos: Folder with ``manifest.tsv`` (columns package, file, tag) and a sub-folder for each package.
        work: Folder of the study.

    Raises:
        DataError: The list or a photograph is missing.
    """
    root = work / 'photos'
    root.mkdir(parents=True, exist_ok=True)
    done = root / 'split.json'
    with FileLock(root / '.lock'):
        if not done.is_file():
            lists = split(photos)
            for part, side in SIDES.items():
                for name in lists[part]:
                    write_image(root / part / f'{key_of(name)}.png', reduced(photos / name, side))
            write_text(done, json.dumps(lists, indent=1) + '\n')
    return Clean(root / 'train', root / 'test')
