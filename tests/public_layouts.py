"""Miniatures of public data sets, written by hand from what their authors and the code that reads them say.

``CASES`` holds, for each set, its layouts: the name that the catalogue gives the layout, and for each part the degraded
and the clean file below the folder handed to the command, ``>`` between the two; a lone name has no partner. The names
are written out one by one, not made from the catalogue's rules, so that a wrong rule shows.
"""

SNOW = {
    'Snow100K': {
        'release': {
            'train': ['all/synthetic/beautiful_smile_00001.jpg > all/gt/beautiful_smile_00001.jpg'],
            'test_s': [
                'media/jdway/GameSSD/overlapping/test/Snow100K-S/synthetic/winter_00026.jpg > '
                'media/jdway/GameSSD/overlapping/test/Snow100K-S/gt/winter_00026.jpg'
            ],
            'test_m': ['test/Snow100K-M/synthetic/city_read_04.jpg > test/Snow100K-M/gt/city_read_04.jpg'],
            'test_l': ['Snow100K-L/synthetic/a.jpg > Snow100K-L/gt/a.jpg'],
            'test_realistic': ['realistic/snow_animal_00009.jpg'],
        },
        'subset of FocalNet, SFNet and ConvIR': {
            'train': ['Snow100K/train2500/Snow/1.jpg > Snow100K/train2500/Gt/1.jpg'],
            'test': ['Snow100K/test2000/Snow/2.jpg > Snow100K/test2000/Gt/2.jpg'],
        },
    },
    'CSD': {
        'release': {
            'train': ['CSD/Train/Snow/1.tif > CSD/Train/Gt/1.tif'],
            'test': ['CSD/Test/Snow/4.tif > CSD/Test/Gt/4.tif'],
        },
        'subset of FocalNet, SFNet and ConvIR': {
            'train': ['CSD/train2500/Snow/7.tif > CSD/train2500/Gt/7.tif'],
            'test': ['CSD/test2000/Snow/8.tif > CSD/test2000/Gt/8.tif'],
        },
    },
    'SRRS': {
        'release': {'train': ['SRRS_15004/Syn/0.tif > SRRS_15004/gt_new/0.jpg']},
        'subset of FocalNet, SFNet and ConvIR': {
            'train': ['SRRS/train2500/Snow/302.tif > SRRS/train2500/Gt/302.jpg'],
            'test': ['SRRS/test2000/Snow/303.tif > SRRS/test2000/Gt/303.jpg'],
        },
    },
    'RealSnow10K': {'release': {'train': ['RealSnow10k/a.jpg', 'RealSnow10k/b.jpg']}},
}

