"""Copies of the checkout, to be started as operators and developers start it."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.test_commands import add_environment, copy_tree


@pytest.fixture(scope="session")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout of branch `main` with an environment, for copying."""
    folder = copy_tree(tmp_path_factory.mktemp("clone") / "tree")
    git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "add", "--all")
    ada = ["-c", "user.name=Ada", "-c", "user.email=ada@example.com"]
    git(folder, *ada, "commit", "--quiet", "--message=all")
    add_environment(folder)
    return folder


@pytest.fixture
def checkout(clone: Path, tmp_path: Path) -> Path:
    """A checkout that is this test's, alone in a folder."""
    return shutil.copytree(clone, tmp_path / "beside" / "clawd", symlinks=True)


def git(folder: Path, *arguments: str) -> str:
    """What git prints."""
    done = subprocess.run(
        ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()
