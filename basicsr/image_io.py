"""Image files in and out: 8 and 16 bits, grey, RGB and alpha, with every damaged file refused by name."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, Literal

import cv2
import numpy as np
import torch

from basicsr.errors import DataError
from basicsr.files import write_atomically
from basicsr.image_formats import MAX_PIXELS, FileBytes, Header, ImageInfo, read_header, tiff_with_alpha

__all__ = [
    'EXTENSIONS',
    'JPEG_QUALITY',
    'MAX_PIXELS',
    'ImageInfo',
    'Mode',
    'decode_image',
    'encode_image',
    'list_images',
    'probe_file',
    'probe_image',
    'read_image',
    'read_pixels',
    'to_tensor',
    'to_uint8',
    'write_image',
]

EXTENSIONS = ('.png', '.jpg', '.jpeg', '.webp', '.bmp', '.tif', '.tiff')
JPEG_QUALITY = 95
Mode = Literal['color', 'grey', 'unchanged']
Data = bytes | bytearray | memoryview | np.ndarray

_RGB = getattr(cv2, 'IMREAD_COLOR_RGB', None)  # not in every OpenCV 4
_HOLDS = {  # channels and bits that a format can hold
    '.png': ((1, 3, 4), (8, 16)),
    '.jpg': ((1, 3), (8,)),
    '.jpeg': ((1, 3), (8,)),
    '.webp': ((1, 3, 4), (8,)),
    '.bmp': ((1, 3, 4) if hasattr(cv2, 'IMWRITE_BMP_COMPRESSION') else (1, 3), (8,)),  # not in every OpenCV 4
    '.tif': ((1, 3, 4), (8, 16)),
    '.tiff': ((1, 3, 4), (8, 16)),
}


def probe_image(data: Data, name: str | Path, max_pixels: int = MAX_PIXELS) -> ImageInfo:
    """What the header of an encoded image declares; nothing is decoded.

    Args:
        data: A whole PNG, JPEG, WebP, BMP or TIFF file.
        name: What error messages call the image.
        max_pixels: Largest number of pixels (width times height) that the header may declare.

    Returns:
        Size, channels, bits and format as the image is displayed, that is after its EXIF orientation.

    Raises:
        DataError: The data are empty, cut short, damaged, not an image, too large, or of another bit depth.
    """
    return read_header(_bytes(data), name, max_pixels).info


def probe_file(path: str | Path, max_pixels: int = MAX_PIXELS) -> ImageInfo:
    """As ``probe_image``, of a file, of which only the header and the end are read.

    Raises:
        DataError: As ``probe_image``; or the file is missing or cannot be read.
    """
    with _opened(path) as file:
        return read_header(FileBytes(file), path, max_pixels).info


def decode_image(data: Data, name: str | Path, mode: Mode = 'color', max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decodes a PNG, JPEG, WebP, BMP or TIFF file of 8 or 16 bits, at the depth that it has.

    The EXIF orientation is applied. Of several pages or frames the first is read. The bytes are not copied.

    Args:
        data: The whole file.
        name: What error messages call the image.
        mode: 'color': grey is repeated to three channels, alpha is dropped. 'grey': one channel, luma of a colour
            image. 'unchanged': the channels of the file; a palette becomes RGB, grey with alpha becomes RGBA.
        max_pixels: Largest number of pixels (width times height) that the header may declare.

    Returns:
        'color': (H,W,3) RGB; 'grey': (H,W); 'unchanged': (H,W), (H,W,3) RGB or (H,W,4) RGBA. uint8 or uint16.

    Raises:
        DataError: As ``probe_image``; or OpenCV cannot decode the image.
        ValueError: There is no such mode.
    """
    data = _bytes(data)
    header = read_header(data, name, max_pixels)
    channels = {'color': 3, 'grey': 1, 'unchanged': header.channels}.get(mode)
    if channels is None:
        raise ValueError(f"mode must be 'color', 'grey' or 'unchanged', not {mode!r}.")
    if header.edits:
        data = _edited(data, header)
    pixels = _imdecode(np.frombuffer(data, np.uint8), _flags(header, channels), name)
    dtype = np.uint16 if header.bits == 16 else np.uint8
    if pixels.shape != (header.height, header.width, channels)[: 2 + (channels > 1)] or pixels.dtype != dtype:
        raise DataError(
            f"'{name}' is damaged: it declares {header.width}x{header.height} pixels of {header.bits} bits and decodes "
            f'to {pixels.dtype} of shape {pixels.shape}.'
        )
    if channels == 4:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGBA)
    elif channels == 3 and not _gives_rgb(header):
        pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
    if header.inverted:
        pixels = cv2.bitwise_not(pixels)
    return _turned(pixels, header.orientation)


