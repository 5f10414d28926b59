"""Networks: one ``<name>_arch.py`` a network, found by the ``type:`` of an option file."""

from typing import Any

from basicsr.registry import ARCH_REGISTRY, build


def build_network(opt: dict[str, Any]) -> Any:
    """Builds a network from its block of options, ``{'type': 'NAFNet', 'width': 32}``, which is left unchanged.

    Raises:
        OptionError: The type or a key is not known, a key is missing, or a value is of the wrong type.
    """
    return build(ARCH_REGISTRY, opt)


__all__ = ['build_network']
