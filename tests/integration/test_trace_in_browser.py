"""The trace page in a real browser, where there is one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.api.story import JobStory
from orchestrator.api.trace import trace_page

from ..unit.api.job_rows import HOSTILE, REASON, finished, search
from .browser import CHROMIUM, Tab, running_browser, tab_of
from .shell import SCRIPTED, Shell

pytestmark = [pytest.mark.server, pytest.mark.skipif(CHROMIUM is None, reason="no browser here")]

BREAKING_OUT = "17*23+5 </script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
EXPRESSION = "Evaluate mod 61: (((((31*45)-(36*18))-1)+52)+(((53*5)-8)*13))-58"
LAB = ("--model", "lab:small", "--verifier-model", "lab:prm")
DATA = "JSON.parse(document.getElementById('data').textContent)"
ITEMS = "document.querySelectorAll('[role=treeitem]').length"
CURRENT = "document.activeElement.getAttribute('aria-label')"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_browser(tmp_path_factory.mktemp("profile")) as address:
        yield address


@pytest.fixture
async def tab(browser: str) -> AsyncIterator[Tab]:
    async with tab_of(browser) as opened:
        yield opened
        assert opened.problems == []
        assert all(address.startswith("file://") for address in opened.requests), opened.requests


async def move_to(tab: Tab, moment: int) -> str:
    """Moves the slider; returns what the page says of that moment."""
    slider = "document.getElementById('moment')"
    await tab.run(f"{slider}.value = {moment}; {slider}.dispatchEvent(new Event('input'))")
    words = await tab.run(
        "document.getElementById('when').textContent + ' | ' + document.getElementById('now').textContent"
    )
    return str(words)


def page_of(num_nodes: int, folder: Path, *, width: int = 12, text: str = "") -> Path:
    path = folder / "page.html"
    path.write_text(trace_page(JobStory(*search(num_nodes, width=width, text=text))), encoding="utf-8")
    return path


async def test_the_tree_is_drawn_and_hostile_text_does_nothing(shell: Shell, tab: Tab) -> None:
    options = ("--policy", "best_of_n", "--verifier", "majority", "-n", "12", "--budget", "tokens=4000")
    assert shell.run("solve", BREAKING_OUT, *SCRIPTED, *options, "--trace", "t.html").code == 0
    await tab.open(shell.folder / "t.html")
    assert await tab.run(ITEMS) == 13
    assert await tab.run("document.querySelectorAll('.vote').length") >= 1
    assert await tab.run("document.images.length + document.scripts.length") == 2
    assert await tab.run("document.title") != "owned"
    text = await tab.run("document.body.innerText")
    assert "4,000" in text
    assert "17*23+5 </script>" in text
    assert await tab.run("document.getElementById('levels-card').hidden"), "independent samples have one level"


async def test_hostile_steps_and_reasons_stay_text(tmp_path: Path, tab: Tab) -> None:
    await tab.open(page_of(150, tmp_path, text=HOSTILE))
    assert await tab.run("document.scripts.length") == 2
    for _ in range(3):
        await tab.run("document.getElementById('larger').click()")
    assert f"{REASON}</script><script>alert(1)" in await tab.run("document.getElementById('reasons').textContent")


@pytest.mark.model
async def test_a_search_on_real_models_can_be_walked_through(shell: Shell, tab: Tab) -> None:
    options = ("--policy", "rebase", "--set", "width=8", "--budget", "tokens=1500", "--seed", "3")
    done = shell.run("solve", EXPRESSION, *LAB, *options, "--trace", "t.html", "--quiet")
    assert done.code in {0, 5}, done
    await tab.open(shell.folder / "t.html")
    data: dict[str, Any] = await tab.run(DATA)
    assert data["is_search"]
    last = len(data["actions"])
    assert await move_to(tab, 0) == "before the first action | level 0 · 0 open · 0 given up · 0 finished"
    assert await tab.run(ITEMS) == 1, "only the problem"
    await tab.run("document.getElementById('smaller').click()")  # the whole tree is in view
    for moment in sorted({1, 2, 4, last // 2, last - 1, last}):
        words = await move_to(tab, moment)
        frame = data["frames"][moment - 1]
        born = [node for node in data["nodes"] if node["born"] < moment]
        assert await tab.run(ITEMS) == len(born) == frame["num_nodes"] + 1
        given_up = [node for node in born if node["given_up"] and node["given_up"]["action"] < moment]
        assert await tab.run("document.querySelectorAll('.node.gone').length") == len(given_up)
        assert f"{frame['num_open']} open · {frame['num_given_up']} given up" in words
    assert await tab.run("document.querySelectorAll('#levels tbody tr').length") == len(data["levels"])


async def test_keys_move_along_the_tree_and_time(tmp_path: Path, tab: Tab) -> None:
    await tab.open(page_of(80, tmp_path))
    await tab.run("document.querySelector('[role=treeitem][tabindex=\"0\"]').focus()")
    assert "the problem" in await tab.run(CURRENT)
    await tab.press("ArrowRight")
    await tab.press("Home")
    first = await tab.run(CURRENT)
    assert "level 1" in first
    await tab.press("ArrowDown")
    assert "level 1" in await tab.run(CURRENT) != first
    await tab.press("ArrowLeft")
    assert "the problem" in await tab.run(CURRENT)
    await tab.press("Home", shift=True)
    assert await tab.run(ITEMS) == 1
    await tab.press("ArrowRight", shift=True)
    assert await tab.run("document.getElementById('moment').value") == "1"
    await tab.press("ArrowRight")
    assert "level 1" in await tab.run(CURRENT)
    await tab.press("Enter")
    assert await tab.run("document.activeElement.id") == "detail"
    assert await tab.run("document.getElementById('d-text').textContent") == "Step 0. "
    await tab.press("Escape")
    assert await tab.run("document.getElementById('detail').hidden")
    assert "level 1" in await tab.run(CURRENT), "the focus is back in the tree"


async def test_a_node_that_was_given_up_says_why(tmp_path: Path, tab: Tab) -> None:
    await tab.open(page_of(80, tmp_path, width=4))
    await tab.run("document.getElementById('h-tree').scrollIntoView()")
    place = "document.querySelector('.node.gone').getBoundingClientRect()"
    x, y = await tab.run(f"(() => {{ const at = {place}; return [at.left + 9, at.top + at.height / 2]; }})()")
    for kind in ("mousePressed", "mouseReleased"):
        await tab.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
    assert f"given up: {REASON} (action" in await tab.run("document.getElementById('d-facts').textContent")


async def test_a_job_that_has_done_nothing_has_a_page(tmp_path: Path, tab: Tab) -> None:
    page = tmp_path / "page.html"
    page.write_text(trace_page(JobStory(finished("", None, 0), [])), encoding="utf-8")
    await tab.open(page)
    assert await tab.run(ITEMS) == 1
    await tab.run("document.getElementById('play').click()")
    assert await tab.run("document.getElementById('when').textContent") == "before the first action"


async def test_folding_leaves_what_was_not_given_up(tmp_path: Path, tab: Tab) -> None:
    await tab.open(page_of(150, tmp_path, width=4))
    data = await tab.run(DATA)
    await tab.run("document.getElementById('fold').click()")
    shown = await tab.run(
        "[...document.querySelectorAll('[role=treeitem]')].map((item) => item.getAttribute('aria-label'))"
    )
    nodes = {node["id"]: node for node in data["nodes"]}
    below = [node for node in nodes.values() if node["parent"] and nodes[node["parent"]]["given_up"]]
    assert below, "some branches of several steps were given up"
    assert len(shown) == len(nodes) - len(below)
    await tab.run("document.getElementById('fold').click()")
    assert await tab.run(ITEMS) == len(nodes)


async def test_playing_ends_at_the_end(tmp_path: Path, tab: Tab) -> None:
    await tab.open(page_of(20, tmp_path))
    last = await tab.run("document.getElementById('moment').max")
    await tab.run("document.getElementById('play').click()")
    assert await tab.run("document.getElementById('moment').value") == "0"
    done = f"document.getElementById('moment').value === '{last}' && document.getElementById('play').textContent"
    waiting = f"new Promise((over) => setInterval(() => {{ if ({done} === '▶ play') over(true); }}, 50))"
    assert await tab.run(waiting)


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_a_phone_shows_it_without_scrolling_sideways(tmp_path: Path, tab: Tab, scheme: str) -> None:
    await tab.open(page_of(150, tmp_path), width=360, height=740, scheme=scheme)
    assert await tab.run("document.scrollingElement.scrollWidth") <= 360
    assert await tab.run(ITEMS) > 1
    tree, box = await tab.run(
        "['tree', 'scroll'].map((id) => document.getElementById(id).getBoundingClientRect().width)"
    )
    assert tree <= box, "the whole tree is in view"
    background = await tab.run("getComputedStyle(document.body).backgroundColor")
    channels = [int(part) for part in background.removeprefix("rgb(").removesuffix(")").split(",")]
    assert (max(channels) < 60) == (scheme == "dark")


async def test_ten_thousand_nodes_are_few_elements_and_quick(tmp_path: Path, tab: Tab) -> None:
    await tab.open(page_of(10_000, tmp_path, width=256))
    last = int(await tab.run("document.getElementById('moment').max"))
    for size in ("smaller", "larger", "larger"):
        await tab.run(f"document.getElementById('{size}').click()")
        assert await tab.run("document.querySelectorAll('#tree *').length") < 15_000
    await tab.run("document.getElementById('smaller').click(); document.getElementById('smaller').click()")
    move = """(() => {
      const start = performance.now(), slider = document.getElementById("moment");
      slider.value = %d;
      slider.dispatchEvent(new Event("input"));
      document.body.offsetHeight;
      return performance.now() - start;
    })()"""
    taken_ms = [await tab.run(move % (last * part // 8)) for part in range(9)]
    assert min(taken_ms[1:]) < 500, "of several, as machines of tests are busy"
