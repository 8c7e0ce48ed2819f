"""The catalogue of GPUs is read and replaced as a whole; what cannot be used is named."""

from pathlib import Path

import pytest

from orchestrator.errors import InvalidRequest, UnknownName
from orchestrator.planning.catalogue import Catalogue

ONE = """
[gpus.X]
kind = "X"
memory_gib = 10
bandwidth_gb_s = 100
fp16_tflops = 50
[[gpus.X.offers]]
name = "x1"
gpus = 1
usd_per_hour = 0.5
[[gpus.X.offers]]
name = "x8"
gpus = 8
usd_per_hour = 3.2
"""


def test_ours_names_its_source_and_every_price_where_it_was_checked() -> None:
    catalogue = Catalogue.default()
    assert {"L4", "A10G", "L40S", "A100-40", "A100-80", "H100", "H200", "B200"} <= set(catalogue.gpus)
    assert "AWS" in catalogue.source
    assert catalogue.date
    for gpu in catalogue.gpus.values():
        assert all(offer.checked for offer in gpu.offers)


def test_a_file_replaces_ours(tmp_path: Path) -> None:
    (tmp_path / "gpus.toml").write_text(ONE)
    catalogue = Catalogue.read(tmp_path / "gpus.toml")
    assert list(catalogue.gpus) == ["X"]
    gpu = catalogue.gpu("X")
    assert (gpu.name, gpu.most_per_node, gpu.usd_per_gpu_hour) == ("X", 8, pytest.approx(0.4))


def test_only_some_types_may_be_used() -> None:
    assert list(Catalogue.default().only(["H100"]).gpus) == ["H100"]
    with pytest.raises(UnknownName, match="H100"):
        Catalogue.default().only(["h100"])


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (("memory_gib = 10", "memory_gib = -1"), "memory_gib"),
        (("memory_gib = 10", "memory_gib = nan"), "memory_gib"),
        (("usd_per_hour = 0.5", "usd_per_hour = 0"), "usd_per_hour"),
        (("gpus = 8", "gpus = 0"), "gpus"),
        (("kind =", "kinds ="), "kind"),
        (("[gpus.X]", "[gpus]\nY = 3\n[gpus.X]"), "Y"),
    ],
)
def test_a_field_that_cannot_be_used_is_named(tmp_path: Path, change: tuple[str, str], field: str) -> None:
    path = tmp_path / "gpus.toml"
    path.write_text(ONE.replace(*change))
    with pytest.raises(InvalidRequest, match=field):
        Catalogue.read(path)


@pytest.mark.parametrize("text", ["", "not toml", "gpus = 3"])
def test_a_file_that_is_no_catalogue_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "gpus.toml"
    path.write_text(text)
    with pytest.raises(InvalidRequest, match=r"gpus\.toml"):
        Catalogue.read(path)
    with pytest.raises(InvalidRequest, match="No such file"):
        Catalogue.read(tmp_path / "none.toml")
