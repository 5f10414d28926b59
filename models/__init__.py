"""Training methods: ``<name>_model.py``, named by ``model_type:``; learning-rate schedules: ``lr_scheduler.py``."""

from typing import Any

from basicsr.options import from_dict
from basicsr.registry import ARCH_REGISTRY, MODEL_REGISTRY, build
from basicsr.sections import Options


def build_model(opt: Options | dict[str, Any]) -> Any:
    """Builds the training method that an option file names, with its networks.

    Args:
        opt: A checked option file, or a dict laid out like one, as BasicSR has it, checked now and left unchanged.

    Raises:
        OptionError: Anything is wrong with the dict.
    """
    options = opt if isinstance(opt, Options) else from_dict(opt)
    networks = {letter: build(ARCH_REGISTRY, block) for letter, block in options.networks.items()}
    return build(MODEL_REGISTRY, {'type': options.top.model_type, **options.model}, networks=networks)


__all__ = ['build_model']
