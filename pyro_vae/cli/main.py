"""The application: its commands, and one line for each error."""

import logging
import shlex
import sys
from typing import Any, cast

import typer

from pyro_vae.cli import (
    compare,
    evaluate,
    generate,
    impute,
    pairs,
    plot,
    processes,
    report,
    reproduce,
    runs,
    train,
)
from pyro_vae.cli.options import print_help
from pyro_vae.cli.termination import TERMINATED, Termination
from pyro_vae.training import NonFiniteLoss

_INTERRUPTED = 130  # the shell's code for an end by SIGINT

app = typer.Typer(
    help="Auto-encoding variational Bayes in Pyro. Costs and log-likelihoods are in nats per "
    "example.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command(name="train")(train.train)
app.command(name="evaluate")(evaluate.evaluate)
app.command(name="generate")(generate.generate)
app.command(name="impute")(impute.impute_file)
app.command(name="compare")(compare.compare)
app.command(name="plot")(plot.plot)
app.command(name="report")(report.report)
app.command(name="list")(runs.list_runs)
app.command(name="pairs")(pairs.pairs)
app.add_typer(reproduce.app, name="reproduce")


@app.callback(invoke_without_command=True)
def help_alone(context: typer.Context) -> None:
    """Prints the help if no command is given."""
    command = context.invoked_subcommand
    if processes.count() > 1 and command is not None and command not in processes.TOGETHER:
        raise ValueError(
            f"{command}: got {processes.count()} processes of torchrun, expected one; "
            f"{' and '.join(processes.TOGETHER)} run in several"
        )
    print_help(context)


def main() -> None:
    """Runs the command; a wrong argument ends in one line on stderr and exit code 2."""
    logging.getLogger("pyro").setLevel(logging.WARNING)  # it logs each plate nesting it guesses
    # typer's usage errors; their base class moves between packages from version to version.
    usage_error = cast(type[Exception], typer.BadParameter.__mro__[2])
    termination = Termination()
    try:
        with termination.handled():
            code = app(standalone_mode=False)
            if code == _INTERRUPTED:  # typer has caught the interrupt, and prints nothing
                raise KeyboardInterrupt
        processes.leave(TERMINATED if termination.requested else code or 0)
    except usage_error as error:
        given = shlex.join(["pyro-vae", *sys.argv[1:]])
        _fail(f"{cast(Any, error).format_message()} (in: {given})", 2)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        _fail(str(error), 2)
    except NonFiniteLoss as error:
        _fail(f"{error}; the epochs before it are kept", 1)
    except FloatingPointError as error:
        _fail(str(error), 1)
    except (typer.Abort, KeyboardInterrupt):
        if termination.requested:
            _fail("terminated; what was written is kept", TERMINATED)
        _fail("interrupted; what was written is kept", _INTERRUPTED)


def _fail(message: str, code: int) -> None:
    typer.echo(f"pyro-vae: error: {' '.join(message.split())}", err=True)
    processes.leave(code)
