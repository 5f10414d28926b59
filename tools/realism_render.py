"""Renders degraded photographs with the degradations of any checkout; started by ``tools/realism.py``, not by hand.

``python tools/realism_render.py CHECKOUT < job.json`` imports ``basicsr`` from CHECKOUT alone, so that an older version
can be judged by today's tool. What it needs of that version is ``basicsr.registry.build`` and ``basicsr.image_io``.
"""

from __future__ import annotations

import sys

if __name__ == '__main__' and not __package__:  # run as a script: import from the checkout that was asked for
    sys.path[0] = sys.argv[1]

import hashlib
import inspect
import json
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np


def render(job: dict[str, Any]) -> list[dict[str, Any]]:
    """Degrades every photograph of a job and writes the results.

    Args:
        job: ``task``, ``blocks`` of degradations, ``seed``, ``photos`` (file, out, photograph, variant, long_side).

    Returns:
        For each degradation used: its block, its parameters and a hash of its source files.

    Raises:
        OptionError: No block is of the task, or one cannot be built.
        DataError: A photograph cannot be read or written.
    """
    from basicsr.errors import OptionError
    from basicsr.image_io import read_image, write_image
    from basicsr.registry import DEGRADATION_REGISTRY, build

    built = [(block, build(DEGRADATION_REGISTRY, block)) for block in job['blocks']]
    used = [(block, degrade) for block, degrade in built if degrade.task == job['task']]
    if not used:
        raise OptionError(f"None of the {len(built)} degradations is of the task '{job['task']}'.")
    for photo in job['photos']:
        rng = np.random.default_rng([job['seed'], photo['variant'], zlib.crc32(photo['photograph'].encode())])
        image = reduced(read_image(photo['file']), photo['long_side'])
        _, degrade = used[int(rng.integers(len(used)))]
        write_image(photo['out'], np.clip(degrade(image, rng), 0, 1))
    return [{'block': b, 'parameters': parameters(d), 'code': code_hash(type(d))} for b, d in used]


def reduced(image: np.ndarray, long_side: int) -> np.ndarray:
    """An (H,W,3) image reduced by area to a longest side; one that is not larger stays as it is."""
    height, width = image.shape[:2]
    scale = long_side / max(height, width)
    if scale >= 1:
        return image
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def parameters(degradation: object) -> dict[str, Any]:
    """What the constructor left in an object, as JSON can hold it."""
    return json.loads(json.dumps(vars(degradation), default=str, sort_keys=True))


def code_hash(kind: type) -> str:
    """Twelve hex digits of the file that defines a degradation and of the helpers beside it (``_*.py``)."""
    file = Path(inspect.getfile(kind))
    digest = hashlib.sha256(file.read_bytes())
    for helper in sorted(file.parent.glob('_[!_]*.py')):
        digest.update(helper.read_bytes())
    return digest.hexdigest()[:12]


def main() -> int:
    """Reads the job from standard input and answers on standard output; returns the exit code."""
    from basicsr.errors import QualIRError

    cv2.setNumThreads(1)
    try:
        sys.stdout.write(json.dumps(render(json.load(sys.stdin))))
    except QualIRError as error:
        sys.stderr.write(str(error))
        return error.exit_code
    return 0


if __name__ == '__main__':
    sys.exit(main())
