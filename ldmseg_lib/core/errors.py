"""The errors of bad input: each message names the file, image, key or value and what would be right."""

import functools
import sys
from collections.abc import Callable
from typing import ParamSpec


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


_Parameters = ParamSpec("_Parameters")


def one_line_errors(main: Callable[_Parameters, int]) -> Callable[_Parameters, int]:
    """The command `main`, which prints an InputError as one line on stderr and returns 2."""

    @functools.wraps(main)
    def command(*args: _Parameters.args, **kwargs: _Parameters.kwargs) -> int:
        try:
            return main(*args, **kwargs)
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2

    return command