def read_pixels(path: str | Path, mode: Mode = 'color', max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """``decode_image`` of a file.

    Raises:
        DataError: As ``decode_image``; or the file is missing or cannot be read.
    """
    with _opened(path) as file:
        data = file.read()
    return decode_image(data, path, mode, max_pixels)


def read_image(path: str | Path, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Reads a PNG, JPEG, WebP, BMP or TIFF file of 8 or 16 bits.

    Grey is repeated to three channels, an alpha channel is dropped, and the EXIF orientation is applied.

    Args:
        path: The file.
        max_pixels: Largest number of pixels (width times height) that its header may declare.

    Returns:
        (H,W,3) RGB float32 in [0,1].

    Raises:
        DataError: The file is missing, empty, cut short, damaged, not an image, too large, or of another bit depth.
    """
    pixels = read_pixels(path, 'color', max_pixels)
    return np.divide(pixels, np.float32(np.iinfo(pixels.dtype).max), dtype=np.float32)


def encode_image(
    pixels: np.ndarray | torch.Tensor,
    ending: str,
    name: str | Path | None = None,
    *,
    bits: Literal[8, 16] = 8,
    quality: int = JPEG_QUALITY,
    lossless: bool = True,
    compression: int | None = None,
) -> bytes:
    """Encodes an image of 8 or 16 bits.

    Args:
        pixels: (H,W), (H,W,1), (H,W,3) RGB or (H,W,4) RGBA array, or a (C,H,W) tensor of as many channels. uint8 and
            uint16 are written as they are; floating point in [0,1] is clipped and rounded to ``bits``.
        ending: '.png', '.jpg', '.webp', '.bmp' or '.tif', in any case.
        name: What error messages call the image; the ending if it has none.
        bits: Depth to which floating point is rounded; uint8 and uint16 keep theirs.
        quality: Of JPEG, and of WebP with loss, 1 to 100.
        lossless: WebP without loss, whatever ``quality`` says; the other formats take no notice.
        compression: PNG: 0 (none) to 9 (smallest, slow). None is OpenCV's choice, which is fast.

    Raises:
        DataError: The ending is unknown, or the format cannot hold such an image.
        ValueError: ``bits``, ``quality`` or ``compression`` is out of its range.
    """
    name, ending = name or ending, ending.lower()
    if ending not in EXTENSIONS:
        raise DataError(f"'{name}' cannot be written: its ending must be one of {', '.join(EXTENSIONS)}.")
    shape = tuple(pixels.shape)
    pixels = _to_stored(pixels, bits, name)
    _check_fits(pixels, shape, ending, name)
    if pixels.ndim == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGBA2BGRA if pixels.shape[2] == 4 else cv2.COLOR_RGB2BGR)
    done, encoded, why = False, None, ''
    try:
        with _quiet_opencv():
            done, encoded = cv2.imencode(ending, pixels, _encoder_options(ending, quality, lossless, compression))
    except cv2.error as error:  # OpenCV 4 raises where OpenCV 5 says no
        why = f' ({error.err})' if error.err else ''
    if not done or encoded is None:
        raise DataError(
            f"'{name}' cannot be written: an image of {pixels.shape[1]}x{pixels.shape[0]} does not fit the format{why}."
        )
    data = encoded.tobytes()
    return tiff_with_alpha(data) if ending in ('.tif', '.tiff') and pixels.shape[2:] == (4,) else data


def write_image(
    path: str | Path,
    image: np.ndarray | torch.Tensor,
    *,
    bits: Literal[8, 16] = 8,
    quality: int = JPEG_QUALITY,
    lossless: bool = True,
    compression: int | None = None,
) -> None:
    """Writes an image atomically: ``path`` is afterwards the old file or the whole new one. Makes the folders.

    Args:
        path: The file; its ending chooses the format.
        image: As ``encode_image``: (H,W), (H,W,1), (H,W,3) or (H,W,4) array, or a (C,H,W) tensor.
        bits: As ``encode_image``.
        quality: As ``encode_image``.
        lossless: As ``encode_image``.
        compression: As ``encode_image``.

    Raises:
        DataError: The ending is unknown, or the format cannot hold such an image.
        ValueError: As ``encode_image``.
        OSError: The disk is full, or the folder cannot be written to.
    """
    path = Path(path)
    data = encode_image(
        image, path.suffix, path, bits=bits, quality=quality, lossless=lossless, compression=compression
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: file.write(data))


def to_tensor(image: np.ndarray) -> torch.Tensor:
    """An (H,W,C) image as a (C,H,W) float32 tensor; whole numbers are scaled to [0,1], floats kept as they are."""
    if np.issubdtype(image.dtype, np.integer):
        image = image.astype(np.float32) / np.float32(np.iinfo(image.dtype).max)
    return torch.from_numpy(image.transpose(2, 0, 1).astype(np.float32, order='C'))


def to_uint8(image: torch.Tensor | np.ndarray) -> np.ndarray:
    """Clips to [0,1], scales by 255 and rounds to the nearest.

    Args:
        image: (C,H,W) tensor or (H,W,C) array; uint8 is passed through, uint16 is scaled from its own range.

    Returns:
        (H,W,C) uint8.
    """
    if isinstance(image, torch.Tensor):
        image = image.detach().cpu().movedim(0, -1)
        image = (image if image.dtype == torch.uint8 else image.float()).numpy()
    if image.dtype == np.uint8:
        return np.ascontiguousarray(image)
    if np.issubdtype(image.dtype, np.integer):
        image = image / np.iinfo(image.dtype).max
    return np.ascontiguousarray(np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8))


def list_images(folder: str | Path) -> list[Path]:
    """The images of a folder and its sub-folders, in an order that does not depend on the system (2 comes before 10).

    Args:
        folder: Where to look; hidden files are passed over.

    Raises:
        DataError: There is no such folder, or no image in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"There is no folder '{folder}' (looked for at '{folder.absolute()}').")
    files = [f for f in _walk(folder) if f.suffix.lower() in EXTENSIONS and not f.name.startswith('.')]
    if not files:
        raise DataError(
            f"Folder '{folder}' holds no image; looked for {', '.join(EXTENSIONS)}, also in its sub-folders."
        )
    return sorted(files, key=lambda f: natural_key(f.relative_to(folder).as_posix()))


def _walk(folder: Path) -> Iterator[Path]:
    """All files below a folder; links to folders are followed, each real folder is entered once."""
    seen = set()
    for root, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        yield from (Path(root, name) for name in names)


def natural_key(name: str) -> tuple[list[tuple[int, str]], str]:
    """Sorting key: runs of digits count as numbers; the name itself settles what is left."""
    parts = re.split(r'([0-9]+)', name.lower())
    return [(int(p), '') if i % 2 else (-1, p) for i, p in enumerate(parts)], name


@contextmanager
def _opened(path: str | Path) -> Iterator[BinaryIO]:
    try:
        with open(path, 'rb') as file:
            yield file
    except FileNotFoundError:
        raise DataError(f"There is no file '{path}'.") from None
    except OSError as error:
        raise DataError(f"'{path}' cannot be read: {error.strerror or error}.") from error


def _bytes(data: Data) -> memoryview:
    view = memoryview(data)
    return view if view.ndim == 1 and view.format == 'B' else view.cast('B')


def _edited(data: memoryview, header: Header) -> bytes:
    """A copy without what OpenCV reads differently from one version to the next."""
    pieces, position = [], 0
    for start, stop, replacement in header.edits:
        pieces += [data[position:start], replacement]
        position = stop
    return b''.join([*pieces, data[position:]])


def _gives_rgb(header: Header) -> bool:
    """OpenCV 5.0 leaves the colours of a 16-bit TIFF file undefined when it is asked for RGB."""
    return _RGB is not None and header.format in ('png', 'jpeg')


def _flags(header: Header, channels: int) -> int:
    if channels == 4:
        return cv2.IMREAD_UNCHANGED
    flags = cv2.IMREAD_GRAYSCALE if channels == 1 else _RGB if _gives_rgb(header) else cv2.IMREAD_COLOR
    return flags | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION


def _imdecode(data: np.ndarray, flags: int, name: str | Path) -> np.ndarray:
    try:
        with _quiet_opencv():
            pixels = cv2.imdecode(data, flags)
    except cv2.error as error:
        raise DataError(f"'{name}' cannot be decoded: {error.err or error}.") from error
    if pixels is None:
        raise DataError(
            f"'{name}' cannot be decoded: the file is damaged, cut short or of a kind that OpenCV does not know."
        )
    return pixels


def _turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """An image of which the EXIF orientation says where the first row and the first column belong, upright."""
    if orientation in (5, 6, 7, 8):
        pixels = cv2.transpose(pixels)
    flip = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}.get(orientation)
    return pixels if flip is None else cv2.flip(pixels, flip)


