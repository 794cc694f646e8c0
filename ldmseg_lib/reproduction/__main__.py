"""Run folders: `python -m ldmseg_lib.reproduction {keys,plan,import,publish,report} ...`."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from ..core.errors import StageError, one_line_errors
from ..core.profiles import Profile
from .stage_keys import Key, check_run_folder, chosen_stages, stage_keys, sync
from .stages import plan, resolve


@one_line_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """The command. Exit code 2 for bad input, with one line on stderr."""
    options = _parser().parse_args(arguments)
    run: Callable[[argparse.Namespace], None] = options.run
    run(options)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ldmseg_lib.reproduction", description="Commands on run folders.")
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, run: Callable[[argparse.Namespace], None], help: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.")
        added.set_defaults(run=run)
        return added

    keys = command("keys", _keys, "write the key files that Snakemake reads")
    planned = command("plan", _plan, "say which notebooks a reproduction would run, and why")
    planned.add_argument("--notebooks", default="", help="plan these and what they need, such as 05,07")
    imported = command("import", _import, "copy results that were computed elsewhere and have the same keys")
    imported.add_argument("source", type=Path, help="a run folder, or the folder of one of its stages")
    for settings in (keys, planned, imported):
        settings.add_argument("--profile", default="demo", help="name or YAML file (%(default)s)")
        settings.add_argument("--data-root", help="a COCO-panoptic folder (default: the embedded data set)")
        settings.add_argument("--run-dir", help="the run folder (default: runs/PROFILE)")
        settings.add_argument("--seed", type=int, default=0, help="of the run (%(default)s)")
        settings.add_argument("--overrides", help="settings of the profile, as section.key=value,...")
    published = command("publish", _publish, "write the tables of a run, and bring one under runs/ into the repository")
    report = command("report", _report, "build the static site of a run: notebooks, tables, figures, their provenance")
    for finished in (published, report):
        finished.add_argument("run_dir", type=Path, help="such as runs/demo")
    report.add_argument("--out", type=Path, help="folder of the site (default: site/<name of the run folder>)")
    return parser


def _run_folder(options: argparse.Namespace, *, claim: bool) -> tuple[Profile, Path, dict[str, Key]]:
    """Profile, run folder and the keys of its stages; a folder of another run is refused, a new one made if `claim`."""
    names = ("profile", "data_root", "run_dir", "seed", "overrides")
    profile, run_dir, data_root = resolve(**{name: getattr(options, name) for name in names})
    keys = stage_keys(profile, seed=options.seed, data_root=data_root)
    if claim or (run_dir / "run.json").exists():
        check_run_folder(run_dir, profile.name, options.seed)
    return profile, run_dir, keys


def _keys(options: argparse.Namespace) -> None:
    _, run_dir, keys = _run_folder(options, claim=True)
    for name, key in keys.items():
        sync(run_dir, name, key)


def _plan(options: argparse.Namespace) -> None:
    profile, run_dir, keys = _run_folder(options, claim=False)
    chosen = chosen_stages(options.notebooks, profile)
    for name, text in plan(run_dir, {name: keys[name] for name in chosen}):
        print(f"{name:<24} {text}")


def _import(options: argparse.Namespace) -> None:
    from .import_results import import_results

    _, run_dir, keys = _run_folder(options, claim=True)
    imported, refused = import_results(options.source, run_dir, keys)
    print("\n".join(imported))
    if refused:
        raise StageError("\n  ".join(["these are not imported:", *refused]))


def _publish(options: argparse.Namespace) -> None:
    from .results import publish

    written = publish(options.run_dir)
    for folder in dict.fromkeys(file.parent for file in written):
        print(f"{folder}: {len({file for file in written if file.parent == folder})} files")


def _report(options: argparse.Namespace) -> None:
    from .report.site import build_site

    print(build_site(options.run_dir, options.out))


if __name__ == "__main__":
    sys.exit(main())
