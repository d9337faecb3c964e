"""Where settings come from, which are refused, and that no secret shows."""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from server.settings import SECRETS, WELL_KNOWN_PASSWORDS, Settings
from tests import checkout
from tests.service import environment

# Reads one case a line and answers with a line: the settings, or why there are none.
READER = """
import json, os, sys
from server.settings import BadSettings, get_settings
before = dict(os.environ)
for line in sys.stdin:
    os.environ.clear()
    os.environ.update(before | json.loads(line))
    get_settings.cache_clear()
    try:
        settings = get_settings()
        values = settings.model_dump(mode="python")
        secrets = {
            name: value.get_secret_value()
            for name, value in values.items()
            if hasattr(value, "get_secret_value")
        }
        answer = {**values, **secrets}
        answer["choice"] = settings.backend_choice
        answer["projects"] = settings.project_databases
        answer["docs"] = settings.docs
        answer["shown"] = f"{settings!r} {settings} {settings.model_dump_json()}"
    except BadSettings as error:
        answer = {"error": str(error)}
    print(json.dumps(answer, default=str), flush=True)
"""
NOTHING: Mapping[str, str] = MappingProxyType({})
PRODUCTION = {"APP_ENV": "production", "OPENCLAW_URL": "http://gateway:18789"}
POSTGRES = {"USE_POSTGRES": "true", "DB_PASSWORD": "own-and-long"}


