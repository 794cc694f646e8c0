"""The static site of a run: `python -m ldmseg_lib.reproduction.report RUN_DIR [--out FOLDER]`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ...core.errors import one_line_errors
from .site import build_site


@one_line_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m ldmseg_lib.reproduction.report",
        description="Build the static site of a run: its executed notebooks, tables, figures and their provenance.",
    )
    parser.add_argument("run_dir", type=Path, help="such as runs/demo")
    parser.add_argument("--out", type=Path, help="folder of the site (default: site/<name of the run folder>)")
    options = parser.parse_args(arguments)
    print(build_site(options.run_dir, options.out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
