"""nginx on loopback, under many addresses, as if the pictures lay on many hosts."""

import os
import pwd
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HOSTS = 64
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
    server {{
        {listen}
        {locations}
    }}
}}
"""
_AT_ONCE = "location / {{ root {root}; }}"
_LATE = """
        location /files/ {{ internal; alias {root}/; }}
        location / {{ echo_sleep {latency}; echo_exec /files$uri; }}
"""


def addresses() -> list[str]:
    """Return the addresses that the server answers at: each counts as a host of its own."""
    return [f"127.0.1.{number}" for number in range(1, HOSTS + 1)]


@contextmanager
def serving(root: Path, folder: Path, *, latency: float = 0.0) -> Iterator[int]:
    """Serve the files of `root`, each answer after `latency` seconds; yields the port, logs to `folder`."""
    program = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if not program or (latency and not _ECHO_MODULE.exists()):
        raise SystemExit("expected nginx; apt-get install nginx-light libnginx-mod-http-echo")
    folder.mkdir(parents=True, exist_ok=True)
    port = _free_port()
    locations = (_LATE if latency else _AT_ONCE).format(root=root, latency=latency)
    listen = " ".join(f"listen {address}:{port} backlog=4096;" for address in addresses())
    text = _CONFIGURATION.format(
        load_module=f"load_module {_ECHO_MODULE};" if latency else "",
        user=pwd.getpwuid(os.geteuid()).pw_name,
        folder=folder,
        listen=listen,
        locations=locations,
    )
    configuration = folder / "nginx.conf"
    configuration.write_text(text)
    command = [program, "-e", str(folder / "error.log"), "-p", str(folder), "-c", str(configuration)]
    with subprocess.Popen(command) as server:
        try:
            _wait_for(server, port)
            yield port
        finally:
            server.terminate()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((addresses()[0], 0))
        return int(probe.getsockname()[1])


def _wait_for(server: "subprocess.Popen[bytes]", port: int) -> None:
    until = time.monotonic() + _SECONDS_TO_START
    while time.monotonic() < until and server.poll() is None:
        try:
            socket.create_connection((addresses()[-1], port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise SystemExit("nginx did not start; see its error.log")
