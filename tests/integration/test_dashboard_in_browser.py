"""The dashboard in a real browser, served by the real service; models are scripted."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest

from orchestrator.api.story import JobStory
from orchestrator.api.trace import trace_data
from orchestrator.store import JobRecord, JobState, JournalRow
from orchestrator.stores import new_job_id

from ..unit.api.job_rows import HOSTILE, search
from .browser import CHROMIUM, Tab, running_browser, tab_of
from .dashboard_service import PROBLEM, Running, asks, running_service

pytestmark = [pytest.mark.server, pytest.mark.skipif(CHROMIUM is None, reason="no browser here")]

STATE = "document.querySelector('.chip')?.textContent.trim()"
ITEMS = "document.querySelectorAll('[role=treeitem]').length"
TEXT = "document.body.innerText"
SEARCH = {"policy": "rebase", "params": {"width": 6}, "budget": {"max_output_tokens": 2000, "max_usd": 0.5}}
SLOW = {"max_samples": 200, "parallel": 1, "confidence": 0.999999}
MINUS = "\N{MINUS SIGN}"
NETWORK_ERROR = "Failed to load resource"


@pytest.fixture(scope="module")
def service() -> Iterator[Running]:
    with running_service(token_s=0.01) as running:
        yield running


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_browser(tmp_path_factory.mktemp("profile")) as address:
        yield address


@pytest.fixture
async def tab(browser: str) -> AsyncIterator[Tab]:
    """A tab that has said nothing but what the service answered, and asked nobody but one address on this machine."""
    async with tab_of(browser) as opened:
        await opened.call("Page.navigate", url="about:blank")  # what the page of the test before remembered is gone
        yield opened
        assert [problem for problem in opened.problems if NETWORK_ERROR not in problem] == []
        assert len({address.split("/")[2] for address in opened.requests if address.startswith("http")}) <= 1
        assert all(address.startswith(("http://127.0.0.1:", "data:")) for address in opened.requests), opened.requests


def submitted(service: Running, **body: object) -> str:
    answer = httpx.post(f"{service.address}/v1/jobs", json={"problem": PROBLEM, **body})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def asked(service: Running, path: str, **query: object) -> dict[str, Any]:
    answer = httpx.get(f"{service.address}/v1/{path}", params={name: str(value) for name, value in query.items()})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def ended(service: Running, job_id: str) -> dict[str, Any]:
    job = asked(service, f"jobs/{job_id}", wait=15)
    assert job["state"] in {"succeeded", "failed", "cancelled"}
    return job


async def stored(service: Running, record: JobRecord, rows: list[JournalRow]) -> None:
    """Puts a job with its journal into the service's store."""
    store = service.orchestrator.store
    await store.create(JobRecord(id=record.id, spec=record.spec, created_at=record.created_at))
    epoch = await store.claim(record.id, "test:1:x", lease_s=60)
    final = JournalRow(len(rows), "final", {"result": record.result, "t": 9.5})
    await store.append(record.id, epoch, [*rows, final], state=record.state, result=record.result)


async def fill(tab: Tab, field: str, text: str) -> None:
    await tab.run(f"document.getElementById({json.dumps(field)}).select()")
    await tab.call("Input.insertText", text=text)


async def choose(tab: Tab, field: str, value: str) -> None:
    place = f"document.getElementById({json.dumps(field)})"
    changed = "dispatchEvent(new Event('change', {bubbles: true}))"
    await tab.run(f"{place}.value = {json.dumps(value)}; {place}.{changed}")


