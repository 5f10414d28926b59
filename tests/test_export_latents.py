"""tools/export_latents.py: the codes of every image and of its mirror image, the same after any interruption."""

import numpy as np
import pytest
import torch

from basicsr.archs import build_network
from basicsr.code_file import CodeFile
from basicsr.data import build_dataset
from basicsr.image_io import read_image, to_tensor, write_image
from tools import export_latents

BLOCK = {'type': 'IQPIRGAutoEncoder', 'width': 8, 'stride': 4, 'dim': 4, 'entries': 16, 'entries_hq': 8}
COUNT = 5


@pytest.fixture
def model(tmp_path):
    torch.manual_seed(0)
    net = build_network(BLOCK)
    torch.save({'params': net.state_dict(), 'network_g': BLOCK}, tmp_path / 'vq.pth')
    return tmp_path / 'vq.pth'


@pytest.fixture
def images(tmp_path):
    for number in range(COUNT):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        write_image(tmp_path / 'images' / ('a' if number < 3 else 'b') / f'{number}.png', np.kron(pixels, BIG))
    return tmp_path / 'images'


BIG = np.ones((4, 4, 1), np.uint8)  # blocks of one colour


def export(model, images, out, *more):
    return export_latents.main(['-m', str(model), '-i', str(images), '-o', str(out), '--device', 'cpu', *more])


def autoencoder(model):
    net = build_network(BLOCK).eval()
    net.load_state_dict(torch.load(model, weights_only=True)['params'])
    return net


def content(path):
    file = CodeFile(path)
    return {(name, view): file.get(name, view) for name in file.names for view in (False, True)}


def test_codes_are_those_of_the_autoencoder_and_of_the_mirror_image_itself(tmp_path, model, images, capsys):
    out = tmp_path / 'codes.safetensors'
    assert export(model, images, out, '--batch', '2') == 0
    assert 'codes of 5 images and their mirror images' in capsys.readouterr().out
    file, net = CodeFile(out), autoencoder(model)
    assert file.names == ['a/0', 'a/1', 'a/2', 'b/3', 'b/4']
    assert (file.info['image_size'], file.info['book_sizes']) == ((32, 32), (16, 8))
    unlike = 0
    for name in file.names:
        image = to_tensor(read_image(images / f'{name}.png'))[None]
        with torch.inference_mode():
            for mirrored, seen in enumerate((image, image.flip(-1))):
                wanted = net.coded(net.latent(seen)).codes[0]
                assert wanted.shape == (2, 8, 8)
                assert torch.equal(file.get(name, bool(mirrored)), wanted)
        unlike += int((file.get(name, True) != file.get(name).flip(-1)).sum())
    assert unlike > 0  # which is why both are kept
    assert not list(tmp_path.glob('*.partial'))


def test_an_export_that_was_stopped_goes_on_and_ends_with_the_same_codes(tmp_path, model, images, monkeypatch, capsys):
    monkeypatch.setattr(export_latents, 'PART', 2)
    assert export(model, images, tmp_path / 'whole.safetensors') == 0
    calls = []
    honest = export_latents._codes_of

    def stopping(*arguments):
        calls.append(arguments[3])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return honest(*arguments)

    monkeypatch.setattr(export_latents, '_codes_of', stopping)
    assert export(model, images, tmp_path / 'x.safetensors') == 130
    assert not (tmp_path / 'x.safetensors').exists()
    assert export(model, images, tmp_path / 'x.safetensors') == 0
    assert '4 had been done before' in capsys.readouterr().out
    assert list(map(list, calls[2:])) == [['b/4']] * 2
    whole, resumed = content(tmp_path / 'whole.safetensors'), content(tmp_path / 'x.safetensors')
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)


