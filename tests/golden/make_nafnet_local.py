"""Writes nafnet_local.npz: outputs of NAFNet with the windowed means (TLC) of the published code.

    git clone https://github.com/megvii-research/NAFNet && cd NAFNet && git checkout 2b4af71
    peer/bin/python tests/golden/make_nafnet_local.py NAFNet/basicsr/models/archs/local_arch.py

The network is spandrel's copy (see make_nafnet.py); local_arch.py (MIT) replaces its pooling layers.
"""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import torch
from peers import import_torchvision
from recipe import fill, image

import_torchvision()

from spandrel.architectures.NAFNet import NAFNet  # noqa: E402

HERE = Path(__file__).parent
SIZES = ((16, 16), (40, 56), (13, 70), (24, 20))


def main():
    spec = importlib.util.spec_from_file_location('local_arch', sys.argv[1])
    local = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(local)
    config = json.loads((HERE / 'nafnet.json').read_text())['small']['config']
    train_size = (1, 3, 16, 16)
    net = fill(NAFNet(**config)).double().eval()
    local.replace_layers(net, (24, 24), train_size, fast_imp=False)
    with torch.no_grad():
        net(torch.rand(train_size, dtype=torch.float64))  # sets the windows
        outputs = {f'{h}x{w}': net(image((2, 3, h, w), 1)).float().numpy() for h, w in SIZES}
    np.savez_compressed(HERE / 'nafnet_local.npz', **outputs)


if __name__ == '__main__':
    main()
