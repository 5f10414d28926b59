"""The autoencoder of stage I, as the later stages use it: read from its file, frozen, never with random books."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from basicsr import checkpoint
from basicsr.errors import DataError, MissingWeightsError, OptionError
from basicsr.logger import get_root_logger
from basicsr.options import find_file
from basicsr.registry import ARCH_REGISTRY, build

STAGE_ONE = 'train stage I first (model_type: IQPIRVQModel)'


def load_autoencoder(block: dict[str, Any] | None, path: str | None) -> nn.Module | None:
    """Builds the autoencoder and loads its weights.

    Args:
        block: Its network; None takes the block that the file itself names, as files of this toolbox do.
        path: Its weight file; None where there is to be no autoencoder.

    Returns:
        The network, frozen and in evaluation mode; None without a path and a block.

    Raises:
        OptionError: A network without a file, or the file does not say of which network it is.
        MissingWeightsError: There is no such file.
        CheckpointError: The file is of another network.
    """
    if path is None:
        if block is not None:
            raise OptionError(
                f'autoencoder: {block.get("type")} is given without autoencoder_path, so that its books would be '
                f'random; {STAGE_ONE} and name its weights.'
            )
        return None
    file = find_file(path)
    if not file.is_file():
        raise MissingWeightsError(f"autoencoder_path: there is no file '{path}'; {STAGE_ONE}, or give its path.")
    block = block or checkpoint.read(file).get('network_g')
    if not isinstance(block, dict):
        raise OptionError(f"autoencoder_path: '{path}' does not say of which network it is; give autoencoder too.")
    net = build(ARCH_REGISTRY, block)
    if not hasattr(net, 'coded') or not hasattr(net, 'latent'):
        raise OptionError(f'autoencoder: {block["type"]} turns no images into codes.')
    get_root_logger().info(f'autoencoder: {checkpoint.load_network(net, file)}')
    return net.eval().requires_grad_(False)


@torch.no_grad()
def codes_of(autoencoder: nn.Module, images: Tensor) -> Tensor:
    """Codes (N,K,h,w) of images (N,3,H,W), in float32 inside a mixed-precision region too."""
    with torch.autocast(images.device.type, enabled=False):
        return autoencoder.coded(autoencoder.latent(images.float())).codes


@torch.no_grad()
def sample_of_books(net: nn.Module) -> Tensor:
    """What a network makes of the first entries of its books, (C,n): differs where books or their fusion do."""
    count, device = min(net.book_sizes), next(net.parameters()).device
    codes = torch.arange(count, device=device).expand(1, len(net.book_sizes), 1, count)
    return net.embed(codes)[0, :, 0].clone()


def check_codes(codes: Tensor, sizes: tuple[int, ...], place: torch.Size) -> Tensor:
    """Target codes that fit the network.

    Args:
        codes: (N,K,h,w).
        sizes: Entries of its K books.
        place: Height and width of its maps of codes.

    Raises:
        DataError: Another number of books, or of places.
    """
    if codes.dim() != 4 or codes.shape[1] != len(sizes) or codes.shape[2:] != place:
        raise DataError(
            f'Target codes are {tuple(codes.shape)}; the network predicts (N,{len(sizes)},{place[0]},{place[1]}): '
            'ground truth and input must be of one size, and exported latents of the same autoencoder.'
        )
    return codes.long()
