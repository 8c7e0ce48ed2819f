"""Plots are drawn, look the same on all panels, and take any name and any numbers."""

import builtins
import math
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.bench.analysis.estimates import Estimate, Floats
from orchestrator.bench.analysis.plots import (
    COLOURS,
    Line,
    Panel,
    Point,
    compact,
    draw,
    draw_complexity,
    draw_pass_at_k,
    draw_svg,
    looks,
)
from orchestrator.errors import MissingDependency


def a_panel(*names: str, xs: tuple[float, ...] = (100.0, 400.0, 1600.0)) -> Panel:
    points = tuple(Point(x, Estimate(0.5, 0.4, 0.6)) for x in xs)
    return Panel("set", "output tokens", tuple(Line(name, points) for name in names))


def pixels(path: Path) -> Floats:
    image = pytest.importorskip("matplotlib.image")
    found: Floats = image.imread(path)
    return found


def test_a_picture_has_ink_of_every_line(tmp_path: Path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "a.png"
    draw([a_panel("a", "b", "c")], path, title="title")
    picture = pixels(path)[:, :, :3]
    for colour in COLOURS["light"][:3]:
        red, green, blue = struct.unpack("3B", bytes.fromhex(colour[1:]))
        distance = np.abs(picture - np.array([red, green, blue]) / 255).max(axis=2)
        assert (distance < 0.02).sum() > 100, f"no {colour}"
    assert picture[0, 0].min() > 0.99, "light paper"


@pytest.mark.parametrize("num_panels", [2, 3])
def test_panels_stand_two_abreast_with_one_legend(tmp_path: Path, num_panels: int):
    pytest.importorskip("matplotlib")
    path = tmp_path / "a.png"
    draw([a_panel("a")] * num_panels, path)
    height, width, _ = pixels(path).shape
    assert width == 1320
    assert height > 450 * math.ceil(num_panels / 2)


HOSTILE = ("<script>alert(1)</script>", "_hidden", "$\\frac{1$", "\x1b[31m\n", "\u6a21\u578b", "x" * 10_000, "")


def test_hostile_names_and_numbers_are_drawn(tmp_path: Path):
    pytest.importorskip("matplotlib")
    wild = Panel("$x", "y", (Line("nothing", ()), Line("zero", (Point(0.0, Estimate(0.5, 0.4, 0.6)),))), is_log=True)
    equal = a_panel("one", xs=(5.0, 5.0))
    draw([a_panel(*HOSTILE), wild, equal], tmp_path / "a.png", title="$\\frac{")
    assert (tmp_path / "a.png").stat().st_size > 10_000


def test_lines_look_the_same_on_all_panels_and_differ_from_each_other():
    names = [f"policy {index}" for index in range(20)]
    found = looks([a_panel(*names[:3]), a_panel(*reversed(names))])
    assert list(found)[:3] == names[:3]
    assert len(set(map(repr, ((look.colour, look.marker, look.dashes) for look in found.values())))) == 20
    assert len({look.colour for look in list(found.values())[:8]}) == 8


def test_svgs_are_drawn_for_light_and_dark_paper():
    pytest.importorskip("matplotlib")
    panel = a_panel("a", "b")
    light, dark = draw_svg(panel, look=looks([panel]))
    for colour in range(2):
        assert COLOURS["light"][colour] in light
        assert COLOURS["dark"][colour] in dark
    assert not any(colour in dark for colour in (*COLOURS["light"], "#ffffff"))
    assert "<text" in light, "text stays text"


def test_the_labs_plots_are_drawn(tmp_path: Path):
    pytest.importorskip("matplotlib")
    curves = {
        task: {
            model: {x: Estimate(0.1 * x, 0.05 * x, min(1.0, 0.15 * x)) for x in (1, 4, 8)}
            for model in ("small", "large")
        }
        for task in ("expression", "countdown")
    }
    draw_pass_at_k(curves, tmp_path / "k.png")
    draw_complexity(curves, tmp_path / "c.png")
    assert np.ptp(pixels(tmp_path / "k.png")) > 0.5
    assert np.ptp(pixels(tmp_path / "c.png")) > 0.5
    assert (tmp_path / "k.png").read_bytes() != (tmp_path / "c.png").read_bytes()


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (0.00005, "5e-5"),
        (0.02, "0.02"),
        (500, "500"),
        (1000, "1k"),
        (2e6, "2M"),
        (5e9, "5G"),
        (1e12, "1T"),
        (2e15, "2P"),
    ],
)
def test_ticks_are_short(value: float, written: str):
    assert compact(value) == written


def test_without_matplotlib_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] == "matplotlib":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingDependency, match=r"pip install 'ttc-orchestrator\[bench\]'"):
        draw([a_panel("a")], tmp_path / "a.png")
