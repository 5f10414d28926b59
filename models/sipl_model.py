"""SIPL: a network learns to use features of a better image, and at test time takes its own output for that."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from basicsr.errors import OptionError
from basicsr.registry import MODEL_REGISTRY
from basicsr.schema import Block, Range

from .base_model import Batch
from .draws import draws
from .restoration_model import RestorationModel

Weight = Annotated[float, Range(0)]


@MODEL_REGISTRY.register()
class SIPLModel(RestorationModel):
    """Self-improved privilege learning (arXiv:2505.24207; github.com/Aitical/SIPL at bd8b7ad).

    The network restores the degraded image while it is handed encoder features of a better one, through which no
    gradient goes: of what the network itself makes of the ground truth (released), or of the ground truth (the paper's
    wording). At test time the better image is the network's own output (``network_g.refine``), for which its plain path
    must be good as well. In the release nothing trains that path; ``raw_weight`` does, and ``steps`` trains the
    refinement itself. The encoder runs once for all paths of an image.

    Args:
        networks: ``{'g': net}``, a network that takes features of a better image, such as ProxyFusion.
        pixel_opt: Loss between output and ground truth, pixel by pixel.
        fft_opt: Loss between their spectra, added to it.
        perceptual_opt: Loss between their features, such as FeatureLoss, added to it.
        gradient_opt: Loss between their edges, such as GradientLoss, added to it.
        privilege: Which better image is read: the restored ground truth, or the ground truth itself.
        raw_weight: Factor on the same losses of the plain path; 0, as released, does not train it.
        steps: Iterations of self-refinement that are trained too, each on the output of the one before.
        step_weight: Factor on the same losses of each of these.
        random_proxy: Whether a share of each image, drawn between 0 and 1, of what the dictionary finds in the better
            image is replaced by the dictionary itself, which trains it for the plain path.

    Raises:
        OptionError: The network takes no features of a better image, or has no dictionary to mix in.
    """

    def __init__(
        self,
        networks: dict[str, nn.Module],
        pixel_opt: Annotated[dict, Block('loss')],
        fft_opt: Annotated[dict, Block('loss')] | None = None,
        perceptual_opt: Annotated[dict, Block('loss')] | None = None,
        gradient_opt: Annotated[dict, Block('loss')] | None = None,
        privilege: Literal['restored_gt', 'gt'] = 'restored_gt',
        raw_weight: Weight = 0.0,
        steps: Annotated[int, Range(0)] = 0,
        step_weight: Weight = 1.0,
        random_proxy: bool = False,
    ) -> None:
        super().__init__(networks, pixel_opt, fft_opt, perceptual_opt, gradient_opt)
        if not (hasattr(self.net_g, 'privilege') and hasattr(self.net_g, 'shared')):
            raise OptionError(
                f'network_g: {type(self.net_g).__name__} takes no features of a better image; take ProxyFusion or '
                'PrivilegedSkips around it.'
            )
        if random_proxy and not self.net_g.takes_mix:
            raise OptionError(f'random_proxy: {type(self.net_g).__name__} has no dictionary that could be mixed in.')
        self.source, self.raw_weight, self.random_proxy = privilege, raw_weight, random_proxy
        self.refinements, self.step_weight = steps, step_weight

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        path, gt = self.net_g.shared(batch['lq']), batch['gt']
        found = self.supervised_losses(path(self.privileged(gt), self._mix(batch)), gt)
        if not (self.raw_weight or self.refinements):
            return found
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.raw_weight > 0):
            image = path()
        if self.raw_weight:
            found |= self._more('raw', self.raw_weight, image, gt)
        for n in range(1, self.refinements + 1):
            with torch.no_grad():
                better = self.net_g.privilege(image.detach().to(gt.dtype))
            image = path(better)
            found |= self._more(f'step{n}', self.step_weight, image, gt)
        return found

    @torch.no_grad()
    def privileged(self, gt: Tensor) -> list[Tensor]:
        """Features of the better image that the ground truth (N,3,H,W) gives."""
        better = gt if self.source == 'gt' else self.net_g.shared(gt)().to(gt.dtype)
        return self.net_g.privilege(better)

    def _mix(self, batch: Batch) -> Tensor | None:
        """How much of the dictionary itself each image is given, (N,)."""
        if not self.random_proxy:
            return None
        shares = [draws(f'{key} proxy', self.iteration).random() for key in batch['key']]
        return torch.tensor(shares, dtype=torch.float32, device=batch['lq'].device)

    def _more(self, name: str, weight: float, image: Tensor, gt: Tensor) -> dict[str, Tensor]:
        return {f'{key}_{name}': weight * loss for key, loss in self.supervised_losses(image, gt).items()}