async def test_a_problem_is_submitted_and_its_tree_grows(service: Running, tab: Tab) -> None:
    await tab.visit(f"{service.address}/")
    await tab.until("document.getElementById('f-policy') !== null")
    await fill(tab, "f-problem", PROBLEM)
    await choose(tab, "f-policy", "rebase")
    assert "Wu et al." in await tab.run("document.querySelector('.about').textContent")
    assert "Range: 1 to 4096." in await tab.run("document.getElementById('f-param-width-help').textContent")
    await fill(tab, "f-param-width", "6")
    await fill(tab, "f-max_output_tokens", "1,500")
    await tab.run("document.querySelector('form.new button[type=submit]').click()")
    await tab.until("location.hash.startsWith('#/jobs/')")
    await tab.until(f"{ITEMS} > 3")
    assert await tab.run(STATE) == "◐ running", "nodes are there before the end"
    await tab.until(f"{STATE} === '✓ succeeded'")
    job = ended(service, (await tab.run("location.hash")).removeprefix("#/jobs/"))
    assert (job["policy"], job["params"]["width"]) == ("rebase", 6)
    assert job["budget"] == {"max_output_tokens": 1500}
    tree = asked(service, f"jobs/{job['id']}/tree")["tree"]
    await tab.until(f"{ITEMS} === {len(tree)}")
    assert await tab.run("document.querySelector('.answer .big').textContent") == job["answer"]
    assert "the verifier's score is" in await tab.run("document.querySelector('.answer').textContent")
    assert "the policy was done" in await tab.run("document.querySelector('.answer').textContent")
    spent = f"{job['usage']['output_tokens']:,} of 1,500"
    assert await tab.run("document.querySelector('.cap').textContent") == f"output tokens{spent}"
    assert await tab.run("document.querySelectorAll('.vote').length") == len(
        {node.get("answer_class") or node["answer"] for node in tree if node.get("answer")}
    )


GROW = """(async (rows) => {
  const { Growth } = await import("/ui/growth.js");
  const growth = new Growth([]);
  for (const [kind, data] of rows) growth.take(kind, data);
  const { actions, frames, isSearch, nodes, path } = growth.trace;
  const known = ({ id, parent, born, given_up, scores, answer, answer_class, is_final, output_tokens }) =>
    ({ id, parent, born, given_up, scores, answer, answer_class, is_final, output_tokens });
  return { frames: frames.slice(1), actions, is_search: isSearch, path: [...path], votes: growth.votes,
           nodes: [...nodes.values()].map(known) };
})"""


async def same_as_python(tab: Tab, record: JobRecord, rows: list[JournalRow]) -> dict[str, Any]:
    """What the page makes of a journal, which has to be what the trace page shows of it."""
    kinds = [[row.kind, row.data] for row in rows] + [["final", {"result": record.result}]]
    grown: dict[str, Any] = await tab.run(f"{GROW}({json.dumps(kinds)})")
    data = json.loads(json.dumps(trace_data(JobStory(record, rows))))
    names = ("id", "parent", "born", "given_up", "scores", "answer", "answer_class", "is_final", "output_tokens")
    assert grown["nodes"] == [{name: node[name] for name in names} for node in data["nodes"]]
    for name in ("frames", "actions", "is_search", "path"):
        assert grown[name] == data[name], name
    assert sorted(grown["votes"], key=str) == sorted(data["votes"], key=str)
    return grown


async def test_the_page_makes_of_a_journal_what_the_library_makes(service: Running, tab: Tab) -> None:
    await tab.visit(f"{service.address}/")
    for seed, width in ((0, 4), (1, 12), (2, 1), (3, 40)):
        grown = await same_as_python(tab, *search(250, seed=seed, width=width, text="x"))
        assert any(node["given_up"] for node in grown["nodes"])
    for options in (SEARCH, {"policy": "adaptive_consistency"}, {"policy": "beam_search"}, {"policy": "single"}):
        job = ended(service, submitted(service, **options))
        store = service.orchestrator.store
        record, rows = service.do(store.get(job["id"])), service.do(store.read(job["id"]))
        assert rows[-1].kind == "final"
        await same_as_python(tab, record, rows[:-1])


