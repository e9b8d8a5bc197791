"""Safetensors files whose header lies."""

import json
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from clipkit.errors import CheckpointError
from clipkit.model.checkpoint import load_model
from clipkit.model.formats.archive import read_model_file
from tests.model.conftest import one_line
from tests.model.formats.crafted import FLOATS, safetensors


@pytest.mark.parametrize(
    ("header", "data", "length", "expected"),
    [
        ({"a": FLOATS, "b": {**FLOATS, "data_offsets": [4, 12]}}, bytes(12), None, "invalid offset"),
        ({"a": FLOATS, "b": {**FLOATS, "data_offsets": [0, 8]}}, bytes(8), None, "invalid offset"),
        ({"a": FLOATS, "b": {**FLOATS, "data_offsets": [12, 20]}}, bytes(20), None, "invalid offset"),
        ({"a": FLOATS}, bytes(4), None, "not fully covered"),
        ({"a": FLOATS}, bytes(12), None, "not fully covered"),
        ({"a": {**FLOATS, "shape": [3]}}, bytes(8), None, "invalid shape"),
        ({"a": {**FLOATS, "shape": [2**62, 8]}}, bytes(8), None, "overflow"),
        ({"a": {**FLOATS, "shape": [-2]}}, bytes(8), None, "invalid value"),
        ({"a": {**FLOATS, "dtype": "Q4"}}, bytes(8), None, "unknown variant"),
        ({"a": FLOATS}, bytes(8), 2**63, "claims a header of 9,223,372,036,854,775,808 bytes"),
        ({"a": FLOATS}, bytes(8), 5 << 20, "claims a header of 5,242,880 bytes"),
        ({"a": FLOATS}, bytes(8), 4 << 20, "no safetensors file that can be read"),
        (b'{"a":NaN}', b"", None, "no safetensors file that can be read"),
        (b'{"a":' + b"[" * 99_999, b"", None, "no safetensors file that can be read"),
        (b'{"\xff":{}}', b"", None, "no safetensors file that can be read"),
        (b"{", b"", None, "no safetensors file that can be read"),
        (b"{[]}", b"", None, "no safetensors file that can be read"),
        (b'{"a":TWICE,"a":TWICE}', bytes(8), None, "two entries of one name"),
        (b'{"__metadata__":{"b":"1","b":"2"},"a":TWICE}', bytes(8), None, "two entries of one name"),
        ({"__metadata__": {"model_config": 3}, "a": FLOATS}, bytes(8), None, "expected a string"),
        ({"__metadata__": {"model_config": "{"}, "a": FLOATS}, bytes(8), None, "that is not JSON"),
        ({"__metadata__": {"model_config": "[" * 99_999}, "a": FLOATS}, bytes(8), None, "that is not JSON"),
        ({"__metadata__": {"model_config": "NaN"}, "a": FLOATS}, bytes(8), None, "model_config that is none"),
        ({}, b"", None, "its tensors are those of none of"),
    ],
)
def test_lies_in_the_header_of_safetensors(
    tmp_path: Path, header: Any, data: bytes, length: int | None, expected: str
) -> None:
    if isinstance(header, bytes):
        header = header.replace(b"TWICE", json.dumps(FLOATS).encode())
    path = safetensors(tmp_path / "a.safetensors", header, data, length)
    assert expected in one_line(lambda: load_model(path))


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_damaged_safetensors_open_or_give_one_clear_line(data: st.DataObject) -> None:
    tensors = {"a": torch.arange(6.0).view(2, 3), "b.c": torch.ones(4, dtype=torch.float16)}
    whole = bytearray(save(tensors, {"model_config": "{}"}))
    end = int.from_bytes(whole[:8], "little") + 8
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, 8) | st.integers(0, end))] = data.draw(st.integers(0, 255))
    with NamedTemporaryFile() as damaged:
        Path(damaged.name).write_bytes(whole)
        try:
            read_model_file(Path(damaged.name))
        except CheckpointError as error:
            assert "\n" not in str(error)
