"""Small published networks with their authors' weights, for comparison and as restorers; nothing of them ships.

The structure of each follows its paper and the names of its weight file; the code is this project's. The weights are
files that the user has: ``restore('prenet', images, Path('weights'))`` looks for ``weights/prenet/Rain100L/...``.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from basicsr.errors import CheckpointError, DataError, MissingWeightsError, OptionError

DUST = 1e-20  # smaller weights than this count as 0


@dataclass(frozen=True)
class Peer:
    """One published network with its weights.

    Attributes:
        network: Its name in tables.
        task: haze, rain, low_light or underwater; ``score`` for a judge of quality.
        file: The weight file below the folder of weights.
        module: File of this package that defines it.
        build: Class there.
        source: Paper and repository.
        inside: Key of the file that holds the weights; empty where the file is the weights.
        prefix: What each name in the file begins with and the network's own names do not.
        unused: Beginning of the names of a part that serves training only; empty for none.
    """

    network: str
    task: str
    file: str
    module: str
    build: str
    source: str
    inside: str = ''
    prefix: str = ''
    unused: str = ''


_GCANET = 'Chen et al., Gated Context Aggregation Network, WACV 2019; cddlyf/GCANet'
_SCI = 'Ma et al., Toward Fast, Flexible, and Robust Low-Light Image Enhancement, CVPR 2022; vis-opt-group/SCI'
_IAT = 'Cui et al., You Only Need 90K Parameters to Adapt Light, BMVC 2022; cuiziteng/Illumination-Adaptive-Transformer'
_LDN = 'Ullah et al., Light-DehazeNet, IEEE TIP 2021; hayatkhan8660-maker/Light-DehazeNet'

PEERS: dict[str, Peer] = {
    'prenet': Peer(
        'PReNet',
        'rain',
        'prenet/Rain100L/net_latest.pth',
        'prenet',
        'PReNet',
        'Ren et al., Progressive Image Deraining Networks, CVPR 2019; csdwren/PReNet',
    ),
    'gcanet_derain': Peer('GCANet', 'rain', 'gcanet/wacv_gcanet_derain.pth', 'gcanet', 'GCANetDerain', _GCANET),
    'gcanet_dehaze': Peer('GCANet', 'haze', 'gcanet/wacv_gcanet_dehaze.pth', 'gcanet', 'GCANetDehaze', _GCANET),
    'aodnet': Peer(
        'AOD-Net',
        'haze',
        'aodnet/dehazer.pth',
        'dehaze',
        'AODNet',
        'Li et al., AOD-Net: All-in-One Dehazing Network, ICCV 2017; MayankSingal/PyTorch-Image-Dehazing',
    ),
    'light_dehazenet': Peer(
        'Light-DehazeNet', 'haze', 'light_dehazenet/trained_LDNet.pth', 'dehaze', 'LightDehazeNet', _LDN
    ),
    'zero_dce': Peer(
        'Zero-DCE',
        'low_light',
        'zero_dce/Epoch99.pth',
        'low_light',
        'ZeroDCE',
        'Guo et al., Zero-Reference Deep Curve Estimation, CVPR 2020; Li-Chongyi/Zero-DCE',
    ),
    'sci_easy': Peer('SCI (easy)', 'low_light', 'sci/easy.pt', 'low_light', 'SCI', _SCI, unused='calibrate.'),
    'sci_medium': Peer('SCI (medium)', 'low_light', 'sci/medium.pt', 'low_light', 'SCI', _SCI, unused='calibrate.'),
    'sci_difficult': Peer(
        'SCI (difficult)', 'low_light', 'sci/difficult.pt', 'low_light', 'SCI', _SCI, unused='calibrate.'
    ),
    'iat': Peer('IAT', 'low_light', 'iat/best_Epoch_lol_v1.pth', 'iat', 'IAT', _IAT),
    'uwcnn': Peer(
        'UWCNN variant',
        'underwater',
        'uwcnn_xuelei/model_best_2842.pth.tar',
        'underwater',
        'WaterNet',
        'Chen et al., Underwater Image Enhancement Based on Deep Learning and Image Formation Model, 2021; '
        'xueleichen/PyTorch-Underwater-Image-Enhancement',
        inside='state_dict',
        prefix='module.',
    ),
    'cnniqa': Peer(
        'CNNIQA',
        'score',
        'cnniqa/CNNIQA-LIVE',
        'cnniqa',
        'CNNIQA',
        'Kang et al., Convolutional Neural Networks for No-Reference Image Quality Assessment, CVPR 2014; '
        'lidq92/CNNIQA',
    ),
}


def peers_for(task: str) -> list[str]:
    """Names of the peers of a task."""
    return [name for name, peer in PEERS.items() if peer.task == task]


def build(name: str) -> nn.Module:
    """A peer's network without its weights.

    Raises:
        OptionError: No peer has this name.
    """
    peer = _peer(name)
    return getattr(importlib.import_module(f'{__name__}.{peer.module}'), peer.build)()


def load(name: str, weights: Path) -> nn.Module:
    """A peer with its weights, in evaluation mode; every key of the file must fit and none may be missing.

    Args:
        name: A key of :data:`PEERS`.
        weights: The folder of weights.

    Raises:
        OptionError: No peer has this name.
        MissingWeightsError: The file is not there.
        CheckpointError: The file cannot be read, or does not fit the network.
    """
    network, file = build(name), Path(weights) / _peer(name).file
    try:
        network.load_state_dict(_state(_peer(name), file), strict=True)
    except RuntimeError as error:
        raise CheckpointError(f"'{file}' does not fit {name}: {error}") from error
    return network.eval().requires_grad_(False)


@torch.no_grad()
def restore(name: str, images: Tensor, weights: Path) -> Tensor:
    """Restores images with a peer, each on its own, at full size.

    Args:
        name: A key of :data:`PEERS` whose task is not ``score``.
        images: (N,3,H,W) RGB in [0,1].
        weights: The folder of weights.

    Returns:
        (N,3,H,W) in [0,1], float32.

    Raises:
        OptionError: No restorer has this name.
        DataError: Images of another shape.
        MissingWeightsError: The weight file is not there.
        CheckpointError: It does not fit.
    """
    if _peer(name).task == 'score':
        raise OptionError(f"'{name}' judges images and restores none; restorers are {', '.join(_restorers())}.")
    if images.dim() != 4 or images.shape[1] != 3:
        raise DataError(f'{name}: images must be (N,3,H,W), not {tuple(images.shape)}.')
    network = _loaded(name, Path(weights), images.device)
    return torch.cat([network(image) for image in images.float().split(1)]).clamp(0, 1)


@lru_cache(maxsize=16)
def _loaded(name: str, weights: Path, device: torch.device) -> nn.Module:
    return load(name, weights).to(device)


def _restorers() -> list[str]:
    return [name for name, peer in PEERS.items() if peer.task != 'score']


def _peer(name: str) -> Peer:
    if name not in PEERS:
        raise OptionError(f"No peer is named '{name}'; there are {', '.join(PEERS)}.")
    return PEERS[name]


def _state(peer: Peer, file: Path) -> dict[str, Tensor]:
    """The weights in a peer's file, under the network's own names."""
    if not file.is_file():
        raise MissingWeightsError(f"{peer.network} needs its weights at '{file}'; source: {peer.source}.")
    try:
        found = torch.load(file, map_location='cpu', weights_only=True)
        found = found[peer.inside] if peer.inside else found
        named = {str(k).removeprefix(peer.prefix): v for k, v in found.items()}
    except Exception as error:
        raise CheckpointError(f"'{file}' cannot be read as the weights of {peer.network}: {error}") from error
    return {k: _without_dust(v) for k, v in named.items() if not (peer.unused and k.startswith(peer.unused))}


def _without_dust(weights: Tensor) -> Tensor:
    """Weights with those that vanish set to 0.

    Weight decay left numbers in these files that are too small to be normal floats; a processor multiplies them some
    35 times more slowly, and they change no result.
    """
    return weights.masked_fill(weights.abs() < DUST, 0) if weights.is_floating_point() else weights
