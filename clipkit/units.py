"""Numbers as people write them, made plain where they come in."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field


def _number(value: Any) -> Any:
    number = value.strip() if isinstance(value, str) else value
    if isinstance(number, str) and number.endswith("%"):
        try:
            return float(f"{number[:-1].strip()}e-2")  # as 0.007 is read: 0.7 / 100 is less
        except ValueError:
            raise ValueError(f"expected a number or a percentage such as 0.1%, found {value!r}") from None
    return number


Part = Annotated[float, BeforeValidator(_number), Field(gt=0, lt=1)]
"""A fraction that is neither none nor all; like `Share` it may be given in percent, as text: 0.1%."""

Share = Annotated[float, BeforeValidator(_number), Field(ge=0, le=1)]
