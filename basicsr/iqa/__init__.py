"""No-reference quality scorers (``<name>_scorer.py``), found by the ``type:`` of a block, and their ensembles."""

from basicsr.iqa.loading import load_scorer
from basicsr.iqa.scorer import Calibration, Scorer, build_scorer

__all__ = ['Calibration', 'Scorer', 'build_scorer', 'load_scorer']
