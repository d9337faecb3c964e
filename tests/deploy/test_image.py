"""The Dockerfile and docker-compose.yml, without Docker: held against their rules, and acted out.

Acted out means: what the Dockerfile copies lies in a folder of its own, its steps are run there,
and the commands and settings of docker-compose.yml run from it as a user without rights, who may
write nothing but the volume.
"""

import json
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import httpx
import jsonschema_rs
import pytest
import yaml

from tests import postgres
from tests.service import PASSWORD, ROOT, Json, environment
from tests.test_commands import SECRET, Started, prepared

__all__ = ["prepared"]

UID = 10001
VOLUME = "/var/lib/clawd-backend"


@dataclass(frozen=True)
class Step:
    """An instruction of the Dockerfile's last stage, or of the one that makes its packages."""

    word: str
    text: str

    @property
    def list(self) -> list[str]:
        """Its arguments in the exec form."""
        found: list[str] = json.loads(self.text)
        return found


def stages() -> list[list[Step]]:
    """The stages of the Dockerfile."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text("utf-8"), flags=re.MULTILINE)
    found: list[list[Step]] = []
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            found.append([])
        if found and word:
            found[-1].append(Step(word, rest.strip()))
    return found


def values(word: str) -> list[Step]:
    """All of one kind in the last stage."""
    return [step for step in stages()[-1] if step.word == word]


def image_environment() -> dict[str, str]:
    """What ENV says."""
    return dict(pair.split("=", 1) for step in values("ENV") for pair in shlex.split(step.text))


def ignored(name: str) -> bool:
    """Whether .dockerignore keeps a file out; the last line that fits decides."""
    out = False
    for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        pattern = line.lstrip("!").removeprefix("**/")
        parts = name.split("/")
        tops = ["/".join(parts[: n + 1]) for n in range(len(parts))]
        anywhere = line.startswith("**/") and any(fnmatchcase(part, pattern) for part in parts)
        if anywhere or any(fnmatchcase(top, pattern) for top in tops):
            out = not line.startswith("!")
    return out


def compose() -> Json:
    """docker-compose.yml."""
    found: Json = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
    return found


def test_the_dockerfile_has_no_complaint() -> None:
    """hadolint, with shellcheck for what RUN says."""
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run(
        [hadolint, ROOT / "Dockerfile"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_image_is_small_pinned_and_without_rights() -> None:
    """One Python for both stages, to the patch level; a number for a user, since names can't be
    checked by who runs it; nothing between the signal and the service.
    """
    text = (ROOT / "Dockerfile").read_text("utf-8")
    assert re.search(r"^ARG PYTHON=python:3\.\d+\.\d+-slim-\w+$", text, re.MULTILINE)
    assert [stage[0].text for stage in stages()] == ["${PYTHON} AS packages", "${PYTHON}"]
    assert [step.text for step in values("USER")] == [f"{UID}:{UID}"]
    assert values("CMD")[0].list == ["venv/bin/python", "-m", "server"]
    assert not values("ENTRYPOINT")
    assert "/health/ready" in values("HEALTHCHECK")[0].text
    assert image_environment()["APP_ENV"] == "production"


def test_the_compose_file_is_one() -> None:
    """Each word in it is one that the specification knows, with a value that it allows.

    compose-spec.json is the specification's own, of github.com/compose-spec/compose-spec.
    """
    schema = json.loads((ROOT / "tests/deploy/compose-spec.json").read_text("utf-8"))
    validator = jsonschema_rs.validator_for(schema)
    assert [error.message for error in validator.iter_errors(compose())] == []
    spoilt = compose()
    spoilt["services"]["clawd"]["depends_onn"] = []
    assert not validator.is_valid(spoilt)


def test_every_container_can_do_as_little_as_possible() -> None:
    """Nothing to write but volumes, no capability that isn't named, no way to get one."""
    services = compose()["services"]
    assert set(services) == {"postgres", "init", "clawd"}
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "privileged" not in service, name
        assert name == "postgres" or "cap_add" not in service, name


