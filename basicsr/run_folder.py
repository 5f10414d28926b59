"""The folder of a run: made, locked against a second run, never overwritten."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from basicsr import checkpoint
from basicsr.errors import CheckpointError
from basicsr.files import archive, lock_folder, remove_leftovers, write_text


@dataclass
class RunFolder:
    """Where everything of one run lies, as in BasicSR: ``experiments/<name>/``.

    Attributes:
        root: The folder.
    """

    root: Path

    @property
    def models(self) -> Path:
        """Weight files."""
        return self.root / 'models'

    @property
    def training_states(self) -> Path:
        """States to resume from."""
        return self.root / 'training_states'

    @property
    def visualization(self) -> Path:
        """Restored images of validations."""
        return self.root / 'visualization'

    def weights(self, letter: str, label: int | str) -> Path:
        """Weight file of one network, ``net_g_5000.pth``."""
        return self.models / f'net_{letter}_{label}.pth'

    def state(self, iteration: int) -> Path:
        """State file of one iteration."""
        return self.training_states / f'{iteration}.state'

    def lock(self) -> FileLock:
        """Claims the folder for this process until it ends, however it ends.

        Raises:
            OptionError: Another process trains in it, or the disk does not allow writing.
        """
        return lock_folder(self.root, 'run is training in', 'The run')

    def prepare(self, keep: bool) -> Path | None:
        """Makes the folders. An older run of the same name is kept under a new name, unless it is being resumed.

        Args:
            keep: Whether this run goes on in the existing folder.

        Returns:
            Where the older run now lies, if one was moved.
        """
        archived = None
        if not keep and self.root.exists() and any(self.root.iterdir()):
            archived = archive(self.root)
        for folder in (self.models, self.training_states, self.visualization):
            folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self.root)
        return archived

    def save_options(self, text: str) -> None:
        """Writes the resolved options beside the run's results."""
        write_text(self.root / f'{self.root.name}.yml', text)

    def newest_state(self) -> tuple[dict, Path] | None:
        """The newest state that can be read, and its file; None for a run that has none yet.

        Raises:
            CheckpointError: There are states, but none can be read.
        """
        found = checkpoint.states(self.training_states)
        errors = []
        for path in found:
            try:
                return checkpoint.read(path), path
            except CheckpointError as error:
                errors.append(str(error))
        if errors:
            raise CheckpointError(' '.join(errors))
        return None
