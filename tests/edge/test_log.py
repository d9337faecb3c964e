"""The log after a run of everything: whole lines, every request, no secret."""

import json
import re

import httpx

from tests.edge.test_answers import access_line
from tests.images.samples import png_url
from tests.service import PASSWORD, Service, sign_up

TEXT = "Kopenhagen im November"
DESCRIPTION = "Umsatzzahlen des dritten Quartals"


def everything(service: Service) -> set[str]:
    """Use every route, well and badly; the tokens that this took."""
    api = sign_up(service, name="Wilhelmine")
    tokens = {str(api.token)}
    credentials = {"email": api.user["email"], "password": PASSWORD}
    tokens.add(api.post("/auth/login", credentials).json()["access_token"])
    api.post("/auth/login", {**credentials, "password": f"{PASSWORD} wrong"})
    api.post("/auth/signup", credentials)
    api.patch("/auth/me", {"password": PASSWORD * 2, "current_password": PASSWORD})
    api.patch("/auth/me", {"password": PASSWORD * 2, "current_password": "x"})
    project = api.project(description=DESCRIPTION)
    session = api.session(project["id"], title=TEXT)
    api.chat(session["id"], TEXT, images=[png_url()])
    api.chat_events(session["id"], TEXT)
    api.chat(session["id"], f"{TEXT} \0")
    api.chat(session["id"], f"{TEXT} {{refuse}}")
    api.messages(session["id"])
    api.get("/projects/none")
    httpx.get(f"{service.url}/auth/me", params={"access_token": str(api.token)})
    api.get("/nothing%0a%7b%22level%22%3a%22forged%22%7d")
    api.delete(f"/projects/{project['id']}", params={"force": "true"})
    api.post("/auth/logout")
    return tokens


def test_every_line_is_json_with_a_request_id(service: Service) -> None:
    """But for the first, which says to people which database was chosen."""
    everything(service)
    first, *lines = service.log.splitlines()
    assert first.startswith("Database: ")
    for line in lines:
        fields = json.loads(line)
        assert {"ts", "level", "logger", "event", "request_id"} <= set(fields), line
        assert fields["level"] in ("INFO", "WARNING", "ERROR", "CRITICAL"), line
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", fields["ts"])


def test_every_request_is_a_line(service: Service) -> None:
    """Who, what, how it ended, how long it took: found by the id that the client was given."""
    api = sign_up(service)
    answer = api.get("/projects/77/database")
    line = access_line(service, answer.headers["x-request-id"])
    assert (line["method"], line["path"]) == ("GET", "/projects/{project_id}/database")
    assert (line["status"], line["user_id"]) == (404, api.user["id"])
    assert line["ip"] == "127.0.0.1"
    assert line["ms"] >= 0


def test_no_secret_and_no_text_is_in_the_log(service: Service) -> None:
    """Logs go to places that databases don't: no password, no token, nothing that was said."""
    tokens = everything(service)
    session = "[CHAT] Sending to OpenClaw with 'user' field: adapter-session-"
    assert session in service.log, "the line that operators look for"
    secrets = {PASSWORD, TEXT, DESCRIPTION, service.settings["OPENCLAW_TOKEN"], "Wilhelmine"}
    secrets |= tokens
    if "DB_PASSWORD" in service.settings:
        secrets.add(service.settings["DB_PASSWORD"])
    secrets.add(png_url().partition(",")[2])
    for secret in secrets:
        assert secret not in service.log
    assert "forged" not in {line["level"] for line in service.log_lines()}
