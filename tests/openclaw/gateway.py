"""A real OpenClaw gateway as a child process, configured as docs/openclaw.md recommends."""

import os
import random
import re
import secrets
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

from tests.openclaw.model_stub import MODEL

DOCUMENT = Path(__file__).parents[2] / "docs" / "openclaw.md"
READY_WITHIN_S = 120.0
STOPPED_WITHIN_S = 20.0
LOG_TAIL_LINES = 40


class GatewayError(Exception):
    """The gateway did not start; the message says why and ends with its log."""


class Gateway:
    """One gateway with its own home, which it keeps from one start to the next."""

    def __init__(self, install: Path, home: Path, provider_url: str) -> None:
        self.token = secrets.token_hex(16)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._install = install
        self._home = home
        self._provider_url = provider_url
        self._output = home / "output.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when the gateway takes traffic; raises GatewayError when it does not come up."""
        (self._home / ".openclaw").mkdir(mode=0o700, exist_ok=True)
        (self._home / ".openclaw" / "openclaw.json").write_text(documented_configuration())
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(
                [self._program(), "gateway", "run", "--port", str(self.port)],
                cwd=self._home,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._wait_until_ready(self._process)

    def stop(self) -> None:
        """Ends the gateway, politely at first; a stopped one stays stopped."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOPPED_WITHIN_S)
        # Its workers are in its group; once all have ended, as they usually do, so has the group.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def _program(self) -> str:
        program = self._install / "app" / "node_modules" / ".bin" / "openclaw"
        if not program.exists():
            raise GatewayError(f"{program} is missing: ./scripts/test-openclaw installs it")
        return str(program)

    def _environment(self) -> dict[str, str]:
        # Written out, not inherited: a developer's own keys and OpenClaw settings have no say here.
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self._home),
            "TMPDIR": str(self._home),
            "NODE_COMPILE_CACHE": str(self._install / "compile-cache"),
            "OPENCLAW_NO_AUTO_UPDATE": "1",
            "OPENCLAW_DISABLE_BONJOUR": "1",
            "OPENCLAW_GATEWAY_TOKEN": self.token,
            "MODEL_BASE_URL": self._provider_url,
            "MODEL_API_KEY": "sk-stub",
            "MODEL_ID": MODEL,
        }

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + READY_WITHIN_S
        while not answers(f"{self.url}/readyz"):
            if process.poll() is not None:
                raise self._failure(f"ended with exit code {process.returncode}")
            if time.monotonic() > deadline:
                raise self._failure(f"was not ready within {READY_WITHIN_S:.0f} s")
            time.sleep(0.25)

    def _failure(self, what: str) -> GatewayError:
        self.stop()
        log = self._output.read_text(errors="replace").replace(self.token, "<token>")
        tail = "\n".join(log.splitlines()[-LOG_TAIL_LINES:])
        return GatewayError(f"The OpenClaw gateway {what}. The end of its log:\n{tail}")


@contextmanager
def running_gateway(install: Path, provider_url: str) -> Iterator[Gateway]:
    """A gateway that is up, in a home that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="openclaw-", ignore_cleanup_errors=True) as home:
        gateway = Gateway(install, Path(home), provider_url)
        try:
            gateway.start()
            yield gateway
        finally:
            gateway.stop()


def documented_configuration() -> str:
    """The configuration in docs/openclaw.md: what operators copy is what is tested."""
    found = re.search(r"^```json\n(.*?)^```$", DOCUMENT.read_text(), re.DOTALL | re.MULTILINE)
    if not found:
        raise GatewayError(f"{DOCUMENT.name} shows no configuration (a block of ```json)")
    return found[1]


def free_port() -> int:
    """A port that nobody listens on, below those that the system gives to outgoing connections."""
    while True:
        port = random.randrange(20_000, 32_768)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def answers(url: str) -> bool:
    """Whether somebody answers 200 there, now."""
    try:
        return httpx.get(url, timeout=2).status_code == 200
    except httpx.TransportError:
        return False