RAIN = {
    'Rain100L': {
        'RCDNet': {
            'train': ['train/small/rain/norain-1.png > train/small/norain/norain-1.png'],
            'test': ['test/small/rain/norain-100.png > test/small/norain/norain-100.png'],
        },
        'website': {
            'train': ['rain_data_train_Light/rain/norain-1x2.png > rain_data_train_Light/norain/norain-1.png'],
            'test': ['rain_data_test_Light/rain/X2/norain-1x2.png > rain_data_test_Light/norain/norain-1.png'],
        },
        'PReNet': {
            'train': ['RainTrainL/rain-12.png > RainTrainL/norain-12.png'],
            'test': ['Rain100L/rainy/rain-001.png > Rain100L/norain-001.png'],
        },
        'plain folders': {
            'train': ['Rain100L/train/rain/norain-5x2.png > Rain100L/train/norain/norain-5.png'],
            'test': ['Rain100L/test/rain/rain-001.png > Rain100L/test/norain/norain-001.png'],
        },
        'AirNet and PromptIR': {
            'train': ['Derain/rainy/rain-100.png > Derain/gt/norain-100.png'],
        },
        'Restormer': {'test': ['test/Rain100L/input/1.png > test/Rain100L/target/1.png']},
    },
    'Rain100H': {
        'RCDNet': {
            'train': ['train/small/rain/norain-3.png > train/small/norain/norain-3.png'],
            'test': ['test/small/rain/norain-4.png > test/small/norain/norain-4.png'],
        },
        'website': {
            'train': ['rain_data_train_Heavy/rain/X2/norain-9x2.png > rain_data_train_Heavy/norain/norain-9.png'],
            'test': ['rain_data_test_Heavy/rain/X2/norain-1x2.png > rain_data_test_Heavy/norain/norain-1.png'],
        },
        'PReNet': {
            'train': ['RainTrainH/rain-1800.png > RainTrainH/norain-1800.png'],
            'test': ['Rain100H/rainy/rain-100.png > Rain100H/norain-100.png'],
        },
        'plain folders': {
            'train': ['Rain100H/train/rain/norain-1x2.png > Rain100H/train/norain/norain-1.png'],
            'test': ['Rain100H/test/rain/norain-1x2.png > Rain100H/test/norain/norain-1.png'],
        },
        'Restormer': {'test': ['test/Rain100H/input/1.png > test/Rain100H/target/1.png']},
    },
    'Rain13K': {
        'Restormer and MPRNet': {
            'train': ['train/Rain13K/input/13712.jpg > train/Rain13K/target/13712.jpg'],
            'test_100': ['test/Test100/input/1.png > test/Test100/target/1.png'],
            'test_rain100h': ['test/Rain100H/input/1.png > test/Rain100H/target/1.png'],
            'test_rain100l': ['test/Rain100L/input/1.png > test/Rain100L/target/1.png'],
            'test_1200': ['test/Test1200/input/1.png > test/Test1200/target/1.png'],
            'test_2800': ['test/Test2800/input/1.png > test/Test2800/target/1.png'],
        }
    },
    'Rain1400': {
        'release': {
            'train': [
                f'rainy_image_dataset/training/rainy_image/1_{k}.jpg > rainy_image_dataset/training/ground_truth/1.jpg'
                for k in (1, 2, 14)
            ],
            'test': [
                'rainy_image_dataset/testing/rainy image/901_1.jpg > rainy_image_dataset/testing/ground truth/901.jpg'
            ],
        },
        'PReNet': {
            'train': ['train/Rain12600/rainy_image/900_14.jpg > train/Rain12600/ground_truth/900.jpg'],
            'test': ['test/Rain1400/rainy_image/950_3.jpg > test/Rain1400/ground_truth/950.jpg'],
        },
    },
    'RainDrop': {
        'release': {
            'train': ['train/data/0_rain.png > train/gt/0_clean.png'],
            'test_a': ['test_a/data/58_rain.png > test_a/gt/58_clean.png'],
            'test_b': ['test_b/data/102_rain.jpg > test_b/gt/102_clean.jpg'],
        }
    },
    'Outdoor-Rain': {
        'release': {
            'train': [
                'CVPR19RainTrain/in/im_0001_s80_a04.png > CVPR19RainTrain/gt/im_0001.png',
                'CVPR19RainTrain/in/im_0001_s100_a06.png > CVPR19RainTrain/gt/im_0001.png',
            ],
            'val': ['test_with_train_param_v5/in/im_0601_s80_a04.png > test_with_train_param_v5/gt/im_0601.png'],
            'test': ['CVPR19RainTrain/test/data/im_0042_s95_a06.png > CVPR19RainTrain/test/gt/im_0042.png'],
        }
    },
    'SPA-Data': {
        'release': {
            'train': [
                'real_world/000/000-1/000-1_0_256.png > real_world_gt/000/000_0_256.png',
                'real_world/000/000-12/000-12_0_256.png > real_world_gt/000/000_0_256.png',
                'real_world/274/274-3/274-3_512_0.png > real_world_gt/274/274_512_0.png',
            ],
            'test': ['real_test_1000/rain/000.png > real_test_1000/gt/000gt.png'],
        },
        'RCDNet': {'test': ['spa-data/test/small/rain/7.png > spa-data/test/small/norain/7.png']},
    },
}

