"""Cuts the small photographs of tests/assets from scikit-image's sample images, and makes their JPEG versions.

    python tests/golden/make_assets.py /path/to/skimage/data

Needs Pillow. The result is committed; the script says how it came about.
"""

import io
import sys
from pathlib import Path

from PIL import Image

ASSETS = Path(__file__).parents[1] / 'assets'
WIDTH, HEIGHT = 96, 80
CORNERS = {'astronaut.png': (170, 60), 'chelsea.png': (120, 70), 'coffee.png': (160, 150), 'rocket.jpg': (290, 150)}
QUALITY = {'astronaut': 10, 'chelsea': 30, 'coffee': 60, 'rocket': 90}


def main(folder):
    ASSETS.mkdir(exist_ok=True)
    for name, (left, top) in CORNERS.items():
        photo = Image.open(Path(folder) / name).convert('RGB').crop((left, top, left + WIDTH, top + HEIGHT))
        stem = Path(name).stem
        photo.save(ASSETS / f'{stem}.png', optimize=True)
        file = io.BytesIO()
        photo.save(file, 'JPEG', quality=QUALITY[stem])
        Image.open(file).save(ASSETS / f'{stem}_jpeg.png', optimize=True)


if __name__ == '__main__':
    main(sys.argv[1])
