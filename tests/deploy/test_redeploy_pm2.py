"""scripts/redeploy.sh where the real PM2 runs the service."""

import os
from pathlib import Path

import httpx

from tests.deploy.checkouts import NO_START, Load, Origin, Production
from tests.operation.process_manager import PM2, PRODUCTION, SCRIPT, serves, set_ports, wait_for
from tests.service import free_port
from tests.test_commands import prepared

__all__ = ["prepared"]

LISTEN = '"listen_timeout": 4000'


def test_pm2_changes_one_process_at_a_time(prepared: Path, tmp_path: Path) -> None:
    """A version that doesn't start never takes the place of the second process; a good one does.

    `pm2 reload clawd-backend` would end both before it notices.
    """
    origin = Origin(tmp_path / "origin", prepared)
    set_ports(origin.folder, port := free_port(), free_port())
    file = origin.folder / "ecosystem.config.json"
    # How long PM2 waits for the one that doesn't start.
    file.write_text(file.read_text("utf-8").replace('"listen_timeout": 20000', LISTEN), "utf-8")
    first = origin.publish("ports")
    settings = {"USE_POSTGRES": "false", "OPENCLAW_URL": "http://127.0.0.1:9"}
    clone = Production(origin, tmp_path / "clone", prepared / "venv", settings)
    clone.url = f"http://127.0.0.1:{port}"
    with PM2(tmp_path, clone.folder, settings | {"AUTH_RATE_LIMIT": "off"}) as pm2:
        pm2.start(PRODUCTION)
        wait_for(lambda: serves(port))
        by_pm2 = {"RELOAD_COMMAND": "", "PM2_HOME": str(pm2.home), "HEALTH_SECONDS": "5"}
        by_pm2["PATH"] = os.pathsep.join([str(SCRIPT.parents[2] / ".bin"), pm2.environment["PATH"]])
        account = {"email": "ada@example.com", "password": "correct horse battery"}
        made = httpx.post(clone.url + "/auth/signup", json=account).json()
        origin.publish("no start", NO_START)
        with Load(clone.url, made["access_token"]) as load:
            bad = clone.redeploy(**by_pm2)
        assert bad.returncode == 1, bad.stdout + bad.stderr
        assert clone.commit() == first
        assert set(load.answers) == {200}
        origin.withdraw()
        good = origin.publish("better")
        with Load(clone.url, made["access_token"]) as load:
            done = clone.redeploy(**by_pm2 | {"HEALTH_SECONDS": "30"})
        assert (done.returncode, clone.commit()) == (0, good), done.stdout + done.stderr
        assert set(load.answers) == {200}
