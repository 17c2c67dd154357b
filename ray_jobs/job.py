"""What every job's command line has in common: --config, --dry-run, --verbose, key=value overrides."""

import argparse
import inspect
import json
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ray_jobs.console import Console
from usfm.config import Config, load_config
from usfm.errors import UsfmError

__all__ = ["RECIPES", "main", "recipe_path"]

C = TypeVar("C", bound=Config)
HELP_COLUMNS = 96
RECIPES = Path(__file__).parent / "recipes"


def main(
    config_class: type[C],
    run: Callable[[C, Console], object],
    plan: Callable[[C], Mapping[str, Any]],
    argv: Sequence[str] | None = None,
    *,
    description: str,
    command: str | None = None,
    recipe: str | None = None,
    positional: str | None = None,
) -> int:
    """Parse a job's command line, load its config and run it.

    Args:
        config_class: the job's config model.
        run: does the work.
        plan: derives what would be done; it must touch nothing. `--dry-run` prints it.
        argv: arguments, None = those of the process.
        description: shown by `--help`, which lists the config's keys below it.
        command: what stands behind `usfm`, for the usage line; None = the file's name.
        recipe: built-in recipe that is used without `--config`.
        positional: key that an argument without "=" sets, e.g. the run's folder.

    Returns:
        The exit status: 0 done, 2 the user has something to mend.
    """
    parser = argparse.ArgumentParser(
        prog=command and f"usfm {command}",
        description=textwrap.fill(description, HELP_COLUMNS),
        epilog=_keys(config_class),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", help="YAML recipe: a path, or the name of a built-in one")
    parser.add_argument("--dry-run", action="store_true", help="print the resolved config and plan, touch nothing")
    parser.add_argument("--verbose", action="store_true", help="show Ray's own messages")
    parser.add_argument("overrides", nargs="*", metavar=f"[{positional}] key=value" if positional else "key=value")
    args = parser.parse_intermixed_args(argv)
    if positional:
        args.overrides = [text if "=" in text else f"{positional}={text}" for text in args.overrides]
    console = Console(args.verbose)
    try:
        config = load_config(config_class, recipe_path(args.config or recipe), args.overrides)
        if args.dry_run:
            console.say(config.to_yaml() + "--- plan\n" + json.dumps(dict(plan(config)), indent=2, default=str))
            return 0
        run(config, console)
    except UsfmError as error:
        console.error(str(error))
        return 2
    except KeyboardInterrupt:
        console.error("interrupted; run the same command again to go on")
        return 130
    finally:
        sys.stdout.flush()
    return 0


def _keys(config_class: type[Config]) -> str:
    """The keys of a config, those of its bases first, and what the documentation of each says."""
    known = [cls for cls in reversed(config_class.__mro__) if issubclass(cls, Config)]
    documents = [inspect.cleandoc(vars(cls).get("__doc__") or "") for cls in known]
    keys = [attributes.rstrip() for text in documents if (attributes := text.partition("\nAttributes:\n")[2])]
    head = (
        "Overrides are dotted, e.g. optim.lr=3e-4; recipes lie in ray_jobs/recipes/; --dry-run shows every value."
    )
    return "\n".join([head, "", "keys:", *keys]) if keys else head


def recipe_path(name: str | None) -> Path | None:
    """A path as given, or a built-in recipe by its name with or without `.yaml`."""
    if name is None or Path(name).exists():
        return None if name is None else Path(name)
    built_in = RECIPES / f"{Path(name).stem}.yaml"
    return built_in if built_in.exists() and Path(name).parent in (Path(), RECIPES) else Path(name)