HAZE = {
    'RESIDE-ITS': {
        'RESIDE-Standard': {
            'train': [
                'ITS/hazy/1_1_0.90179.png > ITS/clear/1.png',
                'ITS/hazy/1_10_0.98796.png > ITS/clear/1.png',
                'ITS/hazy/2_1_0.99082.png > ITS/clear/2.png',
            ]
        },
        'ITS v2': {
            'train': ['ITS/train/ITS_haze/1_1_0.90179.png > ITS/train/ITS_clear/1.png'],
            'val': ['ITS/val/haze/1400_3_0.74.png > ITS/val/clear/1400.png'],
        },
        'ConvIR': {'train': ['reside-indoor/train/hazy/1_1_0.90179.png > reside-indoor/train/gt/1.png']},
        'DehazeFormer': {'train': ['RESIDE-IN/train/hazy/1_1_0.90179.png > RESIDE-IN/train/GT/1_1_0.90179.png']},
    },
    'RESIDE-OTS': {
        'RESIDE-beta': {
            'train': [
                'OTS_ALPHA/haze/OTS/0025_0.8_0.04.jpg > OTS_ALPHA/clear/clear_images/0025.jpg',
                'OTS_ALPHA/haze/OTS/0025_1_0.2.jpg > OTS_ALPHA/clear/clear_images/0025.jpg',
            ]
        },
        'AirNet and PromptIR': {
            'train': [
                'Dehaze/synthetic/part1/0025_0.8_0.04.jpg > Dehaze/original/0025.jpg',
                'Dehaze/synthetic/part4/8161_0.95_0.16.jpg > Dehaze/original/8161.jpg',
            ]
        },
        'plain folders': {'train': ['OTS/hazy/0005_0.8_0.04.jpg > OTS/clear/0005.jpg']},
        'ConvIR': {'train': ['reside-outdoor/train/hazy/0005_0.85_0.04.jpg > reside-outdoor/train/gt/0005.jpg']},
    },
    'SOTS': {
        'release': {
            'test_indoor': [
                'SOTS/indoor/hazy/1400_1.png > SOTS/indoor/gt/1400.png',
                'SOTS/indoor/hazy/1400_10.png > SOTS/indoor/gt/1400.png',
            ],
            'test_outdoor': ['SOTS/outdoor/hazy/0001_0.8_0.2.jpg > SOTS/outdoor/gt/0001.png'],
        },
        'ConvIR': {
            'test_indoor': ['reside-indoor/test/hazy/1449_2.png > reside-indoor/test/gt/1449.png'],
            'test_outdoor': ['reside-outdoor/test/hazy/0002_0.8_0.08.jpg > reside-outdoor/test/gt/0002.png'],
        },
        'DehazeFormer': {
            'test_indoor': ['RESIDE-IN/test/hazy/1400_1.png > RESIDE-IN/test/GT/1400_1.png'],
            'test_outdoor': ['RESIDE-OUT/test/hazy/0001_0.8_0.2.png > RESIDE-OUT/test/GT/0001_0.8_0.2.png'],
        },
        'AirNet and PromptIR': {'test_outdoor': ['dehaze/input/0001_0.8_0.2.jpg > dehaze/target/0001.png']},
    },
    'RTTS': {'release': {'test': ['RTTS/JPEGImages/AM_Bing_211.png']}},
    'URHI': {'release': {'train': ['UnannotatedHazyImages/HLCN_Google_012.jpeg']}},
    'RIDCP500': {'release': {'train': ['rgb_500/abc.jpg']}},
    'O-HAZE': {
        'release': {
            'train': [
                '# O-HAZY NTIRE 2018/hazy/01_outdoor_hazy.jpg > # O-HAZY NTIRE 2018/GT/01_outdoor_GT.jpg',
                '# O-HAZY NTIRE 2018/hazy/40_outdoor_hazy.jpg > # O-HAZY NTIRE 2018/GT/40_outdoor_GT.jpg',
            ],
            'test': ['# O-HAZY NTIRE 2018/hazy/41_outdoor_hazy.jpg > # O-HAZY NTIRE 2018/GT/41_outdoor_GT.jpg'],
        }
    },
    'NH-HAZE': {
        'release': {
            'train': ['NH-HAZE/01_hazy.png > NH-HAZE/01_GT.png', 'NH-HAZE/45_hazy.png > NH-HAZE/45_GT.png'],
            'val': ['NH-HAZE/50_hazy.png > NH-HAZE/50_GT.png'],
            'test': ['NH-HAZE/51_hazy.png > NH-HAZE/51_GT.png'],
        },
        'two folders': {
            'train': ['NH-HAZE/hazy/02_hazy.png > NH-HAZE/GT/02_GT.png'],
            'val': ['NH-HAZE/hazy/46_hazy.png > NH-HAZE/GT/46_GT.png'],
            'test': ['NH-HAZE/hazy/55_hazy.png > NH-HAZE/GT/55_GT.png'],
        },
    },
    'Dense-Haze': {'release': {'test': ['Dense_Haze_NTIRE19/hazy/01_hazy.png > Dense_Haze_NTIRE19/GT/01_GT.png']}},
}

