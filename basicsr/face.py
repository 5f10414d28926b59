"""Faces in photographs: found, turned upright and cut out for networks of aligned faces, and put back afterwards.

Finding is done by RetinaFace (Deng et al., CVPR 2020, arXiv:1905.00641) as the package facexlib has it (MIT), with its
weights ``detection_Resnet50_Final.pth``; nothing is downloaded. All else is done here. The places of eyes, nose and
mouth in an aligned face are those of FFHQ at 512 x 512 pixels, on which CodeFormer and IQPIR are trained.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from basicsr.errors import DataError, OptionError
from basicsr.logger import get_root_logger
from basicsr.weights import find_weights_file

WEIGHTS = 'detection_Resnet50_Final.pth'
SOURCE = 'github.com/xinntao/facexlib/releases/tag/v0.1.0'
TEMPLATE_SIDE = 512
TEMPLATE = np.array(  # left eye, right eye, nose, left and right corner of the mouth, as seen
    [[192.98138, 239.94708], [318.90277, 240.1936], [256.63416, 314.01935], [201.26117, 371.41043],
     [313.08905, 371.15118]]
)  # fmt: skip
SHORTEST, LONGEST = 640, 2150  # sides in pixels at which faces are looked for
RAMP = 0.1  # part of a face's side over which it passes into the photograph
SURROUNDINGS = (128, 128, 128)  # of a face that the photograph cuts off


@dataclass(frozen=True)
class Face:
    """A face in a photograph.

    Attributes:
        points: (5,2) x and y in pixels: both eyes, nose, and both corners of the mouth, left ones first as seen.
        confidence: Of the detector, 0 to 1.
    """

    points: np.ndarray
    confidence: float = 1.0


Finder = Callable[[np.ndarray], list[Face]]


class FaceFinder:
    """Finds faces by RetinaFace.

    Args:
        weights: Its weight file, or the folder of it; None looks where weights are kept.
        device: Where it runs.
        confidence: Least confidence of a face.
        smallest: Least distance of the eyes in pixels.

    Raises:
        OptionError: facexlib is not installed, or cannot be imported.
        MissingWeightsError: The weights are not on this machine.
        CheckpointError: The file holds other weights.
    """

    def __init__(
        self, weights: str | None = None, device: str = 'cpu', confidence: float = 0.8, smallest: float = 5.0
    ) -> None:
        detector = _retina_face()
        file = find_weights_file([WEIGHTS], weights, 'faces (RetinaFace)', SOURCE)
        from basicsr import checkpoint

        self.net = detector(network_name='resnet50', half=False, device=device)
        checkpoint.load_network(self.net, file)
        self.net.eval()
        self.confidence, self.smallest = confidence, smallest

    def __call__(self, pixels: np.ndarray) -> list[Face]:
        """The faces of a photograph (H,W,3) RGB uint8, the most confident one first."""
        import torch

        height, width = pixels.shape[:2]
        scale = min(max(1.0, SHORTEST / min(height, width)), LONGEST / max(height, width))
        size = max(1, round(width * scale)), max(1, round(height * scale))
        seen = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        with torch.inference_mode():
            rows = self.net.detect_faces(cv2.cvtColor(seen, cv2.COLOR_RGB2BGR), self.confidence)
        zoom = np.array([width / size[0], height / size[1]])
        faces = [Face(row[5:15].reshape(5, 2) * zoom, float(row[4])) for row in rows]
        return [face for face in faces if np.hypot(*(face.points[0] - face.points[1])) >= self.smallest]


class FaceRestorer:
    """Restores the faces of a photograph, and leaves the rest of it as it is.

    Args:
        restore: Restores an aligned face (side,side,3) uint8 or uint16 to the same shape and type.
        find: Finds faces in (H,W,3) RGB uint8.
        side: Height and width of an aligned face in pixels.
    """

    def __init__(self, restore: Callable[[np.ndarray], np.ndarray], find: Finder, side: int) -> None:
        self.restore, self.find, self.side = restore, find, side
        self.found = 0

    def pixels(self, pixels: np.ndarray) -> np.ndarray:
        """Restores a photograph (H,W,3) RGB, uint8 or uint16; the result has the same shape and type."""
        eight_bits = pixels if pixels.dtype == np.uint8 else (pixels // 257).astype(np.uint8)
        faces = self.find(np.ascontiguousarray(eight_bits))
        if not faces:
            get_root_logger().warning('No face is found; the photograph stays as it is.')
        result = pixels.copy()
        for face in faces:
            matrix = alignment(face.points, self.side)
            paste(result, self.restore(cut_out(pixels, matrix, self.side)), matrix)
        self.found += len(faces)
        return result


class AlignedFace:
    """Restores photographs that are one aligned face each.

    Args:
        restore: Restores an aligned face (side,side,3) uint8 or uint16 to the same shape and type.
        side: Height and width of an aligned face in pixels.
        resize: Whether a photograph of another size is brought to that size, in which it then stays.
    """

    def __init__(self, restore: Callable[[np.ndarray], np.ndarray], side: int, resize: bool) -> None:
        self.restore, self.side, self.resize = restore, side, resize

    def pixels(self, pixels: np.ndarray) -> np.ndarray:
        """Restores a photograph (H,W,3) RGB, uint8 or uint16, to (side,side,3) of the same type.

        Raises:
            DataError: It is of another size, and may not be resized.
        """
        height, width = pixels.shape[:2]
        if (height, width) == (self.side, self.side):
            return self.restore(pixels)
        if not self.resize:
            raise DataError(
                f'{width}x{height} pixels: the network takes aligned faces of {self.side}x{self.side}. Give --aligned '
                'to resize aligned faces, or --faces to find the faces of a photograph.'
            )
        kind = cv2.INTER_AREA if min(height, width) > self.side else cv2.INTER_CUBIC
        return self.restore(cv2.resize(pixels, (self.side, self.side), interpolation=kind))


def alignment(points: np.ndarray, side: int) -> np.ndarray:
    """How a photograph is turned, scaled and moved so that a face lies as in the template.

    Args:
        points: (5,2), as in :class:`Face`.
        side: Height and width of the aligned face in pixels.

    Returns:
        (2,3), from the photograph's coordinates to those of the aligned face: the similarity with the smallest sum of
        squared distances (Umeyama, PAMI 1991).
    """
    template = TEMPLATE * (side / TEMPLATE_SIDE)
    source, target = (np.asarray(p, np.float64) @ [1, 1j] for p in (points, template))
    from_mean = source - source.mean()
    turn = np.vdot(from_mean, target - target.mean()) / np.vdot(from_mean, from_mean).real
    shift = target.mean() - turn * source.mean()
    return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])


def cut_out(pixels: np.ndarray, matrix: np.ndarray, side: int) -> np.ndarray:
    """The aligned face (side,side,3) of a photograph; a larger face is smoothed before it is made smaller."""
    shrink = 1 / np.hypot(matrix[0, 0], matrix[1, 0])
    source = cv2.GaussianBlur(pixels, (0, 0), 0.4 * shrink) if shrink > 1.5 else pixels
    border = [value * (257 if pixels.dtype == np.uint16 else 1) for value in SURROUNDINGS]
    return cv2.warpAffine(source, matrix, (side, side), flags=cv2.INTER_LINEAR, borderValue=border)


def paste(pixels: np.ndarray, face: np.ndarray, matrix: np.ndarray) -> None:
    """Puts an aligned face (side,side,3) back into the photograph (H,W,3) of its type, in place, with soft edges.

    Args:
        pixels: The photograph, which is changed.
        face: The face.
        matrix: What :func:`alignment` gave for it.
    """
    side, (height, width) = len(face), pixels.shape[:2]
    back = cv2.invertAffineTransform(matrix)
    corners = np.array([[0, 0], [side, 0], [0, side], [side, side]]) @ back[:, :2].T + back[:, 2]
    left, top = np.clip(np.floor(corners.min(0)).astype(int), 0, (width, height))
    right, bottom = np.clip(np.ceil(corners.max(0)).astype(int) + 1, 0, (width, height))
    if left >= right or top >= bottom:
        return
    back[:, 2] -= left, top
    size = (int(right - left), int(bottom - top))
    found = cv2.warpAffine(face.astype(np.float32), back, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    weight = cv2.warpAffine(soft_edges(side), back, size, flags=cv2.INTER_LINEAR)[..., None]
    place = pixels[top:bottom, left:right]
    blended = place + weight * (found - place)
    place[:] = np.where(weight > 0, np.rint(np.clip(blended, 0, np.iinfo(pixels.dtype).max)), place)


def soft_edges(side: int) -> np.ndarray:
    """How much of a face counts at each of its pixels, (side,side) float32: 1 inside, 0 at the edge, smooth between."""
    inwards = np.minimum(np.arange(side), np.arange(side)[::-1]) / max(1.0, RAMP * side)
    ramp = np.clip(np.minimum(inwards[:, None], inwards), 0, 1)
    return (ramp * ramp * (3 - 2 * ramp)).astype(np.float32)


def _retina_face() -> Any:
    """The class of the detector.

    Raises:
        OptionError: facexlib is not installed, or cannot be imported.
    """
    from importlib.util import find_spec

    if find_spec('facexlib') is None:
        raise OptionError('faces: the package facexlib is not installed: pip install "qualir[faces]".')
    try:
        from facexlib.detection.retinaface import RetinaFace
    except Exception as error:  # its dependencies fail in their own ways, RuntimeError of torchvision among them
        raise OptionError(f'faces: facexlib cannot be imported: {type(error).__name__}: {error}') from error
    return RetinaFace