CUT = """(async (jobId, mostBytes) => {
  const asked = [], seen = [], real = window.fetch;
  window.fetch = async (path, options) => {
    const response = await real(path, options);
    if (!path.endsWith("/events")) return response;
    asked.push(options.headers["Last-Event-ID"] ?? null);
    const reader = response.body.getReader();
    let left = mostBytes;
    const body = new ReadableStream({
      async pull(controller) {
        const { done, value } = await reader.read();
        if (done) return controller.close();
        controller.enqueue(value.slice(0, left));
        left -= value.length;
        if (left <= 0) { reader.cancel(); controller.error(new TypeError("network error")); }
      },
    });
    return new Response(body, { status: response.status, headers: response.headers });
  };
  const { eventsOf } = await import("/ui/events.js");
  const breaks = [];
  const signal = new AbortController().signal;
  const onConnection = (isUp, why) => { if (!isUp) breaks.push(why); };
  for await (const event of eventsOf(jobId, { signal, onConnection })) {
    if (event.seq !== null) seen.push([event.seq, event.kind]);
  }
  window.fetch = real;
  return { asked, seen, numBreaks: breaks.length };
})"""


async def test_a_stream_that_breaks_goes_on_without_gap_or_repeat(service: Running, tab: Tab) -> None:
    job = ended(service, submitted(service, **SEARCH))
    rows = service.do(service.orchestrator.store.read(job["id"]))
    num_bytes = sum(len(json.dumps(row.data)) for row in rows)
    await tab.visit(f"{service.address}/")
    found = await tab.run(f"{CUT}({json.dumps(job['id'])}, {num_bytes // 3})")
    assert found["seen"] == [[row.seq, row.kind] for row in rows]
    assert found["numBreaks"] >= 2
    assert found["asked"][0] is None
    assert all(int(after) < len(rows) - 1 for after in found["asked"][1:])
    assert found["asked"][1:] == sorted(found["asked"][1:], key=int)


async def test_a_lost_connection_is_said_and_taken_up_again(service: Running, tab: Tab) -> None:
    await tab.visit(f"{service.address}/#/usage")
    await tab.run("window.real = window.fetch")
    await tab.run(
        "window.fetch = (path, options) => path.endsWith('/events')"
        " ? Promise.reject(new TypeError('lost')) : window.real(path, options)"
    )
    job_id = submitted(service, **SEARCH)
    await tab.run(f"location.hash = '#/jobs/{job_id}'")
    await tab.until(f"{TEXT}.includes('The service cannot be reached.') && {TEXT}.includes('Connecting again')")
    await tab.run("window.fetch = window.real")
    await tab.until(f"{STATE} === '✓ succeeded' && {ITEMS} > 3")
    assert await tab.run("document.querySelector('.stream').textContent") == ""


async def test_jobs_are_filtered_opened_and_cancelled(service: Running, tab: Tab) -> None:
    done = ended(service, submitted(service, policy="single", labels={"team": "blue"}))
    long = submitted(service, problem="Think for long", policy="adaptive_consistency", params=SLOW)
    await tab.visit(f"{service.address}/#/jobs")
    await tab.until(f"document.querySelector('a[href=\"#/jobs/{long}\"]') !== null")
    rows = "[...document.querySelectorAll('.jobs tbody a')].map((link) => link.getAttribute('href'))"
    await tab.press("/")
    await tab.call("Input.insertText", text="team blue")
    assert await tab.run(rows) == []
    assert "No job that is loaded fits" in await tab.run(TEXT)
    await fill(tab, "f-text", "BLUE")
    assert await tab.run(rows) == [f"#/jobs/{done['id']}"]
    await fill(tab, "f-text", "think for LONG")
    assert await tab.run(rows) == [f"#/jobs/{long}"]
    await tab.run("document.querySelector('.jobs .cancel-cell button').click()")
    assert ended(service, long)["state"] == "cancelled"
    await tab.until(f"{STATE} === '⊘ cancelled'")
    await choose(tab, "f-state", "running")
    await tab.until("document.querySelector('.state') !== null")
    await choose(tab, "f-state", "cancelled")
    await tab.until(f"({rows}).length === 1")
    await tab.run("document.querySelector('.jobs tbody a').click()")
    await tab.until(f"{STATE} === '⊘ cancelled'")
    assert "it was cancelled; this is the best so far" in await tab.run(TEXT)
    assert await tab.run("document.querySelector('button.cancel').hidden")


