"""Every setting of the service: its environment name, type, default and meaning."""

import os
import re
from functools import cache
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import parse_qsl, unquote, urlsplit

from dotenv import dotenv_values
from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from server.common_passwords import is_common

ROOT = Path(__file__).resolve().parent.parent
FILES = (ROOT / ".env", ROOT / ".env.postgres")  # the later one wins
HTTP_PORTS = (8001, 8002)
SECRETS = ("database_url", "db_password", "openclaw_token", "metrics_token")
# Passwords that stand in published examples, ours and other people's.
WELL_KNOWN_PASSWORDS = frozenset(
    {
        "admin",
        "change-me",
        "change-this",
        "changeme",
        "changethis",
        "claude_secure_2024!",
        "clawd",
        "dreampilot",
        "password",
        "postgres",
        "root",
        "secret",
        "strongadminpass123",
        "supersecret",
        "your-password",
        "your_password",
        "yourpassword",
    }
)

Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]
_DATABASE_URL = "DATABASE_URL: must be postgresql://user:password@host:port/name"


_ORIGIN = re.compile(r"https?://[A-Za-z0-9.\[\]:-]+", re.ASCII)
_HOST = re.compile(r"[A-Za-z0-9._:-]+", re.ASCII)
_TOKEN = re.compile(r"[!-~]+", re.ASCII)
_LONG_TOKEN = re.compile(r"[!-~]{16,}", re.ASCII)


def is_well_known(password: str) -> bool:
    """A password that stands in an example, says that it is one, or is among the most common."""
    word = password.lower()
    speaking = ("your_", "your-", "example", "change_me", "replace")
    spoken = word in WELL_KNOWN_PASSWORDS or any(part in word for part in speaking)
    return spoken or is_common(word)


class BadSettings(Exception):
    """One line that names the environment variable and what is wrong with it."""


