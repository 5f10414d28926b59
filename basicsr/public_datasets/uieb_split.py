"""The 90 of UIEB's 890 pairs that UnderwaterRanker tests on."""

# dataset/uie_test_list.txt of github.com/RQ-Wu/UnderwaterRanker, whose authors include UIEB's.
NAMES = """
1225 1407 1491 1539 1573 1660 1742 1957 2546 2629 2677 2701 2774 2787 2882 2977 3001 3015 3196 3202 3330 3650
3728 3925 3947 4070 5554 5818 5830 6062 6082 6788 6820 8010 8046 9547 9554 9557 9567 9896 9900 10909 10945
11052 11064 11374 11398 12290 12336 12348 12422 12433 15001 15045 15094 15113 15136 15418 15426 15704 25_img_
26_img_ 82_img_ 86_img_ 87_img_ 89_img_ 90_img_ 208_img_ 209_img_ 210_img_ 211_img_ 212_img_ 213_img_ 379_img_
380_img_ 381_img_ 382_img_ 383_img_ 540_img_ 541_img_ 542_img_ 543_img_ 544_img_ 601_img_ 602_img_ 603_img_
604_img_ 605_img_ 928_img_ 929_img_
"""
TEST = tuple(NAMES.split())
