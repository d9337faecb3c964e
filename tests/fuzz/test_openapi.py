"""A small part of what `scripts/fuzz` does, the same in every run."""

from pathlib import Path

from tests.fuzz.run import fuzz
from tests.service import Service


def test_the_description_is_true(service: Service, tmp_path: Path) -> None:
    """Generated requests, right and wrong, get the answers that OpenAPI declares, and no 500.

    Limits of ids and pages stood in it as `ge` and `le`, which no client understands.
    """
    outcome = fuzz(
        service, tmp_path, seed=1, examples=8, phases=("examples", "fuzzing", "stateful")
    )
    assert not outcome.failure, outcome.failure
    assert 150 <= outcome.cases <= 400
