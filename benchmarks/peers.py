"""What people would install instead, beside the service: LiteLLM, and Open WebUI.

    venv/bin/python -m benchmarks.peers litellm --folder /tmp/peers
    venv/bin/python -m benchmarks.peers openwebui --folder /tmp/peers

Makes a virtual environment in the folder and installs the peer there: 0.8 GB for LiteLLM, some ten
for Open WebUI; what is there already is used again. Everything is asked in turns over 16
connections, with one worker each. LiteLLM passes on a chat that the service stores besides, to the
same gateway. Open WebUI reads a chat of 50 messages of some 400 bytes, on
SQLite as it comes, the service the same on PostgreSQL. Prints answers a second as medians, and the
resident memory after that, in MB of 10^6 bytes.
"""

import argparse
import json
import secrets
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import httpx
import psutil

from benchmarks import load
from benchmarks.chat import COMPLETIONS, CONNECTIONS, SAID, Ask, Stage, asking_service
from benchmarks.page import TEXT, fill
from benchmarks.rounds import in_turns, keep, medians, rate
from tests.service import PASSWORD, ROOT, Service, environment, free_port

PACKAGES = {"litellm": "litellm[proxy]", "openwebui": "open-webui"}
MINUTES_TO_START = 5


def install(folder: Path, peer: str) -> Path:
    """The peer's commands, in a virtual environment of its own."""
    place = folder / peer
    if not (place / "installed").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", place], check=True)
        subprocess.run([place / "bin" / "pip", "install", "-q", PACKAGES[peer]], check=True)
        (place / "installed").touch()
    return place / "bin"


def version(commands: Path, peer: str) -> str:
    """The version that is installed."""
    name = PACKAGES[peer].partition("[")[0]
    code = f"from importlib.metadata import version; print(version({name!r}))"
    said = subprocess.run([commands / "python", "-c", code], capture_output=True, check=True)
    return said.stdout.decode().strip()


@contextmanager
def running(
    command: list[str], path: str, settings: Mapping[str, str], folder: Path
) -> Iterator[tuple[str, psutil.Process]]:
    """The peer: its URL once it answers, and its process. Its log is in the folder."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            cwd=folder,
            env=environment(settings),
            stdout=log,
            stderr=log,
        )
    try:
        _wait_for(url + path, process)
        yield url, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60 * MINUTES_TO_START
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if httpx.get(url, timeout=5, verify=False).is_success:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.2)
    raise RuntimeError(f"{process.args!r} does not answer; its log says why")


def megabytes(process: psutil.Process) -> float:
    """Resident memory of the process and all that it has started."""
    family = [process, *process.children(recursive=True)]
    return round(sum(one.memory_info().rss for one in family) / 1e6, 1)


class Compared(NamedTuple):
    """The two to be asked, and the peer's process."""

    what: str
    measures: dict[str, Callable[[], float]]
    service: Service
    peer: psutil.Process


def litellm(
    stage: Stage, stack: ExitStack, commands: Path, folder: Path, seconds: float
) -> Compared:
    """`POST /chat`, not streamed, beside LiteLLM's chat completions."""
    gateway = stage.gateway()
    target = {"model": "openai/stub", "api_base": f"{gateway}/v1", "api_key": "none"}
    models = {"model_list": [{"model_name": "stub", "litellm_params": target}]}
    config = folder / "litellm.yaml"
    config.write_text(json.dumps(models), "utf-8")  # JSON is YAML
    command = [str(commands / "litellm"), "--config", str(config), "--num_workers", "1"]
    key = f"sk-{secrets.token_hex(32)}"
    settings = {
        "LITELLM_MASTER_KEY": key,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_LOG": "ERROR",
    }
    url, peer = stack.enter_context(running(command, "/health/liveliness", settings, folder))
    body = {"model": "stub", "messages": [{"role": "user", "content": SAID}]}
    request = load.request(url + COMPLETIONS, key, json.dumps(body).encode())
    own_url, api = stage.service(gateway)
    return Compared(
        "POST /chat, not streamed, answers a second",
        {
            "service": partial(_rate, asking_service(own_url, api, stream=False), seconds),
            "litellm": partial(rate, [[request]] * CONNECTIONS, seconds),
        },
        api.service,
        peer,
    )


