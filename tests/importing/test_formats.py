"""What is read out of each format, and that nothing in a file can break the reading."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.importing import chatgpt, formats, tree
from server.importing.conversation import Conversation, Unreadable
from server.importing.files import Export
from server.importing.formats import Format
from server.importing.values import clean, instant
from tests.importing.exports import chat, node, sample
from tests.service import Json

NO_FILES = Export([], {})
NOON = datetime(2025, 2, 4, 12, tzinfo=UTC)


def read(value: Any) -> Conversation:
    """A conversation of any format."""
    found = formats.read(value, NO_FILES)
    assert isinstance(found, Conversation)
    return found


def order(value: Json) -> list[str]:
    """The ids of a conversation's messages in the order in which they are stored."""
    messages, _ = tree.ordered(read(value))
    return [message.source_id for message in messages]


@pytest.mark.parametrize(
    "written",
    [
        1738670400,
        1738670400.0,
        1738670400000,
        1738670400000000,
        1738670400000000000,
        "1738670400",
        "1738670400.0",
        "2025-02-04T12:00:00Z",
        "2025-02-04T12:00:00",
        "2025-02-04T14:00:00+02:00",
        " 2025-02-04 12:00:00.000 ",
    ],
    ids=repr,
)
def test_times_in_every_spelling(written: Any) -> None:
    """Floats, milliseconds, nanoseconds, ISO with and without a zone: all are one instant."""
    assert instant(written) == NOON


@pytest.mark.parametrize(
    "written",
    [None, True, "", "soon", "9" * 400, float("nan"), float("inf"), 10**400, [], {}, "0001-01-01"],
    ids=lambda written: repr(written)[:20],
)
def test_what_is_no_time_is_none(written: Any) -> None:
    """And not the reason why a whole file can't be imported."""
    assert instant(written) in (None, datetime(1, 1, 1, tzinfo=UTC))


def test_text_that_no_database_can_hold() -> None:
    """NUL and lone surrogates, each counted; a pair of surrogates is one character by then."""
    assert clean("a\0b\ud800c\udfffd\U0001f600") == ("a\ufffdb\ufffdc\ufffdd\U0001f600", 3)


def test_the_current_branch_comes_last() -> None:
    """The service shows the branch of the newest message, which must be the one that was seen."""
    nodes = [
        node("q", None, create_time=1),
        node("new", "q", "assistant", create_time=3),
        node("old", "q", "assistant", create_time=2),
        node("older", "q", "assistant", create_time=1),
    ]
    assert order(chat(*nodes, current_node="old")) == ["q", "older", "new", "old"]
    assert order(chat(*nodes)) == ["q", "older", "old", "new"]


def test_trees_that_are_none() -> None:
    """A missing parent and a circle lose no message: each begins the conversation anew."""
    nodes = [node("a", "b"), node("b", "a"), node("c", "b"), node("d", "gone"), node("e", "e")]
    messages, lost = tree.ordered(read(chat(*nodes, current_node="c")))
    assert {message.source_id for message in messages} == set("abcde")
    assert lost == 3
    seen: set[str | None] = {None}
    for message in messages:
        assert message.parent_source_id in seen
        seen.add(message.source_id)


def test_a_deep_tree_is_no_problem() -> None:
    """Twenty thousand messages in a row are more than Python's recursion allows."""
    nodes = [node(f"n{i}", f"n{i - 1}" if i else None) for i in range(20_000)]
    assert order(chat(*nodes)) == [f"n{i}" for i in range(20_000)]


def test_parents_are_told_by_children_too() -> None:
    """A node that names no parent belongs to the one that names it as a child."""
    first, second = node("a", None), node("b", None)
    first["children"] = ["b"]
    assert read(chat(first, second)).messages[1].parent_source_id == "a"


def test_only_what_is_meant_for_a_reader_is_shown() -> None:
    """Calls of tools, their results and thoughts are kept whole, in their place in the tree."""
    bread, _ = sample("chatgpt_conversations.json")
    messages = {message.source_id: message for message in read(bread).messages}
    shown = {name for name, message in messages.items() if message.role}
    assert shown == {"q1", "a1", "q1b", "a2", "q2", "a3"}
    assert messages["call"].kept == bread["mapping"]["call"]["message"]
    assert messages["out"].kept["content"]["text"] == "12 to 48 hours"
    assert messages["a2"].kept["metadata"]["citations"][0]["end_ix"] == 4
    assert messages["a2"].kept["content"]["parts"] == [None]
    assert messages["a2"].model == "gpt-4o"
    assert messages["root"].kept is None
    asked = {"content_type": "text", "parts": ['{"prompt": "a logo"}']}
    thought = {"content_type": "thoughts", "parts": ["I wonder"]}
    hidden = [
        node("call", None, "assistant", content=asked, recipient="dalle.text2im"),
        node("thought", None, "assistant", content=thought, recipient="all"),
        node("result", None, "tool", text="done"),
    ]
    for message in read(chat(*hidden)).messages:
        assert (message.role, message.content) == (None, ""), message.source_id


