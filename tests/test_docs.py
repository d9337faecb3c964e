"""The documents tell the truth: their commands are run, their lists compared with the code."""

import re
import subprocess
import typing
from pathlib import Path

import pytest
from dotenv import dotenv_values
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from server.settings import SECRETS, Settings
from server.version import VERSION
from tests.conftest import fresh_master
from tests.service import ROOT, Json, Service, environment

EXAMPLES = (".env.example", ".env.postgres.example")
# What every route that uses the database may answer; docs/api.md says so once.
ALWAYS = {"500", "503", "507"}
# What differs from run to run, in the README and in what a command printed.
VOLATILE = [
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", "<time>"),
    (r'"size_bytes": \d+', '"size_bytes": <number>'),
    (r'"backend": "\w+"', '"backend": "<backend>"'),
]


def read(name: str) -> str:
    """A file of the repository."""
    return (ROOT / name).read_text("utf-8")


def section(text: str, title: str) -> str:
    """What stands under a heading of the second level."""
    return re.split(r"^## ", text.partition(f"\n## {title}\n")[2], maxsplit=1, flags=re.MULTILINE)[
        0
    ]


def steady(text: str) -> str:
    """The text without what differs from run to run."""
    for pattern, name in VOLATILE:
        text = re.sub(pattern, name, text)
    return text


def assert_shown(shown: str, printed: str) -> None:
    """Compare what the README shows with what was printed; `...` stands for anything."""
    pattern = ".*?".join(re.escape(part) for part in steady(shown).strip().split("..."))
    assert re.fullmatch(pattern, steady(printed).strip(), re.DOTALL), f"{shown}\n!=\n{printed}"


