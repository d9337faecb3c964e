"""Logging in takes as long for an address that has no account as for one that has."""

import statistics
import time

import httpx
import pytest

from tests.conftest import fresh_master
from tests.service import Service, sign_up
from tests.sql import Sql

PAIRS = 200
# Supabase's log-in differs by 74 ms, whole hashes; what is left here is noise.
MOST_SECONDS = 0.003
RUNS = 3
WRONG = "a wrong password"


def difference(service: Service) -> float:
    """Between the medians of a known and an unknown account, in seconds, asked in turn.

    What the limits count is forgotten between pairs, else they would answer without a hash.
    """
    known, sql = sign_up(service).user["email"], Sql(service.settings)
    taken: dict[str, list[float]] = {known: [], f"x{known}": []}
    with httpx.Client(base_url=service.url, timeout=30, verify=False) as client:
        for pair in range(PAIRS):
            if pair % 5 == 0:
                sql.rows("DELETE FROM auth_attempts")
            # Who comes second finds warmer caches: that must be each of them equally often.
            for who in sorted(taken, reverse=bool(pair % 2)):
                started = time.perf_counter()
                answer = client.post("/auth/login", json={"email": who, "password": WRONG})
                taken[who].append(time.perf_counter() - started)
                assert answer.status_code == 401, answer.text
    medians = [statistics.median(times) for times in taken.values()]
    assert min(medians) > 0.005, "a hash was checked for both"
    return abs(medians[0] - medians[1])


@pytest.mark.parametrize(("kind", "limits"), [("sqlite", "off"), ("postgresql", "on")])
def test_unknown_accounts_take_as_long_as_known_ones(
    kind: str,
    limits: str,
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Under 3 ms over 200 pairs; noise of the machine may spoil a run, but never all three.

    A difference says who has an account (CWE-208), with and without the limits' bookkeeping.
    """
    folder = tmp_path_factory.mktemp("login-time")
    settings = {**fresh_master(kind, request, folder), "AUTH_RATE_LIMIT": limits}
    with Service(settings, folder) as service:
        seen = []
        for _ in range(RUNS):
            seen.append(difference(service))
            if seen[-1] < MOST_SECONDS:
                return
    pytest.fail(f"the medians differ by {[f'{1000 * one:.1f} ms' for one in seen]}")
