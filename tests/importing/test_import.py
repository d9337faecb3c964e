"""What an import leaves in the service, as its users see it."""

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import database_adapter
from server.importing import store
from server.importing.plan import Outcome
from server.storage.contract import Connection
from tests.images.samples import png, url
from tests.importing.conftest import Importer
from tests.importing.exports import SAMPLES, chat, node, sample, saved
from tests.importing.test_formats import read
from tests.service import ROOT, Api, Json, Service, environment, sign_up
from tests.sql import Sql


def counts(report: Any) -> dict[str, int]:
    """How many there were of each outcome."""
    return {outcome.value: number for outcome, number in report.counts.items()}


def sessions(api: Api, project_id: int) -> list[Json]:
    """A project's sessions, as its list shows them."""
    found: list[Json] = api.get(f"/projects/{project_id}/sessions").json()["items"]
    return found


def texts(api: Api, session_id: int, **params: Any) -> list[str]:
    """What the messages of a session say."""
    return [message["content"] for message in api.messages(session_id, **params)]


def test_a_chatgpt_export(api: Api, importer: Importer, chatgpt_zip: Path) -> None:
    """The ZIP as it is downloaded: titles, times, models, branches, images, newest chat first."""
    project = api.project()["id"]
    report = importer(api, project, chatgpt_zip)
    assert counts(report) == {"added": 2}
    assert (report.messages, report.images, report.status) == (11, 2, 1)
    logo, bread = sessions(api, project)
    assert (logo["title"], bread["title"]) == ("A logo", "Sourdough")
    assert bread["created_at"] == "2025-02-04T09:06:40.250000Z"
    assert bread["updated_at"] == "2025-02-04T09:11:40.500000Z"
    messages = api.messages(bread["id"])
    assert [message["content"] for message in messages] == [
        "How long does a sourdough rise?",
        "Four to six hours at 24 degrees.",
        "And in the fridge?",
        "Twelve to 48 hours.",
    ]
    assert [message["model"] for message in messages] == [None, "gpt-4o", None, "gpt-4o"]
    assert messages[1]["created_at"] == "2025-02-04T09:07:40.500000Z"
    newest, other = api.get(f"/sessions/{bread['id']}/branches").json()["leaves"]
    assert newest == messages[-1]["id"]
    assert texts(api, bread["id"], leaf=other) == [
        "How long does a sourdough rise?",
        "Overnight.",
        "That is vague.",
    ]


def test_the_images_of_a_chatgpt_export(api: Api, importer: Importer, chatgpt_zip: Path) -> None:
    """Sent ones and generated ones are served; one that isn't in the ZIP is listed."""
    project = api.project()["id"]
    report = importer(api, project, chatgpt_zip)
    (listed,) = report.listed
    assert listed["problems"] == ["image file-service://file-Lost0001 is not in the export"]
    messages = api.messages(sessions(api, project)[0]["id"])
    assert [(one["role"], len(one["images"])) for one in messages] == [
        ("user", 1),
        ("assistant", 1),
        ("assistant", 0),
        ("user", 0),
        ("user", 0),
    ]
    for message, expected in ((messages[0], png(2, 2)), (messages[1], png(3, 3))):
        served = api.get(f"/images/{message['images'][0]['id']}")
        assert served.content == expected
        assert served.headers["Content-Type"] == "image/png"


def test_an_open_webui_export(api: Api, importer: Importer, sql: Sql) -> None:
    """Its data: URLs become images; what lies behind other URLs is never fetched, but listed."""
    project = api.project()["id"]
    report = importer(api, project, SAMPLES / "openwebui.json")
    assert counts(report) == {"added": 2}
    assert (report.images, report.status) == (1, 1)
    (listed,) = report.listed
    assert listed["problems"] == ["image https://example.com/rose.png is not in the export"]
    greeting, roses = sessions(api, project)
    assert greeting["title"] == "A greeting"
    assert texts(api, roses["id"]) == [
        "What eats my roses?",
        "Aphids, by the look of it.",
        "What helps?",
        "Soapy water.",
    ]
    (image,) = api.messages(roses["id"])[0]["images"]
    assert api.get(f"/images/{image['id']}").status_code == 200
    origin = sql.rows("SELECT * FROM imported_sessions WHERE session_id = %s", roses["id"])[0]
    assert (origin["source"], bool(origin["starred"])) == ("openwebui", True)
    assert json.loads(origin["metadata"])["meta"] == {"tags": ["garden"]}
    kept = sql.rows(
        "SELECT metadata FROM imported_messages WHERE session_id = %s AND source_id = %s",
        roses["id"],
        "m1",
    )[0]["metadata"]
    assert "iVBOR" not in kept
    assert json.loads(kept)["files"][1]["url"] == "https://example.com/rose.png"


