"""Who may import whom, where SQL may stand, and that both databases have one interface."""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import database
import database_adapter
import database_postgres
from server.storage import contract
from tests.service import ROOT

MODULES = {
    path.relative_to(ROOT).as_posix(): ast.parse(path.read_text("utf-8"))
    for folder, pattern in (("", "*.py"), ("server", "**/*.py"))
    for path in sorted((ROOT / folder).glob(pattern))
}
# Each may use those before it, none may use those after it.
FEATURES = ("auth", "projects", "sessions", "images", "messages", "chat", "health")
# The migration alone speaks to both databases at once; backups speak to each in its own way.
DRIVERS = {
    "psycopg2": r"database_postgres\.py|server/(storage/postgres|migration/\w+|backups/\w+)\.py",
    "sqlite3": r"database\.py|server/(migration|backups|cloning)/\w+\.py",
    "database_postgres": r"database_adapter\.py|server/(migration|backups|cli|doctor)/\w+\.py",
    "database": r"database_adapter\.py|server/(migration|backups|cloning)/\w+\.py",
    "aiohttp": r"server/chat/openclaw\.py",
}
HTTP = {"fastapi", "starlette"}
KNOWS_HTTP = {
    "app.py",
    "server/auth/guard.py",
    "server/chat/events.py",
    "server/chat/service.py",
    "server/edge.py",
    "server/errors.py",
    "server/fields.py",
    "server/monitoring/page.py",
    "server/monitoring/telemetry.py",
    "server/startup.py",
}
A_DATABASE = {
    "server.settings",
    "server.storage.contract",
    "server.storage.deletion",
    "server.storage.environment",
    "server.storage.migrate",
    "server.storage.names",
    "server.storage.pool",
}
# What the lower layers import of our own; whoever is not named here is a feature or on top.
FOUNDATIONS = {
    "server/common_passwords.py": set[str](),
    "server/settings.py": {"server.common_passwords"},
    "server/logs.py": set[str](),
    "server/version.py": {"server.settings"},
    "server/storage/contract.py": set[str](),
    "server/storage/names.py": {"server.storage.contract"},
    "server/storage/pool.py": {"server.storage.contract"},
    "server/storage/writers.py": {"server.storage.contract"},
    "server/storage/sqlstates.py": {"server.storage.contract"},
    "server/storage/postgres.py": {
        "server.settings",
        "server.storage.contract",
        "server.storage.plans",
        "server.storage.sqlstates",
    },
    "server/storage/plans.py": set[str](),
    "server/storage/breaker.py": {"server.storage.contract"},
    "server/storage/migrate.py": {"server.storage.contract"},
    "server/storage/roles.py": {"server.storage.contract", "server.storage.migrate"},
    "server/storage/deletion.py": {"server.storage.contract", "server.storage.names"},
    "server/storage/environment.py": {"server.storage.contract"},
    "server/metrics.py": set[str](),
    "server/audit.py": {"server.metrics", "server.storage.contract"},
    "database_adapter.py": {
        "server.settings",
        "server.storage.contract",
        "server.storage.names",
        "database",
        "database_postgres",
    },
    "database.py": A_DATABASE | {"server.storage.writers"},
    "database_postgres.py": A_DATABASE
    | {"server.storage.postgres", "server.storage.breaker", "server.storage.roles"},
}
MAY_HAVE_SQL = re.compile(
    r"server/\w+/(deleted_)?queries\.py|server/audit\.py|server/auth/limits\.py|server/storage/\w+\.py"
    r"|server/(migration|backups|cloning)/\w+\.py"
    r"|database(_postgres)?\.py|migrate_to_postgres\.py"
)
# Where names of databases meet SQL through `identifier`.
WITH_IDENTIFIER = {
    "server/backups/postgres_scratch.py",
    "server/backups/postgres_swap.py",
    "server/storage/roles.py",
}
OWNED = {"projects", "sessions", "messages", "images"}
OWNED |= {f"deleted_{table}" for table in OWNED}
# Statements about everybody's rows, each with the reason why it may.
EVERYBODYS = {
    "server/chat/queries.py:bury": "what a dead process left, whosever it is",
    "server/chat/queries.py:count_generations": "a number, of nobody's in particular",
    "server/chat/queries.py:interrupt": "this process's own generations",
    "server/chat/queries.py:list_news": "ids whose owner was checked when the following began",
    "server/chat/queries.py:list_streaming": "this process's own generations",
    "server/chat/queries.py:list_workers": "processes that generate",
    "server/chat/queries.py:save_progress": "this process's own generations",
    "server/cli/queries.py:count_messages_since": "a number, for the operator",
    "server/cli/queries.py:list_users": "each account with how many projects it has, for the same",
    "server/cli/queries.py:sum_images": "a number, for the operator",
    "server/cloning/sources.py:projects": "a whole master is cloned",
    "server/messages/queries.py:_newest": "the user is asked of what it has found",
    "server/messages/queries.py:_show": "the user is the one whose token it is",
    "server/sessions/queries.py:delete_oldest_messages": "the same",
    "server/projects/deleted_queries.py:list_due": "its days are over, whosever it is",
    "server/projects/deleted_queries.py:list_kept": "compared with the databases that there are",
    "server/projects/queries.py:find_unfinished": "what a crash left, finished by whoever needs it",
    "server/projects/queries.py:list_databases": "compared with the databases that there are",
    "server/projects/queries.py:list_unfinished": "what crashes left, finished at the next start",
    "server/migration/merging.py:_rename": "a whole master is moved",
    "server/migration/merging.py:_same_projects": "a whole master is moved",
    "server/migration/postgres_taking.py:_examine": "a number, for the report",
    "server/migration/to_postgres.py:_settle": "a number, for the report",
    "server/migration/postgres_source.py:read_projects": "a whole master is moved",
    "server/migration/snapshot.py:read_projects": "a whole master is moved",
    "server/sessions/queries.py:list_deleting": "what crashes left, finished at the next start",
    "server/storage/deletion.py:_find_project": "scripts delete by the project's name",
}
SQL = re.compile(r"\s*(SELECT|INSERT INTO|UPDATE|DELETE FROM|WITH)\s")


