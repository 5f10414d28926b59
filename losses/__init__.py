"""Losses: ``<name>_loss.py``, found by the ``type:`` of an option file."""

from typing import Any

from basicsr.registry import LOSS_REGISTRY, build


def build_loss(opt: dict[str, Any]) -> Any:
    """Builds a loss from its block of options, ``{'type': 'L1Loss', 'loss_weight': 1}``, which is left unchanged.

    Raises:
        OptionError: The type or a key is not known, a key is missing, or a value is of the wrong type.
    """
    return build(LOSS_REGISTRY, opt)


__all__ = ['build_loss']
