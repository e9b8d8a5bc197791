"""nginx on loopback, under many addresses, as if the pictures lay on many hosts."""

import os
import pwd
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from web.certificate import Authority

_HOSTS_TOGETHER = 64  # in a server and its certificate, which names each of them
_ECHO_MODULE = Path("/usr/lib/nginx/modules/ngx_http_echo_module.so")
_SECONDS_TO_START = 10

_CONFIGURATION = """\
{load_module}
daemon off;
user {user};
worker_processes 1;
worker_rlimit_nofile 20000;
pid {folder}/nginx.pid;
error_log {folder}/error.log crit;
events {{ worker_connections 8000; }}
http {{
    access_log off;
    types {{ image/jpeg jpg; image/png png; image/webp webp; }}
    sendfile on;
    tcp_nodelay on;
    keepalive_requests 100000;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    open_file_cache max=10000;
    {servers}
}}
"""
_SERVER = "server {{ {listen} {certificate} {locations} }}"
_TLS = "ssl_certificate {chain}; ssl_certificate_key {key};"
_AT_ONCE = "location / {{ root {root}; }}"
_LATE = """
        location /files/ {{ internal; alias {root}/; }}
        location / {{ echo_sleep {latency}; echo_exec /files$uri; }}
"""


class Site(NamedTuple):
    """What is served, as URLs begin: each address counts as a host of its own."""

    scheme: str
    addresses: Sequence[str]
    port: int

    def url(self, number: int, name: str) -> str:
        """Return the URL of a file at one host or another."""
        return f"{self.scheme}://{self.addresses[number % len(self.addresses)]}:{self.port}/{name}"


@contextmanager
def serving(
    root: Path, folder: Path, hosts: int, *, latency: float = 0.0, authority: Authority | None = None
) -> Iterator[Site]:
    """Serve the files of `root`, each answer after `latency` seconds; the server's logs go to `folder`.

    With an authority for its certificates: over TLS.
    """
    program = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if not program or (latency and not _ECHO_MODULE.exists()):
        raise SystemExit("expected nginx; apt-get install nginx-light libnginx-mod-http-echo")
    folder.mkdir(parents=True, exist_ok=True)
    addresses = [f"127.0.{1 + number // 250}.{1 + number % 250}" for number in range(hosts)]
    site = Site("https" if authority else "http", addresses, _free_port(addresses[0]))
    locations = (_LATE if latency else _AT_ONCE).format(root=root, latency=latency)
    together = [addresses[first : first + _HOSTS_TOGETHER] for first in range(0, hosts, _HOSTS_TOGETHER)]
    servers = [_server(some, site.port, locations, authority) for some in together]
    text = _CONFIGURATION.format(
        load_module=f"load_module {_ECHO_MODULE};" if latency else "",
        user=pwd.getpwuid(os.geteuid()).pw_name,
        folder=folder,
        servers="\n    ".join(servers),
    )
    configuration = folder / "nginx.conf"
    configuration.write_text(text)
    command = [program, "-e", str(folder / "error.log"), "-p", str(folder), "-c", str(configuration)]
    with subprocess.Popen(command) as server:
        try:
            _wait_for(server, site)
            yield site
        finally:
            server.terminate()


def _server(addresses: Sequence[str], port: int, locations: str, authority: Authority | None) -> str:
    secure = "ssl " if authority else ""
    return _SERVER.format(
        listen=" ".join(f"listen {address}:{port} {secure}backlog=4096;" for address in addresses),
        certificate=_TLS.format(**authority.certificate(addresses)._asdict()) if authority else "",
        locations=locations,
    )


def _free_port(address: str) -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


def _wait_for(server: "subprocess.Popen[bytes]", site: Site) -> None:
    until = time.monotonic() + _SECONDS_TO_START
    while time.monotonic() < until and server.poll() is None:
        try:
            socket.create_connection((site.addresses[-1], site.port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise SystemExit("nginx did not start; see its error.log")
