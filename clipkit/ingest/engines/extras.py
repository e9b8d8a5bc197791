"""The packages that only some engines need."""

import importlib
from importlib.util import find_spec
from typing import Any

from clipkit.errors import EngineError, install_extra


def extra(package: str, name: str) -> Any:
    """Import `package` of the extra `name`. Raises EngineError if it is not there."""
    expect_extra(package, name)
    return importlib.import_module(package)


def expect_extra(package: str, name: str) -> None:
    """Raise EngineError if `package` of the extra `name` is not there; it is not imported."""
    found = find_spec(package)
    if found is None or found.origin is None:  # a mere folder of that name has none
        raise EngineError(
            f"--engine {name}: expected the extra {name}, found no package {package}; {install_extra(name)}"
        )
