"""Images between numpy and PyTorch, as in BasicSR: numpy is (H, W, C) BGR, tensors are (C, H, W) RGB."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from basicsr.errors import DataError

_READ_FLAGS = {'color': cv2.IMREAD_COLOR, 'grayscale': cv2.IMREAD_GRAYSCALE, 'unchanged': cv2.IMREAD_UNCHANGED}


def img2tensor(
    imgs: np.ndarray | list[np.ndarray], bgr2rgb: bool = True, float32: bool = True
) -> Tensor | list[Tensor]:
    """Turns numpy images into tensors; values are kept, not scaled.

    Args:
        imgs: One image (H, W, C) or (H, W), or a list of them.
        bgr2rgb: Reverse the channels of three-channel images.
        float32: Convert to float32; else the type is kept.

    Returns:
        A tensor (C, H, W), or a list of tensors if ``imgs`` is a list.
    """
    if isinstance(imgs, list):
        return [_img2tensor(img, bgr2rgb, float32) for img in imgs]
    return _img2tensor(imgs, bgr2rgb, float32)


def tensor2img(
    tensor: Tensor | list[Tensor],
    rgb2bgr: bool = True,
    out_type: type = np.uint8,
    min_max: tuple[float, float] = (0, 1),
) -> np.ndarray | list[np.ndarray]:
    """Turns tensors into numpy images.

    Args:
        tensor: One tensor or a list: (H, W), (C, H, W) or (N, C, H, W) with 1 or 3 channels, RGB. A batch of several
            images becomes one picture, a near-square grid with black lines of 2 pixels, as torchvision's ``make_grid``
            draws it.
        rgb2bgr: Reverse the channels of colour images.
        out_type: ``np.uint8`` gives rounded levels 0 to 255; a float type gives [0, 1].
        min_max: Values that become 0 and 1; what lies outside is clamped.

    Returns:
        An image (H, W, 3), or (H, W) for one channel; a list of images for a list of several tensors.

    Raises:
        DataError: Not a tensor, or one of another shape.
    """
    tensors = tensor if isinstance(tensor, list) else [tensor]
    for item in tensors:
        if not isinstance(item, Tensor):
            raise DataError(f'tensor2img: needs a tensor or a list of tensors, not {type(item).__name__}.')
    images = [_tensor2img(item, rgb2bgr, out_type, *min_max) for item in tensors]
    return images[0] if len(images) == 1 else images


def imfrombytes(content: bytes, flag: str = 'color', float32: bool = False) -> np.ndarray:
    """Decodes an image file held in memory.

    Args:
        content: Bytes of the file.
        flag: ``color`` (8-bit BGR), ``grayscale`` (8-bit) or ``unchanged`` (depth and channels of the file).
        float32: Scale to float32 in [0, 1], by 255 or, for 16-bit files read unchanged, by 65535.

    Raises:
        DataError: An unknown flag, or bytes that are no image.
    """
    if flag not in _READ_FLAGS:
        raise DataError(f"imfrombytes: flag '{flag}' is not known; allowed are {', '.join(_READ_FLAGS)}.")
    img = cv2.imdecode(np.frombuffer(content, np.uint8), _READ_FLAGS[flag]) if content else None
    if img is None:
        raise DataError(f'imfrombytes: {len(content)} bytes that are not an image in a known format.')
    return img.astype(np.float32) / _full_scale(img) if float32 else img


def imwrite(img: np.ndarray, file_path: str | Path, params: list[int] | None = None, auto_mkdir: bool = True) -> None:
    """Writes an image; the ending of the name chooses the format.

    Args:
        img: (H, W, 3) BGR, (H, W, 4) BGRA or (H, W), in levels.
        file_path: Where to.
        params: Options of ``cv2.imencode``.
        auto_mkdir: Make the folder if it is missing.

    Raises:
        DataError: The format is not known or cannot hold the image.
    """
    path = Path(file_path)
    try:
        done, code = cv2.imencode(path.suffix, img, params or [])
    except cv2.error as error:
        raise DataError(f'imwrite: {path} cannot be written: {error.err or error}') from error
    if not done:
        raise DataError(f'imwrite: {path} cannot be written as {path.suffix}.')
    if auto_mkdir:
        path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(code.tobytes())  # not cv2.imwrite, which fails on some non-ASCII paths under Windows


def crop_border(imgs: np.ndarray | list[np.ndarray], crop_border: int) -> np.ndarray | list[np.ndarray]:
    """Cuts ``crop_border`` pixels from each edge of one image (H, W, ...) or of each image of a list."""
    if isinstance(imgs, list):
        return [_crop(img, crop_border) for img in imgs]
    return _crop(imgs, crop_border)


def _img2tensor(img: np.ndarray, bgr2rgb: bool, float32: bool) -> Tensor:
    img = img[..., None] if img.ndim == 2 else img
    if img.shape[2] == 3 and bgr2rgb:
        img = img[..., ::-1]
    tensor = torch.from_numpy(np.ascontiguousarray(img.transpose(2, 0, 1)))
    return tensor.float() if float32 else tensor


def _tensor2img(tensor: Tensor, rgb2bgr: bool, out_type: type, low: float, high: float) -> np.ndarray:
    x = tensor.detach().float().cpu().clamp(low, high).sub(low).div(high - low)
    x = _grid(x) if x.dim() == 4 else x[None] if x.dim() == 2 else x
    if x.dim() != 3 or x.shape[0] not in (1, 3):
        raise DataError(
            f'tensor2img: needs (H, W), (C, H, W) or (N, C, H, W) with C 1 or 3, not {tuple(tensor.shape)}.'
        )
    img = x.permute(1, 2, 0).numpy()
    img = img[..., 0] if img.shape[2] == 1 else img[..., ::-1] if rgb2bgr else img
    img = (img * 255).round() if out_type is np.uint8 else img
    return np.ascontiguousarray(img, dtype=out_type)


def _grid(batch: Tensor, line: int = 2) -> Tensor:
    """Lays (N, C, H, W) out as one image, int(sqrt(N)) images in a row; one image stays as it is."""
    if len(batch) == 1:
        return batch[0]
    columns = math.isqrt(len(batch))
    rows = -(-len(batch) // columns)
    batch = batch.expand(-1, 3, -1, -1) if batch.shape[1] == 1 else batch
    cells = F.pad(batch, (line, 0, line, 0, 0, 0, 0, rows * columns - len(batch)))
    c, h, w = cells.shape[1:]
    grid = cells.view(rows, columns, c, h, w).permute(2, 0, 3, 1, 4).reshape(c, rows * h, columns * w)
    return F.pad(grid, (0, line, 0, line))


def _full_scale(img: np.ndarray) -> float:
    return np.iinfo(img.dtype).max if np.issubdtype(img.dtype, np.integer) else 1.0


def _crop(img: np.ndarray, border: int) -> np.ndarray:
    return img[border : img.shape[0] - border, border : img.shape[1] - border] if border else img
