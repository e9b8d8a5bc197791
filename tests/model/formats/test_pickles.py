"""What a pickle may claim, and what the machine makes of it."""

from pathlib import Path

import pytest
import torch

from clipkit.model.checkpoint import load_model
from clipkit.model.formats.archive import read_pytorch
from tests.model.conftest import one_line
from tests.model.formats.crafted import Bytes, Rebuilt, pickled, zipped

END = b"."
DEEP = 200_000


def test_plain_data_of_every_protocol_is_read(tmp_path: Path) -> None:
    for protocol in (2, 3, 4, 5):
        value = {"a": Rebuilt(), "b": [1, 2.5, None, True, "é", b"\xff", (3,), {"c": -(2**40)}]}
        found = read_pytorch(zipped(tmp_path / "a.pt", pickled(value, protocol)))
        assert torch.equal(found["a"], torch.zeros(4))
        assert found["b"] == value["b"]


@pytest.mark.parametrize(
    ("tensor", "expected"),
    [
        (Rebuilt(offset=-1), "describes a tensor in a way that PyTorch does not"),
        (Rebuilt(offset=2**70), "describes a tensor in a way that PyTorch does not"),
        (Rebuilt(offset=True), "describes a tensor in a way that PyTorch does not"),
        (Rebuilt(shape=[4]), "describes a tensor in a way that PyTorch does not"),
        (Rebuilt(shape=(-4,)), "describes a tensor in a way that PyTorch does not"),
        (Rebuilt(shape=(4, 1)), "describes a tensor in a way that PyTorch does not"),
        (Rebuilt(shape=(1,) * 40, strides=(1,) * 40), "describes a tensor in a way that PyTorch does not"),
        (Rebuilt(strides=(-1,)), "describes a tensor in a way that PyTorch does not"),
        (Rebuilt(storage="0"), "describes a tensor in a way that PyTorch does not"),
        (Rebuilt(rest=(False, {}, {"neg": True})), "whose values stand for others"),
        (Rebuilt(offset=1), "reaches beyond its bytes"),
        (Rebuilt(shape=(2,), strides=(4,)), "reaches beyond its bytes"),
        (Rebuilt(shape=(5,)), "holds a tensor of 20 bytes, of which it stores 16"),
        (Rebuilt(shape=(10**9,), strides=(0,)), "of 4,000,000,000 bytes, of which it stores 16"),
        (Rebuilt(shape=(2**62, 2**62), strides=(0, 0)), "of more than 2⁶³ bytes, of which it stores 16"),
        (Rebuilt(shape=(2**62, 2**62, 0), strides=(1, 1, 1)), "in a way that PyTorch does not"),
        (Rebuilt(Bytes(count=5)), "claims 20 bytes for data/0, which holds 16"),
        (Rebuilt(Bytes(count=3), shape=(3,)), "claims 12 bytes for data/0, which holds 16"),
        (Rebuilt(Bytes(count=-1)), "names bytes in a way that PyTorch does not"),
        (Rebuilt(Bytes(key="1")), "names the bytes '1', which are not there"),
        (Rebuilt(Bytes(key="../version")), "names the bytes '../version', which are not there"),
        (Rebuilt(Bytes(key=0)), "names bytes in a way that PyTorch does not"),
        (Rebuilt(Bytes(kind="x")), "names bytes in a way that PyTorch does not"),
        (Rebuilt(Bytes(word="module")), "names bytes in a way that PyTorch does not"),
        (Rebuilt(Bytes(kind=torch.QInt8Storage)), "asks to run code when it is opened (torch.QInt8Storage)"),
    ],
)
def test_claims_about_a_tensor_are_held_against_its_bytes(
    tmp_path: Path, tensor: Rebuilt, expected: str
) -> None:
    path = zipped(tmp_path / "a.pt", pickled({"a": tensor}))
    for open_it in (read_pytorch, load_model):
        assert expected in one_line(lambda: open_it(path))  # noqa: B023


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "its pickle is damaged"),
        (b"\x80\x02}", "its pickle is damaged"),
        (b"\x80\x02" + END, "its pickle is damaged"),
        (b"\x80\x07N" + END, "protocol 7"),
        (b"\x80\x02R" + END, "its pickle is damaged"),
        (b"\x80\x02NNR" + END, "its pickle is damaged"),
        (b"\x80\x02t" + END, "its pickle is damaged"),
        (b"\x80\x02N\x86" + END, "its pickle is damaged"),
        (b"\x80\x02h\x00" + END, "its pickle is damaged"),
        (b"\x80\x02NNa" + END, "its pickle is damaged"),
        (b"\x80\x02]NNs" + END, "its pickle is damaged"),
        (b"\x80\x02}(Nu" + END, "its pickle is damaged"),
        (b"\x80\x02}}Ns" + END, "a key that is a dict"),
        (b"\x80\x02}" + b")" + b"\x85" * DEEP + b"Ns" + END, "a key that is a tuple"),
        (b"\x80\x02N}b" + END, "its pickle is damaged"),
        (b"\x80\x02}Nb" + END, "its pickle is damaged"),
        (b"\x80\x02NN\x93" + END, "its pickle is damaged"),
        (b"\x80\x02N)\x81" + END, "its pickle is damaged"),
        (b"\x80\x02NQ" + END, "names bytes in a way that PyTorch does not"),
        (b"\x80\x04\x8d" + b"\xff" * 7 + b"\x7fabc" + END, "its pickle is damaged"),
        (b"\x80\x05\x96" + b"\xff" * 7 + b"\x7fabc" + END, "its pickle is damaged"),
        (b"\x80\x02\x8b\x01\x00\x00\x00\x01" + END, "holds LONG4, which no checkpoint needs"),
        (b"\x80\x02P1\n" + END, "holds PERSID, which no checkpoint needs"),
        (b"\x80\x02S'\\K'\n" + END, "holds STRING, which no checkpoint needs"),
        (b"\x80\x02(ios\nsystem\n" + END, "holds INST, which no checkpoint needs"),
        (
            b"\x80\x02(cos\nsystem\nX\x01\x00\x00\x00xo" + END,
            "asks to run code when it is opened (os.system)",
        ),
        (b"\x80\x02\x82\x01" + END, "holds EXT1, which no checkpoint needs"),
        (b"\x80\x02c__torch__.a\nB\n)\x81" + END, "asks to run code when it is opened (__torch__.a.B)"),
        (b"\x80\x02ccollections\nOrderedDict\n]K\x01a\x85R" + END, "is of Python 2"),
        (b"\x80\x02ccollections\nOrderedDict\nNNN\x87R" + END, "its pickle is damaged"),
        (b"\x80\x02ctorch\nSize\nN\x85R" + END, "its pickle is damaged"),
        (b"\x80\x02c_codecs\nencode\nNN\x86R" + END, "its pickle is damaged"),
        (b"\x80\x02N" + b" " * (5 << 20), "holds a data.pkl of 5,242,883 bytes, which no model has"),
    ],
)
def test_a_pickle_that_is_no_plain_data(tmp_path: Path, data: bytes, expected: str) -> None:
    path = zipped(tmp_path / "a.pt", data)
    for open_it in (read_pytorch, load_model):
        assert expected in one_line(lambda: open_it(path))  # noqa: B023


def test_a_pickle_that_unfolds_is_refused(tmp_path: Path) -> None:
    text = b"X" + (1 << 20).to_bytes(4, "little") + b"x" * (1 << 20)
    copied = b"c_codecs\nencode\nq\x01" + text + b"q\x02X\x06\x00\x00\x00latin1q\x03\x86R"
    again = b"h\x01h\x02h\x03\x86R"
    path = zipped(tmp_path / "a.pt", b"\x80\x02](" + copied + again * 1000 + b"e" + END)
    assert "unfolds to far more than it stores" in one_line(lambda: read_pytorch(path))


@pytest.mark.parametrize(
    "data",
    [
        b"]" * DEEP + b"a" * (DEEP - 1),
        b")" + b"\x85" * DEEP,
        b"}" + b"N}" * DEEP + b"s" * DEEP,
        b"r".join([b"N", b"\xff\xff\xff\xff"]),
    ],
)
def test_a_deep_pickle_and_one_with_a_far_place_are_read(tmp_path: Path, data: bytes) -> None:
    path = zipped(tmp_path / "a.pt", b"\x80\x02" + data + END)
    read_pytorch(path)
    assert "has no table of named tensors" in one_line(lambda: load_model(path))