async def test_two_jobs_stand_side_by_side_with_their_difference(service: Running, tab: Tab) -> None:
    first = ended(service, submitted(service, **SEARCH))
    second = ended(service, submitted(service, policy="self_consistency", params={"n": 5}))
    await tab.visit(f"{service.address}/#/compare/{first['id']}/{second['id']}")
    await tab.until("document.querySelectorAll('.chosen').length === 2")
    cells = await tab.run(
        "Object.fromEntries([...document.querySelectorAll('.differences tbody tr')]"
        ".map((row) => [row.cells[0].textContent, [...row.cells].slice(1).map((cell) => cell.textContent)]))"
    )
    assert cells["policy"] == ["rebase", "self_consistency", "different"]
    assert cells["answer"][:2] == [first["answer"], second["answer"]]
    assert cells["answer"][2] == ("the same" if first["answer"] == second["answer"] else "different")
    calls = [job["usage"]["model_calls"] for job in (first, second)]
    more = calls[1] - calls[0]
    assert cells["model calls"][:2] == [str(calls[0]), str(calls[1])]
    assert cells["model calls"][2].startswith(f"{'+' if more > 0 else MINUS}{abs(more)} (")
    assert cells["nodes of the tree"][1] == "5"
    trees = await tab.run("['a-tree', 'b-tree'].map((id) => document.getElementById(id).children.length)")
    assert min(trees) > 5
    ids = await tab.run("[...document.querySelectorAll('[id]')].map((one) => one.id)")
    assert len(ids) == len(set(ids)), "two trees share no id"


async def test_a_waiting_job_is_answered(service: Running, tab: Tab) -> None:
    waiting = service.do(service.orchestrator.solve(PROBLEM, policy=asks))
    assert waiting.state is JobState.WAITING
    await tab.visit(f"{service.address}/#/jobs/{waiting.job_id}")
    await tab.until("document.querySelector('.waiting-card')?.hidden === false")
    assert await tab.run("document.querySelector('.question').textContent") == (
        "In which unit do you want it? <b>cm</b> or m?"
    )
    await tab.run("document.querySelector('.waiting-card button').click()")
    assert "The reply is empty" in await tab.run(TEXT)
    await tab.run("document.querySelector('.waiting-card textarea').focus()")
    await tab.call("Input.insertText", text="metres")
    await tab.run("document.querySelector('.waiting-card button').click()")
    await tab.until(f"{STATE} === '✓ succeeded'")
    assert (await tab.run("document.querySelector('.answer .big').textContent")).endswith(" metres")
    assert await tab.run("document.querySelector('.waiting-card').hidden")


async def test_a_slip_is_shown_beside_its_field(service: Running, tab: Tab) -> None:
    await tab.visit(f"{service.address}/#/")
    await tab.until("document.getElementById('f-policy') !== null")
    await fill(tab, "f-problem", " ")
    await tab.run("document.querySelector('form.new button[type=submit]').click()")
    assert await tab.run("document.activeElement.id") == "f-problem"
    assert await tab.run("document.getElementById('f-problem-problem').textContent") == "Write a problem first."
    await fill(tab, "f-problem", "What is 1 + 1?")
    await choose(tab, "f-policy", "self_consistency")
    for field, value in (("f-param-n", "0"), ("f-max_usd", "-1"), ("f-seed", "x")):
        await fill(tab, field, value)
        await tab.run("document.querySelector('form.new button[type=submit]').click()")
        await tab.until(f"document.getElementById('{field}').getAttribute('aria-invalid') === 'true'")
        assert await tab.run(f"document.getElementById('{field}-problem').textContent")
        assert await tab.run("document.activeElement.id") == field
        await fill(tab, field, "1")
    await tab.run("location.hash = '#/jobs'")
    await tab.until("document.getElementById('f-text') !== null")
    await tab.run("location.hash = '#/'")
    await tab.until("document.getElementById('f-problem')?.value === 'What is 1 + 1?'")


