"""Every option file of the project runs: two iterations of training, or a test."""

from pathlib import Path

import cv2
import pytest
import torch

from basicsr import test as test_command
from basicsr import train
from basicsr.archs import build_network
from basicsr.options import load

from .runs import ROOT

NO_RUNS = ('_base', 'iqa')  # folders of what option files include, and of ensembles of scorers
FILES = sorted(p for p in (ROOT / 'options').rglob('*.yml') if p.relative_to(ROOT / 'options').parts[0] not in NO_RUNS)


# Stands in for scorers whose weights are not at hand, with the names that the options call them by.
SHIPPED = (
    '{type: Ensemble, members: [{type: QualityNet, name: musiq}, {type: Entropy, name: clipiqa}, {type: BRISQUE}]}'
)


def make_pairs(folder, height=72, width=80, count=3):
    """Pairs of small crops of sample photographs, the degraded side darker."""
    roots = {'dataroot_gt': folder / 'gt', 'dataroot_lq': folder / 'lq'}
    for root in roots.values():
        root.mkdir()
    for photo in sorted((ROOT / 'datasets/sample/val').glob('*.jpg'))[:count]:
        crop = cv2.imread(str(photo))[:height, :width]
        cv2.imwrite(str(roots['dataroot_gt'] / f'{photo.stem}.png'), crop)
        cv2.imwrite(str(roots['dataroot_lq'] / f'{photo.stem}.png'), crop // 2)
    return roots


def make_ranked(folder):
    """Two pictures in four versions each."""
    for photo in sorted((folder / 'gt').iterdir())[:2]:
        for rank in range(4):
            target = folder / 'ranked' / photo.stem / f'{rank}.png'
            target.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(target), cv2.imread(str(photo)) // (rank + 1))
    return folder / 'ranked'


def make_scores(folder):
    """A table of scores of the clean images."""
    names = sorted(path.stem for path in (folder / 'gt').iterdir())
    rows = [f'{name},{0.3 + 0.6 * n / len(names)}' for n, name in enumerate(names, start=1)]
    (folder / 'scores.csv').write_text('\n'.join(['imagename,score', *rows]))
    return folder / 'scores.csv'


def make_rated(folder):
    """A scene in two restored versions, with their references and opinions, as PIPALDataset reads them."""
    photo = cv2.imread(str(next(iter(sorted((ROOT / 'datasets/sample/val').glob('*.jpg'))))))[:72, :80]
    names = ('A0001_00_00', 'A0001_00_01')
    (folder / 'rated').mkdir()
    for name in ('A0001', *names, *(f'ref_{name}' for name in names)):
        cv2.imwrite(str(folder / f'rated/{name}.bmp'), photo // (1 + name.count('_')))
    (folder / 'rated.txt').write_text(''.join(f'{name}.bmp,{1500 - 100 * n}\n' for n, name in enumerate(names)))
    return {'dataroot_lq': folder / 'rated', 'meta_info_file': folder / 'rated.txt', 'val_sources': 0}


def small_data(options, folder):
    """Overrides that put generated pairs where a data set is not on this machine, and keep batches and networks small.

    The published widths are built and counted in test_nafnet.py; here they would only write gigabytes of checkpoints.
    """
    roots, overrides = None, ['num_gpu=0']
    for letter, network in options.networks.items():
        overrides += [f'network_{letter}:{k}={v}' for k, v in small_network(network).items()]
    overrides += small_method(options) + small_codes(options, folder)
    for key, dataset in options.datasets.items():
        for path, block in blocks_with_roots(f'datasets:{key}', dataset.block):
            roots = roots or make_pairs(folder, *size_of_pairs(options))
            given = {'dataroot_lq': make_ranked(folder)} if block['type'] == 'RankedFolderDataset' else roots
            overrides += [f'{path}:{k}={v}' for k, v in given.items() if k in block]
            if path.endswith(':dataset') and key == 'train':  # of a QualityPriorDataset
                overrides += [f'datasets:train:scores={make_scores(folder)}']
            if 'meta_info_file' in block:
                overrides += [f'{path}:meta_info_file=null']
        if dataset.block['type'] == 'PIPALDataset':
            overrides += [f'datasets:{key}:{k}={v}' for k, v in make_rated(folder).items()]
        overrides += [f'datasets:{key}:num_worker_per_gpu=0']
        if 'val_size' in dataset.block:
            (folder / 'one.txt').write_text('goat.jpg\n')
            overrides += [f'datasets:{key}:val_size=48', f'datasets:{key}:meta_info_file={folder / "one.txt"}']
        if dataset.phase == 'train':
            batch = min(dataset.loader.batch_size_per_gpu, 2) if 'scorer' in options.model else 2
            overrides += [f'datasets:train:batch_size_per_gpu={batch}', 'datasets:train:dataset_enlarge_ratio=2']
            if dataset.loader.gt_sizes:
                overrides += [
                    'datasets:train:gt_sizes=[32, 64]', 'datasets:train:mini_batch_sizes=[2, 1]',
                    f'datasets:train:iters=[1, {10**6}]',
                ]  # fmt: skip
            else:  # half of a crop must do for AIM-Net
                size = 96 if kind_of(options) == 'AIMnet' else 64
                overrides += [f'datasets:train:gt_size={size}']
    return overrides


def size_of_pairs(options):
    """Height, width and number of pairs, where a network or a metric has wishes."""
    if judged_on_photos(options):
        return (100, 104, 1)
    return (64, 64) if kind_of(options) == 'IQPIRFormer' else ()


def kind_of(options):
    """Type of the network, or of the host inside it."""
    block = options.networks['g']
    return block.get('host', block)['type']


def judged_on_photos(options):
    """Whether real photographs are validated, whose metrics need 96 pixels."""
    return any(d.phase == 'val' and d.block['type'] == 'SingleImageDataset' for d in options.datasets.values())


def small_method(options):
    """What lets a method show all its parts in two iterations, with weights that are at hand."""
    overrides, given = [], options.model
    for key in ('perceptual_opt', 'contrast_opt'):
        if (given.get(key) or {}).get('backbone'):  # VGG
            overrides += [f'train:{key}:backbone=null', f'train:{key}:layer_weights=[0.1, 0.1, 0.1, 0.1, 0.1]']
    if (given.get('perceptual_opt') or {}).get('type') == 'LPIPSLoss':  # weights that are not at hand
        overrides += ['train:perceptual_opt={type: FeatureLoss}']
    overrides += [f'train:{key}=1' for key in ('disc_start', 'code_reset', 'usage_window') if given.get(key)]
    if given.get('scorer', 'options/iqa/adapt.yml') != 'options/iqa/adapt.yml':
        overrides += [f'train:scorer={SHIPPED}']  # cells of 32 pixels can be scored
    overrides += [f'train:{key}=1' for key in ('preference_start', 'crop_start') if key in given]
    if given.get('tiles', 2) > 2:
        overrides += ['train:tiles=2']
    if 'views' in given and kind_of(options) == 'CORUN':  # slow: fewer labels
        overrides += ['train:views=[rot90]', 'train:bank_size=1']
    for letter in options.networks:
        if (weights := getattr(options.path, f'pretrain_network_{letter}')) and not (ROOT / weights).exists():
            overrides += [f'path:pretrain_network_{letter}=null']
    return overrides


def small_codes(options, folder):
    """An autoencoder of stage I for the later ones, and a judge whose weights are at hand, from the first iteration."""
    overrides, quality = [], options.model.get('quality_opt')
    if options.model.get('autoencoder_path'):
        network = options.networks['g']
        kind = {'IQPIRG': 'IQPIRGAutoEncoder', 'IQPIRFormer': 'VQAutoEncoder'}[network['type']]
        same = {k: network[k] for k in ('stride', 'hq_input') if k in network}
        block = {'type': kind, **same, **CODES[kind]}
        torch.save({'params': build_network(block).state_dict(), 'network_g': block}, folder / 'stage1.pth')
        overrides += [f'train:autoencoder_path={folder / "stage1.pth"}']
    if quality:
        judge = 'Colourfulness' if isinstance(quality['scorer'], dict) else quality['scorer']
        given = {'scorer': judge, 'start': 1, 'held_out': ['UCIQE'], 'held_out_freq': 1}
        overrides += [f'train:quality_opt:{key}={value}' for key, value in given.items()]
    return overrides


CODES = {  # networks of codes and discriminators, small
    'VQAutoEncoder': {
        'img_size': 64, 'nf': 16, 'emb_dim': 16, 'ch_mult': [1, 2], 'attn_resolutions': [32], 'codebook_size': 8,
        'res_blocks': 1,
    },
    'IQPIRGAutoEncoder': {'width': 8, 'dim': 8, 'entries': 8, 'entries_hq': 8},
    'IQPIRFormer': {
        'img_size': 64, 'nf': 16, 'emb_dim': 16, 'ch_mult': [1, 2], 'attn_resolutions': [32], 'codebook_size': 8,
        'res_blocks': 1, 'dim_embd': 16, 'n_head': 2, 'n_layers': 1, 'connect_list': [32],
    },
    'IQPIRG': {'width': 8, 'dim': 8, 'entries': 8, 'entries_hq': 8, 'depth': 1, 'heads': 2, 'window': 4},
    'PatchDiscriminator': {'ndf': 4, 'n_layers': 2},
    'UNetDiscriminatorSN': {'num_feat': 4},
}  # fmt: skip


def small_network(block):
    """What to change in a network's block so that it has few weights."""
    if block['type'] in CODES:
        return CODES[block['type']]
    if block['type'] == 'CKDN':
        return {'short_side': 64, 'crop': 64}
    if 'host' in block:
        return {f'host:{k}': v for k, v in small_network(block['host']).items()}
    if block['type'] in ('Restormer', 'PromptIR', 'AdaIR'):
        return {'dim': 8, 'num_blocks': [1, 1, 1, 1], 'num_refinement_blocks': 1}
    if block['type'] in ('AIMnet', 'CORUN'):
        return {'depth': 2} if block['type'] == 'CORUN' else {'n_feat': 8, 'n_RCB': 1}
    if block.get('width', 0) > 16:
        return {'width': 16, 'enc_blk_nums': [1] * 4, 'middle_blk_num': 1, 'dec_blk_nums': [1] * 4}
    return {}


def blocks_with_roots(path, block):
    """Data set blocks, and those inside others, whose images are not in the checkout, with their places."""
    members = {f'datasets:{name}': member for name, member in block.get('datasets', {}).items()}
    members |= {name: block[name] for name in ('paired', 'real', 'dataset') if name in block}
    for place, member in members.items():
        yield from blocks_with_roots(f'{path}:{place}', member)
    roots = block.get('dataroot_gt', block.get('dataroot_lq', []))
    roots = [roots] if isinstance(roots, str) else roots
    if roots and not all((ROOT / root).exists() for root in roots):
        yield path, block


@pytest.mark.parametrize('file', FILES, ids=lambda p: str(p.relative_to(ROOT / 'options')))
def test_option_file_runs(file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = load(file)
    overrides = small_data(options, tmp_path)
    if options.train is None:
        block = {**options.networks['g'], **small_network(options.networks['g'])}
        torch.save({'params': build_network(block).state_dict()}, tmp_path / 'w.pth')
        overrides += [f'path:pretrain_network_g={tmp_path / "w.pth"}']
        assert test_command.main(['-opt', str(file), '--force_yml', *overrides]) == 0, capsys.readouterr().err
        for block in options.of_phase('test'):
            assert (tmp_path / 'results' / options.top.name / f'{block.name}.json').stat().st_size > 100
        return
    overrides += [f'path:experiments_root={tmp_path}/experiments', 'train:total_iter=2', 'val:report=false']
    assert train.main(['-opt', str(file), '--force_yml', *overrides]) == 0, capsys.readouterr().err
    weights = tmp_path / 'experiments' / options.top.name / 'models/net_g_latest.pth'
    saved = torch.load(weights, weights_only=True)
    assert saved['iter'] == 2
    assert all(torch.isfinite(v).all() for v in saved['params'].values())


def test_every_option_file_names_a_run_of_its_own():
    names = [load(f).top.name for f in FILES if load(f).train is not None]
    assert len(names) == len(set(names))


def test_option_files_are_listed_in_the_readme():
    readme = (ROOT / 'README.md').read_text()
    for file in FILES:
        assert file.name in readme, f'{file} is not mentioned in the README'
    assert Path('options/quickstart.yml').name in readme
