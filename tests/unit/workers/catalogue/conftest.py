from __future__ import annotations

import hashlib
import json
import random
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.workers.catalogue import Catalogue, CatalogueSettings, Transports

from .file_server import FileServer

DATA = random.Random(7).randbytes(3_500_000)


@pytest.fixture
def data() -> bytes:
    return DATA


@pytest.fixture
def server(data: bytes) -> Iterator[FileServer]:
    server = FileServer(data)
    yield server
    server.close()


@pytest.fixture
def write_catalogue(tmp_path: Path) -> Callable[..., Path]:
    def write(*sources: dict[str, object], sha256: str = "", size_bytes: int = len(DATA)) -> Path:
        """A catalogue file with the model `toy`."""
        path = tmp_path / "catalogue.toml"
        lines = ["[models.toy]", 'file = "toy.gguf"', f"size_bytes = {size_bytes}"]
        lines.append(f'sha256 = "{sha256 or hashlib.sha256(DATA).hexdigest()}"')
        for source in sources:
            lines.append("[[models.toy.sources]]")
            lines += [f"{key} = {json.dumps(value)}" for key, value in source.items()]
        path.write_text("\n".join(lines))
        return path

    return write


@pytest.fixture
def open_catalogue(tmp_path: Path, write_catalogue: Callable[..., Path]) -> Callable[..., Catalogue]:
    def open_it(
        *sources: dict[str, object],
        transports: Transports | None = None,
        offline: bool = False,
        sha256: str = "",
        size_bytes: int = len(DATA),
    ) -> Catalogue:
        settings = CatalogueSettings(
            cache_dir=tmp_path / "cache",
            catalogue=write_catalogue(*sources, sha256=sha256, size_bytes=size_bytes),
            offline=offline,
        )
        return Catalogue(settings, transports=transports)

    return open_it


@pytest.fixture
def wheels(tmp_path: Path, data: bytes) -> Path:
    """A folder of wheels `toy_partN` that carry the data in three parts."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    cut = len(data) // 3
    pieces = (data[:cut], data[cut : 2 * cut], data[2 * cut :])
    for number, piece in enumerate(pieces, start=1):
        package, info = f"toy_part{number}", f"toy_part{number}-1.0.dist-info"
        with zipfile.ZipFile(folder / f"{package}-1.0-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
            wheel.writestr(f"{package}/__init__.py", "raise SystemExit('wheels must never be imported')")
            wheel.writestr(f"{package}/data/part{number:02}.bin", piece)
            wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: toy-part{number}\nVersion: 1.0\n")
            wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{info}/RECORD", "")
    return folder
