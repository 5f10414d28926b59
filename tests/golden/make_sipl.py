"""Writes sipl.json and sipl.npz: names, shapes and outputs of SIPL's published code.

    mkdir published
    git -C SIPL show bd8b7ad:basicsr/archs/PromptIR_CyclyePrivilege_arch.py > published/sipl_promptir.py
    git -C SIPL show bd8b7ad:basicsr/archs/adair_arch.py > published/sipl_adair.py
    git -C SIPL show bd8b7ad:basicsr/archs/module_util.py > published/module_util.py
    sed -i 's/from [.]module_util/from module_util/' published/sipl_*.py
    python tests/golden/make_sipl.py published

The repository is github.com/Aitical/SIPL; its code needs einops, and packages that are not public, of which it uses a
registry and a layer norm alone. Nothing of it is in this project.
"""

import json
import sys
import types
from pathlib import Path

import numpy as np
import torch
from recipe import fill, image
from torch import nn

HERE = Path(__file__).parent
FEW = {'num_blocks': [1, 1, 1, 1], 'num_refinement_blocks': 1, 'ffn_expansion_factor': 1.0, 'decoder': True}
WEIGHTS = [0.1, 0.1, 0.1]  # only not being None counts
SIZE = (16, 24)


class LayerNorm2d(nn.Module):
    """Normalises over channels, as the private package does."""

    def __init__(self, channels, eps=1e-6):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x):
        centred = x - x.mean(1, keepdim=True)
        y = centred / (centred.square().mean(1, keepdim=True) + self.eps).sqrt()
        return y * self.weight.view(-1, 1, 1) + self.bias.view(-1, 1, 1)


def private_packages():
    registry = types.SimpleNamespace(register=lambda: lambda cls: cls)
    for name, members in {
        'clip': {}, 'uclsr': {}, 'uclsr.archs': {}, 'uclsr.archs.arch_util': {'LayerNorm2d': LayerNorm2d},
        'basicsr': {}, 'basicsr.utils': {}, 'basicsr.utils.registry': {'ARCH_REGISTRY': registry},
        'basicsr.archs': {}, 'basicsr.archs.arch_util': {'LayerNorm2d': LayerNorm2d},
    }.items():  # fmt: skip
        sys.modules[name] = types.ModuleType(name)
        vars(sys.modules[name]).update(members)


def layout(cls, **config):
    with torch.device('meta'):
        net = cls(**config)
    keys = [[k, list(v.shape)] for k, v in net.state_dict().items()]
    return {'params': sum(p.numel() for p in net.parameters()), 'keys': keys}


def outputs(cls, name):
    """The plain path, features, the privileged path, and two iterations as the release's test runs them."""
    net = fill(cls(**FEW).double()).eval()
    degraded, better = image((2, 3, *SIZE), 1), image((2, 3, *SIZE), 2)
    with torch.no_grad():
        plain = net(degraded, return_feature=False)
        features = net(better, return_feature=True)
        privileged = net(degraded, privileged_features=features, privileged_weights=WEIGHTS, return_feature=False)
        image_now = degraded
        for _ in range(2):
            own = net(net(image_now, return_feature=False), return_feature=True)
            image_now = net(image_now, privileged_features=own, privileged_weights=WEIGHTS, return_feature=False)
    found = {'plain': plain, 'privileged': privileged, 'two_iterations': image_now}
    return {f'{name}_{key}': value.numpy() for key, value in found.items()}


def plain_privilege(published):
    """The same network with privileged features added to its skips."""
    net = fill(published.AdaIR(**FEW).double()).eval()
    degraded, better = image((2, 3, *SIZE), 1), image((2, 3, *SIZE), 2)
    with torch.no_grad():
        features = net(better, return_feature=True)
        return net(degraded, privileged_features=features, privileged_weights=WEIGHTS).numpy()


def main():
    sys.path.insert(0, sys.argv[1])
    private_packages()
    import sipl_adair
    import sipl_promptir

    facts = {
        'source': 'github.com/Aitical/SIPL, commit bd8b7ad',
        'few': FEW,
        'promptir': layout(sipl_promptir.PromptIR_ProxyFusion, decoder=True),
        'adair': layout(sipl_adair.AdaIR_ProxyFusion),
    }
    (HERE / 'sipl.json').write_text(json.dumps(facts, separators=(',', ':')) + '\n')
    found = outputs(sipl_promptir.PromptIR_ProxyFusion, 'promptir')
    found |= outputs(sipl_adair.AdaIR_ProxyFusion, 'adair')
    np.savez_compressed(HERE / 'sipl.npz', **found, adair_skips=plain_privilege(sipl_adair))


if __name__ == '__main__':
    main()
