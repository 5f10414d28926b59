"""Writes restormer, promptir and adair .json and .npz: names, shapes, first weights and outputs of the published code.

    mkdir published
    git -C Restormer show df766d5:basicsr/models/archs/restormer_arch.py > published/restormer.py
    git -C PromptIR show 106159a:net/model.py > published/promptir.py
    git -C AdaIR show ccb8b98:net/model.py > published/adair.py
    git -C TLC show 8e87983:basicsr/models/archs/restormer_arch.py > published/tlc.py
    python tests/golden/make_restormer_family.py published

The repositories are github.com/swz30/Restormer, va1shn9v/PromptIR, c-yn/AdaIR and megvii-research/TLC; their code needs
einops. Nothing of it is in this project.
"""

import hashlib
import json
import sys
import types
from pathlib import Path

import numpy as np
import torch
from recipe import fill, image

HERE = Path(__file__).parent
SMALL = {'dim': 8, 'num_blocks': [1, 2, 1, 1], 'num_refinement_blocks': 1}
CONFIGS = {
    'with_bias': SMALL,
    'bias_free': {**SMALL, 'bias': True, 'LayerNorm_type': 'BiasFree', 'heads': [2, 1, 8, 4]},
    'dual_pixel': {**SMALL, 'inp_channels': 6, 'dual_pixel_task': True},
    'gray': {**SMALL, 'inp_channels': 1, 'out_channels': 1},
}
LAYOUTS = {
    'denoising': {'LayerNorm_type': 'BiasFree'},
    'gray_denoising': {'LayerNorm_type': 'BiasFree', 'inp_channels': 1, 'out_channels': 1},
    'dual_pixel': {'inp_channels': 6, 'dual_pixel_task': True},
}
FEW = {'num_blocks': [1, 1, 1, 1], 'num_refinement_blocks': 1, 'ffn_expansion_factor': 1.0}  # PromptIR needs dim 48
SIZES = ((16, 24), (40, 8))


def keys(net):
    return [[k, list(v.shape)] for k, v in net.state_dict().items()]


def layout(cls, config):
    with torch.device('meta'):
        net = cls(**config)
    return net, sum(p.numel() for p in net.parameters())


def described(cls, config):
    net, params = layout(cls, config)
    return {
        'config': config,
        'params': params,
        'keys_sha256': hashlib.sha256(json.dumps(keys(net)).encode()).hexdigest(),
    }


def first_weights(cls, config):
    torch.manual_seed(0)
    return {
        k: v.flatten()[:3].tolist() for k, v in cls(**config).state_dict().items() if k.endswith(('weight', 'param'))
    }


def filled(net):
    return fill(net.double()).eval()


def run(net, height, width, batch=2, channels=3):
    with torch.no_grad():
        return net(image((batch, channels, height, width), 1)).numpy()


def gradient_lengths(cls, config):
    """Length of every parameter's gradient for the mean square of the output; None where there is no gradient."""
    net = filled(cls(**config))
    net(image((2, 3, 16, 24), 1)).square().mean().backward()
    return {k: None if p.grad is None else p.grad.norm().item() for k, p in net.named_parameters()}


def facts(cls, source, small, layouts, full=None):
    net, params = layout(cls, full or {})
    return {
        'source': source,
        'params': params,
        'keys': keys(net),
        'layouts': {name: described(cls, config) for name, config in layouts.items()},
        'small': small,
        'first_weights_of_seed_0': first_weights(cls, small),
        'gradient_lengths': gradient_lengths(cls, small),
    }


def write(name, facts, outputs):
    (HERE / f'{name}.json').write_text(json.dumps(facts, separators=(',', ':')) + '\n')
    np.savez_compressed(HERE / f'{name}.npz', **outputs)


def restormer(published, tlc):
    net = {name: filled(published.Restormer(**config)) for name, config in CONFIGS.items()}
    outputs = {
        f'{name}-{h}x{w}': run(net[name], h, w, channels=config.get('inp_channels', 3))
        for name, config in CONFIGS.items()
        for h, w in SIZES[: 2 if name == 'with_bias' else 1]
    }
    torch.set_default_dtype(torch.float64)  # in which TLC adds up its windows
    local = filled(tlc.RestormerLocal(train_size=(1, 3, 32, 32), base_size=(24, 24), **SMALL))
    outputs['local-40x56'] = run(local, 40, 56, batch=1)[..., ::2]
    torch.set_default_dtype(torch.float32)
    source = 'github.com/swz30/Restormer, commit df766d5; local: megvii-research/TLC, commit 8e87983'
    write('restormer', {**facts(published.Restormer, source, SMALL, LAYOUTS), 'configs': CONFIGS}, outputs)


def promptir(published):
    config = {**FEW, 'decoder': True}
    net = filled(published.PromptIR(**config))
    outputs = {f'{h}x{w}': run(net, h, w) for h, w in SIZES}
    prompt = filled(published.PromptGenBlock(prompt_dim=8, prompt_len=5, prompt_size=6, lin_dim=12))
    with torch.no_grad():
        outputs['prompt-9x14'] = prompt(image((2, 12, 9, 14), 1)).numpy()
    source = 'github.com/va1shn9v/PromptIR, commit 106159a'
    found = facts(published.PromptIR, source, config, {}, {'decoder': True})
    try:
        published.PromptIR(**FEW)(torch.rand(1, 3, 8, 8))
    except RuntimeError as error:
        found['without_decoder'] = str(error).split(',')[0]
    write('promptir', found, outputs)


def adair(published):
    net = filled(published.AdaIR(**SMALL))
    outputs = {f'{h}x{w}': run(net, h, w) for h, w in SIZES}
    outputs['272x264'] = run(net, 272, 264, batch=1)[..., ::11, ::13]  # transformed, but the box is empty
    with torch.no_grad():
        net.fre3.rate_conv[2].weight.mul_(-200)  # a rate above one half, which two times gives a whole pixel
        outputs['528x512'] = run(net, 528, 512, batch=1)[..., ::19, ::17]
        module = filled(published.FreModule(16, num_heads=4, bias=False))
        module.rate_conv[2].weight.mul_(torch.tensor([40, -60]).view(2, 1, 1, 1))
        images = image((2, 3, 392, 264), 1) * torch.tensor([1, 0.2]).view(2, 1, 1, 1)  # boxes 4 x 2 and 2 x 2
        high, low = module.fft(images)
        outputs |= {'high-392x264': high[..., ::79, ::41].numpy(), 'low-392x264': low[..., ::79, ::41].numpy()}
        plain = filled(published.AdaIR(**SMALL, decoder=False))
    outputs['without_decoder-16x24'] = run(plain, 16, 24)
    write('adair', facts(published.AdaIR, 'github.com/c-yn/AdaIR, commit ccb8b98', SMALL, {}), outputs)


def main():
    sys.path.insert(0, sys.argv[1])
    sys.modules['local_arch'] = types.SimpleNamespace(AvgPool2d=None)  # of TLC for other networks, unused here
    import adair as published_adair
    import promptir as published_promptir
    import restormer as published_restormer
    import tlc

    restormer(published_restormer, tlc)
    promptir(published_promptir)
    adair(published_adair)


if __name__ == '__main__':
    main()
