"""Writes metrics_lpips.json: what the package lpips computes on trunks and heads filled by recipe.

python3.11 -m venv peer && peer/bin/pip install lpips==0.1.4 torchvision
peer/bin/python tests/golden/make_metrics_lpips.py
"""

import json
from importlib.metadata import version
from pathlib import Path

import torch
from peers import import_torchvision
from recipe import fill, image

import_torchvision()

import lpips  # noqa: E402
from torchvision import models  # noqa: E402

HERE = Path(__file__).parent
NAMES = {'alex': 'alexnet', 'vgg': 'vgg16', 'squeeze': 'squeezenet1_1'}


def score(net):
    trunk = torch.nn.ModuleDict({'features': getattr(models, NAMES[net])().features})
    fill(trunk)  # under torchvision's keys, features.0.weight
    model = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    for sliced in (getattr(model.net, f'slice{i}') for i in range(1, model.L + 1)):
        for number, layer in sliced.named_children():
            layer.load_state_dict(trunk['features'][int(number)].state_dict())
    for i, head in enumerate(model.lins):
        head.model[1].weight.data = image((1, model.chns[i], 1, 1), i).float()
    first, second = image((2, 3, 64, 72), 1).float(), image((2, 3, 64, 72), 2).float()
    with torch.no_grad():
        return model(first, second, normalize=True).flatten().tolist()


def main():
    found = {'source': f'lpips {version("lpips")}', 'scores': {net: score(net) for net in NAMES}}
    (HERE / 'metrics_lpips.json').write_text(json.dumps(found, separators=(',', ':')) + '\n')


if __name__ == '__main__':
    main()
