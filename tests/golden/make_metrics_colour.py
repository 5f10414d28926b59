"""Writes metrics_colour.json: UCIQE, UIQM and entropy of the programs that circulate.

    python3.11 -m venv iqa && iqa/bin/pip install pyiqa==0.1.16 scikit-image==0.26.0
    git clone https://github.com/JOU-UIP/UCIQE; git clone https://github.com/SINTEF/LIACI_context
    git clone https://github.com/xahidbuffon/FUnIE-GAN
    iqa/bin/python tests/golden/make_metrics_colour.py UCIQE/UCIQE.py \
        LIACI_context/pipeline/computer_vision/image_quality.py FUnIE-GAN/Evaluation/uqim_utils.py

The third was written for Python 2, in which ``/`` of whole numbers is ``//``; the second for an older NumPy.
"""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import skimage
from peers import import_torchvision
from recipe import DISTORTIONS

import_torchvision()

import pyiqa  # noqa: E402

HERE = Path(__file__).parent
PHOTOS = ('astronaut', 'chelsea', 'coffee', 'rocket')


def program(path, *replaced):
    source = Path(path).read_text()
    for old, new in replaced:
        source = source.replace(old, new)
    space = {'__name__': 'published'}
    exec(compile(source, path, 'exec'), space)
    return SimpleNamespace(**space)


def main():
    opencv, nmetrics, funie = sys.argv[1:4]
    opencv = program(opencv).uciqe
    nmetrics = program(nmetrics, ('np.int(', 'int(')).analyse_image
    funie = program(funie, ('/window_size', '//window_size')).getUIQM
    entropy = pyiqa.create_metric('entropy', device='cpu')
    rows, file = [], Path('/tmp/published_uciqe.png')
    for photo in PHOTOS:
        clean = cv2.imread(str(HERE.parent / 'assets' / f'{photo}.png'))
        for name, img in {'clean': clean, **{n: d(clean) for n, d in DISTORTIONS.items()}}.items():
            cv2.imwrite(str(file), img)
            rgb = np.ascontiguousarray(img[..., ::-1])
            scores = {
                'uciqe_opencv': float(opencv(1, str(file))),
                'uciqe_nmetrics': float(nmetrics(rgb)),
                'uiqm_python': float(funie(rgb)),
                'entropy': float(entropy(str(file))),
            }
            rows.append([photo, name, scores])
    file.unlink()
    source = (
        f'JOU-UIP/UCIQE; SINTEF/LIACI_context (nmetrics, scikit-image {skimage.__version__}); xahidbuffon/FUnIE-GAN; '
        f'pyiqa {pyiqa.__version__}; OpenCV {cv2.__version__}'
    )
    text = json.dumps({'source': source, 'rows': rows}, separators=(',', ':'))
    (HERE / 'metrics_colour.json').write_text(text + '\n')


if __name__ == '__main__':
    main()
