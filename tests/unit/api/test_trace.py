from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest

from orchestrator.api.story import JobStory
from orchestrator.api.trace import trace_data, trace_page

from .job_rows import HOSTILE, REASON, Journal, finished, search

EXPAND = {"nodes": ["0"], "num_samples": [2], "model": "small"}


class Elements(HTMLParser):
    """What a browser would find in a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self._open.append(tag)

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] in {"script", "style"}:
            self.texts.append(data)
            self._open.pop()

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


@pytest.fixture(scope="module")
def page() -> str:
    return trace_page(JobStory(*search(200)))


def test_hostile_text_stays_text(page: str) -> None:
    elements = Elements(page)
    assert [script.get("type") for script in elements.of("script")] == ["application/json", None]
    assert not elements.of("img")
    data = page.split('id="data">')[1].split("</script>", maxsplit=1)[0]
    assert not set("<>&") & set(data)
    shown = HOSTILE.replace("\u202e", "\ufffd")
    assert json.loads(data)["problem"] == f"How many? {shown}"


def test_only_the_pages_own_script_and_style_may_run(page: str) -> None:
    elements = Elements(page)
    (policy,) = [meta["content"] or "" for meta in elements.of("meta") if meta.get("http-equiv")]
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    style, _, script = elements.texts
    for text in (style, script):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy


def test_nothing_is_fetched(page: str) -> None:
    assert not re.findall(
        r"""(?:src|href)\s*=|url\(|@import|fetch\(|XMLHttp|import\(""", page.split('id="data">', maxsplit=1)[0]
    )
    script = Elements(page).texts[2]
    assert not re.findall(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|fetch\(|XMLHttp", script)


def test_a_thousand_nodes_fit() -> None:
    story = JobStory(*search(1000, text=""))
    data = trace_data(story)
    assert len(data["nodes"]) >= 1000
    ids = {node["id"] for node in data["nodes"]}
    assert all(node["parent"] is None or node["parent"] in ids for node in data["nodes"])
    assert data["path"][0] == "0"
    assert len(trace_page(story)) < 1_000_000


def test_it_shows_votes_caps_scores_and_actions() -> None:
    data = trace_data(JobStory(*search(100, text="")))
    assert {cap["name"] for cap in data["caps"]} == {"output tokens", "US dollars"}
    assert data["votes"][0]["num_samples"] >= data["votes"][-1]["num_samples"]
    assert [vote["answer"] for vote in data["votes"] if vote["is_chosen"]] == ["384"]
    assert {note["type"] for note in data["actions"]} == {"Expand", "Release", "Score"}
    assert any(node["scores"].get("judge") for node in data["nodes"])
    assert ("time", "9.5 s", "") in [tuple(row) for row in data["ledger"]]


def test_every_node_of_the_journal_is_on_the_page_exactly_once() -> None:
    record, rows = search(300)
    journal = [row.data["node"]["id"] for row in rows if row.kind == "sample"]
    data = json.loads(Elements(trace_page(JobStory(record, rows))).texts[1])
    assert sorted(node["id"] for node in data["nodes"]) == sorted(["0", *journal])


def test_given_up_nodes_say_when_and_why() -> None:
    record, rows = search(200, text="")
    data = trace_data(JobStory(record, rows))
    nodes = {node["id"]: node for node in data["nodes"]}
    actions = [row.data for row in rows if row.kind == "done"]
    releases = {data["a"]: data["action"]["all_but"] for data in actions if data["action"]["type"] == "Release"}
    given_up = [node for node in data["nodes"] if node["given_up"]]
    assert given_up
    for node in given_up:
        action = node["given_up"]["action"]
        assert node["given_up"]["reason"] == REASON
        assert node["id"] not in releases[action]
        assert node["born"] < action
        assert not node["is_final"]
    assert not any(nodes[name]["given_up"] for name in data["path"])


def test_the_page_knows_the_order_of_time() -> None:
    data = trace_data(JobStory(*search(200, text="")))
    nodes = {node["id"]: node for node in data["nodes"]}
    for node in data["nodes"]:
        if node["parent"] is not None:
            assert nodes[node["parent"]]["born"] < node["born"] < len(data["actions"])
        for history in node["scores"].values():
            assert [action for action, _ in history] == sorted(action for action, _ in history)
            assert history[0][0] > node["born"]
    assert len(data["frames"]) == len(data["actions"])
    born = sorted(node["born"] for node in data["nodes"])
    for action, frame in enumerate(data["frames"]):
        assert frame["num_nodes"] == sum(at <= action for at in born) - 1  # the root holds no text


def test_flat_policies_are_no_search() -> None:
    journal = Journal()
    for index, finish in enumerate(("end", "length")):
        node = {"id": f"0.{index}", "parent": "0", "text": "x", "finish": finish, "output_tokens": 1, "answer": "7"}
        journal.add("sample", a=0, i=index, usage={"output_tokens": 1}, node=node)
    journal.add("done", a=0, action={"type": "Expand"} | EXPAND, outcome={"units": [[0, "7"], [1, "7"]]}, t=1.0)
    data = trace_data(JobStory(finished("", "0.0", 2), journal.rows))
    assert not data["is_search"]
    assert [level["num_nodes"] for level in data["levels"]] == [2]


def test_an_unfinished_job_can_be_shown() -> None:
    record, rows = search(50)
    import dataclasses

    unfinished = dataclasses.replace(record, result=None)
    data = trace_data(JobStory(unfinished, rows[:20]))
    assert data["answer"] is None
    assert data["nodes"]
