"""Pickles read as data: a machine for the opcodes of plain values and tensors, which runs nothing.

A name in a pickle is never imported. It stands for what the reader's own table gives it, and a name that is
not in that table ends the reading. Python's own unpickler is not used: ten bytes make it allocate gigabytes.
"""

import pickletools
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

LARGEST_PICKLE = 4 << 20
"""Bytes. The pickle of the largest CLIP with its optimizer's state is a sixth of it."""

_NEWEST_PROTOCOL = 5
_VALUES = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_LITERALS = {
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_KEYS = (str, int, float, bool, bytes, type(None))


class PickleError(ValueError):
    """A pickle that is damaged, or no plain data; its text says what was found."""


class UnknownNameError(PickleError):
    """A pickle that asks for something by a name that is not in the reader's table: its text is the name."""


@dataclass(frozen=True, eq=False)
class Function:
    """What a name stands for that a pickle may call."""

    call: Callable[..., Any]


@dataclass(frozen=True, eq=False)
class RecordClass:
    """What a name stands for whose objects become records."""

    name: str


@dataclass(eq=False)
class Record:
    """An object of a class that is not loaded: its attributes, and nothing else of it."""

    attributes: dict[Any, Any] = field(default_factory=dict)


def unpickle(data: bytes, find: Callable[[str], Any], stored: Callable[[Any], Any]) -> Any:
    """Read one pickle. `find` gives what a name `module.name` stands for, `stored` what a persistent id does.

    Dictionaries and lists may hold themselves. Raises PickleError for anything but plain data.
    """
    machine = _Machine(find, stored)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about escapes in texts of opcodes that are refused here
            for opcode, argument, _ in pickletools.genops(data):
                if opcode.name != "STOP":  # the last one; without it the loop ends in a ValueError
                    machine.step(opcode.name, argument)
        return machine.stack.pop()
    except PickleError:
        raise
    except (ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
        raise PickleError("its pickle is damaged") from error


class _Machine:
    def __init__(self, find: Callable[[str], Any], stored: Callable[[Any], Any]) -> None:
        self.find, self.stored = find, stored
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.copied = 0

    def step(self, opcode: str, argument: Any) -> None:
        if opcode in _LITERALS:
            self.stack.append(argument)
        elif opcode in _VALUES:
            self.stack.append(_VALUES[opcode])
        elif opcode in _TUPLES:
            self._group(_TUPLES[opcode])
        else:
            step = _STEPS.get(opcode)
            if step is None:
                raise PickleError(f"its pickle holds {opcode}, which no checkpoint needs")
            step(self, argument)

    def _group(self, count: int) -> None:
        if len(self.stack) < count:
            raise IndexError
        self.stack[-count:] = [tuple(self.stack[-count:])]

    def _protocol(self, version: int) -> None:
        if version > _NEWEST_PROTOCOL:
            raise PickleError(f"its pickle has protocol {version}, and {_NEWEST_PROTOCOL} is the newest")

    def _frame(self, _: int) -> None:
        pass

    def _mark(self, _: None) -> None:
        self.below.append(self.stack)
        self.stack = []

    def _since_mark(self) -> list[Any]:
        values = self.stack
        self.stack = self.below.pop()
        return values

    def _tuple(self, _: None) -> None:
        values = self._since_mark()
        self.stack.append(tuple(values))

    def _empty_dict(self, _: None) -> None:
        self.stack.append({})

    def _empty_list(self, _: None) -> None:
        self.stack.append([])

    def _put(self, place: int) -> None:
        self.memo[place] = self.stack[-1]

    def _memoize(self, _: None) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def _get(self, place: int) -> None:
        self.stack.append(self.memo[place])

    def _append(self, _: None) -> None:
        self._extend([self.stack.pop()])

    def _appends(self, _: None) -> None:
        self._extend(self._since_mark())

    def _extend(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, list):
            raise TypeError
        target += values

    def _set_item(self, _: None) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._update([key, value])

    def _set_items(self, _: None) -> None:
        self._update(self._since_mark())

    def _update(self, flat: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict):
            raise TypeError
        for key, value in zip(flat[::2], flat[1::2], strict=True):
            if type(key) not in _KEYS:  # the hash of a tuple in a tuple in … ends the process
                raise PickleError(f"its pickle has a key that is a {type(key).__name__}")
            target[key] = value

    def _global(self, name: str) -> None:
        self.stack.append(self.find(name.replace(" ", ".", 1)))

    def _stack_global(self, _: None) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise TypeError
        self.stack.append(self.find(f"{module}.{name}"))

    def _reduce(self, _: None) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, Function) or not isinstance(arguments, tuple):
            raise TypeError
        # A function's result may be a copy: a hundred thousand copies of one long text are a bomb.
        self.copied += sum(len(each) for each in arguments if isinstance(each, str | list | tuple | dict))
        if self.copied > LARGEST_PICKLE:
            raise PickleError("its pickle unfolds to far more than it stores")
        self.stack.append(function.call(*arguments))

    def _new_object(self, _: None) -> None:
        arguments, kind = self.stack.pop(), self.stack.pop()
        if not isinstance(kind, RecordClass) or arguments != ():
            raise TypeError
        self.stack.append(Record())

    def _build(self, _: None) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if not isinstance(state, dict):
            raise TypeError
        if isinstance(target, Record):
            target.attributes = state
        elif not isinstance(target, dict):  # what a state_dict has beside its items is about versions
            raise TypeError

    def _persistent(self, _: None) -> None:
        self.stack.append(self.stored(self.stack.pop()))


_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": _Machine._protocol,
    "FRAME": _Machine._frame,
    "MARK": _Machine._mark,
    "TUPLE": _Machine._tuple,
    "EMPTY_DICT": _Machine._empty_dict,
    "EMPTY_LIST": _Machine._empty_list,
    "BINPUT": _Machine._put,
    "LONG_BINPUT": _Machine._put,
    "MEMOIZE": _Machine._memoize,
    "BINGET": _Machine._get,
    "LONG_BINGET": _Machine._get,
    "APPEND": _Machine._append,
    "APPENDS": _Machine._appends,
    "SETITEM": _Machine._set_item,
    "SETITEMS": _Machine._set_items,
    "GLOBAL": _Machine._global,
    "STACK_GLOBAL": _Machine._stack_global,
    "REDUCE": _Machine._reduce,
    "NEWOBJ": _Machine._new_object,
    "BUILD": _Machine._build,
    "BINPERSID": _Machine._persistent,
}