def test_parts_of_other_weights_are_not_mixed_in(tmp_path, model, images, monkeypatch, capsys):
    monkeypatch.setattr(export_latents, 'PART', 2)
    out, honest = tmp_path / 'x.safetensors', export_latents._codes_of
    calls = iter([honest])

    def once(*arguments):
        return next(calls, interrupt)(*arguments)

    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(export_latents, '_codes_of', once)
    assert export(model, images, out) == 130
    monkeypatch.setattr(export_latents, '_codes_of', honest)
    torch.manual_seed(1)
    torch.save({'params': build_network(BLOCK).state_dict(), 'network_g': BLOCK}, model)
    assert export(model, images, out) == 2
    assert 'was begun with other images or weights; give --overwrite' in capsys.readouterr().err
    assert export(model, images, out, '--overwrite') == 0
    image = to_tensor(read_image(images / 'a/0.png'))[None]
    net = autoencoder(model)
    with torch.inference_mode():
        assert torch.equal(CodeFile(out).get('a/0'), net.coded(net.latent(image)).codes[0])
    assert export(model, images, out) == 2
    assert 'exists already' in capsys.readouterr().err


def test_what_cannot_be_coded_is_refused_in_a_sentence(tmp_path, model, images, capsys):
    other = {'type': 'NAFNet', 'width': 4, 'enc_blk_nums': [1], 'middle_blk_num': 1, 'dec_blk_nums': [1]}
    torch.save({'params': build_network(other).state_dict(), 'network_g': other}, tmp_path / 'naf.pth')
    cases = [(tmp_path / 'naf.pth', images, 'x.safetensors', [], 'NAFNet is no autoencoder of codes')]
    cases += [(model, images, 'x.pth', [], 'must end in .safetensors')]
    cases += [(model, images, 'x.safetensors', ['--batch', '0'], '--batch 0')]
    for folder, size in (('odd', (30, 32)), ('mixed', (32, 32))):
        write_image(tmp_path / folder / '0.png', np.zeros((*size, 3), np.uint8))
        write_image(tmp_path / folder / '1.png', np.zeros((36, 32, 3), np.uint8))
    cases += [(model, tmp_path / 'odd', 'x.safetensors', [], 'is 32x30; IQPIRGAutoEncoder codes whole images')]
    cases += [(model, tmp_path / 'mixed', 'x.safetensors', [], 'is 32x36 pixels, and the first image 32x32')]
    for weights, source, out, more, words in cases:
        assert export(weights, source, tmp_path / out, *more) == 2
        assert words in capsys.readouterr().err
        assert not (tmp_path / out).exists()


def test_a_data_set_reads_what_was_exported(tmp_path, model, images):
    """Mirrored or not, the codes of a sample are those that the autoencoder finds in the sample's own clean image."""
    assert export(model, images, tmp_path / 'codes.safetensors') == 0
    rows = ''.join(f'{f.relative_to(images).with_suffix("")},0.5\n' for f in sorted(images.rglob('*.png')))
    (tmp_path / 's.csv').write_text('imagename,score\n' + rows)
    inner = {'type': 'OnlineDegradationDataset', 'dataroot_gt': str(images), 'use_hflip': False, 'use_rot': False}
    block = {'type': 'QualityPriorDataset', 'phase': 'train', 'dataset': {**inner, 'degradations': [FACE]}}
    block |= {'scores': str(tmp_path / 's.csv'), 'codes': str(tmp_path / 'codes.safetensors'), 'use_hflip': True}
    data, net, first = build_dataset(block), autoencoder(model), set()
    for seed in range(12):
        sample = data.sample(seed % COUNT, np.random.default_rng(seed))
        with torch.inference_mode():
            assert torch.equal(net.coded(net.latent(sample['gt'][None])).codes[0], sample['codes'])
        original = to_tensor(read_image(sample['gt_path']))
        first.add(torch.equal(original, sample['gt']))
        assert sample['lq'].shape == sample['gt'].shape
    assert first == {True, False}


FACE = {'type': 'FaceDegradation', 'factor': [1, 2], 'sigma': [0.1, 1]}