class Tree:
    """A copy of the code, with `.env` files of its own and a process that reads its settings."""

    def __init__(self, root: Path, process: "subprocess.Popen[str]") -> None:
        self.root = root
        self._process = process

    def read(
        self, env: Mapping[str, str] = NOTHING, files: Mapping[str, str] = NOTHING
    ) -> dict[str, Any]:
        """The settings with this environment and these files in the root."""
        for old in self.root.glob(".env*"):
            old.unlink()
        for name, text in files.items():
            (self.root / name).write_text(text, encoding="utf-8")
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError
        self._process.stdin.write(json.dumps(dict(env)) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def error(self, env: Mapping[str, str], files: Mapping[str, str] = NOTHING) -> str:
        """Why there are no settings: always one line."""
        answer = self.read(env, files)
        assert "error" in answer, "the settings were taken"
        assert "\n" not in answer["error"]
        return str(answer["error"])


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    """The developer's own `.env` files are neither read nor touched."""
    root = checkout.copy(tmp_path_factory.mktemp("checkout"))
    with subprocess.Popen(
        [sys.executable, "-c", READER],
        cwd=root,
        env=environment({}),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield Tree(root, process)
        finally:
            process.kill()


def test_the_defaults(tree: Tree) -> None:
    """A fresh clone: SQLite beside the code, on 127.0.0.1:8002, in development."""
    got = tree.read()
    assert got["choice"] == ["sqlite", "nothing names a PostgreSQL"]
    assert (got["host"], got["port"], got["app_env"]) == ("127.0.0.1", 8002, "development")
    assert got["db_path"] == str(tree.root / "clawdbot_adapter.db")
    assert got["projects"] == str(tree.root / "project_databases")
    assert (got["db_name"], got["db_port"]) == ("dreampilot", 5432)
    assert (got["db_pool_min"], got["db_pool_max"], got["db_pool_wait"]) == (5, 20, 5)
    assert (got["openclaw_model"], got["gateway_history"]) == ("agent:main", "session")
    timeouts = [got[f"gateway_{name}_timeout"] for name in ("connect", "first", "idle", "total")]
    assert timeouts == [5, 180, 120, 1800]
    assert got["docs"] is True


def test_environment_before_env_postgres_before_env_before_default(tree: Tree) -> None:
    """Each source stands back behind the one before it."""
    files = {
        ".env": "DB_USER=from_env\nDB_NAME=from_env\nDB_HOST=from_env\n",
        ".env.postgres": "DB_USER=from_postgres\nDB_NAME=from_postgres\n",
    }
    got = tree.read({"DB_USER": "from_environment"}, files)
    assert [got[name] for name in ("db_user", "db_name", "db_host", "db_sslmode")] == [
        "from_environment",
        "from_postgres",
        "from_env",
        "prefer",
    ]


def test_the_files_are_read_without_any_shell(tree: Tree) -> None:
    """Written as a shell would read them: `export`, quotes, comments, Windows line ends.

    `source .env.postgres` exports nothing, so that the service ran on SQLite without a word.
    """
    text = (
        "# our server\r\nexport DB_HOST=db.example\r\nDB_USER='app'\r\n"
        'DB_PASSWORD="p#ss \\"w\\" $x"  # not this\r\n\r\nDB_NAME=main # the master\r\n'
    )
    got = tree.read({}, {".env.postgres": text})
    assert got["choice"] == ["postgresql", ".env.postgres exists"]
    assert (got["db_host"], got["db_user"], got["db_name"]) == ("db.example", "app", "main")
    assert got["db_password"] == 'p#ss "w" $x'


def test_an_empty_value_is_no_value(tree: Tree) -> None:
    """`DB_PORT=` in a compose file means that nobody has set it."""
    got = tree.read({"DB_PORT": "", "OPENCLAW_URL": "", "USE_POSTGRES": "", "DATABASE_URL": ""})
    assert (got["db_port"], got["openclaw_url"]) == (5432, None)
    assert got["choice"][0] == "sqlite"


def test_relative_paths_start_at_the_repository(tree: Tree, tmp_path: Path) -> None:
    """PM2, systemd and a shell start it in different folders: one database all the same."""
    got = tree.read({"DB_PATH": "data/x.db", "PROJECT_DB_DIR": str(tmp_path)})
    assert got["db_path"] == str(tree.root / "data/x.db")
    assert got["projects"] == str(tmp_path)
    assert tree.read({"DB_PATH": "data/x.db"})["projects"] == str(
        tree.root / "data/project_databases"
    )


@pytest.mark.parametrize(
    ("env", "files", "backend", "reason"),
    [
        ({"USE_POSTGRES": "true"}, {}, "postgresql", "USE_POSTGRES is true"),
        ({"USE_POSTGRES": "TRUE"}, {}, "postgresql", "USE_POSTGRES is true"),
        ({"USE_POSTGRES": "false"}, {".env.postgres": ""}, "sqlite", "USE_POSTGRES is false"),
        ({"USE_POSTGRES": "false", "DB_HOST": "x"}, {}, "sqlite", "USE_POSTGRES is false"),
        (
            {"USE_POSTGRES": "false", "DATABASE_URL": "postgresql://u@h/d"},
            {},
            "sqlite",
            "USE_POSTGRES is false",
        ),
        ({}, {".env.postgres": ""}, "postgresql", ".env.postgres exists"),
        ({}, {".env.postgres": "USE_POSTGRES=false"}, "sqlite", "USE_POSTGRES is false"),
        ({"DB_HOST": "x"}, {}, "postgresql", "DB_HOST is set"),
        ({}, {".env": "DB_HOST=x"}, "postgresql", "DB_HOST is set"),
        ({"DATABASE_URL": "postgresql://u@h/d"}, {}, "postgresql", "DATABASE_URL is set"),
        ({"DB_USER": "x", "DB_PASSWORD": "x", "DB_NAME": "x"}, {}, "sqlite", "nothing names a"),
    ],
)
def test_which_database(
    tree: Tree, env: dict[str, str], files: dict[str, str], backend: str, reason: str
) -> None:
    """USE_POSTGRES decides; unset, whatever names a PostgreSQL does. With the reason."""
    choice = tree.read(env, files)["choice"]
    assert choice[0] == backend
    assert choice[1].startswith(reason)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (
            "postgresql://ada:p%40ss%2Fw%25rd%3A@db.example:6543/my%2Dmain?sslmode=require",
            ("db.example", 6543, "my-main", "ada", "p@ss/w%rd:", "require"),
        ),
        ("postgres://u@h/d", ("h", 5432, "d", "u", "", "prefer")),
        ("postgresql://u:p@[::1]:5433/d", ("::1", 5433, "d", "u", "p", "prefer")),
        ("postgresql:///d", ("localhost", 5432, "d", "admin", "", "prefer")),
    ],
)
def test_database_url(tree: Tree, url: str, expected: tuple[object, ...]) -> None:
    """One form for the rest of the code; the percent-encoding of the password is undone."""
    got = tree.read({"DATABASE_URL": url})
    names = ("db_host", "db_port", "db_name", "db_user", "db_password", "db_sslmode")
    assert tuple(got[name] for name in names) == expected