def test_what_listens_is_reached_by_those_who_need_it() -> None:
    """PostgreSQL by the service alone, the service by this machine alone."""
    found = compose()
    services = found["services"]
    assert "ports" not in services["postgres"]
    assert services["postgres"]["networks"] == ["database"]
    assert found["networks"]["database"] == {"internal": True}
    assert services["clawd"]["ports"] == ["127.0.0.1:8002:8002"]
    gateway = found["networks"]["front"]["ipam"]["config"][0]["gateway"]
    assert services["clawd"]["environment"]["TRUSTED_PROXIES"] == gateway


def test_the_service_waits_for_its_database() -> None:
    """Until PostgreSQL is well, and the roles and tables are made."""
    services = compose()["services"]
    image, version = services["postgres"]["image"].split(":")
    assert (image, int(version.split(".")[0]) >= 15) == ("postgres", True)
    # pg_dump must not be older than the server.
    client = re.search(r"postgresql-client-(\d+)", (ROOT / "Dockerfile").read_text("utf-8"))
    assert client
    assert client[1] == version.split(".")[0]
    assert "pg_isready" in services["postgres"]["healthcheck"]["test"]
    assert services["init"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    assert services["clawd"]["depends_on"]["init"] == {
        "condition": "service_completed_successfully"
    }
    for name in ("postgres", "clawd"):
        assert services[name]["restart"] == "unless-stopped"
    grace = int(services["clawd"]["environment"]["SHUTDOWN_GRACE"])
    assert int(services["clawd"]["stop_grace_period"].removesuffix("s")) > grace + 15


def test_no_secret_is_in_the_files() -> None:
    """They are files that git and the image know nothing of, and each container has its own."""
    found = compose()
    for name, secret in found["secrets"].items():
        assert secret == {"file": f"./secrets/{name}"}
        assert ignored(f"secrets/{name}")
        done = subprocess.run(["git", "check-ignore", f"secrets/{name}"], cwd=ROOT, check=False)
        assert done.returncode == 0
    assert found["services"]["clawd"]["secrets"] == ["db_password", "openclaw_token"]
    for name in (".env", ".env.postgres", ".git/config", "clawdbot_adapter.db", "backups/x.tar.gz"):
        assert ignored(name), name


@dataclass
class Container:
    """What a container would see: the image's folder, a volume, secrets."""

    app: Path
    volume: Path
    secrets: Path
    server: postgres.Server
    names: dict[str, str]

    def local(self, text: str) -> str:
        """The container's places and hosts as they are called here."""
        password = "/run/secrets/postgres_password)@postgres"
        here = f"{self.server.host}:{self.server.port}"
        text = text.replace(password, password.replace("@postgres", f"@{here}"))
        text = text.replace("/run/secrets", str(self.secrets)).replace(VOLUME, str(self.volume))
        return text.replace("$$", "$")

    def settings(self, service: str) -> dict[str, str]:
        """The image's environment, then the service's."""
        found = {**image_environment(), **compose()["services"][service]["environment"]}
        found = {name: self.local(str(value)) for name, value in found.items()}
        return {**found, **self.names, "HOST": "127.0.0.1", "HOME": "/tmp"}

    def run(self, command: list[str], settings: dict[str, str]) -> subprocess.CompletedProcess[str]:
        """Run a command in it to its end."""
        return subprocess.run(
            [*without_rights(), *command],
            cwd=self.app,
            env=environment(settings),
            capture_output=True,
            text=True,
            check=False,
        )


def without_rights() -> list[str]:
    """What runs a command as the image's user, who may read this machine's Python, no more."""
    if os.geteuid() != 0:
        return []
    only = "-all,+dac_read_search"
    return [
        *("setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", "--no-new-privs"),
        *(f"--inh-caps={only}", f"--ambient-caps={only}", f"--bounding-set={only}"),
    ]


def build(prepared: Path, app: Path, volume: Path) -> None:
    """What the Dockerfile does, but for its base and the packages that come from elsewhere."""
    app.mkdir(parents=True)
    shutil.copytree(prepared / "venv", app / "venv", symlinks=True)
    for stage in stages():
        for step in stage:
            if step.word == "COPY" and not step.text.startswith("--from"):
                copy(prepared, app, step.text.split())
            elif step.word == "RUN" and "apt-get" not in step.text:
                user = f"{UID} -g {UID}" if os.geteuid() == 0 else f"{os.getuid()} -g {os.getgid()}"
                script = step.text.replace(VOLUME, shlex.quote(str(volume)))
                script = script.replace(f"{UID} -g {UID}", user)
                subprocess.run(["sh", "-ec", script], cwd=app, env=environment({}), check=True)


def copy(context: Path, app: Path, names: list[str]) -> None:
    """One COPY: a folder's contents, or files, as far as .dockerignore lets them in."""
    *sources, target = names
    for source in sources:
        found = [context / source, *(context / source).rglob("*")]
        files = [path for path in found if path.is_file() and "__pycache__" not in path.parts]
        assert files, source
        for file in files:
            name = file.relative_to(context).as_posix()
            assert not ignored(name), f"{name} is not in the build's context"
            inside = file.relative_to(context / source)
            place = app / target / (file.name if file == context / source else inside)
            if file == context / source and not target.endswith("/"):
                place = app / target
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, place)
            assert place.stat().st_mode & stat.S_IROTH, f"{name} can't be read by the image's user"


