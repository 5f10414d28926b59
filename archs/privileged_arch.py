"""Networks that are handed, beside a degraded image, features of a better one: privileged information.

In training the better image is the ground truth, or what the network makes of it; at test time it is the network's own
output, which so refines itself. Here is what all such networks share, and plain privilege learning; Proxy Fusion is in
``proxy_fusion_arch.py``. Paper and published code: see there.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from basicsr.errors import OptionError
from basicsr.iqa.scorer import Scorer
from basicsr.network import RestorationNetwork, Visit, keep
from basicsr.registry import ARCH_REGISTRY, build
from basicsr.schema import Block, Range

from .hosted import HostedNetwork

Privilege = list[Tensor]  # features of the better image, one map a place at which they enter
Path = Callable[..., Tensor]


class PrivilegedNetwork(HostedNetwork):
    """A restoration network, the host, whose decoder may be handed features of a better image.

    In training a plain call is the plain path. In evaluation it refines its own output ``refine`` times: it restores
    the image, reads the features of what came out, and restores the image again with them. Whatever runs the network,
    tiles included, so gets the refined image. Features of the degraded image are computed once and serve all passes;
    only with ``refeed``, which takes the output for the next degraded image, they must be computed anew.

    Attributes:
        refine: Iterations of self-refinement in evaluation; 0 is the plain path. Not saved.
        refeed: Whether an iteration takes the output of the one before for the degraded image. Not saved.
        refine_tol: An image is refined no further when an iteration changes it by less, in the mean of absolute
            differences; 0 for never. Not saved.
        judge: An image is refined no further, and its better predecessor kept, when this scorer's score falls; None
            for no judge. Not saved.

    Args:
        host: The network inside.
        refine: As above.
        refeed: As above.

    Raises:
        OptionError: The host cannot be used.
    """

    takes_mix: bool = False
    judge: Scorer | None = None

    def __init__(self, host: dict, refine: int, refeed: bool) -> None:
        super().__init__()
        self.host = build(ARCH_REGISTRY, host)
        _check_host(self.host, f'{type(self).__name__}: {host["type"]} cannot be the host')
        self.refine, self.refeed, self.refine_tol = refine, refeed, 0.0

    def __setattr__(self, name: str, value: Any) -> None:
        if name == 'judge':  # not as a part of the network, with its weights
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def encode(self, x: Tensor, visit: Visit = keep) -> list[Tensor]:
        """As the host: nothing is handed to the encoder."""
        return self.host.encode(x, visit)

    def decode(self, x: Tensor, features: list[Tensor], visit: Visit = keep) -> Tensor:
        """The restored image from a padded one and its features, on the plain path."""
        return self.decode_with(x, features, None, None, visit)

    # ---- what a descendant writes ----------------------------------------------------------------------------------

    @abstractmethod
    def read(self, x: Tensor) -> Privilege:
        """Features of a padded image (N,3,H,W) that are handed over; the decoder is not run."""

    @abstractmethod
    def decode_with(
        self, x: Tensor, features: list[Tensor], privileged: Privilege | None, mix: Tensor | None, visit: Visit
    ) -> Tensor:
        """The restored image from a padded one, its features, and those of the better image; None: the plain path."""

    # ---- restoring -------------------------------------------------------------------------------------------------

    def forward(self, inp: Tensor, visit: Visit = keep, privileged: Privilege | None = None) -> Tensor:
        """Restores images: refined in evaluation, on the plain path in training, or with what is handed over.

        Args:
            inp: (N,3,H,W) of any size from :attr:`min_size`.
            visit: Reads or changes features at the :attr:`sites`.
            privileged: Features of better images, by :meth:`privilege`.

        Returns:
            (N,3,H,W).
        """
        if privileged is None and not self.training and self.refine > 0:
            return self._refined(inp, visit)
        return self.shared(inp, visit)(privileged)

    def privilege(self, images: Tensor) -> Privilege:
        """Features of images (N,3,H,W) to hand over."""
        return self.read(self.pad(images))

    def shared(self, inp: Tensor, visit: Visit = keep) -> Path:
        """Runs the encoder, for as many paths as wanted.

        Args:
            inp: (N,3,H,W).
            visit: As in :meth:`forward`.

        Returns:
            ``path(privileged=None, mix=None)``, which gives the restored images (N,3,H,W). ``mix`` (N,), where
            :attr:`takes_mix`, says how much of what is learned for the plain path takes the place of what was handed
            over, 0 to 1.
        """
        height, width = inp.shape[-2:]
        x = self.pad(inp)
        features = self.host.encode(x, visit)

        def path(privileged: Privilege | None = None, mix: Tensor | None = None) -> Tensor:
            return self.decode_with(x, features, privileged, mix, visit)[..., :height, :width]

        return path

    def paths(self, inp: Tensor, privileged: Sequence[Privilege | None]) -> list[Tensor]:
        """Restored images (N,3,H,W) for each that is handed over, None for the plain path; the encoder runs once."""
        path = self.shared(inp)
        return [path(one) for one in privileged]

    def steps(self, inp: Tensor, n: int) -> list[Tensor]:
        """The images (N,3,H,W) of the plain path and after each of ``n`` iterations; nothing stops early."""
        height, width = inp.shape[-2:]
        iterations = self._iterations(self.pad(inp), keep)
        return [next(iterations)[..., :height, :width] for _ in range(n + 1)]

    # ---- self-refinement -------------------------------------------------------------------------------------------

    def _iterations(self, x: Tensor, visit: Visit) -> Iterator[Tensor]:
        """The padded images of the plain path and of one iteration after the other, without end."""
        features = self.host.encode(x, visit)
        image = self.decode_with(x, features, None, None, visit)
        yield image
        while True:
            image = self.decode_with(x, features, self.read(image), None, visit)
            yield image
            if self.refeed:
                x, features = image, self.host.encode(image, visit)
                image = self.decode_with(x, features, None, None, visit)

    def _refined(self, inp: Tensor, visit: Visit) -> Tensor:
        height, width = inp.shape[-2:]
        iterations = (image[..., :height, :width] for image in self._iterations(self.pad(inp), visit))
        best = next(iterations)
        if not self.refine_tol and self.judge is None:
            for _ in range(self.refine):
                best = next(iterations)
            return best
        return self._best(best, iterations, inp)

    def _best(self, best: Tensor, iterations: Iterator[Tensor], inp: Tensor) -> Tensor:
        """The last image of each that did not get worse, or hardly changed."""
        score = self._score(best, inp)
        going = torch.ones(len(inp), dtype=torch.bool, device=inp.device)
        for _ in range(self.refine):
            image = next(iterations)
            new = self._score(image, inp)
            taken = going & (new >= score)
            change = (image.float() - best.float()).abs().mean((1, 2, 3))
            best = torch.where(taken[:, None, None, None], image, best)
            score = torch.where(taken, new, score)
            going = taken & (change >= self.refine_tol)
            if not going.any():
                break
        return best

    def _score(self, images: Tensor, inp: Tensor) -> Tensor:
        """Scores (N,) of restored images by the judge; zeros without one."""
        if self.judge is None:
            return images.new_zeros(len(images), dtype=torch.float32)
        with torch.autocast(images.device.type, enabled=False):
            return self.judge(images.detach().float().clamp(0, 1), inp[:, :3].float().clamp(0, 1))

    # ---- checkpoints -----------------------------------------------------------------------------------------------

    def convert_weights(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weights of the host alone, or in the layout of the release, under this network's keys.

        Where the file holds nothing of what this network adds to its host, that stays as it is at present.
        """
        if any(key.startswith('host.') for key in weights):
            return weights
        own = {key: value for key, value in self.state_dict().items() if not key.startswith('host.')}
        added = {key: value for key, value in weights.items() if key in own}
        inner = {key: value for key, value in weights.items() if key not in own}
        convert = getattr(self.host, 'convert_weights', None)
        inner = inner if convert is None else convert(inner)
        return {f'host.{key}': value for key, value in inner.items()} | (added or own)

    def published_weights(self) -> dict[str, Tensor]:
        """This network's weights in the layout of the release: the host's keys stand beside the others."""
        return {key.removeprefix('host.'): value for key, value in self.state_dict().items()}


