"""What is installed is what was chosen: the locks fit the ranges, and name every file's hash."""

import importlib.metadata
import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.service import ROOT

RANGES = {
    "requirements.lock": "requirements.txt",
    "requirements-otel.lock": "requirements-otel.txt",
    "requirements-dev.lock": "requirements-dev.txt",
}
HERE = {name: str(value) for name, value in default_environment().items()}
SYSTEMS = [
    {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64"},
    {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "aarch64"},
    {"sys_platform": "darwin", "platform_system": "Darwin", "platform_machine": "arm64"},
]
MACHINES = [
    {**HERE, **system, "python_version": python, "python_full_version": f"{python}.0"}
    for python, system in itertools.product(("3.11", "3.12", "3.13", "3.14"), SYSTEMS)
]


@dataclass(frozen=True)
class Pin:
    """One entry of a lock."""

    requirement: Requirement
    hashes: tuple[str, ...]

    @property
    def name(self) -> str:
        """Its name, as names are compared."""
        return canonicalize_name(self.requirement.name)

    @property
    def version(self) -> str:
        """The one version that it allows."""
        (only,) = self.requirement.specifier
        assert only.operator == "=="
        assert "*" not in only.version
        return only.version


def entries(file: Path) -> list[str]:
    """What a file of requirements says, without comments, each entry on one line."""
    text = re.sub(r"\\\n", "", file.read_text("utf-8"))
    lines = (re.sub(r"(^| )#.*", "", line).strip() for line in text.splitlines())
    return [line for line in lines if line]


def pins(lock: str) -> list[Pin]:
    """A lock's entries."""
    found = []
    for entry in entries(ROOT / lock):
        wanted, *hashes = re.split(r"\s+--hash=", entry)
        found.append(Pin(Requirement(wanted), tuple(hashes)))
    return found


def ranges(name: str) -> Iterator[Requirement]:
    """What a file asks for, and the files that it names with -r."""
    for entry in entries(ROOT / name):
        if entry.startswith("-r "):
            yield from ranges(entry.removeprefix("-r "))
        else:
            yield Requirement(entry)


def applies(requirement: Requirement, machine: Mapping[str, str], extra: str = "") -> bool:
    """Whether it counts on this machine, for who asks for this extra."""
    return requirement.marker is None or requirement.marker.evaluate({**machine, "extra": extra})


def versions(lock: str, machine: Mapping[str, str]) -> dict[str, str]:
    """What a lock installs on a machine."""
    chosen = [pin for pin in pins(lock) if applies(pin.requirement, machine)]
    assert len({pin.name for pin in chosen}) == len(chosen), "two versions of one package"
    return {pin.name: pin.version for pin in chosen}


@pytest.mark.parametrize("lock", RANGES)
def test_every_package_in_a_lock_has_one_version_and_hashes(lock: str) -> None:
    """A lock names no address and no other index, and no file that it hasn't the SHA-256 of."""
    assert len(pins(lock)) >= len(list(ranges(RANGES[lock])))
    for pin in pins(lock):
        assert pin.version
        assert pin.requirement.url is None
        assert pin.hashes, f"{pin.name} has no hash"
        assert all(re.fullmatch("sha256:[0-9a-f]{64}", value) for value in pin.hashes), pin.name


@pytest.mark.parametrize("lock", RANGES)
def test_the_lock_keeps_to_the_ranges(lock: str) -> None:
    """A range that was changed needs ./scripts/lock, for each Python and system alike."""
    for machine in MACHINES:
        locked = versions(lock, machine)
        for wanted in ranges(RANGES[lock]):
            if applies(wanted, machine):
                version = locked.get(canonicalize_name(wanted.name))
                assert version, f"{wanted} is not in {lock}: run ./scripts/lock"
                assert version in wanted.specifier, f"{lock} has {version}, not {wanted}"


def test_the_checks_run_on_what_a_server_runs_on() -> None:
    """The lock of the checks holds all of the service's, with the same versions and hashes."""
    assert set(pins("requirements.lock")) <= set(pins("requirements-otel.lock"))
    assert set(pins("requirements-otel.lock")) <= set(pins("requirements-dev.lock"))


def test_these_tests_run_on_what_is_locked() -> None:
    """Else a green run says nothing about what the next clone installs."""
    installed = {
        name: importlib.metadata.version(name) for name in versions("requirements-dev.lock", HERE)
    }
    assert installed == versions("requirements-dev.lock", HERE)


def needed(wanted: Iterator[Requirement]) -> set[str]:
    """The names of all that the installed packages say they need, from these on."""
    found: set[tuple[str, str]] = set()
    todo = list(wanted)
    while todo:
        requirement = todo.pop()
        for extra in {"", *requirement.extras}:
            step = (canonicalize_name(requirement.name), extra)
            if step not in found:
                found.add(step)
                needs = importlib.metadata.requires(requirement.name) or []
                todo += [each for each in map(Requirement, needs) if applies(each, HERE, extra)]
    return {name for name, _ in found}


@pytest.mark.parametrize("lock", RANGES)
def test_the_lock_holds_what_is_needed_and_nothing_else(lock: str) -> None:
    """What was taken out of the ranges, an extra included, leaves the lock with what it brought."""
    assert set(versions(lock, HERE)) == needed(ranges(RANGES[lock])), "run ./scripts/lock"
