"""Certificates for the server of the comparison, and the bundle of authorities that both sides trust."""

import ssl
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
_DAYS = "2"


class Certificate(NamedTuple):
    """Files: what a server shows, and its key."""

    chain: Path
    key: Path


class Authority:
    """Signs certificates with keys on P-256, as many sites have; keeps its files in `folder`.

    Its own stands in `bundle` behind all those that this machine trusts: to read them takes clients time.
    """

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        subject = (
            "-subj",
            "/CN=bench",
            "-addext",
            "keyUsage=critical,keyCertSign",
        )  # Python 3.13 asks for it
        words = (*_NEW_KEY, *subject, "-days", _DAYS, "-keyout", "authority.key", "-out", "authority.pem")
        self._openssl("req", "-x509", *words)
        trusted = ssl.get_default_verify_paths().cafile
        known = Path(trusted).read_text() if trusted else ""
        self.bundle = folder / "bundle.pem"
        self.bundle.write_text(known + (folder / "authority.pem").read_text())

    def certificate(self, addresses: Sequence[str]) -> Certificate:
        """Make a certificate for IP addresses."""
        name = addresses[0]
        extension = f"subjectAltName={','.join(f'IP:{address}' for address in addresses)}"
        words = (*_NEW_KEY, "-subj", "/CN=web", "-addext", extension, "-keyout", f"{name}.key")
        self._openssl("req", *words, "-out", f"{name}.request")
        signer = ("-CA", "authority.pem", "-CAkey", "authority.key", "-CAcreateserial", "-days", _DAYS)
        signed = ("-in", f"{name}.request", "-copy_extensions", "copy", *signer, "-out", f"{name}.pem")
        self._openssl("x509", "-req", *signed)
        return Certificate(self._folder / f"{name}.pem", self._folder / f"{name}.key")

    def _openssl(self, *words: str) -> None:
        subprocess.run(["openssl", *words], cwd=self._folder, check=True, capture_output=True)
