"""Makes torchvision importable in the environment of the other toolboxes, whatever torch it meets there."""

import sys

from torch import library as operators


def import_torchvision():
    """Imports torchvision under the names that BasicSR 1.4.2 expects; none of its compiled operators is called."""
    try:
        import torchvision
    except RuntimeError:  # its operators were built for another torch: declare those that its import asks for
        declared = operators.Library('torchvision', 'DEF')
        for name in ('nms', 'qnms'):
            declared.define(f'{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
        import torchvision

        torchvision.declared = declared  # a library that is collected takes its operators along
    import torchvision.transforms.functional

    sys.modules['torchvision.transforms.functional_tensor'] = torchvision.transforms.functional  # gone since 0.17
