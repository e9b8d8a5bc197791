"""An internet of its own for one command: run in fresh mount and network namespaces.

Every address there is, public or not, is this machine's; one server answers them all, a name server knows the
names of ZONE, and every attempt at a connection is seen on the wire. Nothing leaves the namespace.

    unshare --mount --net sh -c 'ROUTES && exec python -m tests.ingest.own_internet DIRECTORY COMMAND …'

runs COMMAND with DIRECTORY as scratch and prints how it ended, which
(address, port) pairs it tried, and how often it asked for which names.
"""

import json
import os
import socket
import struct
import subprocess
import sys
import threading
from collections import Counter
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from tests.serving import encoded, photo

ROUTES = "ip link set lo up && ip route add local 0.0.0.0/0 dev lo && ip -6 route add local ::/0 dev lo"
PUBLIC = "8.8.4.4"
WELL = ".well.example"  # all names in it are PUBLIC's
SILENT = "silent.example"  # the resolver waits a minute for it
ZONE: dict[str, list[str]] = {
    "public.example": [PUBLIC],
    "six.example": ["2600::1"],
    "mixed.example": ["10.0.0.1", PUBLIC],
    "loopback.example": ["127.0.0.1"],
    "loopback6.example": ["::1"],
    "private.example": ["10.0.0.1"],
    "home.example": ["192.168.1.1"],
    "shared.example": ["100.64.0.1"],
    "unique-local.example": ["fd00::1"],
    "mapped.example": ["::ffff:10.0.0.1"],
    "nat64.example": ["64:ff9b::10.0.0.1"],
    "six-to-four.example": ["2002:a00:1::1"],
    "metadata.example": ["169.254.169.254"],
    "nat64-metadata.example": ["64:ff9b::169.254.169.254"],
    "six-to-four-metadata.example": ["2002:a9fe:a9fe::1"],
    "multicast.example": ["224.0.0.1"],
}
REBINDING = {"rebinding.example": [PUBLIC, "127.0.0.1"]}  # the first answer, then the others
_PICTURE = encoded(photo())
_SYN, _ACK = 0x02, 0x10


def main(directory: Path, command: list[str]) -> None:
    """Serve the names and the pages, run the command, and tell what it did."""
    _replace_file(directory, "/etc/resolv.conf", "nameserver 127.0.0.1\noptions timeout:30\n")
    _replace_file(directory, "/etc/nsswitch.conf", "hosts: files dns\n")
    tried: set[tuple[str, int]] = set()
    asked: Counter[str] = Counter()
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
    names = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    names.bind(("127.0.0.1", 53))
    web = socket.create_server(("::", 80), family=socket.AF_INET6, dualstack_ipv6=True, backlog=128)
    for work in ((_watch, wire, tried), (_answer_names, names, asked), (_answer_requests, web)):
        threading.Thread(target=work[0], args=work[1:], daemon=True).start()
    finished = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    told: dict[str, Any] = {"code": finished.returncode, "tried": sorted(tried), "asked": asked}
    print(json.dumps(told | {"output": finished.stdout, "errors": finished.stderr}))


def _replace_file(directory: Path, path: str, content: str) -> None:
    if not Path(path).exists():
        return
    ours = directory / Path(path).name
    ours.write_text(content)
    subprocess.run(["mount", "--bind", str(ours), path], check=True)


def _watch(wire: socket.socket, tried: set[tuple[str, int]]) -> None:
    while True:
        packet = wire.recv(65_535)
        if packet[0] >> 4 == 4:
            start, target, is_tcp = 4 * (packet[0] & 15), packet[16:20], packet[9] == 6
        else:
            start, target, is_tcp = 40, packet[24:40], packet[6] == 6
        if is_tcp and packet[start + 13] & (_SYN | _ACK) == _SYN:
            (port,) = struct.unpack_from(">H", packet, start + 2)
            tried.add((str(ip_address(target)), port))


def _answer_names(names: socket.socket, asked: Counter[str]) -> None:
    while True:
        question, client = names.recvfrom(512)
        end = question.index(b"\0", 12)
        labels, place = [], 12
        while place < end:
            labels.append(question[place + 1 : place + 1 + question[place]].decode())
            place += 1 + question[place]
        name = ".".join(labels).lower()
        asked[name] += 1
        if not name.endswith(SILENT):
            (kind,) = struct.unpack_from(">H", question, end + 1)
            names.sendto(_records(question[:2], question[12 : end + 5], name, kind), client)


def _records(number: bytes, question: bytes, name: str, kind: int) -> bytes:
    family = {1: 4, 28: 6}.get(kind)  # A, AAAA
    addresses = [ip_address(text) for text in _addresses(name, family)]
    data = [address.packed for address in addresses if address.version == family]
    code = 0 if addresses else 2 if name == "broken.example" else 3  # no error, server failure, no such name
    header = number + struct.pack(">HHHHH", 0x8180 | code, 1, len(data), 0, 0)
    return (
        header
        + question
        + b"".join(b"\xc0\x0c" + struct.pack(">HHIH", kind, 1, 0, len(packed)) + packed for packed in data)
    )


def _addresses(name: str, family: int | None) -> list[str]:
    if name.endswith(WELL):
        return [PUBLIC]
    left = REBINDING.get(name)
    if left is None:
        return ZONE.get(name, [])
    return [left.pop(0) if len(left) > 1 and family == 4 else left[0]]


def _answer_requests(web: socket.socket) -> None:
    while True:
        connection, _ = web.accept()
        threading.Thread(target=_answer, args=(connection,), daemon=True).start()


def _answer(connection: socket.socket) -> None:
    """Send whoever asks for /to/URL there, and a picture to anyone else; then hang up."""
    with connection:
        request = b""
        while b"\r\n\r\n" not in request:
            if not (received := connection.recv(65_536)):
                return
            request += received
        path = request.split(b" ")[1]
        if path.startswith(b"/to/"):
            there = path.removeprefix(b"/to/")
            answer = b"HTTP/1.1 302 Found\r\nConnection: close\r\nLocation: " + there + b"\r\n\r\n"
        else:
            answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + _PICTURE
        connection.sendall(answer)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
    sys.stdout.flush()
    os._exit(0)  # whatever its threads are at
