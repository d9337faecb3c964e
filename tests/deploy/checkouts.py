"""A folder that serves, cloned from an origin that gets new versions."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

import httpx

from tests.service import environment, free_port

# What keeps a version from starting, though not from being imported.
NO_START = {"server/startup.py": "import sys\nsys.argv[0] == '-c' or sys.exit('no start')\n"}
# What a process manager does: end the old, start the new, remember which it is, say when it ends
# at once.
RESTART = """
if [ -e pid ]; then
    kill "$(cat pid)" 2>/dev/null
    while kill -0 "$(cat pid)" 2>/dev/null; do sleep 0.05; done
fi
setsid ./start-backend.sh >>../service.log 2>&1 </dev/null &
echo $! >pid
for _ in $(seq 100); do
    kill -0 "$(cat pid)" 2>/dev/null || exit 1
    curl --silent --output /dev/null "$HEALTH_URL/health/live" && exit
    sleep 0.1
done
"""


def git(folder: Path, *arguments: str) -> str:
    """What git says there."""
    done = subprocess.run(
        ["git", "-c", "user.name=test", "-c", "user.email=test@example.com", *arguments],
        cwd=folder,
        env=environment({"GIT_CONFIG_GLOBAL": os.devnull}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


class Origin:
    """Where new versions come from."""

    def __init__(self, folder: Path, files: Path) -> None:
        self.folder = folder
        shutil.copytree(
            files,
            folder,
            # Not scripts/venv.
            ignore=lambda where, _: ["venv"] if where == str(files) else [],
            symlinks=True,
        )
        git(folder, "init", "--quiet", "--initial-branch", "main")
        self.publish("the first")

    def publish(self, message: str, changes: Mapping[str, str] | None = None) -> str:
        """A commit with these texts put before what the files hold."""
        for name, text in (changes or {}).items():
            path = self.folder / name
            path.write_text(text + (path.read_text("utf-8") if path.exists() else ""), "utf-8")
        git(self.folder, "add", "--all")
        git(self.folder, "commit", "--quiet", "--allow-empty", "--message", message)
        return git(self.folder, "rev-parse", "HEAD")

    def withdraw(self) -> None:
        """Take the last commit back with another one."""
        git(self.folder, "revert", "--no-edit", "HEAD")


class Production:
    """A clone with an environment, and the service that runs from it."""

    def __init__(self, origin: Origin, folder: Path, venv: Path, settings: Mapping[str, str]):
        self.folder = folder
        git(folder.parent, "clone", "--quiet", str(origin.folder), str(folder))
        shutil.copytree(venv, folder / "venv", symlinks=True)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.settings = {**settings, "PORT": str(self.port), "AUTH_RATE_LIMIT": "off"}

    def __enter__(self) -> Self:
        self.restart()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def variables(self, more: Mapping[str, str]) -> dict[str, str]:
        """The environment of whoever works in the folder."""
        found = environment({**self.settings, "RELOAD_COMMAND": RESTART, **more})
        found["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{found['PATH']}"
        return {**found, "HEALTH_URL": self.url, "GIT_CONFIG_GLOBAL": os.devnull}

    def restart(self) -> None:
        """Start it, or start it again, and wait until it serves."""
        subprocess.run(["bash", "-c", RESTART], cwd=self.folder, env=self.variables({}), check=True)
        deadline = time.monotonic() + 30
        while self.commit() is None:
            assert time.monotonic() < deadline, self.log()[-3000:]
            time.sleep(0.05)

    def stop(self) -> None:
        """End it."""
        pid = int((self.folder / "pid").read_text("utf-8"))
        try:
            os.kill(pid, signal.SIGTERM)
            while True:
                os.kill(pid, 0)
                time.sleep(0.05)
        except ProcessLookupError:
            pass

    def log(self) -> str:
        """What the service has said."""
        return (self.folder.parent / "service.log").read_text("utf-8")

    def commit(self) -> str | None:
        """The commit that serves, while one does."""
        try:
            if httpx.get(self.url + "/health/ready", timeout=5).status_code != 200:
                return None
            commit: str = httpx.get(self.url + "/health", timeout=5).json()["commit"]
        except httpx.HTTPError:
            return None
        return commit

    def head(self) -> tuple[str, str]:
        """What is checked out, and on which branch."""
        return git(self.folder, "rev-parse", "HEAD"), git(self.folder, "branch", "--show-current")

    def redeploy(self, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """Run the script to its end."""
        return subprocess.run(
            ["scripts/redeploy.sh", *arguments],
            cwd=self.folder,
            env=self.variables({"HEALTH_SECONDS": "20", **settings}),
            capture_output=True,
            text=True,
            check=False,
            timeout=110,
        )

    def redeploy_until(self, true: Callable[[], bool], **settings: str) -> None:
        """Run the script, and kill it and all that it has started once this is true."""
        with subprocess.Popen(
            ["scripts/redeploy.sh"],
            cwd=self.folder,
            env=self.variables(settings),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        ) as process:
            deadline = time.monotonic() + 60
            while not true():
                assert process.poll() is None, "it has ended already"
                assert time.monotonic() < deadline
                time.sleep(0.002)
            os.killpg(process.pid, signal.SIGKILL)


class Load:
    """A user who asks all the time, each time on a new connection."""

    def __init__(self, url: str, token: str) -> None:
        self._ask = f"{url}/projects", {"Authorization": f"Bearer {token}"}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.answers: Counter[int | str] = Counter()

    def _run(self) -> None:
        path, headers = self._ask
        while not self._over.wait(0.02):
            try:
                self.answers[httpx.get(path, headers=headers, timeout=20).status_code] += 1
            except httpx.HTTPError as error:
                self.answers[type(error).__name__] += 1

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
