"""``pyro-vae reproduce``: runs a study; the studies are the modules of :mod:`pyro_vae.studies`."""

from collections.abc import Callable, Iterator
from dataclasses import Field, fields
from inspect import Parameter, Signature
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin, get_type_hints

import typer
from typer.core import TyperGroup

from pyro_vae import studies
from pyro_vae.cli.options import HELP, print_help, say

if TYPE_CHECKING:
    from pyro_vae.studies.engine import Study

_HELP = {
    **HELP,
    "only": "A row to run; may be repeated. Without it all.",
    "out": "Folder of what is written; rows that are kept there are not run again.",
}
_LAST = ("only", "out")


class _Studies(TyperGroup):
    """A command for each study; a study is imported when it is asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        return studies.names()

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in studies.names():
            return None
        command = typer.Typer(add_completion=False, rich_markup_mode=None)
        command.command(name=cmd_name)(_runner(studies.find(cmd_name)))
        return typer.main.get_command(command)


app = typer.Typer(cls=_Studies, help="Run a study: a published table, or one of this package's.")


@app.callback(invoke_without_command=True)
def help_alone(context: typer.Context) -> None:
    """Prints the help if no study is given."""
    print_help(context)


def _runner(study: "type[Study[Any]]") -> Callable[..., None]:
    """Returns a function whose parameters are the study's options, as typer reads them."""

    def run(**options: Any) -> None:
        from pyro_vae.studies.engine import reproduce

        reproduce(study(**options), say)

    parameters = [
        Parameter(field.name, Parameter.KEYWORD_ONLY, default=field.default, annotation=annotation)
        for field, annotation in _options(study)
    ]
    run.__doc__ = study.__doc__
    run.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _options(study: "type[Study[Any]]") -> Iterator[tuple[Field[Any], Any]]:
    """Yields the fields of a study, and their types with typer's options."""
    hints = get_type_hints(study, include_extras=True)
    for field in sorted(fields(study), key=lambda field: field.name in _LAST):
        kind, text = hints[field.name], _HELP.get(field.name)
        if get_origin(kind) is Annotated:
            kind, text = get_args(kind)
        flag = [f"--{field.name.replace('_', '-')}"] if kind is bool else []
        yield field, Annotated[kind, typer.Option(*flag, help=text)]