LOW_LIGHT = {
    'LOLv1': {
        'release': {
            'train': ['LOLdataset/our485/low/2.png > LOLdataset/our485/high/2.png'],
            'test': ['LOLdataset/eval15/low/111.png > LOLdataset/eval15/high/111.png'],
        },
        'Retinexformer': {
            'train': ['LOLv1/Train/input/100.png > LOLv1/Train/target/100.png'],
            'test': ['LOLv1/Test/input/146.png > LOLv1/Test/target/146.png'],
        },
    },
    'LOLv2-real': {
        'release, or renamed as by Retinexformer': {
            'train': ['LOLv2/Real_captured/Train/Low/low00001.png > LOLv2/Real_captured/Train/Normal/normal00001.png'],
            'test': ['LOLv2/Real_captured/Test/Low/00690.png > LOLv2/Real_captured/Test/Normal/00690.png'],
        }
    },
    'LOLv2-synthetic': {
        'release': {
            'train': ['LOLv2/Synthetic/Train/Low/r000da54ft.png > LOLv2/Synthetic/Train/Normal/r000da54ft.png'],
            'test': ['LOLv2/Synthetic/Test/Low/r00816405t.png > LOLv2/Synthetic/Test/Normal/r00816405t.png'],
        }
    },
    'DICM': {'folder of its name': {'test': ['DICM/01.jpg', 'DICM/69.jpg']}},
    'LIME': {'folder of its name': {'test': ['LIME/1.bmp', 'LIME/10.bmp']}},
    'MEF': {'folder of its name': {'test': ['MEF/BelgiumHouse.png']}},
    'NPE': {'folder of its name': {'test': ['NPE/birds.bmp']}},
    'VV': {'folder of its name': {'test': ['VV/P1010234.jpg']}},
}