def test_llmcouncils_files(api: Api, importer: Importer, sql: Sql, tmp_path: Path) -> None:
    """A conversation with star, title and metadata; a profile is kept as it is."""
    project = api.project()["id"]
    paths = [SAMPLES / "llmcouncil.json", SAMPLES / "llmcouncil_profile.json"]
    assert counts(importer(api, project, *paths)) == {"added": 2}
    assert counts(importer(api, project, *paths)) == {"present": 2}
    (moving,) = sessions(api, project)
    assert moving["created_at"] == "2025-12-03T10:15:30.123456Z"
    assert texts(api, moving["id"])[1::2] == ["Try it for a summer.", "Cats like summers."]
    kept = sql.rows("SELECT * FROM imported_records WHERE user_id = %s", api.user["id"])
    assert [(one["kind"], json.loads(one["content"])) for one in kept] == [
        ("profile", sample("llmcouncil_profile.json"))
    ]
    other = {**sample("llmcouncil_profile.json"), "profile": {"mood": "Sad"}}
    assert counts(importer(api, project, saved(tmp_path, other))) == {"changed": 1}


def test_the_same_file_again_adds_nothing(api: Api, importer: Importer, chatgpt_zip: Path) -> None:
    """Nor does the service's own use of the conversation make it look changed."""
    project = api.project()["id"]
    importer(api, project, chatgpt_zip)
    bread = sessions(api, project)[1]
    api.patch(f"/sessions/{bread['id']}", json={"title": "Bread"})
    assert api.chat(bread["id"], "Thanks!").status_code == 200
    before = texts(api, bread["id"])
    elsewhere = api.project()["id"]
    report = importer(api, elsewhere, chatgpt_zip)
    assert (counts(report), report.messages, report.status) == ({"present": 2}, 0, 0)
    assert texts(api, bread["id"]) == before
    assert sessions(api, elsewhere) == []


def test_two_users_may_import_the_same_file(service: Service, api: Api, importer: Importer) -> None:
    """What is there already is asked of the user's own conversations only."""
    path = SAMPLES / "llmcouncil.json"
    other = sign_up(service)
    assert counts(importer(api, api.project()["id"], path)) == {"added": 1}
    assert counts(importer(other, other.project()["id"], path)) == {"added": 1}


def test_a_conversation_that_has_grown_gets_what_is_new(
    api: Api, importer: Importer, tmp_path: Path
) -> None:
    """New messages follow where they did at the source, also behind what was said here since."""
    project = api.project()["id"]
    nodes = [node("a", None, text="One"), node("b", "a", "assistant", text="Two")]
    importer(api, project, saved(tmp_path, [chat(*nodes)]))
    (session,) = sessions(api, project)
    nodes.append(node("c", "b", text="Three", create_time=1700000100))
    report = importer(api, project, saved(tmp_path, [chat(*nodes)]))
    assert (counts(report), report.messages, report.status) == ({"extended": 1}, 1, 0)
    assert texts(api, session["id"]) == ["One", "Two", "Three"]
    assert sessions(api, project)[0]["updated_at"] == "2023-11-14T22:15:00.000000Z"
    here = api.chat(session["id"], "Said here").json()["message"]
    nodes += [node("d", "c", "assistant", text="Four"), node("e", None, text="Anew")]
    importer(api, project, saved(tmp_path, [chat(*nodes, current_node="d")]))
    assert texts(api, session["id"]) == ["One", "Two", "Three", "Four"]
    assert texts(api, session["id"], leaf=here["id"])[:4] == ["One", "Two", "Three", "Said here"]
    leaves = api.get(f"/sessions/{session['id']}/branches").json()["leaves"]
    assert ["Anew"] in [texts(api, session["id"], leaf=leaf) for leaf in leaves]
    assert sessions(api, project)[0]["updated_at"] > "2026"


