"""Writes vgg.json: features of torchvision's VGG16 and VGG19, with weights filled by recipe, after each ReLU asked for.

python3.11 -m venv peer && peer/bin/pip install torchvision
peer/bin/python tests/golden/make_vgg.py
"""

import json
from importlib.metadata import version
from pathlib import Path

import torch
from peers import import_torchvision
from recipe import fill, image

import_torchvision()

from torchvision import models  # noqa: E402

HERE = Path(__file__).parent
TAPS = {  # indices of ``features``
    'vgg19': {'relu1_1': 1, 'relu2_1': 6, 'relu3_1': 11, 'relu4_1': 20, 'relu5_1': 29, 'relu5_4': 35},
    'vgg16': {'relu1_2': 3, 'relu2_2': 8, 'relu3_3': 15, 'relu5_3': 29},
}


def features(name):
    layers = fill(torch.nn.ModuleDict({'features': getattr(models, name)().features}))['features'].double()
    x, found = image((2, 3, 36, 34), 4), {}
    names = {place: tap for tap, place in TAPS[name].items()}
    for place, layer in enumerate(layers):
        x = layer(x)
        if place in names:
            product = (x * image(x.shape, 9)).mean().item()  # depends on the place of every value
            found[names[place]] = {'shape': list(x.shape), 'mean': x.mean().item(), 'product': product}
    return found


def main():
    with torch.no_grad():
        found = {name: features(name) for name in TAPS}
    found['source'] = f'torchvision {version("torchvision")}'
    (HERE / 'vgg.json').write_text(json.dumps(found, separators=(',', ':')) + '\n')


if __name__ == '__main__':
    main()