def _to_stored(image: np.ndarray | torch.Tensor, bits: int, name: str | Path) -> np.ndarray:
    """uint8 or uint16 of shape (H,W) or (H,W,C)."""
    if isinstance(image, torch.Tensor):
        image = image.detach().cpu().movedim(0, -1) if image.ndim == 3 else image.detach().cpu()
        image = (image.float() if image.is_floating_point() else image).numpy()
    if bits not in (8, 16):
        raise ValueError(f'bits must be 8 or 16, not {bits}.')
    if np.issubdtype(image.dtype, np.floating) or image.dtype == bool:
        highest, dtype = (255, np.uint8) if bits == 8 else (65535, np.uint16)
        image = np.rint(np.clip(image, 0, 1) * highest).astype(dtype)
    elif image.dtype not in (np.uint8, np.uint16):
        raise DataError(f"'{name}' cannot be written from {image.dtype}; uint8, uint16 and floating point can.")
    image = image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image
    return np.ascontiguousarray(image)


def _check_fits(pixels: np.ndarray, shape: tuple[int, ...], ending: str, name: str | Path) -> None:
    channels = 1 if pixels.ndim == 2 else pixels.shape[2] if pixels.ndim == 3 else 0
    if channels not in (1, 3, 4) or pixels.size == 0:
        raise DataError(f"'{name}' cannot be written from an image of shape {shape}; it must have 1, 3 or 4 channels.")
    all_channels, all_bits = _HOLDS[ending]
    if channels not in all_channels:
        raise DataError(f"'{name}' cannot be written: {ending} holds no alpha channel; PNG, WebP, BMP and TIFF do.")
    if pixels.itemsize * 8 not in all_bits:
        raise DataError(f"'{name}' cannot be written: {ending} holds 8 bits, and the image has 16; PNG and TIFF do.")