def test_the_first_conversation_is_true(
    backend: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """The README's commands, word for word but for the port, print what the README shows."""
    blocks = re.findall(
        r"```(bash|json|text)\n(.*?)```",
        section(read("README.md"), "A first conversation"),
        re.DOTALL,
    )
    with Service(fresh_master(backend, request, tmp_path), tmp_path) as service:
        mark = "----- a block ends -----"
        script = "".join(
            f"{text}\necho\necho '{mark}'\n" for kind, text in blocks if kind == "bash"
        )
        assert script.count("http://127.0.0.1:8002") == 1
        done = subprocess.run(
            ["bash", "-euo", "pipefail"],
            input=script.replace("http://127.0.0.1:8002", service.url),
            capture_output=True,
            text=True,
            env=environment({}),
            check=False,
        )
    assert (done.returncode, done.stderr) == (0, "")
    printed = done.stdout.split(mark)
    commands = -1
    for kind, text in blocks:
        if kind == "bash":
            commands += 1
        else:
            assert_shown(text, printed[commands])
    assert sum(kind != "bash" for kind, _ in blocks) == 6


def default_of(field: FieldInfo) -> str:
    """A default as the documents write it."""
    value = (
        field.default.get_secret_value()
        if isinstance(field.default, SecretStr)
        else (field.default)
    )
    match value:
        case None:
            return "unset"
        case "" | ():
            return "empty"
        case bool():
            return f"`{str(value).lower()}`"
        case _:
            return f"`{value}`"


def row_of(name: str, field: FieldInfo) -> str:
    """A setting's row in docs/configuration.md."""
    meaning = field.description or ""
    if typing.get_origin(field.annotation) is typing.Literal:
        choices = ", ".join(f"`{choice}`" for choice in typing.get_args(field.annotation))
        meaning += f" One of {choices}."
    return f"| `{name.upper()}` | {default_of(field)} | {meaning} |"


def test_every_setting_is_documented() -> None:
    """docs/configuration.md has exactly the settings, in order, with defaults and meanings."""
    rows = re.findall(r"^\| `[A-Z_]+` \|.*$", read("docs/configuration.md"), re.MULTILINE)
    assert rows == [row_of(name, field) for name, field in Settings.model_fields.items()]


def test_the_settings_with_files_are_documented() -> None:
    """Whatever can be read from NAME_FILE is named as such."""
    sentence = read("docs/configuration.md").partition(" may each be given as `NAME_FILE`")[0]
    named = re.findall(r"`([A-Z_]+)`", sentence.rpartition("\n")[2])
    assert named == [name.upper() for name in SECRETS]


def test_the_env_examples_name_every_setting_once() -> None:
    """Who copies both has every setting before them, and a default where a line is off."""
    lines = [
        match
        for name in EXAMPLES
        for match in re.findall(r"^(#?)([A-Z_]+)=(.*)$", read(name), re.MULTILINE)
    ]
    names = [name for _, name, _ in lines]
    assert sorted(names) == sorted(name.upper() for name in Settings.model_fields)
    for off, name, value in lines:
        default = default_of(Settings.model_fields[name.lower()]).strip("`")
        if off and name != "USE_POSTGRES":
            assert value == {"unset": "", "empty": ""}.get(default, default), name


def test_the_env_examples_hold_no_secret() -> None:
    """A password that stands in an example ends up in production."""
    for name in EXAMPLES:
        values = dotenv_values(ROOT / name)
        assert not any(values.get(secret.upper()) for secret in SECRETS)
    assert dotenv_values(ROOT / ".env.example") == {}
    for line in ("DB_PASSWORD=\n", "openssl rand -hex 32\n"):
        assert line in read(".env.postgres.example")


def test_every_route_is_documented(service: Service) -> None:
    """docs/api.md has exactly the routes of OpenAPI, each with exactly its failures."""
    documented = {}
    for heading, text in re.findall(
        r"^### ((?:[A-Z]+ (?:· )?)+/\S*)\n(.*?)(?=^##|\Z)",
        read("docs/api.md"),
        re.MULTILINE | re.DOTALL,
    ):
        *methods, path = heading.replace("· ", "").split(" ")
        errors = re.search(r"^Errors: ([0-9, ]+)\.", text, re.MULTILINE)
        assert errors, heading
        for method in methods:
            documented[method, path] = set(errors[1].split(", ")) | ALWAYS
    assert documented == declared(service.openapi())


def declared(openapi: Json) -> dict[tuple[str, str], set[str]]:
    """The routes of an OpenAPI description, with the failures that each declares."""
    return {
        (method.upper(), path): {code for code in operation["responses"] if code >= "400"} | ALWAYS
        for path, operations in openapi["paths"].items()
        for method, operation in operations.items()
    }


def documents() -> list[Path]:
    """The documents that people read."""
    return [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]


def anchors(text: str) -> set[str]:
    """The names that headings get as targets of links."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", documents(), ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    """Every relative link leads to a file of the repository, and to a heading in it."""
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text("utf-8")):
        if re.match(r"https?:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (document.parent / name) if name else document
        assert file.exists(), target
        assert file.resolve().is_relative_to(ROOT), target
        if anchor:
            assert anchor in anchors(file.read_text("utf-8")), target


def test_documents_show_files_that_exist() -> None:
    """A command that starts with ./ or names a script is there to be run."""
    for document in documents():
        text = document.read_text("utf-8")
        for name in re.findall(r"(?:^|[ `(])\./([\w/.-]*\w)", text, re.MULTILINE):
            assert (ROOT / name).exists(), f"{document.name}: ./{name}"
        for name in re.findall(r"`((?:server|scripts|tests|schema|docs)/[\w/.-]*)`", text):
            assert (ROOT / name).exists(), f"{document.name}: {name}"


def test_the_changelog_has_this_version() -> None:
    """The newest entry is the version that the service says it is."""
    newest = re.search(
        r"^## \[([^]]+)\] - (unreleased|\d{4}-\d\d-\d\d)$", read("CHANGELOG.md"), re.M
    )
    assert newest
    assert newest[1] == VERSION
