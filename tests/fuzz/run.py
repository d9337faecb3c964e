"""Schemathesis over the service's own OpenAPI, on both databases: what `scripts/fuzz` runs."""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests import postgres
from tests.conftest import BACKENDS, GATEWAY_TOKEN
from tests.gateway import GatewayStub
from tests.service import ROOT, Json, Service, environment, sign_up

PHASES = ("examples", "coverage", "fuzzing", "stateful")
SEEDS = (1, 2, 3)
EXAMPLES = 60


@dataclass(frozen=True)
class Outcome:
    """What became of one run; `failure` is empty, or says all of it with a curl command."""

    cases: int
    seconds: float
    failure: str


def fuzz(
    service: Service, folder: Path, *, seed: int, examples: int, phases: Sequence[str] = PHASES
) -> Outcome:
    """Send generated requests, right ones and wrong ones, until one is answered wrongly.

    `examples` is the most cases of one operation in the phases `fuzzing` and `stateful`.
    """
    api = sign_up(service)
    token = api.token or ""
    report = folder / "report.json"
    logged = len(service.log)
    began = time.monotonic()
    done = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "run", f"{service.url}/openapi.json"),
            *("--checks", "all", "--max-failures", "1", "--workers", "1"),
            *("--phases", ",".join(phases), "--max-examples", str(examples)),
            # What was found before must not change what a seed does.
            *("--seed", str(seed), "--generation-database", "none"),
            *("--report", "json", "--report-json-path", str(report)),
            *("--no-color", "--warnings", "off", "--output-sanitize", "false"),
        ],
        cwd=folder,
        env={
            **environment({}),
            "PYTHONPATH": str(ROOT),
            "SCHEMATHESIS_HOOKS": "tests.fuzz.hooks",
            "FUZZ_URL": service.url,
            "FUZZ_TOKEN": token,
            "FUZZ_PROJECT": str(api.project()["id"]),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.monotonic() - began
    said = json.loads(report.read_text("utf-8")) if report.exists() else {}
    failure = "" if done.returncode == 0 else repeatable(done.stdout + done.stderr, service, token)
    failure = failure or "\n".join([*unhandled(service.log[logged:]), *unreached(said)])
    return Outcome(said.get("test_cases", {}).get("generated", 0), seconds, failure)


def unreached(report: Json) -> list[str]:
    """The operations of which no request was accepted: behind them, nothing was tested."""
    return [
        f"{operation}: no request was accepted"
        for operation, phases in report.get("valid_rates", {}).items()
        if not any(phase["accepted"] for phase in phases.values())
    ]


def repeatable(said: str, service: Service, token: str) -> str:
    """What schemathesis said, with the curl command for a server started by hand."""
    return said.replace(service.url, "http://127.0.0.1:8001").replace(token, "TOKEN")


def unhandled(log: str) -> list[str]:
    """The lines about exceptions that nobody expected, in streams and tasks too."""
    return [line for line in log.splitlines() if "Traceback" in line]


def new_master(backend: str, server: postgres.Server, folder: Path) -> dict[str, str]:
    """The settings that name a master database that nobody has used yet."""
    if backend == "postgresql":
        return postgres.create_master(server)
    return {"USE_POSTGRES": "false", "DB_PATH": str(folder / "master.db")}


@contextmanager
def fresh_service(master: Json, gateway: GatewayStub, folder: Path) -> Iterator[Service]:
    """The service on a master database that nobody has used, with the stub gateway behind it."""
    settings = {
        **master,
        "AUTH_RATE_LIMIT": "off",
        "OPENCLAW_URL": gateway.url,
        "OPENCLAW_TOKEN": GATEWAY_TOKEN,
    }
    with Service(settings, folder) as running:
        yield running


def main() -> None:
    """All seeds on all databases, a line each; ends with 1 at the first failure."""
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description=__doc__)
    parser.add_argument("--seed", type=int, action="append", help="1, 2 and 3 unless given")
    parser.add_argument("--backend", choices=BACKENDS, action="append", help="both unless given")
    parser.add_argument("--examples", type=int, default=EXAMPLES, help=f"{EXAMPLES} unless given")
    wanted = parser.parse_args()
    with ExitStack() as stack:
        gateway = stack.enter_context(GatewayStub(token=GATEWAY_TOKEN))
        server = stack.enter_context(postgres.Server(postgres.find_binaries()[-1]))
        for backend in wanted.backend or BACKENDS:
            for seed in wanted.seed or SEEDS:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fuzz-")))
                master = new_master(backend, server, folder)
                with fresh_service(master, gateway, folder) as service:
                    outcome = fuzz(service, folder, seed=seed, examples=wanted.examples)
                tell(backend, seed, outcome)


def tell(backend: str, seed: int, outcome: Outcome) -> None:
    """One line; what failed besides, and how to repeat it."""
    line = f"{backend:<10}  seed {seed}  {outcome.cases:>5} cases  {outcome.seconds:>5.0f} s  "
    print(line + ("FAILED" if outcome.failure else "ok"), flush=True)
    if outcome.failure:
        sys.exit(f"{outcome.failure}\nAgain: scripts/fuzz --backend {backend} --seed {seed}")


if __name__ == "__main__":
    main()