def test_database_url_and_its_parts(tree: Tree) -> None:
    """In one place the URL counts; a part in the environment goes before the URL of a file.

    A developer's `export DB_NAME=dreampilot_dev` was ignored because .env.postgres had a URL: the
    second instance wrote into production's database.
    """
    url = "DATABASE_URL=postgresql://u:p@h:6000/production"
    got = tree.read({"DB_NAME": "development"}, {".env.postgres": url})
    assert (got["db_name"], got["db_host"], got["db_port"]) == ("development", "h", 6000)
    got = tree.read(
        {"DB_NAME": "part", "DATABASE_URL": "postgresql://u:p@h/whole"}, {".env.postgres": url}
    )
    assert (got["db_name"], got["db_port"]) == ("whole", 5432)


@pytest.mark.parametrize(
    "url",
    [
        "mysql://u:hidden@h/d",
        "postgresql://u:hidden@h",
        "postgresql://u:hidden@h:none/d",
        "postgresql://u:hidden@h:99999/d",
        "postgresql://u:hid/den@h/d",
        "postgresql://u:hidden@[h/d",
        "hidden",
    ],
)
def test_a_bad_database_url_is_named_and_not_shown(tree: Tree, url: str) -> None:
    """The variable and the form it should have; nothing of the password in it.

    For a `/` in a password Python says "Port could not be cast to integer value as 'hid'".
    """
    said = tree.error({"DATABASE_URL": url})
    assert said.startswith("DATABASE_URL: ")
    assert "postgresql://user:password@host:port/name" in said
    assert "hid" not in said


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_from_a_file(tree: Tree, tmp_path: Path, name: str) -> None:
    """`NAME_FILE`, from the environment or a file; one line end is cut off, nothing else."""
    variable = name.upper()
    odd = {"database_url": "postgresql://u:x@h/d", "openclaw_token": "s3cret~"}
    odd["metrics_token"] = "s3cret~of-16-letters"
    secret = odd.get(name, " s3cret \u00e9 ")
    path = tmp_path / "secret"
    for end in ("", "\n", "\r\n"):
        path.write_bytes((secret + end).encode())
        assert tree.read({f"{variable}_FILE": str(path)})[name] == secret
        assert tree.read({}, {".env": f"{variable}_FILE={path}"})[name] == secret
    if name == "db_password":
        path.write_bytes(f"{secret}\n\n".encode())
        assert tree.read({f"{variable}_FILE": str(path)})[name] == f"{secret}\n"


def test_a_secret_file_keeps_its_rank(tree: Tree, tmp_path: Path) -> None:
    """A secret's file in the environment goes before a secret in `.env`, and the other way."""
    (tmp_path / "secret").write_text("from-file")
    in_file = {".env.postgres": "DB_PASSWORD=from-env-postgres"}
    got = tree.read({"DB_PASSWORD_FILE": str(tmp_path / "secret")}, in_file)
    assert got["db_password"] == "from-file"
    in_file = {".env.postgres": f"DB_PASSWORD_FILE={tmp_path / 'secret'}"}
    got = tree.read({"DB_PASSWORD": "from-environment"}, in_file)
    assert got["db_password"] == "from-environment"


def test_a_secret_file_relative_to_the_repository(tree: Tree) -> None:
    """As every other path."""
    (tree.root / "token").write_text("abc")
    assert tree.read({"OPENCLAW_TOKEN_FILE": "token"})["openclaw_token"] == "abc"