@pytest.mark.parametrize("width", [390, 1280])
async def test_hostile_text_stays_text_and_breaks_nothing(service: Running, tab: Tab, width: int) -> None:
    nasty = f"{HOSTILE}<img src=x onerror=\"document.title='owned'\">" + "W" * 3000
    record, rows = search(60, text=nasty)
    rows[1].data["node"]["text"] = "long " * 40_000
    result = {**(record.result or {}), "answer": nasty, "error": None}
    record = JobRecord(
        id=new_job_id(),
        spec={**record.spec, "labels": {nasty[:200]: nasty[:200]}},
        state=record.state,
        created_at=time.time(),
        result=result,
    )
    service.do(stored(service, record, rows))
    await tab.visit(f"{service.address}/#/jobs/{record.id}", width=width)
    await tab.until(f"{STATE} === '✓ succeeded' && {ITEMS} > 10")
    path = f"document.querySelector('[role=treeitem][aria-label*=\"node {rows[1].data['node']['id']},\"]')"
    await tab.run(f"({path} ?? document.querySelector('[role=treeitem]')).focus()")
    await tab.press("Enter")
    for view in (f"jobs/{record.id}", "jobs", f"compare/{record.id}/{record.id}"):
        await tab.run(f"location.hash = '#/{view}'")
        await tab.until(f"document.querySelector('main').textContent.includes('How many?') && {STATE} !== null")
        assert await tab.run("document.scrollingElement.scrollWidth") <= width, view
        assert await tab.run("document.querySelectorAll('main img, main script, main b').length") == 0
        assert await tab.run("document.title") != "owned"
        assert "\u202e" not in await tab.run("document.body.textContent")