def imports(name: str) -> set[str]:
    """The modules that a module imports anywhere in it, our own by their full names."""
    found = set()
    for node in ast.walk(MODULES[name]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: relative import"
            module = node.module or ""
            found |= {
                f"{module}.{alias.name}" if is_module(f"{module}.{alias.name}") else module
                for alias in node.names
            }
    return found


def is_module(dotted: str) -> bool:
    return f"{dotted.replace('.', '/')}.py" in MODULES


def ours(name: str) -> set[str]:
    """Those that belong to the service."""
    return {found for found in imports(name) if is_module(found)}


def feature(name: str) -> str | None:
    """The feature that a file or a dotted module belongs to."""
    parts = name.removesuffix(".py").replace("/", ".").split(".")
    return parts[1] if len(parts) > 2 and parts[1] in FEATURES else None


def test_the_scanner_sees_what_there_is() -> None:
    """The rules below hold for every file, of which there are some, in known folders."""
    assert len(MODULES) > 40
    folders = {path.parent.name for path in (ROOT / "server").glob("*/routes.py")}
    assert folders == set(FEATURES)
    assert "server.storage.contract" in ours("server/projects/queries.py")
    assert "database" in imports("database_adapter.py")
    assert set(FOUNDATIONS) <= set(MODULES)


@pytest.mark.parametrize("driver", DRIVERS)
def test_each_driver_stays_in_its_module(driver: str) -> None:
    """Drivers' errors, types and SQL can't get out of a module that nobody else looks into."""
    users = {
        name for name in MODULES if any(found.split(".")[0] == driver for found in imports(name))
    }
    assert users
    assert {name for name in users if not re.fullmatch(DRIVERS[driver], name)} == set()


def test_only_the_edge_knows_http() -> None:
    """Logic and queries raise and return: they are the same under a script as under a request."""
    for name in MODULES:
        knows = {found.split(".")[0] for found in imports(name)} & HTTP
        allowed = name in KNOWS_HTTP or Path(name).name == "routes.py"
        assert allowed or not knows, name
    assert all(Path(name).name != "routes.py" for name in KNOWS_HTTP)


@pytest.mark.parametrize("name", FOUNDATIONS)
def test_the_foundations_stand_on_little(name: str) -> None:
    """Storage knows no feature, the adapter no logic, the databases not each other."""
    assert ours(name) <= FOUNDATIONS[name]


def test_features_use_each_other_in_one_direction() -> None:
    """chat uses messages, images, sessions and projects; projects uses auth; auth uses none.

    And only their logic and queries: a feature's routes are for the application alone.
    """
    for name in MODULES:
        own = feature(name)
        for found in ours(name):
            other = feature(found)
            if own is not None and other is not None and own != other:
                assert FEATURES.index(other) < FEATURES.index(own), f"{name} uses {found}"
            if found.endswith(".routes"):
                assert name == "app.py", f"{name} uses {found}"


def test_what_features_share_knows_none_of_them() -> None:
    """errors, fields, cursors, edge: on these all features stand."""
    for name in ("errors", "fields", "cursors", "edge", "audit", "logs", "settings"):
        assert not {found for found in ours(f"server/{name}.py") if feature(found)}, name
        assert "database_adapter" not in imports(f"server/{name}.py"), name


def test_queries_take_a_connection_and_open_none() -> None:
    """So that the caller decides what is one transaction."""
    files = [name for name in MODULES if name.endswith("queries.py")]
    assert len(files) >= 5
    for name in files:
        for found in ours(name) - {"server.storage.contract"}:
            assert feature(found) == feature(name) or found.endswith("queries"), name
            assert "database_adapter" not in ours(f"{found.replace('.', '/')}.py"), name
        for function in functions(name):
            if not function.name.startswith("_"):
                arguments = [argument.arg for argument in function.args.args]
                assert arguments[:1] == ["conn"], f"{name}:{function.name}"


def test_the_owner_comes_first() -> None:
    """A query about one user's rows takes `conn, user_id, ...`: nobody can forget the owner."""
    checked = 0
    for name in MODULES:
        if name.endswith("queries.py") and feature(name) in OWNED:
            for function in functions(name):
                arguments = [argument.arg for argument in function.args.args]
                if "user_id" in arguments:
                    checked += 1
                    assert arguments[1] == "user_id", f"{name}:{function.name}"
    assert checked > 10


def functions(name: str) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(MODULES[name]):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def texts(name: str, node: ast.AST) -> Iterator[str]:
    """The strings in a piece of code but for docstrings, with constants filled into f-strings."""
    constants = {
        target.id: statement.value.value
        for statement in MODULES[name].body
        if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Constant)
        for target in statement.targets
        if isinstance(target, ast.Name)
    }
    if isinstance(node, ast.JoinedStr):
        yield "".join(
            str(part.value)
            if isinstance(part, ast.Constant)
            else str(constants.get(part.value.id, "?"))
            if isinstance(part, ast.FormattedValue) and isinstance(part.value, ast.Name)
            else "?"
            for part in node.values
        )
    elif isinstance(node, ast.Constant):
        if isinstance(node.value, str):
            yield node.value
    elif not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
        for child in ast.iter_child_nodes(node):
            yield from texts(name, child)


