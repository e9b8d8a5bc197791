"""What the commands of the command line have in common: configs made of options, results printed."""

import inspect
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, TypeVar, Union, get_args, get_origin

import typer

from clipkit.errors import escaped, escaped_json
from clipkit.locations import local_path
from clipkit.progress import speaks

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic.fields import FieldInfo

    Config = TypeVar("Config", bound=BaseModel)


class Result(Protocol):
    """What every stage's result can do."""

    def as_json(self) -> dict[str, Any]:
        """Return the result as plain JSON values."""

    def lines(self) -> str:
        """Return the result as text to read."""


def _local(path: "str | Path") -> Path:
    return path if isinstance(path, Path) else local_path(path)


LOCAL: Any = {"parser": _local, "metavar": "<path>"}
"""Of the options and arguments that are files and folders of this machine: an address is refused."""

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


def given(context: typer.Context, options: dict[str, Any]) -> dict[str, Any]:
    """Return those of a command's options that the user gave, not what they are without that."""
    sources = {name: context.get_parameter_source(name) for name in options}
    return {
        name: options[name]
        for name, source in sources.items()
        if source and not source.name.startswith("DEFAULT")
    }


def check_run_name(name: str | None) -> None:
    """Refuse a run's name that is no name of one folder, as bad usage."""
    if name is not None and (name in {"", ".", ".."} or "/" in name or "\0" in name):
        raise typer.BadParameter(f"--name: expected the name of one folder in --runs, found {name!r}")


def take(parameters: Iterable[inspect.Parameter], command: Callable[..., None]) -> None:
    """Say that `command`, written with **options, takes these parameters: typer makes its options of them."""
    signature = inspect.Signature(list(parameters))
    command.__signature__ = signature  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in signature.parameters.values()}


def with_options_of(kind: "type[BaseModel]") -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command an option for each field of `kind`, whose description is the option's help.

    The command gets their values in its `**settings`; values that need more than a Python type are checked
    by `config_of`.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = list(inspect.signature(command).parameters.values())
        parameters = [each for each in own if each.kind is not each.VAR_KEYWORD]
        parameters[-1:-1] = _options(kind)  # before --json, which stands last
        take(parameters, command)
        return command

    return decorate


def _options(kind: "type[BaseModel]") -> Iterator[inspect.Parameter]:
    for name, field in kind.model_fields.items():
        assert field.description, f"{kind.__name__}.{name}: its description is the option's help"
        spelled = [f"--{name.replace('_', '-')}"] if field.default is False else []
        yield inspect.Parameter(
            name,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=_shown_default(field),
            annotation=Annotated[
                str if _is_spelled(field) else _plain(field.annotation),
                typer.Option(*spelled, help=field.description, **(LOCAL if _is_path(field) else {})),
            ],
        )


def _shown_default(field: "FieldInfo") -> Any:
    if field.is_required():
        return ...
    if _is_listed(field.annotation):
        return ",".join(f"{each:g}" for each in field.default) or None
    return f"{field.default:g}" if _is_spelled(field) else field.default


def _is_spelled(field: "FieldInfo") -> bool:
    """Whether a number's text is left to the config, which takes it in percent too."""
    from pydantic import BeforeValidator

    return field.annotation is float and any(isinstance(each, BeforeValidator) for each in field.metadata)


def _is_path(field: "FieldInfo") -> bool:
    return Path in (field.annotation, *get_args(field.annotation)) or list[Path] in get_args(field.annotation)


def _is_listed(annotation: Any) -> bool:
    return get_origin(annotation) is tuple and get_args(annotation)[-1] is ...


def _plain(annotation: Any) -> Any:
    """The type that an option is parsed as: without pydantic's conditions, and text for one of several.

    Text too for a tuple of any length, whose values stand with commas between them.
    """
    if _is_listed(annotation):
        return str
    match get_origin(annotation), get_args(annotation):
        case (None, _):
            return annotation
        case (origin, members) if origin in (Union, UnionType):
            return Union[tuple(each if each is NoneType else _plain(each) for each in members)]  # noqa: UP007
        case (origin, (first, *_)) if origin is Annotated:
            return _plain(first)
        case (origin, _) if origin is Literal:
            return str
        case (origin, members):
            return origin[tuple(map(_plain, members))]


def show(result: Result, as_json: bool) -> None:
    """Print a command's result on standard output."""
    if not speaks():
        return
    if as_json:
        print(escaped_json(json.dumps(result.as_json(), ensure_ascii=False)))
    else:
        print("\n".join(map(escaped, result.lines().split("\n"))))