UNDERWATER = {
    'UIEB': {
        'release': {
            'train': [
                'raw-890/100_img_.png > reference-890/reference-890/100_img_.png',
                'raw-890/10139.png > reference-890/reference-890/10139.png',
            ],
            'test': [
                'raw-890/10909.png > reference-890/reference-890/10909.png',
                'raw-890/929_img_.png > reference-890/reference-890/929_img_.png',
            ],
            'test_challenge': ['challenging-60/58.png'],
        }
    },
    'EUVP': {
        'release': {
            'train_dark': [
                'EUVP/Paired/underwater_dark/trainA/264286_00007889.jpg > '
                'EUVP/Paired/underwater_dark/trainB/264286_00007889.jpg'
            ],
            'val_dark': ['EUVP/Paired/underwater_dark/validation/1.jpg'],
            'train_imagenet': [
                'EUVP/Paired/underwater_imagenet/trainA/n01496331_10009.jpg > '
                'EUVP/Paired/underwater_imagenet/trainB/n01496331_10009.jpg'
            ],
            'val_imagenet': ['EUVP/Paired/underwater_imagenet/validation/2.jpg'],
            'train_scenes': [
                'EUVP/Paired/underwater_scenes/trainA/im_f1000_.jpg > '
                'EUVP/Paired/underwater_scenes/trainB/im_f1000_.jpg'
            ],
            'val_scenes': ['EUVP/Paired/underwater_scenes/validation/3.jpg'],
            'test': ['EUVP/test_samples/Inp/test_p116_.jpg > EUVP/test_samples/GTr/test_p116_.jpg'],
            'train_poor': ['EUVP/Unpaired/trainA/4.jpg'],
            'train_good': ['EUVP/Unpaired/trainB/5.jpg'],
            'val_unpaired': ['EUVP/Unpaired/validation/6.jpg'],
        }
    },
    'UWCNN': {
        'release': {
            f'train_{kind.lower()}': [
                f'type{kind}_data/underwater_type_{kind}/9_img_0.31_0.8_.bmp > '
                f'type{kind}_data/gt_type_type_{kind}/9_Image_.bmp'
            ]
            for kind in ('I', 'IA', 'IB', 'II', 'III', '1', '3', '5', '7', '9')
        }
    },
    'RUIE': {
        'release': {
            'test_uiqs': ['UIQS/A/A_00380.jpg', 'UIQS/E/E_002.jpg'],
            'test_uccs': ['UCCS/blue/blue_00.jpg', 'UCCS/blue-green/bg_10.jpg', 'UCCS/green/green_01.jpg'],
            'test_uhts': ['UTTS/pic_A/JPEGImages/259.jpg', 'UTTS/pic_E/JPEGImages/2318.jpg'],
        }
    },
    'U45': {
        'release': {'test': ['upload/U45/U45/1.png', 'upload/U45/U45/45.png']},
        'folder of its name': {'test': ['U45/18.png', 'U45/2.png']},
    },
}

MIXED = {
    'CDD-11': {
        'release': {
            'train': [
                'CDD-11_train/low/000001.png > CDD-11_train/clear/000001.png',
                'CDD-11_train/low_haze_snow/000001.png > CDD-11_train/clear/000001.png',
                'CDD-11_train/haze_rain/000002.png > CDD-11_train/clear/000002.png',
            ],
            **{
                f'test_{kind}': [f'CDD-11_test/{kind}/000005.png > CDD-11_test/clear/000005.png']
                for kind in (
                    'low', 'haze', 'rain', 'snow', 'low_haze', 'low_rain', 'low_snow', 'haze_rain', 'haze_snow',
                    'low_haze_rain', 'low_haze_snow',
                )
            },
        }
    },
    'FFHQ': {
        'release': {
            'train': ['images1024x1024/00000/00000.png', 'images1024x1024/59000/59999.png'],
            'val': ['images1024x1024/60000/60000.png', 'images1024x1024/69000/69999.png'],
        }
    },
}  # fmt: skip

CASES = {**SNOW, **RAIN, **HAZE, **LOW_LIGHT, **UNDERWATER, **MIXED}
BYSTANDERS = {  # files of a release that belong to no part
    'RUIE': ['UTTS/pic_A/Annotations/0316.JPG', 'UIQS.rar'],
    'U45': ['upload/U45/blue/18.png', 'upload/CycleGAN/1.png'],
    'Snow100K': ['all/mask/beautiful_smile_00001.jpg'],
    'SPA-Data': ['real_world.txt'],
}