def test_a_conversation_that_was_changed_is_left_alone(
    api: Api, importer: Importer, tmp_path: Path
) -> None:
    """A changed text, a message less, another title or star: told, never overwritten."""
    project = api.project()["id"]
    first = chat(node("a", None, text="One"), node("b", "a", text="Two"))
    importer(api, project, saved(tmp_path, [first]))
    (session,) = sessions(api, project)
    for changed, words in (
        (chat(node("a", None, text="Other"), node("b", "a", text="Two")), "1 of its messages"),
        (chat(node("a", None, text="One")), "1 of its messages"),
        ({**first, "title": "New"}, "its title was 'A chat'"),
        ({**first, "is_starred": True}, "its star was not set"),
    ):
        report = importer(api, project, saved(tmp_path, [changed]))
        assert (counts(report), report.status) == ({"changed": 1}, 1)
        assert words in report.listed[0]["problems"][0]
    assert texts(api, session["id"]) == ["One", "Two"]
    grown = chat(node("a", None, text="Other"), node("b", "a", text="Two"), node("c", "b"))
    assert counts(importer(api, project, saved(tmp_path, [grown]))) == {"changed": 1}
    assert texts(api, session["id"]) == ["One", "Two"]


def test_text_that_no_database_can_hold_is_replaced_and_kept(
    api: Api, importer: Importer, sql: Sql, tmp_path: Path
) -> None:
    """The service refuses NUL and lone surrogates; a history isn't refused for one character."""
    project = api.project()["id"]
    strange = chat(
        node("a", None, text="x\0y\ud83d", metadata={"n": "\0"}), title="T\0", gizmo="\udc00"
    )
    report = importer(api, project, saved(tmp_path, [strange]))
    assert (counts(report), report.replaced, report.status) == ({"added": 1}, 2, 0)
    (session,) = sessions(api, project)
    assert session["title"] == "T\ufffd"
    assert texts(api, session["id"]) == ["x\ufffdy\ufffd"]
    kept = sql.rows("SELECT metadata FROM imported_messages WHERE session_id = %s", session["id"])
    assert json.loads(kept[0]["metadata"])["content"]["parts"] == ["x\0y\ud83d"]


def test_images_that_the_service_refuses_are_listed(
    api: Api, importer: Importer, tmp_path: Path
) -> None:
    """By their bytes, as those that are sent: a page is not an image whatever its name says."""
    project = api.project()["id"]
    files = [
        {"type": "image", "url": url(b"<html>", "image/png")},
        {"type": "image", "url": url(png(9000, 1), "image/png")},
        {"type": "image", "url": url(png(), "image/png")},
    ]
    message = {"id": "m", "parentId": None, "role": "user", "content": "Look", "files": files}
    value = {"id": "i", "chat": {"history": {"messages": {"m": message}, "currentId": "m"}}}
    report = importer(api, project, saved(tmp_path, [value]))
    assert (report.images, report.status) == (1, 1)
    assert [reason[:26] for reason in report.listed[0]["problems"]] == [
        "an image was refused: Imag"
    ] * 2
    assert len(api.messages(sessions(api, project)[0]["id"])[0]["images"]) == 1


def test_a_conversation_without_messages_or_times(
    api: Api, importer: Importer, tmp_path: Path
) -> None:
    """It is a session all the same; what has no time has that of the import."""
    project = api.project()["id"]
    empty = {"id": "e", "mapping": {}}
    timeless = {**chat(node("a", None)), "id": "t", "create_time": "soon", "title": "x" * 600}
    report = importer(api, project, saved(tmp_path, [empty, timeless]))
    assert counts(report) == {"added": 2}
    for session in sessions(api, project):
        age = datetime.now(UTC) - datetime.fromisoformat(session["created_at"])
        assert age < timedelta(minutes=2)
    assert {session["title"] for session in sessions(api, project)} == {None, "x" * 500}


def test_conversations_of_several_people_are_not_mixed(
    api: Api, importer: Importer, tmp_path: Path
) -> None:
    """An administrator's export holds everybody's chats: all of them once went to one account."""
    project = api.project()["id"]
    mine, theirs = sample("openwebui.json")
    path = saved(tmp_path, [mine, {**theirs, "user_id": "grace"}])
    report = importer(api, project, path)
    assert counts(report) == {"added": 1, "refused": 1}
    reasons = [reason for one in report.listed for reason in one["problems"]]
    assert any(reason.startswith("it belongs to grace, those before it to") for reason in reasons)
    report = importer(api, project, path, source_user="grace")
    assert (counts(report), report.status) == ({"added": 1}, 0)
    profile = {**sample("llmcouncil_profile.json"), "email": "grace@example.com"}
    report = importer(api, project, saved(tmp_path, profile))
    assert counts(report) == {"refused": 1}


