"""Reports: all files are there, say the same, stand alone, and hold hostile names as text."""

import base64
import builtins
import json
import re
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from orchestrator.bench.analysis.page import write_report
from orchestrator.bench.analysis.plots import COLOURS
from orchestrator.errors import InvalidRequest, MissingDependency, UnknownName

from .made_rows import a_row, drawn_rows

EVIL = "<script>alert(1)</script>|`x`"


class Page(HTMLParser):
    """Tags with their attributes, and whether all of them are closed in order."""

    VOID = frozenset({"meta", "img", "source"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of two sets, one of them replayed, with a hostile policy and a hostile set."""
    pytest.importorskip("matplotlib")
    out = tmp_path_factory.mktemp("reports") / "new"
    rows = drawn_rows({"base": 1.0, EVIL: 0.5}, num_problems=30, num_seeds=1)
    rows += drawn_rows({"base": 1.0, "cheap": 0.5}, num_problems=30, set=f"set {EVIL}", is_replayed=True)
    written = write_report(rows, out, f"Smoke {EVIL}", baseline="base", target=0.6)
    assert sorted(written) == sorted(out.iterdir())
    return out


def only(folder: Path, suffix: str) -> str:
    (path,) = folder.glob(f"*{suffix}")
    return path.read_text(encoding="utf-8")


def test_file_names_are_plain(folder: Path):
    names = sorted(path.name for path in folder.iterdir())
    assert len(names) == 5
    assert all(re.fullmatch(r"[a-z0-9._-]+", name) for name in names)


def test_there_is_a_plot_of_each_set_and_markdown_shows_it(folder: Path):
    pictures = sorted(folder.glob("*.png"))
    assert len(pictures) == 2
    for picture in pictures:
        assert picture.stat().st_size > 10_000
        assert f"]({picture.name})" in only(folder, ".md")


def test_the_markdown_has_every_cell_with_its_costs(folder: Path):
    text = only(folder, ".md")
    rows = [line for line in text.splitlines() if line.startswith("| `base` | `tokens=1000`")]
    assert len(rows) == 4, "costs and endings of two sets"
    live, _, replayed, _ = rows
    assert re.search(r"\| 0\.\d{3} \[0\.\d{3}, [01]\.\d{3}\] \| 30 \| ", live)
    assert live.rstrip(" |").endswith("0.50"), "seconds of live jobs"
    assert replayed.rstrip(" |").endswith("\N{EN DASH}"), "none of replayed ones"
    assert "Cost for the accuracy asked for" in text
    assert "95%" in text
    assert "not corrected for the number of comparisons" in text


def test_hostile_names_are_code_in_markdown(folder: Path):
    text = only(folder, ".md")
    assert "`` <script>alert(1)</script>\\|`x` ``" in text
    outside = re.sub(r"``.*?``(?!`)", "", text)
    assert "<script" not in outside


def test_the_page_is_well_formed_and_says_how_it_was_made(folder: Path):
    page = Page(only(folder, ".html"))
    assert page.open == []
    text = " ".join(page.texts)
    for fact in ("Suite", "Seeds", "commit", "cores", "(30 problems)", "480 were replayed from a pool"):
        assert fact in text
    assert text.count("Accuracy and mean cost of a job") == 2


def test_the_page_loads_and_runs_nothing(folder: Path):
    text = only(folder, ".html")
    page = Page(text)
    assert "http:" not in text
    assert "https:" not in text
    assert not {"script", "link", "iframe", "object", "base"} & {tag for tag, _ in page.tags}
    sources = [value or "" for _, attrs in page.tags for name, value in attrs.items() if name in {"src", "srcset"}]
    assert len(sources) == 2 * (4 + 3), "two themes of four plots and of three"
    assert all(source.startswith("data:image/svg+xml;base64,") for source in sources)
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    assert [attrs["href"] for tag, attrs in page.tags if tag == "a"] == ["#set-0", "#set-1"]
    (policy,) = [attrs["content"] for tag, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_pictures_in_the_page_hold_no_foreign_names_and_no_scripts(folder: Path):
    for data in re.findall(r"base64,([A-Za-z0-9+/=]+)", only(folder, ".html")):
        picture = base64.b64decode(data).decode()
        assert picture.startswith("<svg")
        assert "alert" not in picture
        assert "<script" not in picture


def test_the_json_has_all_figures(folder: Path):
    data = json.loads(only(folder, ".json"))
    live, replayed = data["sets"]
    assert len(live["cells"]) == 8
    assert set(live["comparisons"]) == {"output_tokens", "total_tokens", "effective_flops", "wall_s"}
    assert set(replayed["comparisons"]) == {"output_tokens", "total_tokens", "effective_flops"}
    (pair,) = replayed["comparisons"]["output_tokens"]["equal_accuracy"]
    assert 0.3 < pair["over_overlap"]["ratio"]["mean"] < 0.8
    assert live["half_widths"]["an accuracy"]["100"] > live["half_widths"]["an accuracy"]["1000"] > 0
    assert "NaN" not in only(folder, ".json")


def test_the_pages_colours_are_those_of_the_plots():
    style = resources.files("orchestrator.bench.analysis").joinpath("page.css").read_text(encoding="utf-8")
    light, dark = style.split("prefers-color-scheme: dark", maxsplit=1)
    for place, (bright, dim) in enumerate(zip(COLOURS["light"], COLOURS["dark"], strict=True)):
        assert f"--c{place}: {bright};" in light
        assert f"--c{place}: {dim};" in dark


def test_without_matplotlib_everything_else_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] == "matplotlib":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingDependency, match=r"ttc-orchestrator\[bench\]"):
        write_report([a_row(), a_row(label="x")], tmp_path, "Report")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.json", "report.md"]
    assert Page((tmp_path / "report.html").read_text(encoding="utf-8")).open == []


def test_sets_with_nothing_to_draw_are_still_reported(tmp_path: Path):
    pytest.importorskip("matplotlib")
    rows = [a_row(f"p{index}", usage={}, latency_s=0.0, error="lost", is_correct=False) for index in range(3)]
    written = write_report(rows, tmp_path, "!!")
    assert [path.name for path in written] == ["report.md", "report.json", "report.html"]
    assert "3 of 3" in written[0].read_text(encoding="utf-8")


def test_the_machine_of_the_jobs_is_named_where_it_is_known(tmp_path: Path):
    pytest.importorskip("matplotlib")
    facts = {
        "processor": "Abacus",
        "cores": 3,
        "system": "Linux",
        "python": "3.12",
        "date": "2020-01-01",
        "commit": "abc",
        "load_average_1min": 0.5,
    }
    written = write_report([a_row()], tmp_path, "r", machine_facts=facts)
    assert "- Machine of the jobs: Abacus, 3 cores" in written[0].read_text(encoding="utf-8")


def test_mistakes_are_named_before_anything_is_written(tmp_path: Path):
    with pytest.raises(InvalidRequest, match="no rows"):
        write_report([], tmp_path, "r")
    with pytest.raises(UnknownName):
        write_report([a_row()], tmp_path, "r", baseline="other")
    with pytest.raises(InvalidRequest, match="target"):
        write_report([a_row()], tmp_path, "r", target=40)
    assert list(tmp_path.iterdir()) == []