class _SecretFiles(PydanticBaseSettingsSource):
    """Reads `NAME` from the path in `NAME_FILE`, the convention of Docker and systemd secrets."""

    def __init__(self, settings_cls: type[BaseSettings], names: dict[str, str]) -> None:
        super().__init__(settings_cls)
        self._names = names

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        name = field_name.upper()
        path = self._names.get(f"{name}_FILE")
        if not path:
            return None, field_name, False
        if self._names.get(name):
            raise BadSettings(f"{name}: set either {name} or {name}_FILE, not both")
        try:
            text = (ROOT / path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BadSettings(f"{name}_FILE: can't read {path}: {error}") from error
        # Editors and `echo` end a file with a newline that isn't part of the secret.
        return text.removesuffix("\n").removesuffix("\r"), field_name, False

    def __call__(self) -> dict[str, Any]:
        values = {
            name: self.get_field_value(field, name)[0]
            for name, field in self.settings_cls.model_fields.items()
            if name in SECRETS
        }
        return {name: value for name, value in values.items() if value is not None}


class Settings(BaseSettings):
    """The settings, read from the environment, then `.env.postgres`, then `.env`.

    Both files lie in the repository's root. Any secret may be given as `NAME_FILE` instead, the
    path of a file that holds it. Relative paths start at the repository's root.
    """

    model_config = SettingsConfigDict(
        env_file=FILES,
        env_file_encoding="utf-8",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
    )

    app_env: Annotated[
        Literal["development", "production"],
        Field(description="`production` refuses to start on unsafe settings."),
    ] = "development"
    host: Annotated[str, Field(description="Address the service listens on.")] = "127.0.0.1"
    port: Annotated[Port, Field(description="Port the service listens on.")] = 8002
    log_format: Annotated[
        Literal["json", "text"], Field(description="One JSON object a line, or text for people.")
    ] = "json"
    log_level: Annotated[
        Literal["DEBUG", "INFO", "WARNING", "ERROR"], Field(description="Least level logged.")
    ] = "INFO"
    expose_docs: Annotated[
        bool | None,
        Field(description="Serve /docs and /openapi.json; unset: not in production."),
    ] = None
    cors_origins: Annotated[
        tuple[str, ...],
        NoDecode,
        Field(description="Origins, separated by commas, whose pages may call the API."),
    ] = ()
    allow_any_branch: Annotated[
        bool,
        Field(
            description="Let production run on 8002 from a branch other than main, and "
            "development on 8001 from main."
        ),
    ] = False
    allow_prod_db: Annotated[
        bool, Field(description="Let development use a database that production has used.")
    ] = False
    share_port: Annotated[
        bool,
        Field(description="Share the port with other processes of this checkout that do so, too."),
    ] = False
    trusted_proxies: Annotated[
        str,
        Field(description="Addresses, separated by commas, whose X-Forwarded-* are believed."),
    ] = ""
    header_timeout: Annotated[
        Seconds, Field(description="Seconds until a request's headers have come.")
    ] = 10
    body_timeout: Annotated[
        Seconds,
        Field(description="Seconds until its body has come; a second more for each 32 KiB of it."),
    ] = 30
    max_requests: Annotated[
        int, Field(ge=1, description="Most requests at work at once, per process; beyond, 503.")
    ] = 200
    max_streams: Annotated[
        int, Field(ge=1, description="Most chats at once, followers included, counted apart.")
    ] = 2000
    shutdown_grace: Annotated[
        Seconds, Field(description="Seconds that running answers get after SIGTERM.")
    ] = 10

    use_postgres: Annotated[
        bool | None,
        Field(
            description="true: PostgreSQL, false: SQLite; unset: PostgreSQL when `.env.postgres` "
            "exists or DB_HOST or DATABASE_URL is set."
        ),
    ] = None
    database_url: Annotated[
        SecretStr | None,
        Field(description="postgresql://user:password@host:port/name, instead of DB_*."),
    ] = None
    db_host: Annotated[str, Field(description="PostgreSQL's host.")] = "localhost"
    db_port: Annotated[Port, Field(description="PostgreSQL's port (not the service's).")] = 5432
    db_name: Annotated[
        str, Field(description="The master database.", min_length=1, max_length=63)
    ] = "dreampilot"
    db_user: Annotated[str, Field(description="PostgreSQL's role.")] = "admin"
    db_password: Annotated[SecretStr, Field(description="The role's password.")] = SecretStr("")
    db_sslmode: Annotated[
        Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"],
        Field(description="TLS to PostgreSQL, with libpq's meanings."),
    ] = "prefer"
    allow_superuser: Annotated[
        bool, Field(description="Let production use a superuser, whom PostgreSQL refuses nothing.")
    ] = False
    db_pool_min: Annotated[
        int, Field(ge=1, description="Connections kept open while idle, per process.")
    ] = 5
    db_pool_max: Annotated[
        int,
        Field(
            ge=1,
            description="Most connections, per process; on SQLite these read, and one more writes.",
        ),
    ] = 20
    db_pool_wait: Annotated[
        Seconds, Field(description="Seconds a request waits for a connection before it gets 503.")
    ] = 5
    db_statement_timeout: Annotated[
        Seconds, Field(description="Seconds after which a statement of a request is given up.")
    ] = 3
    db_path: Annotated[Path, Field(description="The SQLite master database.")] = Path(
        "clawdbot_adapter.db"
    )
    project_db_dir: Annotated[
        Path | None,
        Field(
            description="Folder of the projects' SQLite databases; unset: `project_databases` "
            "beside DB_PATH."
        ),
    ] = None
    backup_dir: Annotated[Path, Field(description="Folder of the backups.")] = Path("backups")
    backup_keep: Annotated[
        int, Field(ge=1, description="Backups that are kept; a new one removes the oldest beyond.")
    ] = 7
    pg_bin_dir: Annotated[
        Path | None,
        Field(description="Folder of pg_dump and pg_restore; unset: they are looked for."),
    ] = None
    undo_days: Annotated[
        int,
        Field(
            ge=0,
            le=3650,
            description="Days for which a deleted project can come back; 0: it is gone at once.",
        ),
    ] = 7

    auth_rate_limit: Annotated[
        Literal["on", "off"], Field(description="Limits on sign-ups and failed log-ins.")
    ] = "on"
    token_ttl_hours: Annotated[
        int, Field(ge=1, le=8760, description="Hours until a token of a log-in expires.")
    ] = 168

    openclaw_url: Annotated[
        str | None,
        Field(description="The gateway's base URL; unset: an echo answers (development only)."),
    ] = None
    openclaw_token: Annotated[SecretStr | None, Field(description="The gateway's token.")] = None
    openclaw_model: Annotated[str, Field(description="`model` of every gateway request.")] = (
        "agent:main"
    )
    openclaw_session_header: Annotated[
        bool, Field(description="Also send x-openclaw-session-key (wins over `user`).")
    ] = False
    gateway_history: Annotated[
        Literal["session", "full"],
        Field(description="session: the gateway remembers; full: send the whole conversation."),
    ] = "session"
    gateway_connect_timeout: Annotated[
        Seconds, Field(description="Seconds to reach the gateway.")
    ] = 5
    gateway_first_timeout: Annotated[
        Seconds, Field(description="Seconds until the first content of an answer.")
    ] = 180
    gateway_idle_timeout: Annotated[
        Seconds, Field(description="Seconds without a byte once an answer has begun.")
    ] = 120
    gateway_total_timeout: Annotated[Seconds, Field(description="Seconds for a whole answer.")] = (
        1800
    )

    metrics_token: Annotated[
        SecretStr | None,
        Field(description="What opens /metrics from elsewhere than this machine's loopback."),
    ] = None
    otel_exporter_otlp_endpoint: Annotated[
        str | None,
        Field(description="Where OpenTelemetry's traces and metrics go, by HTTP; unset: nowhere."),
    ] = None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        files = [dotenv_values(file) for file in FILES]
        environment = {name.upper(): value for name, value in os.environ.items()}
        return (
            init_settings,
            _SecretFiles(settings_cls, environment),
            env_settings,
            _SecretFiles(settings_cls, {k: v for file in files for k, v in file.items() if v}),
            dotenv_settings,
        )

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _split_origins(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("cors_origins")
    @classmethod
    def _refuse_wildcard(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if "*" in value:
            raise ValueError("name each origin; * would open the API to every page")
        for origin in value:
            if not _ORIGIN.fullmatch(origin):
                raise ValueError("each must be http(s)://host or http(s)://host:port")
        return value

    @field_validator("host")
    @classmethod
    def _check_host(cls, value: str) -> str:
        if not _HOST.fullmatch(value):
            raise ValueError("must be an address or a host's name")
        return value

    @field_validator("openclaw_token")
    @classmethod
    def _check_token(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not _TOKEN.fullmatch(value.get_secret_value()):
            raise ValueError("must be printable ASCII, since it is sent in a header")
        return value

    @field_validator("metrics_token")
    @classmethod
    def _check_metrics_token(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not _LONG_TOKEN.fullmatch(value.get_secret_value()):
            raise ValueError(
                "must be 16 or more of printable ASCII; openssl rand -hex 32 makes one"
            )
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _check_proxies(cls, value: str) -> str:
        """uvicorn takes a misspelt address for a name that nobody has, and says nothing."""
        parts = [part.strip() for part in value.split(",") if part.strip()]
        for part in parts:
            try:
                ip_network(part)
            except ValueError:
                raise ValueError(f"{part} is no address, nor a network like 10.0.0.0/8") from None
        return ",".join(parts)

    @field_validator("otel_exporter_otlp_endpoint")
    @classmethod
    def _check_endpoint(cls, value: str | None) -> str | None:
        if value is not None:
            parts = urlsplit(value)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError("must be an http:// or https:// URL")
        return value

    @field_validator("openclaw_url")
    @classmethod
    def _check_gateway_url(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("must be an http:// or https:// URL")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("must have no credentials, query or fragment; use OPENCLAW_TOKEN")
        return value.rstrip("/").removesuffix("/v1")

    @field_validator("db_path", "project_db_dir", "backup_dir", "pg_bin_dir")
    @classmethod
    def _from_root(cls, value: Path | None) -> Path | None:
        return None if value is None else ROOT / value.expanduser()

    @model_validator(mode="before")
    @classmethod
    def _read_database_url(cls, values: Any) -> Any:
        """Spread DATABASE_URL over DB_*, so that the rest of the code knows one form."""
        url = values.get("database_url") if isinstance(values, dict) else None
        if not url:
            return values
        try:
            parts = urlsplit(url.get_secret_value() if isinstance(url, SecretStr) else url)
            port = parts.port
        except ValueError:
            # Python's message would show a piece of the password.
            raise ValueError(_DATABASE_URL) from None
        if parts.scheme not in ("postgresql", "postgres") or not parts.path.strip("/"):
            raise ValueError(_DATABASE_URL)
        spread = {
            "db_host": parts.hostname,
            "db_port": port,
            "db_name": unquote(parts.path.strip("/")),
            "db_user": unquote(parts.username or ""),
            "db_password": unquote(parts.password or ""),
            "db_sslmode": dict(parse_qsl(parts.query)).get("sslmode"),
        }
        environment = {name.upper() for name, value in os.environ.items() if value}
        if environment.isdisjoint({"DATABASE_URL", "DATABASE_URL_FILE"}):
            # The URL stands in a file: what the environment says of its parts goes before it.
            spread = {name: v for name, v in spread.items() if name.upper() not in environment}
        return {**values, **{name: value for name, value in spread.items() if value}}

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.db_pool_max < self.db_pool_min:
            raise ValueError("DB_POOL_MAX: must not be smaller than DB_POOL_MIN")
        if self.postgres and self.db_port in (*HTTP_PORTS, self.port):
            raise ValueError(
                f"DB_PORT: {self.db_port} is an HTTP port of this service, not PostgreSQL's "
                "(usually 5432); the service's own port is PORT"
            )
        if self.app_env == "production":
            self._check_production()
        return self

    def _check_production(self) -> None:
        if self.openclaw_url is None:
            raise ValueError("OPENCLAW_URL: production needs a gateway; the echo is for trying out")
        for name, secret in (
            ("DB_PASSWORD", self.db_password if self.postgres else None),
            ("OPENCLAW_TOKEN", self.openclaw_token),
            ("METRICS_TOKEN", self.metrics_token),
        ):
            if secret and is_well_known(secret.get_secret_value()):
                raise ValueError(f"{name}: is a published example; set a secret of your own")

    @property
    def postgres(self) -> bool:
        """Whether the master database is on PostgreSQL."""
        return self.backend_choice[0] == "postgresql"

    @property
    def names_postgres(self) -> bool:
        """Whether a PostgreSQL is named at all, in use or not."""
        named = {"db_host", "database_url"} & self.model_fields_set
        return bool(named) or (ROOT / ".env.postgres").exists()

    @property
    def backend_choice(self) -> tuple[Literal["postgresql", "sqlite"], str]:
        """The database in use, with the reason for it."""
        if self.use_postgres is not None:
            choice: Literal["postgresql", "sqlite"] = (
                "postgresql" if self.use_postgres else "sqlite"
            )
            return choice, f"USE_POSTGRES is {str(self.use_postgres).lower()}"
        if self.database_url is not None:
            return "postgresql", "DATABASE_URL is set"
        if (ROOT / ".env.postgres").exists():
            return "postgresql", ".env.postgres exists"
        if "db_host" in self.model_fields_set:
            return "postgresql", "DB_HOST is set"
        return "sqlite", "nothing names a PostgreSQL"

    @property
    def project_databases(self) -> Path:
        """The folder of the projects' SQLite databases."""
        return self.project_db_dir or self.db_path.parent / "project_databases"

    @property
    def docs(self) -> bool:
        """Whether /docs and /openapi.json are served."""
        return self.app_env != "production" if self.expose_docs is None else self.expose_docs


def _one_line(error: ValidationError) -> str:
    problems = []
    for item in error.errors(include_input=False, include_url=False):
        message = item["msg"].removeprefix("Value error, ")
        name = str(item["loc"][0]).upper() if item["loc"] else ""
        problems.append(f"{name}: {message}" if name else message)
    return "; ".join(problems)


@cache
def get_settings() -> Settings:
    """The settings of this process, read once.

    Raises `BadSettings` with one line that names each bad variable.
    """
    for file in FILES:
        try:
            dotenv_values(file)
        except (OSError, UnicodeDecodeError) as error:
            raise BadSettings(f"{file.name}: can't read it: {error}") from error
    try:
        return Settings()
    except ValidationError as error:
        raise BadSettings(_one_line(error)) from error
