"""`pm2 reload` under load: how many requests and streams fail, of 10,000 and 50.

    ./scripts/test --setup
    venv/bin/python -m benchmarks.reload                 SQLite
    venv/bin/python -m benchmarks.reload --postgres      a PostgreSQL of its own

Reloads a copy of this checkout again and again with the real PM2 while clients ask without a pause
and read streams, until there were as many as wanted. Prints JSON; ends with 1 when anything failed.
"""

import argparse
import json
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests import postgres
from tests.gateway import GatewayStub
from tests.operation.load import Load
from tests.operation.process_manager import PM2, PRODUCTION, set_ports, user
from tests.service import free_port
from tests.test_commands import add_environment, copy_tree

TOKEN = "token-of-the-gateway"


def measure(pm2: PM2, load: Load, requests: int, streams: int) -> dict[str, Any]:
    """Reload until there were so many of both."""
    took: list[float] = []
    enough = load.reaches(requests, streams)
    with load:
        while not enough() or len(took) < 3:
            started = time.monotonic()
            pm2.run("reload", PRODUCTION)
            took.append(time.monotonic() - started)
    return {
        "requests": load.requests,
        "streams": load.streams,
        "failed": dict(load.failures),
        "reloads": len(took),
        "seconds_each": round(sum(took) / len(took), 1),
    }


def main() -> None:
    """Measure as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--streams", type=int, default=50)
    parser.add_argument("--postgres", action="store_true")
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        tree = copy_tree(folder / "tree")
        add_environment(tree)
        port = free_port()
        set_ports(tree, port, free_port())
        gateway = stack.enter_context(GatewayStub(token=TOKEN))
        settings = {"USE_POSTGRES": "false"}
        if options.postgres:
            server = stack.enter_context(postgres.Server(postgres.find_binaries()[-1]))
            settings = postgres.create_master(server)
        settings |= {"OPENCLAW_URL": gateway.url, "OPENCLAW_TOKEN": TOKEN, "EXPOSE_DOCS": "true"}
        pm2 = stack.enter_context(PM2(folder, tree, settings))
        pm2.start(PRODUCTION)
        found = measure(pm2, Load(user(port, folder)), options.requests, options.streams)
    print(json.dumps(found, indent=2))
    sys.exit(bool(found["failed"]))


if __name__ == "__main__":
    main()