def statements() -> Iterator[tuple[str, str]]:
    """Every SQL statement of the service: `file:function`, text."""
    for name in MODULES:
        for function in functions(name):
            for text in texts(name, function):
                if SQL.match(text):
                    yield f"{name}:{function.name}", text


def test_sql_stands_in_its_places() -> None:
    """Next to its function's name, in `queries.py`: whoever looks for a statement finds it."""
    found = {place.partition(":")[0] for place, _ in statements()}
    assert {"server/projects/queries.py", "server/storage/deletion.py", "database.py"} <= found
    assert {name for name in found if not MAY_HAVE_SQL.fullmatch(name)} == set()


def test_no_statement_counts_rows_to_skip_them() -> None:
    """No OFFSET: it reads all it skips, and shows a row twice when another is inserted."""
    for place, text in statements():
        assert not re.search(r"\bOFFSET\b", text, re.IGNORECASE), place


def test_every_condition_names_the_owner() -> None:
    """Each WHERE on a user's tables has `user_id`: else an id alone opens somebody's messages."""
    without = set()
    for place, text in statements():
        tables = set(re.findall(r"\b(?:FROM|JOIN|UPDATE|INTO)\s+(\w+)", text))
        if not tables & OWNED or re.search(r"INSERT INTO[^;]*\bVALUES\b", text):
            continue
        first, *conditions = re.split(r"\bWHERE\b", text)
        if not conditions or not all("user_id" in condition for condition in conditions):
            without.add(place)
        assert first
    assert without == set(EVERYBODYS)


