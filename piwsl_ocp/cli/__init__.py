"""The `piwsl` command: parses arguments, calls the rooms, and turns errors into one line."""

from __future__ import annotations

import errno
import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence

import typer

from piwsl_ocp.errors import UserError

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130


def build() -> typer.Typer:
    """Return the command with all its sub-commands."""
    from piwsl_ocp.cli import compare, data, demo, doctor, models, reproduce, search, sweep, train

    app = typer.Typer(
        name="piwsl",
        help="Train interatomic potentials whose energies and forces agree with each other.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        add_completion=False,
    )
    app.add_typer(data.app, name="data")
    app.command()(train.train)
    app.command()(train.resume)
    app.command()(train.validate)
    app.command()(train.predict)
    app.command()(compare.compare)
    app.command()(models.models)
    app.command()(reproduce.reproduce)
    app.command()(reproduce.report)
    app.command()(demo.demo)
    app.add_typer(sweep.app, name="sweep")
    app.add_typer(search.app, name="search")
    app.command()(doctor.doctor)
    app.command(
        name="fairchem",
        context_settings={
            "allow_extra_args": True,
            "ignore_unknown_options": True,
            "help_option_names": [],
        },
    )(train.fairchem)
    return app


def main() -> int:
    """Entry point of the `piwsl` command."""
    return _guarded(lambda: build()(prog_name="piwsl"))


def run_fairchem(arguments: Sequence[str], default_mode: str | None = None) -> int:
    """Entry point of `main.py`: fairchem's command line behind the stand-ins."""

    def call() -> None:
        from piwsl_ocp.ocp import fairchem_cli

        fairchem_cli.main(arguments, default_mode)

    return _guarded(call)


def _guarded(call: Callable[[], object]) -> int:
    """Run a command; a mistake of the user ends in one line and exit code 2."""
    _silence_deprecations()
    try:
        call()
    except UserError as error:
        return _fail(str(error), EXIT_USER_ERROR)
    except KeyboardInterrupt:
        return _fail("interrupted", EXIT_INTERRUPTED)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EFBIG):
            raise
        place = f" ('{error.filename}')" if error.filename else ""
        return _fail(f"{os.strerror(error.errno)}{place}: free space or choose another folder", 2)
    except Exception as error:
        # Imported here because it loads fairchem, which the other commands do not need.
        from piwsl_ocp.ocp.interruption import TrainingInterrupted

        if not isinstance(error, TrainingInterrupted):
            raise
        return _fail(str(error), EXIT_INTERRUPTED)
    return 0


def _silence_deprecations() -> None:
    """Keep out of the output what fairchem 1.10 says of its own code, which no user can change."""
    warnings.filterwarnings("ignore", message=".*jittable' is deprecated")
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"fairchem\.core\.models")
    logging.getLogger().addFilter(
        lambda record: "class is deprecated in favor of" not in record.getMessage()
    )


def _fail(message: str, code: int) -> int:
    print("error: " + " ".join(message.split()), file=sys.stderr)
    return code