def _rate(ask: Ask, seconds: float) -> float:
    return ask(seconds, 0).rate


def openwebui(
    stage: Stage, stack: ExitStack, commands: Path, folder: Path, seconds: float
) -> Compared:
    """Reading 50 messages, beside Open WebUI's `GET /api/v1/chats/{id}`."""
    gateway = stage.gateway()
    settings = {
        "DATA_DIR": stack.enter_context(TemporaryDirectory(dir=folder)),
        "WEBUI_SECRET_KEY": secrets.token_hex(16),
        "OPENAI_API_BASE_URL": f"{gateway}/v1",
        "OPENAI_API_KEY": "none",
        "ENABLE_OLLAMA_API": "false",
        "OFFLINE_MODE": "true",
        # It would load a model for embeddings, and fetch it first.
        "RAG_EMBEDDING_ENGINE": "openai",
    }
    command = [str(commands / "open-webui"), "serve"]
    url, peer = stack.enter_context(running(command, "/health", settings, folder))
    own_url, api = stage.service(gateway)
    page = f"{own_url}/sessions/{fill(api, api.service.settings)}/messages?limit=50"
    requests = {"service": load.request(page, api.token), "openwebui": load.request(*_chat(url))}
    return Compared(
        "the last 50 messages of a chat, answers a second",
        {
            name: partial(rate, [[request]] * CONNECTIONS, seconds)
            for name, request in requests.items()
        },
        api.service,
        peer,
    )


def _chat(url: str) -> tuple[str, str]:
    """A chat of 50 messages in Open WebUI: where to read it, with which token."""
    person = {"name": "Ada", "email": "ada@example.com", "password": PASSWORD}
    said = httpx.post(f"{url}/api/v1/auths/signup", json=person, timeout=60, verify=False)
    token: str = said.raise_for_status().json()["token"]
    ids = [str(uuid.uuid4()) for _ in range(50)]
    messages = [
        {
            "id": own,
            "parentId": before,
            "childrenIds": [after] if after else [],
            "role": "assistant" if number % 2 else "user",
            "content": TEXT,
            "timestamp": 1_700_000_000 + number,
            "models": ["stub"],
        }
        for number, (before, own, after) in enumerate(
            zip([None, *ids], ids, [*ids[1:], None], strict=False)
        )
    ]
    history = {"messages": {one["id"]: one for one in messages}, "currentId": ids[-1]}
    chat = {"title": "50 messages", "models": ["stub"], "history": history, "messages": messages}
    answer = httpx.post(
        f"{url}/api/v1/chats/new",
        json={"chat": chat},
        headers={"Authorization": f"Bearer {token}"},
        timeout=60,
        verify=False,
    )
    return f"{url}/api/v1/chats/{answer.raise_for_status().json()['id']}", token


PEERS = {"litellm": litellm, "openwebui": openwebui}


def measure(
    stack: ExitStack, peer: str, folder: Path, rounds: int, seconds: float
) -> dict[str, Any]:
    """Install and start the peer, and ask it and the service in turns."""
    commands = install(folder, peer)
    stage = Stage(stack)
    compared = PEERS[peer](stage, stack, commands, folder, seconds)
    found = in_turns(compared.measures, rounds)
    middle = medians(found)
    if compared.service.process is None:
        raise RuntimeError("the service does not run")
    own = psutil.Process(compared.service.process.pid)
    return {
        "what": compared.what,
        "version": version(commands, peer),
        "postgresql": stage.server.version,
        "medians": middle,
        "ratios": {peer: round(middle["service"] / middle[peer], 2)},
        "memory_mb": {"service": megabytes(own), peer: megabytes(compared.peer)},
        "rounds": found,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("--folder", type=Path, required=True, help="where it is installed")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4)
    given = parser.parse_args()
    folder = given.folder.resolve()
    if folder.is_relative_to(ROOT):
        parser.error("the folder must not be in the project")
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        keep(given.peer, measure(stack, given.peer, folder, given.rounds, given.seconds))


if __name__ == "__main__":
    main()