def test_names_come_into_ddl_as_identifiers_alone() -> None:
    """No f-string puts a bare name into CREATE, ALTER or DROP DATABASE: names go through `_ddl`,
    or through `identifier` in the recipe of the roles.

    `DROP DATABASE {name}` with a project's name in it is an injection that drops the master.
    """
    seen = 0
    for name, tree in MODULES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant | ast.JoinedStr):
                text = "".join(texts(name, node))
                if not re.match(r"\s*(CREATE|ALTER|DROP|COMMENT ON) DATABASE\b", text):
                    continue
                seen += 1
                assert name == "database_postgres.py" or name in WITH_IDENTIFIER, name
                for part in getattr(node, "values", []):
                    if isinstance(part, ast.FormattedValue):
                        choice = part.value
                        if name in WITH_IDENTIFIER:
                            bare = isinstance(choice, ast.Name) and choice.id != "TABLE"
                            assert not bare, ast.unparse(choice)
                            continue
                        assert isinstance(choice, ast.IfExp), ast.unparse(node)
                        assert isinstance(choice.body, ast.Constant), ast.unparse(node)
                        assert isinstance(choice.orelse, ast.Constant), ast.unparse(node)
    assert seen >= 4


@pytest.mark.parametrize("module", [database, database_postgres, database_adapter])
def test_the_databases_and_the_adapter_have_one_interface(module: ModuleType) -> None:
    """The same functions with the same parameters, kinds and defaults.

    mypy holds modules against the Protocol, but lets a renamed parameter pass.
    """
    promised = {
        name: function
        for name, function in inspect.getmembers(contract.Database, inspect.isfunction)
        if not name.startswith("_")
    }
    assert len(promised) >= 15
    for name, function in promised.items():
        expected = list(inspect.signature(function).parameters.values())[1:]
        found = list(inspect.signature(getattr(module, name)).parameters.values())
        assert [(p.name, p.kind, p.default) for p in found] == [
            (p.name, p.kind, p.default) for p in expected
        ], name
        assert inspect.getdoc(getattr(module, name)), name


def test_mypy_compares_the_types() -> None:
    """These lines are for mypy; the names that the users' documents import are there as well."""
    sqlite: contract.Database = database
    postgres: contract.Database = database_postgres
    assert (sqlite.BACKEND, postgres.BACKEND) == ("sqlite", "postgresql")
    names = (
        "get_db init_schema is_master_database validate_project_database_deletion "
        "create_project_database delete_project_database test_connection close_pool"
    )
    for module in (database, database_postgres, database_adapter):
        for name in names.split():
            assert callable(getattr(module, name)), name
    assert callable(database_adapter.get_database_info)


@pytest.mark.parametrize("name", MODULES)
def test_a_module_opens_with_a_sentence(name: str) -> None:
    """One line that says what it is; the rest after an empty line."""
    tree = MODULES[name]
    if not tree.body:
        assert name.endswith("__init__.py")
        return
    first, _, rest = (ast.get_docstring(tree) or "").partition("\n")
    assert re.fullmatch(r"[A-Z].*\.", first), name
    assert not rest or rest.startswith("\n"), name


def test_importing_does_nothing() -> None:
    """A module that is imported reads no settings, opens nothing and starts nothing.

    `app.py` alone puts things together; a database opened at import is the wrong one in tests.
    """
    for name, tree in MODULES.items():
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.If):
                continue
            called = {
                call.func.attr if isinstance(call.func, ast.Attribute) else call.func.id
                for call in ast.walk(node)
                if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute | ast.Name)
            }
            forbidden = {"get_settings", "get_db", "read_db", "connect", "open", "Thread", "Popen"}
            assert not called & forbidden or name == "app.py", name


def test_the_adapter_imports_a_database_when_it_is_called() -> None:
    """Not at its top: psycopg2 would be loaded for SQLite, and the choice made too early."""
    for node in MODULES["database_adapter.py"].body:
        if isinstance(node, ast.Import):
            assert not {alias.name for alias in node.names} & {"database", "database_postgres"}