def test_a_bad_secret_file_is_named(tree: Tree, tmp_path: Path) -> None:
    """Missing, a folder, not text, or given twice: one line with the variable."""
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for path in (tmp_path / "missing", tmp_path, tmp_path / "binary"):
        said = tree.error({"DB_PASSWORD_FILE": str(path)})
        assert said.startswith("DB_PASSWORD_FILE: can't read ")
        assert str(path) in said
    (tmp_path / "secret").write_text("hidden-one")
    both = {"DB_PASSWORD": "hidden-two", "DB_PASSWORD_FILE": str(tmp_path / "secret")}
    assert tree.error(both) == "DB_PASSWORD: set either DB_PASSWORD or DB_PASSWORD_FILE, not both"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("APP_ENV", "staging"),
        ("PORT", "http"),
        ("PORT", "0"),
        ("PORT", "70000"),
        ("LOG_FORMAT", "xml"),
        ("LOG_LEVEL", "LOUD"),
        ("EXPOSE_DOCS", "perhaps"),
        ("CORS_ORIGINS", "*"),
        ("CORS_ORIGINS", "https://a.example, *"),
        ("ALLOW_ANY_BRANCH", "some"),
        ("SHUTDOWN_GRACE", "0"),
        ("USE_POSTGRES", "maybe"),
        ("DB_PORT", "5432a"),
        ("DB_NAME", "x" * 64),
        ("DB_SSLMODE", "always"),
        ("DB_POOL_MIN", "0"),
        ("DB_POOL_MAX", "many"),
        ("DB_POOL_MAX", "4"),
        ("DB_POOL_WAIT", "-1"),
        ("DB_STATEMENT_TIMEOUT", "0"),
        ("AUTH_RATE_LIMIT", "strict"),
        ("TOKEN_TTL_HOURS", "0"),
        ("OPENCLAW_URL", "gateway:18789"),
        ("OPENCLAW_URL", "ftp://gateway"),
        ("OPENCLAW_URL", "http://user:hidden@gateway"),
        ("OPENCLAW_URL", "http://[::1"),
        ("GATEWAY_HISTORY", "some"),
        ("GATEWAY_CONNECT_TIMEOUT", "soon"),
        ("GATEWAY_FIRST_TIMEOUT", "0"),
        ("GATEWAY_IDLE_TIMEOUT", "-5"),
        ("GATEWAY_TOTAL_TIMEOUT", "nan"),
        ("GATEWAY_TOTAL_TIMEOUT", "inf"),
        ("DB_POOL_WAIT", "1e12"),
        ("METRICS_TOKEN", "hidden"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "localhost:4318"),
    ],
)
def test_a_bad_value_is_named_in_one_line(tree: Tree, name: str, value: str) -> None:
    """The variable as it is spelled in the environment, what is wrong, and not the value.

    A time of `inf` or of thousands of years passes for a number and fails at its first use.
    """
    said = tree.error({name: value})
    assert said.startswith(f"{name}: ")
    assert len(said) > len(name) + 5
    assert "hidden" not in said


def test_several_bad_values_in_one_line(tree: Tree) -> None:
    """All of them at once, so that mending takes one start, not three."""
    said = tree.error({"PORT": "x", "DB_PORT": "y", "APP_ENV": "z"})
    for name in ("PORT: ", "DB_PORT: ", "APP_ENV: "):
        assert name in said


