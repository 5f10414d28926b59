"""Training methods: ``<name>_model.py``, named by ``model_type:``; learning-rate schedules: ``lr_scheduler.py``."""

from typing import Any

from basicsr.registry import ARCH_REGISTRY, MODEL_REGISTRY, build
from basicsr.sections import Options


def build_model(opt: Options) -> Any:
    """Builds the training method that an option file names, with its networks."""
    networks = {letter: build(ARCH_REGISTRY, block) for letter, block in opt.networks.items()}
    return build(MODEL_REGISTRY, {'type': opt.top.model_type, **opt.model}, networks=networks)


__all__ = ['build_model']
