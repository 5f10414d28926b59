"""BasicSR 1.4.2's own train.py with one more network; started by benchmarks/run.py in BasicSR's environment.

    python benchmarks/peers/basicsr_train.py FOLDER -opt FILE

``FOLDER`` takes the place of BasicSR's checkout: runs are written there.
"""

import runpy
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / 'tests/golden'))
from peers import import_torchvision

import_torchvision()

from basicsr.train import train_pipeline  # noqa: E402

if __name__ == '__main__':
    runpy.run_path(str(Path(__file__).with_name('first_step_arch.py')))
    train_pipeline(sys.argv.pop(1))