def _encoder_options(ending: str, quality: int, lossless: bool, compression: int | None) -> list[int]:
    if not 1 <= quality <= 100 or not 0 <= (compression or 0) <= 9:
        raise ValueError(f'quality must be 1 to 100 and compression 0 to 9, not {quality} and {compression}.')
    if ending in ('.jpg', '.jpeg'):
        return [cv2.IMWRITE_JPEG_QUALITY, quality]
    if ending == '.png' and compression is not None:
        return [cv2.IMWRITE_PNG_COMPRESSION, compression]
    if ending != '.webp':
        return []
    if not lossless:
        return [cv2.IMWRITE_WEBP_QUALITY, quality]
    mode = getattr(
        cv2, 'IMWRITE_WEBP_LOSSLESS_MODE', None
    )  # not in every OpenCV 4; it also keeps colours that alpha hides
    return [cv2.IMWRITE_WEBP_QUALITY, 101] if mode is None else [mode, cv2.IMWRITE_WEBP_LOSSLESS_PRESERVE_COLOR]


@lru_cache(maxsize=1)
def _log_level() -> int:
    """OpenCV's log level before the first image; asked for once, since another thread may be in ``_quiet_opencv``."""
    return _logging('getLogLevel')()


def _logging(name: str) -> Callable[..., int]:
    return getattr(cv2, name, None) or getattr(cv2.utils.logging, name)  # OpenCV 4, OpenCV 5


@contextmanager
def _quiet_opencv() -> Iterator[None]:
    """Keeps OpenCV from writing to stderr what an error of ours will say."""
    level, set_level = _log_level(), _logging('setLogLevel')
    set_level(0)  # silent
    try:
        yield
    finally:
        set_level(level)
