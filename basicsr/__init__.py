"""QualIR: restore real photographs, with image quality as a signal to train on.

The engine lives in this folder. The plug-in folders ``archs/ losses/ models/ data/`` stand at the root of a checkout
and are imported as ``basicsr.archs`` and so on; an installed wheel already holds them here (see ``package_dir`` in
``setup.py``).
"""

from pathlib import Path

__version__ = '0.1.0'

_HERE = Path(__file__).resolve().parent
if (
    not (_HERE / 'archs').is_dir() and (_HERE.parent / 'archs').is_dir()
):  # a checkout: let the root's folders be sub-packages
    __path__.append(str(_HERE.parent))
