"""A small image after each operation of the strong augmentations, computed by Pillow and torchvision.

    python tests/golden/make_photometric.py

Needs Pillow and torchvision, no OpenCV. The result, photometric.npz, is committed; the script says how it came about.
Each entry is called after the operation and its strength. Hue and the cut-off Gaussian come from torchvision's float
code, since in Pillow's 8-bit HSV a step of hue alone moves a colour by up to 6 levels; they are stored in 16 bits.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from torchvision.transforms._functional_tensor import adjust_hue
from torchvision.transforms._functional_tensor import gaussian_blur as cut_off_gaussian

HEIGHT, WIDTH = 16, 19


def picture():
    """Smooth colours with noise in one corner, so that edges, borders and both ends of the range occur."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    planes = np.stack([14 * x, 255 - 16 * y, 128 + 100 * np.sin((x + 2 * y) / 5)], axis=-1)
    planes[:6, :6] = np.random.default_rng(20261121).integers(0, 256, (6, 6, 3))
    return np.clip(planes, 0, 255).astype(np.uint8)


def in_16_bits(tensor):
    return np.rint(tensor.double().numpy().transpose(1, 2, 0) * 65535).astype(np.uint16)


def main():
    pixels = picture()
    image, tensor = Image.fromarray(pixels), torch.from_numpy(pixels.transpose(2, 0, 1) / np.float32(255))
    values = {'image': pixels}
    enhancers = {'contrast': 'Contrast', 'brightness': 'Brightness', 'saturation': 'Color', 'sharpness': 'Sharpness'}
    for name, enhancer in enhancers.items():
        for factor in (0.05, 0.5, 0.95, 1.4):
            values[f'{name} {factor}'] = np.asarray(getattr(ImageEnhance, enhancer)(image).enhance(factor))
    for bits in range(1, 9):
        values[f'posterise {bits}'] = np.asarray(ImageOps.posterize(image, bits))
    for radius in (1, 3, 5):
        values[f'box_blur {radius}'] = np.asarray(image.filter(ImageFilter.GaussianBlur(radius)))
    for part in (-0.25, -0.1, 0.2):
        values[f'hue {part}'] = in_16_bits(adjust_hue(tensor, part))
    for size in (1, 3, 5):
        values[f'gaussian {size}'] = in_16_bits(cut_off_gaussian(tensor, [size, size], [1.3, 1.3]))
    np.savez_compressed(Path(__file__).with_name('photometric.npz'), **values)


if __name__ == '__main__':
    main()
