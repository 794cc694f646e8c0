"""The errors of bad input: each message names the file, image, key or value and what would be right."""


class InputError(ValueError):
    """Something given from outside is wrong. Commands print it as one line and exit with code 2."""


class ProfileError(InputError):
    """A profile, or an override of it, has an unknown, missing or mistyped key."""


class DatasetError(InputError):
    """A data folder, its annotations or one of its files is faulty."""


class CheckpointError(InputError):
    """A checkpoint is damaged, or belongs to another model, profile or task."""


class StageError(InputError):
    """A stage of the reproduction lacks an input, or its run folder belongs to another run."""