def test_what_was_said_aloud_is_text() -> None:
    """Voice conversations have their words in a transcription beside the sound."""
    _, pictures = sample("chatgpt_conversations.json")
    messages = {message.source_id: message for message in read(pictures).messages}
    assert messages["p4"].content == "Thank you."
    assert messages["p4"].kept["content"]["parts"][1]["audio_asset_pointer"]


def test_chats_of_open_webui_in_the_older_forms() -> None:
    """Without `chat` around it, without ids, and with a list in place of a tree."""
    value = {"title": "Old", "messages": [{"role": "user", "content": "a"}], "history": {}}
    old = read({**value, "messages": [*value["messages"], {"role": "assistant", "content": "b"}]})
    assert old.source == "openwebui"
    assert old.source_id.startswith("derived-")
    assert [message.parent_source_id for message in old.messages] == [None, "0"]
    assert old.source_id == read(value).source_id, "it must stay when the chat grows"


def test_the_council_speaks_with_one_voice() -> None:
    """The third stage is the answer; the first two are kept."""
    council = read(sample("llmcouncil.json"))
    answer = council.messages[1]
    assert (answer.content, answer.model) == (
        "Try it for a summer.",
        "google/gemini-3-pro-preview",
    )
    assert answer.kept["stage1"][0]["response"] == "Yes."
    assert council.starred
    assert council.metadata["report_cycle"] == 1


def test_a_value_of_another_format_is_refused() -> None:
    """`--format` is for who wants to be sure; `auto` takes each for what it is."""
    with pytest.raises(Unreadable, match="it is llmcouncil's, not chatgpt's"):
        formats.read(sample("llmcouncil.json"), NO_FILES, Format.CHATGPT)
    values: list[Any] = [None, 1, [], {}, {"mapping": 3}, {"messages": ["a"]}]
    for value in values:
        with pytest.raises(Unreadable, match="no conversation of a known format"):
            formats.read(value, NO_FILES)


# Any JSON where something is expected, often under the names that the readers look for.
WORDS = """
    id title mapping message parent children author role content parts content_type text
    asset_pointer create_time metadata chat history messages currentId current_node parentId
    timestamp files type url image_url model stage3 response user_id profile created_at
"""
KEYS = st.sampled_from(WORDS.split())
SCALARS = st.sampled_from(
    [None, True, 0, -1, 1.5, 1e300, "", "a", "user", "text", "\0\ud800", "image", "data:x", "root"]
)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner), max_leaves=12
)
ROOTS = st.sampled_from(["mapping", "chat", "history", "messages", "profile"])


@settings(max_examples=200, deadline=None)
@given(ROOTS, JSON, st.dictionaries(KEYS, JSON))
def test_nothing_in_a_file_breaks_the_reading(root: str, inner: Any, value: Json) -> None:
    """A conversation is read or refused, whatever stands where in it; no other error comes out."""
    for content in (inner, {"a": inner}, [inner], {"messages": {"a": inner}}):
        try:
            found = formats.read({**value, root: content}, NO_FILES)
        except Unreadable:
            continue
        if isinstance(found, Conversation):
            messages, _ = tree.ordered(found)
            assert len(messages) == len({message.source_id for message in found.messages})
            for message in messages:
                assert clean(message.content) == (message.content, 0)
                assert message.role in (None, "user", "assistant", "system")


def test_pointers_that_share_a_beginning() -> None:
    """`file-Ab` is not `file-Ab12`: a picture must not turn up in another conversation."""
    files = Export([], {"file-Ab": None})  # type: ignore[dict-item]
    assert files.has("file-service://file-Ab")
    assert not files.has("file-service://file-Ab12Cd34")
    assert not files.has("sediment://")
    assert isinstance(files, Export)
    checked: chatgpt.Files = files
    assert checked.has("file-service://file-Ab?shared_conversation_id=1")