async def test_ten_thousand_nodes_stay_usable(service: Running, tab: Tab) -> None:
    record, rows = search(10_000, width=256, text="")
    record = JobRecord(
        id=new_job_id(), spec=record.spec, state=record.state, created_at=time.time(), result=record.result
    )
    service.do(stored(service, record, rows))
    await tab.visit(f"{service.address}/#/jobs/{record.id}")
    num_nodes = sum(row.kind == "sample" for row in rows)
    await tab.until(f"document.getElementById('shown')?.textContent.startsWith('{num_nodes:,} nodes')")
    assert "drawn as dots" in await tab.run("document.getElementById('shown').textContent")
    assert await tab.run("document.querySelectorAll('#tree *').length") < 15_000
    last = int(await tab.run("document.getElementById('moment').max"))
    move = """(() => {
      const start = performance.now(), slider = document.getElementById("moment");
      slider.value = %d;
      slider.dispatchEvent(new Event("input"));
      document.body.offsetHeight;
      return performance.now() - start;
    })()"""
    taken_ms = [await tab.run(move % (last * part // 4)) for part in range(5)]
    assert min(taken_ms[1:]) < 500, "of several, as machines of tests are busy"


async def test_nodes_beyond_the_most_are_left_out_and_counted(service: Running, tab: Tab) -> None:
    await tab.visit(f"{service.address}/")
    script = """(async () => {
      const { Growth, MOST_NODES } = await import("/ui/growth.js");
      const growth = new Growth([]);
      for (let i = 0; i < MOST_NODES + 5; i++) {
        growth.take("sample", { a: 0, i, usage: {}, node: { id: `0.${i}`, parent: "0", text: "x", finish: "end" } });
      }
      return [growth.trace.nodes.size === MOST_NODES, growth.numLeftOut];
    })()"""
    assert await tab.run(script) == [True, 6], "the problem is a node, too"


async def test_the_keyboard_is_enough(service: Running, tab: Tab) -> None:
    job = ended(service, submitted(service, **SEARCH))
    await tab.visit(f"{service.address}/#/jobs")
    await tab.until("document.getElementById('f-text') !== null")
    await tab.run("document.body.tabIndex = -1; document.body.focus()")
    await tab.press("Tab")
    assert await tab.run("document.activeElement.id") == "skip"
    assert (await tab.run("document.activeElement.getBoundingClientRect().left")) >= 0, "it is seen once it has focus"
    await tab.press("Enter")
    assert await tab.run("document.activeElement.id") == "main"
    await tab.press("?")
    assert await tab.run("document.getElementById('help-dialog').open")
    assert "a new job" in await tab.run("document.getElementById('help-keys').textContent")
    await tab.press("Escape")
    assert not await tab.run("document.getElementById('help-dialog').open")
    await tab.press("n")
    await tab.until("document.getElementById('f-problem') !== null")
    await tab.run("document.getElementById('f-problem').focus()")
    await tab.press("j")
    assert await tab.run("document.getElementById('f-problem').value.endsWith('j')"), "letters go where one types"
    await tab.run(f"location.hash = '#/jobs/{job['id']}'")
    await tab.until(f"{ITEMS} > 3")
    await tab.press("t")
    assert await tab.run("document.activeElement.getAttribute('role')") == "treeitem"
    await tab.press("ArrowRight")
    await tab.press("Enter")
    assert await tab.run("document.activeElement.id") == "detail"
    await tab.press("Escape")
    assert await tab.run("document.activeElement.getAttribute('role')") == "treeitem"


async def test_what_is_asked_for_and_not_there_is_said(service: Running, tab: Tab) -> None:
    nowhere = new_job_id()
    await tab.visit(f"{service.address}/#/jobs/{nowhere}")
    await tab.until("document.querySelector('.state.failed') !== null")
    assert nowhere in await tab.run("document.querySelector('.state.failed').textContent")
    await tab.run("location.hash = '#/compare'")
    await tab.until(f"{TEXT}.includes('Choose two jobs above') || {TEXT}.includes('Comparing needs two jobs')")
    await tab.run("window.fetch = async () => { throw new TypeError('failed') }; location.hash = '#/jobs'")
    await tab.until(f"{TEXT}.includes('The service cannot be reached')")


async def test_usage_is_shown_by_key_and_day(service: Running, tab: Tab) -> None:
    ended(service, submitted(service, policy="single"))
    rows = asked(service, "usage", days=1)["data"]
    await tab.visit(f"{service.address}/#/usage")
    await tab.until("document.querySelector('.usage') !== null && !document.getElementById('usage-link').hidden")
    shown = await tab.run("document.querySelector('.usage .total').innerText.split('\\t').map((cell) => cell.trim())")
    total = rows[-1]["spent"]
    assert shown[0] == "total"
    assert f"{total['output_tokens']:,}" in shown


async def test_a_key_is_sent_with_everything_and_kept_in_this_tab_only(tab: Tab) -> None:
    with running_service(with_key=True) as service:
        await tab.visit(f"{service.address}/#/")
        await tab.until("document.querySelector('.state.failed button') !== null")
        await tab.run("document.querySelector('.state.failed button').click()")
        assert await tab.run("document.activeElement.id") == "key-input"
        await tab.call("Input.insertText", text=service.key)
        await tab.press("Enter")
        await tab.until("document.getElementById('f-problem') !== null")
        await fill(tab, "f-problem", PROBLEM)
        await tab.run("document.querySelector('form.new button[type=submit]').click()")
        await tab.until(f"{STATE} === '✓ succeeded'")
        places = "JSON.stringify([localStorage, document.cookie, location.href, document.body.innerHTML])"
        assert service.key not in await tab.run(places)
        assert await tab.run("Object.values(sessionStorage)") == [service.key]
        await tab.run("document.getElementById('key-button').click()")
        await tab.run("document.getElementById('key-forget').click()")
        assert await tab.run("sessionStorage.length") == 0
        await tab.until("document.querySelector('.state.failed') !== null")
    assert not any(service.key in address for address in tab.requests)


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_a_phone_shows_every_view_without_scrolling_sideways(service: Running, tab: Tab, scheme: str) -> None:
    job = ended(service, submitted(service, **SEARCH))
    await tab.visit(f"{service.address}/#/", width=390, height=844, scheme=scheme)
    for view, there in (
        ("", "#f-problem"),
        ("jobs", ".jobs"),
        (f"jobs/{job['id']}", "[role=treeitem]"),
        (f"compare/{job['id']}/{job['id']}", ".differences td"),
        ("usage", ".usage"),
    ):
        await tab.run(f"location.hash = '#/{view}'")
        await tab.until(f"document.querySelector('{there}') !== null")
        assert await tab.run("document.scrollingElement.scrollWidth") <= 390, view
    background = await tab.run("getComputedStyle(document.body).backgroundColor")
    channels = [int(part) for part in background.removeprefix("rgb(").removesuffix(")").split(",")]
    assert (max(channels) < 60) == (scheme == "dark")