@pytest.fixture
def container(
    prepared: Path, postgres_server: postgres.Server, tmp_path: Path
) -> Iterator[Container]:
    """The image, built and ready, with nothing done in it yet."""
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "postgres_password").write_text(postgres_server.password, "utf-8")
    (secrets / "db_password").write_text(SECRET + "\n", "utf-8")
    (secrets / "openclaw_token").write_text("token-of-the-gateway", "utf-8")
    app, volume = tmp_path / "app", tmp_path / "volume"
    build(prepared, app, volume)
    before = sorted(path.relative_to(app) for path in app.rglob("*"))
    names = {
        "DB_HOST": postgres_server.host,
        "DB_PORT": str(postgres_server.port),
        # The server is not this test's alone.
        "DB_NAME": "dreampilot_image",
        "DB_USER": "clawd_image",
        "OPENCLAW_URL": "http://127.0.0.1:9",
        # The image's own fits the server of docker-compose.yml.
        "PG_BIN_DIR": str(postgres_server.bin_dir),
    }
    yield Container(app, volume, secrets, postgres_server, names)
    assert sorted(path.relative_to(app) for path in app.rglob("*")) == before, "written to"


def test_the_containers_acted_out(container: Container) -> None:
    """`init` makes the roles, the service serves, is healthy, is backed up, and ends in order.

    As a user without rights in a folder that is not his; only the volume is written to.
    """
    shell, option, script = compose()["services"]["init"]["command"]
    command = [shell, option, container.local(script)]
    for _ in range(2):  # `docker compose up` runs it each time
        made = container.run(command, container.settings("init"))
        assert made.returncode == 0, made.stderr
    service = Started(container.app, {}, [*without_rights(), *values("CMD")[0].list])
    service.settings = {**container.settings("clawd"), "PORT": str(service.port)}
    with service:
        health = service.health()
        assert (health["status"], health["backend"]) == ("ok", "postgresql")
        account = {"email": "ada@example.com", "password": PASSWORD}
        assert httpx.post(service.url + "/auth/signup", json=account).status_code == 201
        probe = json.loads(values("HEALTHCHECK")[0].text.partition("CMD ")[2])
        at_port = [part.replace(":8002", f":{service.port}") for part in probe]
        assert container.run(at_port, service.settings).returncode == 0
        backup = container.run(["./clawd", "backup", "--json"], service.settings)
        assert backup.returncode == 0, backup.stderr
        assert service.stop() == 0
    assert container.run(at_port, service.settings).returncode != 0
    (file,) = (container.volume / "backups").glob("*.tar.gz")
    with tarfile.open(file) as archive:
        assert "manifest.json" in archive.getnames()