@ARCH_REGISTRY.register()
class PrivilegedSkips(PrivilegedNetwork):
    """Plain privilege learning: features of the better image are added to the skip connections, times a weight.

    The baseline of SIPL's release (its class ``AdaIR``, weights of 0.1). There is nothing to learn beside the host, and
    the plain path is the host, to the bit.

    Args:
        host: The network inside.
        weight: Factor on the features that are handed over.
        refine: Iterations of self-refinement in evaluation; 0 is the plain path.
        refeed: Whether an iteration takes the output of the one before for the degraded image (released).

    Raises:
        OptionError: The host cannot be used, or has no skip connections.
    """

    def __init__(
        self, host: Annotated[dict, Block('arch')], weight: float = 0.1, refine: Annotated[int, Range(0)] = 1,
        refeed: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(host, refine, refeed)
        self.weight = weight
        if len(self.host.taps) < 2:
            raise OptionError(f'PrivilegedSkips: {host["type"]} has no skip connections.')

    def read(self, x: Tensor) -> Privilege:
        """All features of a padded image but the lowest."""
        return self.host.encode(x)[:-1]

    def decode_with(
        self, x: Tensor, features: list[Tensor], privileged: Privilege | None, mix: Tensor | None, visit: Visit
    ) -> Tensor:
        """As in the base class; ``mix`` has no meaning here."""
        if privileged is not None:
            features = [f + self.weight * p for f, p in zip(features, privileged)] + features[-1:]
        return self.host.decode(x, features, visit)


def _check_host(host: nn.Module, problem: str) -> None:
    """Makes sure that features of one image may be read from a host and handed to it.

    Raises:
        OptionError: They may not.
    """
    if not isinstance(host, RestorationNetwork) or isinstance(host, PrivilegedNetwork):
        raise OptionError(f'{problem}; it has no encoder of its own.')
    if host.prepare is not None or any(site.part for site in host.sites.values()):
        raise OptionError(f'{problem}; it is no single U whose encoder takes an image alone.')
