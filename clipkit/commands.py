"""What the commands of the command line have in common: configs made of options, results printed."""

import json
from typing import TYPE_CHECKING, Annotated, Any, Protocol, TypeVar

import typer

from clipkit.progress import speaks

if TYPE_CHECKING:
    from pydantic import BaseModel

    Config = TypeVar("Config", bound=BaseModel)


class Result(Protocol):
    """What every stage's result can do."""

    def as_json(self) -> dict[str, Any]:
        """Return the result as plain JSON values."""

    def lines(self) -> str:
        """Return the result as text to read."""


Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object, nothing else.")]


def config_of(kind: "type[Config]", options: dict[str, Any]) -> "Config":
    """Make a config of the options that it has; None leaves its default. A wrong value is bad usage."""
    from pydantic import ValidationError

    given = {name: options[name] for name in kind.model_fields if options.get(name) is not None}
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        option = "".join(f"--{str(name).replace('_', '-')}: " for name in first["loc"][:1])
        raise typer.BadParameter(option + first["msg"].removeprefix("Value error, ")) from None


def show(result: Result, as_json: bool) -> None:
    """Print a command's result on standard output."""
    if speaks():
        print(json.dumps(result.as_json(), ensure_ascii=False) if as_json else result.lines())
