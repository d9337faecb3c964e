"""What schemathesis must know of the service besides its OpenAPI."""

import os
from typing import Any

import httpx
import schemathesis
from schemathesis import AuthContext, Case, GenerationMode, HookContext
from schemathesis.core.failures import AcceptedNegativeData, Failure
from schemathesis.core.transport import Response
from schemathesis.openapi.checks import (
    EnsureResourceAvailability,
    RejectedPositiveData,
    UseAfterFree,
)

from tests.images.samples import png_url
from tests.service import PASSWORD, Json, new_name

# What is refused for reasons that a schema cannot tell: what is stored, and what a text means.
BEYOND_SCHEMAS = {
    "bad_base64": "images are looked into",
    "bad_cursor": "cursors are opaque",
    "bad_email": "not all that has an @ is an address",
    "bad_password": "its limit is in bytes",
    "idempotency_key_reused": "for another body",
    "remote_image": "nothing is fetched",
    "unknown_message": "of this session",
    "unknown_project_type": "they are rows",
    "unsupported_image": "images are looked into",
}
# And what depends on another field of the same body, in the words of the answer.
ACROSS_FIELDS = (
    "current_password: is needed to set a new one",
    "Value error, message must not be empty when there are no images",
    "Value error, regenerate_of goes without message, images and parent_id",
)
EXCUSED = {
    "Value error, must not contain NUL characters",
    # FastAPI writes limits as floats: 2^63 is 9.223372036854776e+18, which is 192 more.
    "Input should be less than 9223372036854775808",
    # 12.0 is an integer to JSON Schema, but no spelling of an id.
    "Input should be a valid integer",
}


@schemathesis.auth(refresh_interval=None)
class Token:
    """One user's token; for logging out a new user's, since it is void afterwards."""

    def get(self, case: Case[Any], ctx: AuthContext) -> str:
        """The token to send."""
        if ctx.operation.path != "/auth/logout":
            return os.environ["FUZZ_TOKEN"]
        body = {"email": f"{new_name()}@example.com", "password": PASSWORD}
        token: str = post("/auth/signup", body)["access_token"]
        return token

    def set(self, case: Case[Any], data: str, ctx: AuthContext) -> None:
        """Send it."""
        case.headers["Authorization"] = f"Bearer {data}"


def post(path: str, body: Json) -> Json:
    """What the service answers to the user, who is right."""
    return send("POST", path, body)


def send(method: str, path: str, body: Json | None = None) -> Json:
    """The same with another method."""
    response = httpx.request(
        method,
        os.environ["FUZZ_URL"] + path,
        json=body,
        headers={"Authorization": f"Bearer {os.environ['FUZZ_TOKEN']}"},
        verify=False,
        timeout=30,
    )
    response.raise_for_status()
    answer: Json = response.json()
    return answer


@schemathesis.hook
def before_call(context: HookContext, case: Case[Any], kwargs: dict[str, Any]) -> None:
    """Point half of the right requests at what exists: no generated id is one of a message."""
    kept = int(os.environ["FUZZ_PROJECT"])
    if case.method == "DELETE" and str(case.path_parameters.get("project_id")) == str(kept):
        case.path_parameters["project_id"] = kept + 1
    if case.meta is None or case.meta.generation.mode is not GenerationMode.POSITIVE:
        return
    if case.path.endswith("/restore") and len(f"{case.path_parameters}") % 2:
        case.path_parameters["project_id"] = deleted_project()
    said = case.body if case.path == "/chat" and isinstance(case.body, dict) else {}
    aimed = said or {"session_id", "message_id", "image_id"} & set(case.path_parameters)
    if aimed and len(f"{case.path_parameters}{said}") % 2:
        aim(case.path_parameters, said, turn(kept))


def deleted_project() -> int:
    """A new project that is deleted already and can come back; its id."""
    project: int = post("/projects", {"name": new_name()})["id"]
    send("DELETE", f"/projects/{project}")
    return project


def turn(project_id: int) -> Json:
    """A new session, in which the agent has answered once."""
    session = post(f"/projects/{project_id}/sessions", {})
    return post("/chat", {"session_id": session["id"], "message": "Hello", "images": [png_url()]})


def aim(path: Json, said: Json, at: Json) -> None:
    """Put the turn's ids where ids stand, and make what is said to the agent a whole wish."""
    asked, answer = at["user_message"], at["message"]
    known = {
        "session_id": at["session_id"],
        "message_id": answer["id"],
        "image_id": asked["images"][0]["id"],
    }
    path |= {name: known[name] for name in path if name in known}
    if not said:
        return
    said["session_id"] = at["session_id"]
    if said.get("parent_id") is not None:
        said["parent_id"] = asked["id"]
    if said.get("regenerate_of") is not None and "parent_id" not in said:
        said |= {"regenerate_of": answer["id"], "message": "", "images": []}
    else:
        said.pop("regenerate_of", None)
        said |= {"message": said.get("message", "").strip() or "Hello"}
        said["images"] = [png_url() for _ in said.get("images", [])]


@schemathesis.hook
def filter_failure(
    context: HookContext, failure: Failure, case: Case[Any], response: Response
) -> bool:
    """Whether the failure is one; a refusal that no schema can foretell is none."""
    if isinstance(failure, EnsureResourceAvailability) and case.path.endswith("/restore"):
        return False  # a project that was only just made is no deleted one
    if isinstance(failure, UseAfterFree) and "/projects/" in failure.free:
        return False  # it may have been restored since
    if response.status_code == 413:  # the limit of a body counts its bytes
        return not isinstance(failure, AcceptedNegativeData | RejectedPositiveData)
    return not isinstance(failure, RejectedPositiveData) or not is_excused(response.json())


def is_excused(problem: Json) -> bool:
    """Whether the reason is none of the schema's."""
    return (
        problem["code"] in BEYOND_SCHEMAS
        or problem["detail"] in ACROSS_FIELDS
        or any(error["msg"] in EXCUSED for error in problem.get("errors", []))
    )
