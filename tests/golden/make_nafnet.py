"""Writes nafnet.json and nafnet.npz: names, shapes, first weights and outputs of NAFNet as spandrel has it.

    python -m venv peer && peer/bin/pip install spandrel==0.4.2
    peer/bin/python tests/golden/make_nafnet.py

spandrel (github.com/chaiNNer-org/spandrel, MIT) carries the published code of NAFNet.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from peers import import_torchvision
from recipe import fill, image

import_torchvision()

from spandrel.architectures.NAFNet import NAFNet  # noqa: E402

HERE = Path(__file__).parent
SMALL = {'width': 8, 'middle_blk_num': 2, 'enc_blk_nums': [1, 2], 'dec_blk_nums': [2, 1]}
GOPRO = {'middle_blk_num': 1, 'enc_blk_nums': [1, 1, 1, 28], 'dec_blk_nums': [1, 1, 1, 1]}
SIDD = {'middle_blk_num': 12, 'enc_blk_nums': [2, 2, 4, 8], 'dec_blk_nums': [2, 2, 2, 2]}
LAYOUTS = {
    f'{name}-width{w}': {**layout, 'width': w} for name, layout in (('GoPro', GOPRO), ('SIDD', SIDD)) for w in (32, 64)
}


def keys(net):
    return [[k, list(v.shape)] for k, v in net.state_dict().items()]


def layout(config):
    with torch.device('meta'):
        net = NAFNet(**config)
    digest = hashlib.sha256(json.dumps(keys(net)).encode()).hexdigest()
    return {'config': config, 'params': sum(p.numel() for p in net.parameters()), 'keys_sha256': digest}


def main():
    torch.manual_seed(0)
    fresh = NAFNet(**SMALL)
    net = fill(NAFNet(**SMALL)).double().eval()
    first = {k: v.flatten()[:3].tolist() for k, v in fresh.state_dict().items() if k.endswith('weight')}
    with torch.no_grad():
        outputs = {f'{h}x{w}': net(image((2, 3, h, w), 1)).float().numpy() for h, w in ((16, 24), (13, 19), (1, 1))}
    facts = {
        'source': 'spandrel 0.4.2',
        'small': {'config': SMALL, 'keys': keys(net), 'first_weights_of_seed_0': first},
        'layouts': {name: layout(config) for name, config in LAYOUTS.items()},
    }
    (HERE / 'nafnet.json').write_text(json.dumps(facts, separators=(',', ':')) + '\n')
    np.savez_compressed(HERE / 'nafnet.npz', **outputs)


if __name__ == '__main__':
    main()
