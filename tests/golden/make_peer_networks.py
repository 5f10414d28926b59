"""Writes peer_networks.npz: outputs of the authors' own code of the networks in benchmarks/peers/networks.

    python tests/golden/make_peer_networks.py FOLDER

FOLDER holds checkouts named by owner: csdwren/PReNet (6d908d1), cddlyf/GCANet (23846ff), Li-Chongyi/Zero-DCE (e0f4adc),
MayankSingal/PyTorch-Image-Dehazing (dc26717), hayatkhan8660-maker/Light-DehazeNet (9d831c4), vis-opt-group/SCI
(9d28a3f), xueleichen/PyTorch-Underwater-Image-Enhancement (3466cfd), cuiziteng/Illumination-Adaptive-Transformer
(c764722) and lidq92/CNNIQA (fb36830). Their code is only run; weights come from recipe.py.
"""

import sys
import types
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from recipe import fill, image

HERE = Path(__file__).parent
SIZE = (20, 24)
GREY_SIZE = (70, 97)


def prepared(net):
    """A network with the weights of the recipe, in evaluation mode; variances are positive."""
    fill(net)
    for name, value in net.state_dict().items():
        if name.endswith('running_var'):
            value.abs_().add_(0.5)
    return net.double().eval()


def imported(folder, *names):
    """Modules of a checkout, whatever their names clash with."""
    sys.path.insert(0, str(folder))
    for name in (*names, 'model', 'utils', 'loss', 'net', 'networks'):
        sys.modules.pop(name, None)
    found = [__import__(name, fromlist=['*']) for name in names]
    sys.path.pop(0)
    return found


def without_timm():
    """IAT imports a few names of timm, none of which its evaluation runs."""
    names = {
        'timm': (),
        'timm.models': (),
        'timm.models.layers': ('trunc_normal_', 'DropPath', 'to_2tuple'),
        'timm.models.vision_transformer': ('VisionTransformer', '_cfg'),
        'timm.models.registry': ('register_model',),
    }
    for name, members in names.items():
        sys.modules[name] = types.ModuleType(name)
        for member in members:
            setattr(sys.modules[name], member, torch.nn.Identity)
    sys.modules['timm.models.layers'].trunc_normal_ = lambda tensor, std: tensor
    sys.modules.setdefault('imp', types.ModuleType('imp'))


def gcanet(root, x):
    """As test.py of GCANet runs it, but for the rounding: dehazed and derained."""
    network, utils = imported(root / 'cddlyf', 'GCANet', 'utils')
    levels = 255 * x[0]
    seen = (torch.cat((levels, utils.edge_compute(levels)), 0) - 128)[None]
    nets = [prepared(network.GCANet(in_c=4, out_c=3, only_residual=residual)) for residual in (True, False)]
    return (nets[0](seen) + levels) / 255, nets[1](seen) / 255


def sci(root, x):
    """As Finetunemodel of SCI runs its first part."""
    (model,) = imported(root / 'vis-opt-group', 'model')
    whole = torch.nn.Module()
    whole.enhance = model.EnhanceNetwork(layers=1, channels=3)
    return torch.clamp(x / prepared(whole).enhance(x), 0, 1)


def cnniqa(root):
    """Score of an 8-bit image, as test_demo.py computes it."""
    demo, data = imported(root / 'lidq92', 'test_demo', 'IQADataset')
    pixels = (image((*GREY_SIZE, 3), 4).numpy() * 255).round().astype(np.uint8)
    patches = data.NonOverlappingCropPatches(Image.fromarray(pixels).convert('L'), 32, 32)
    return prepared(demo.CNNIQAnet())(torch.stack(patches).double()).mean()


@torch.no_grad()
def main():
    root, x = Path(sys.argv[1]), image((1, 3, *SIZE), 3)
    sys.modules.setdefault('h5py', types.ModuleType('h5py'))  # CNNIQA's data set imports it
    transforms = types.ModuleType('torchvision.transforms.functional')  # and one function of torchvision
    transforms.to_tensor = lambda im: torch.from_numpy(np.asarray(im, np.float32) / 255)[None]
    for name in ('torchvision', 'torchvision.transforms'):
        sys.modules[name] = types.ModuleType(name)
    sys.modules['torchvision.transforms.functional'] = transforms
    without_timm()
    out = {}
    (networks,) = imported(root / 'csdwren', 'networks')
    out['prenet'] = prepared(networks.PReNet(6, use_GPU=False))(x)[0]
    out['gcanet_dehaze'], out['gcanet_derain'] = gcanet(root, x)
    (net,) = imported(root / 'MayankSingal', 'net')
    out['aodnet'] = prepared(net.dehaze_net())(x)
    (light,) = imported(root / 'hayatkhan8660-maker', 'lightdehazeNet')
    out['light_dehazenet'] = prepared(light.LightDehaze_Net())(x)
    (model,) = imported(root / 'Li-Chongyi/Zero-DCE_code', 'model')
    out['zero_dce'] = prepared(model.enhance_net_nopool())(x)[1]
    out['sci_easy'] = sci(root, x)
    (model,) = imported(root / 'xueleichen', 'model')
    out['uwcnn'] = prepared(model.PhysicalNN())(x)
    (main_file,) = imported(root / 'cuiziteng/IAT_enhance', 'model.IAT_main')
    out['iat'] = prepared(main_file.IAT())(x)[2]
    out['cnniqa'] = cnniqa(root)
    np.savez_compressed(HERE / 'peer_networks.npz', **{k: v.float().numpy() for k, v in out.items()})


if __name__ == '__main__':
    main()