def test_a_dry_run_changes_nothing(api: Api, importer: Importer, chatgpt_zip: Path) -> None:
    """It says what the import would say."""
    project = api.project()["id"]
    report = importer(api, project, chatgpt_zip, SAMPLES / "llmcouncil.json", dry_run=True)
    assert (counts(report), report.messages) == ({"added": 3}, 15)
    assert sessions(api, project) == []


def test_what_was_deleted_comes_in_again(
    api: Api, importer: Importer, sql: Sql, chatgpt_zip: Path
) -> None:
    """Nothing of a deleted session stays behind that could keep its conversation out."""
    project = api.project()["id"]
    importer(api, project, chatgpt_zip)
    before = sql.count("imported_messages", user_id=api.user["id"])
    for session in sessions(api, project):
        assert api.delete(f"/sessions/{session['id']}").status_code == 204
    assert sql.count("imported_messages", user_id=api.user["id"]) == 0
    assert counts(importer(api, project, chatgpt_zip)) == {"added": 2}
    assert sql.count("imported_messages", user_id=api.user["id"]) == before
    assert api.delete(f"/projects/{project}").status_code == 200
    assert sql.count("imported_sessions", user_id=api.user["id"]) == 0


def test_a_message_that_was_lost_comes_in_again(
    api: Api, importer: Importer, sql: Sql, tmp_path: Path
) -> None:
    """What is noted of a message goes with it, so that nothing counts as there that isn't."""
    project = api.project()["id"]
    path = saved(tmp_path, [chat(node("a", None), node("b", "a"))])
    importer(api, project, path)
    (session,) = sessions(api, project)
    sql.rows("DELETE FROM messages WHERE id = %s", api.messages(session["id"])[1]["id"])
    report = importer(api, project, path)
    assert (counts(report), report.messages) == ({"extended": 1}, 1)
    assert texts(api, session["id"]) == ["a", "b"]


class Counting:
    """A connection that counts the statements on it."""

    def __init__(self, conn: Connection) -> None:
        self.conn = conn
        self.statements = 0

    def cursor(self) -> Any:
        """A cursor for one statement."""
        self.statements += 1
        return self.conn.cursor()


@pytest.mark.usefixtures("importer")
def test_a_long_conversation_takes_few_statements(api: Api) -> None:
    """A round trip for each message would be minutes for a history of 100,000."""
    project = api.project()["id"]
    nodes = [node(f"n{i}", f"n{i - 2 if i % 3 == 2 else i - 1}" if i else None) for i in range(999)]
    conversation = read(chat(*nodes))
    target = store.Target(api.user["id"], project, datetime.now(UTC))
    with database_adapter.get_db() as conn:
        counting = Counting(conn)
        result = store.store_within(counting, target, conversation)
    assert (result.outcome, result.messages) == (Outcome.ADDED, 999)
    assert counting.statements < 30
    (session,) = sessions(api, project)
    assert texts(api, session["id"], limit=200)[-4:] == ["n993", "n995", "n996", "n998"]


KILL = """
import sys
from server.importing import queries
add, left = queries.add_nodes, [3]
def add_nodes(*arguments):
    left[0] -= 1
    if not left[0]:
        print("in the middle", flush=True)
        sys.stdin.readline()
    return add(*arguments)
queries.add_nodes = add_nodes
import runpy
runpy.run_module("server.importing", run_name="__main__")
"""


def test_killed_in_the_middle_and_run_again(
    api: Api, importer: Importer, service: Service, sql: Sql, tmp_path: Path
) -> None:
    """A conversation is there whole or not at all, and the second run completes the rest."""
    name = f"k{api.user['id']}"
    project = api.project(name)["id"]
    chats = [{**chat(node("a", None), node("b", "a")), "id": f"c{i}"} for i in range(5)]
    path = saved(tmp_path, chats)
    settings = {key: value for key, value in service.settings.items() if key != "PORT"}
    process = subprocess.Popen(
        [sys.executable, "-c", KILL, "--email", api.user["email"], "--project", name, str(path)],
        cwd=ROOT,
        env=environment(settings),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "in the middle\n"
        process.kill()
    found = sessions(api, project)
    assert all(texts(api, session["id"]) == ["a", "b"] for session in found)
    report = importer(api, project, path)
    assert counts(report).get("present", 0) == len(found)
    assert len(sessions(api, project)) == 5
    assert sql.count("imported_messages", user_id=api.user["id"]) == 10
    assert all(texts(api, one["id"]) == ["a", "b"] for one in sessions(api, project))
