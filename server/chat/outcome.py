"""How an answer ended, as it is stored and as it is told again later."""

from server.errors import GatewayFailed, GatewayTimeout, Overloaded, Problem
from server.storage.contract import Row

# Failures after which the gateway can't have heard of the request: it may be sent again.
NOT_REACHED = frozenset({"gateway_unreachable", "gateway_connect_timeout"})

_BY_CODE: dict[str, type[Problem]] = {
    "gateway_timeout": GatewayTimeout,
    "gateway_connect_timeout": GatewayTimeout,
    "gateway_busy": Overloaded,
    "interrupted": Overloaded,
    "answer_not_saved": Overloaded,
    "internal_error": Problem,
}


def interrupted() -> Problem:
    """The answer was broken off on our side."""
    return Overloaded("The answer was broken off.", code="interrupted")


def not_saved() -> Problem:
    """The answer came, and the database did not take it."""
    return Overloaded(
        "The answer could not be saved: the database did not take it.", code="answer_not_saved"
    )


def gone() -> Problem:
    """The conversation was deleted while the answer came."""
    problem = Problem("The session was deleted.", code="session_deleted")
    problem.status = 404
    return problem


def problem_of(row: Row) -> Problem | None:
    """The problem that a stored answer ended with; None when it ended well."""
    if row["status"] not in ("failed", "interrupted"):
        return None
    code = row["error_code"] or "gateway_error"
    return _BY_CODE.get(code, GatewayFailed)(row["error"], code=code)