@pytest.mark.parametrize("file", [".env", ".env.postgres"])
def test_a_file_that_is_not_text_is_named(tree: Tree, file: str) -> None:
    """A `.env` in UTF-16, as some editors save it: one line with its name, not a traceback."""
    path = tree.root / file
    for old in tree.root.glob(".env*"):
        old.unlink()
    path.write_bytes("DB_HOST=x\n".encode("utf-16"))
    done = subprocess.run(
        [sys.executable, "-m", "server"],
        cwd=tree.root,
        env=environment({}),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    path.unlink()
    assert done.returncode != 0
    assert f"{file}: " in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("port", ["8001", "8002", "9005"])
def test_an_http_port_for_the_database_is_called_out(tree: Tree, port: str) -> None:
    """DB_PORT set to the service's own port: said by name, since it only looks like an outage."""
    said = tree.error({**POSTGRES, "DB_PORT": port, "PORT": "9005"})
    assert said.startswith(f"DB_PORT: {port} is an HTTP port of this service")
    url = f"postgresql://u:p@h:{port}/d"
    assert tree.error({"DATABASE_URL": url, "PORT": "9005"}).startswith("DB_PORT: ")
    assert tree.read({"USE_POSTGRES": "false", "DB_PORT": port})["db_port"] == int(port)


@pytest.mark.parametrize("password", sorted(WELL_KNOWN_PASSWORDS))
def test_production_refuses_published_passwords(tree: Tree, password: str) -> None:
    """In any case, for the database and for the gateway; in development they are taken."""
    for spelling in (password, password.upper()):
        bad = {**PRODUCTION, "USE_POSTGRES": "true", "DB_PASSWORD": spelling}
        assert tree.error(bad).startswith("DB_PASSWORD: is a published example")
        assert tree.read({**bad, "APP_ENV": "development"})["db_password"] == spelling
    assert tree.error({**PRODUCTION, "OPENCLAW_TOKEN": password}).startswith("OPENCLAW_TOKEN: ")


def test_production_looks_into_database_url_and_files(tree: Tree, tmp_path: Path) -> None:
    """Wherever the password comes from."""
    (tmp_path / "secret").write_text("changeme\n")
    for bad in (
        {"DATABASE_URL": "postgresql://u:change%6De@h/d"},
        {"USE_POSTGRES": "true", "DB_PASSWORD_FILE": str(tmp_path / "secret")},
    ):
        assert tree.error({**PRODUCTION, **bad}).startswith("DB_PASSWORD: ")


def test_production_needs_a_gateway(tree: Tree) -> None:
    """The echo answers in development alone; with a gateway and own passwords it starts."""
    assert tree.error({"APP_ENV": "production"}).startswith("OPENCLAW_URL: ")
    got = tree.read({**PRODUCTION, **POSTGRES, "OPENCLAW_TOKEN": "own-and-long"})
    assert got["app_env"] == "production"
    assert got["docs"] is False
    assert tree.read({**PRODUCTION, "EXPOSE_DOCS": "true"})["docs"] is True


def test_the_examples_of_the_users_documents_are_refused(tree: Tree) -> None:
    """Their passwords are published: whoever copies the line must not go into production."""
    assert {"strongadminpass123", "claude_secure_2024!", "supersecret"} <= WELL_KNOWN_PASSWORDS
    assert all(password == password.lower() for password in WELL_KNOWN_PASSWORDS)


@pytest.mark.parametrize("url", ["http://g:1", "http://g:1/", "http://g:1/v1", "http://g:1/v1/"])
def test_the_gateways_url_in_every_spelling(tree: Tree, url: str) -> None:
    """With and without `/v1`, which OpenAI's clients want in it and others don't."""
    assert tree.read({"OPENCLAW_URL": url})["openclaw_url"] == "http://g:1"


def test_origins_are_a_list(tree: Tree) -> None:
    """Separated by commas, blanks around them don't count."""
    got = tree.read({"CORS_ORIGINS": " http://localhost:3001, https://a.example ,"})
    assert got["cors_origins"] == ["http://localhost:3001", "https://a.example"]


def test_no_secret_shows(tree: Tree) -> None:
    """Not in repr, str or JSON of the settings, which end up in logs and tracebacks."""
    env = {
        "DATABASE_URL": "postgresql://u:hidden-1@h/d",
        "OPENCLAW_TOKEN": "hidden-2",
    }
    got = tree.read(env)
    assert (got["db_password"], got["openclaw_token"]) == ("hidden-1", "hidden-2")
    assert "hidden" not in got["shown"]
    assert "hidden" not in tree.read({"DB_PASSWORD": "hidden"})["shown"]


def test_every_secret_is_one() -> None:
    """A field whose name says secret is of the type that hides it, and may come from a file."""
    hidden = {
        name for name, field in Settings.model_fields.items() if "Secret" in str(field.annotation)
    }
    assert hidden == set(SECRETS)
    telling = {
        name
        for name in Settings.model_fields
        if name.endswith(("password", "secret", "_token", "_key"))
    }
    assert telling <= hidden


def test_every_setting_is_explained() -> None:
    """A sentence for each, from which the documents are made."""
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert field.description.endswith("."), name


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CORS_ORIGINS", "notanorigin"),
        ("CORS_ORIGINS", "https://a.example/path"),
        ("HOST", "not a host!"),
        ("OPENCLAW_TOKEN", "two\nlines"),
        ("OPENCLAW_TOKEN", "n\u00f6t ascii"),
    ],
)
def test_values_that_would_fail_later(tree: Tree, name: str, value: str) -> None:
    """What a header, a socket or a browser would refuse stops the start instead."""
    assert tree.error({name: value}).startswith(f"{name}: ")


@pytest.mark.parametrize("password", ["your_password_here", "password123", "replace-me", "Admin"])
def test_passwords_of_examples(tree: Tree, password: str) -> None:
    """Passwords that say themselves that they are none, and the most common ones."""
    settings = {
        "APP_ENV": "production",
        "OPENCLAW_URL": "http://gateway:1",
        "USE_POSTGRES": "true",
        "DB_PASSWORD": password,
    }
    assert tree.error(settings).startswith("DB_PASSWORD: ")
