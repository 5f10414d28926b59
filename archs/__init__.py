"""Networks: one ``<name>_arch.py`` a network, found by the ``type:`` of an option file."""

from typing import Any

from basicsr.registry import ARCH_REGISTRY, build


def build_network(opt: dict[str, Any]) -> Any:
    """Builds a network from its block of options, ``{'type': 'NAFNet', 'width': 32}``."""
    return build(ARCH_REGISTRY, opt)


__all__ = ['build_network']
