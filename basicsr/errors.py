"""Errors that are meant for the user: one clear sentence, and the exit code that a job scheduler sees."""

EXIT_FAILED = 1  # the work was begun and could not be finished
EXIT_REFUSED = 2  # the input is wrong: nothing was begun


class QualIRError(Exception):
    """Something that the user can put right; commands print its text without a traceback."""

    exit_code = EXIT_FAILED


class OptionError(QualIRError):
    """An option file, an override or a command line that cannot be used."""

    exit_code = EXIT_REFUSED


class DataError(QualIRError):
    """An image or a data set that cannot be used."""

    exit_code = EXIT_REFUSED


class CheckpointError(QualIRError):
    """A weight or state file that cannot be read or written."""


class MissingWeightsError(CheckpointError):
    """Weights of a scorer, metric or backbone that are not on this machine; the text says where to put which file."""


class TrainingError(QualIRError):
    """Training cannot go on, as when the loss is no longer finite."""
