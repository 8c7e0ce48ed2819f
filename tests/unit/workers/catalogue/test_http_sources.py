from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.errors import ModelUnavailable
from orchestrator.workers.catalogue import Catalogue, CatalogueSettings, Progress

from .file_server import FileServer

OpenCatalogue = Callable[..., Catalogue]


def url(server: FileServer) -> dict[str, object]:
    return {"kind": "url", "url": f"{server.address}/toy.gguf"}


def partial_of(catalogue: Catalogue, kind: str = "url") -> Path:
    return catalogue.cache.staging(catalogue.entry("toy")) / f"{kind}.partial"


def test_a_pulled_model_is_found_by_name_and_staging_is_cleared(
    open_catalogue: OpenCatalogue, server: FileServer, data: bytes
) -> None:
    catalogue = open_catalogue(url(server))
    stages: list[Progress] = []

    path = catalogue.pull("toy", progress=stages.append)

    assert path.read_bytes() == data
    assert catalogue.path("toy") == catalogue.resolve("toy").path == path
    assert not partial_of(catalogue).parent.exists()
    assert [stage for stage in ("downloading", "verifying", "done") if stage in {p.stage for p in stages}] == [
        "downloading",
        "verifying",
        "done",
    ]
    assert stages[-1].done_bytes == stages[-1].total_bytes == len(data)


def test_a_second_pull_asks_no_server(open_catalogue: OpenCatalogue, server: FileServer) -> None:
    catalogue = open_catalogue(url(server))
    catalogue.pull("toy")
    catalogue.pull("toy")
    assert len(server.ranges) == 1


def test_a_connection_that_breaks_off_is_continued_with_a_range(
    open_catalogue: OpenCatalogue, server: FileServer, data: bytes
) -> None:
    server.cut_after = [1_000_000, 500_000]
    path = open_catalogue(url(server)).pull("toy")
    assert path.read_bytes() == data
    assert server.ranges == [None, "bytes=1000000-", "bytes=1500000-"]


def test_a_server_without_ranges_is_read_from_the_start(
    open_catalogue: OpenCatalogue, server: FileServer, data: bytes
) -> None:
    server.honours_range = False
    server.cut_after = [1_000_000]
    assert open_catalogue(url(server)).pull("toy").read_bytes() == data


def test_an_earlier_attempts_bytes_are_not_fetched_again(
    open_catalogue: OpenCatalogue, server: FileServer, data: bytes
) -> None:
    catalogue = open_catalogue(url(server))
    partial = partial_of(catalogue)
    partial.parent.mkdir(parents=True)
    partial.write_bytes(data[:3_000_000])
    assert catalogue.pull("toy").read_bytes() == data
    assert server.ranges == ["bytes=3000000-"]


def test_a_corrupt_partial_file_is_thrown_away_and_fetched_afresh(
    open_catalogue: OpenCatalogue, server: FileServer, data: bytes
) -> None:
    catalogue = open_catalogue(url(server))
    partial = partial_of(catalogue)
    partial.parent.mkdir(parents=True)
    partial.write_bytes(b"x" * 3_000_000)
    assert catalogue.pull("toy").read_bytes() == data
    assert server.ranges == ["bytes=3000000-", None]


def test_a_file_with_another_hash_never_gets_its_place(
    open_catalogue: OpenCatalogue, server: FileServer, data: bytes
) -> None:
    server.data = data[:-1] + b"!"
    catalogue = open_catalogue(url(server))
    with pytest.raises(ModelUnavailable) as caught:
        catalogue.pull("toy")
    assert "SHA-256" in str(caught.value)
    assert hashlib.sha256(server.data).hexdigest() in str(caught.value)
    assert not catalogue.is_pulled("toy")
    assert not partial_of(catalogue).exists()


@pytest.mark.parametrize("change", [b"", b"more than was promised"])
def test_a_file_of_another_length_is_refused_before_it_is_read(
    open_catalogue: OpenCatalogue, server: FileServer, data: bytes, change: bytes
) -> None:
    server.data = data + change if change else data[:1000]
    catalogue = open_catalogue(url(server))
    with pytest.raises(ModelUnavailable, match="are pinned"):
        catalogue.pull("toy")
    assert partial_of(catalogue).stat().st_size == 0


def test_momentary_errors_are_retried_and_lasting_ones_are_not(
    open_catalogue: OpenCatalogue, server: FileServer, data: bytes
) -> None:
    server.statuses = [503]
    assert open_catalogue(url(server)).pull("toy").read_bytes() == data

    gone = FileServer(data)
    gone.statuses = [404] * 9
    catalogue = open_catalogue(url(gone))
    catalogue.remove("toy")
    with pytest.raises(ModelUnavailable, match="HTTP 404"):
        catalogue.pull("toy")
    assert len(gone.ranges) == 1
    gone.close()


def test_the_next_source_is_tried_and_every_reason_is_told(
    open_catalogue: OpenCatalogue, server: FileServer, tmp_path: Path, data: bytes
) -> None:
    missing = {"kind": "file", "path": str(tmp_path / "nowhere.gguf")}
    assert open_catalogue(missing, url(server)).pull("toy").read_bytes() == data

    server.statuses = [403]
    catalogue = open_catalogue(missing, url(server))
    catalogue.remove("toy")
    with pytest.raises(ModelUnavailable) as caught:
        catalogue.pull("toy")
    reasons = caught.value.fields()["reasons"]
    assert isinstance(reasons, dict)
    assert [reason.split(":")[0] for reason in reasons.values()] == [
        "cannot be read",
        "HTTP 403 Forbidden (gated models need HF_TOKEN)",
    ]
    assert catalogue.entry("toy").sha256 in str(caught.value)


def test_the_hub_is_asked_at_its_resolve_address_and_its_token_stays_with_it(
    open_catalogue: OpenCatalogue, server: FileServer, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    storage = FileServer(data)
    server.redirect_to = f"{storage.address}/blob"
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    open_catalogue({"kind": "hub", "repo": "a/b", "file": "toy.gguf"}).pull("toy")
    assert server.authorizations == ["Bearer hf_secret"]
    assert storage.authorizations == [None]
    storage.close()


def test_offline_uses_local_files_only(
    open_catalogue: OpenCatalogue, server: FileServer, tmp_path: Path, data: bytes
) -> None:
    with pytest.raises(ModelUnavailable, match="TTC_OFFLINE"):
        open_catalogue(url(server), offline=True).pull("toy")
    (tmp_path / "mine.gguf").write_bytes(data)
    local = {"kind": "file", "path": str(tmp_path / "mine.gguf")}
    assert open_catalogue(url(server), local, offline=True).pull("toy").read_bytes() == data
    assert server.ranges == []


def test_an_exception_from_the_progress_callback_stops_the_pull_and_keeps_its_bytes(
    open_catalogue: OpenCatalogue, server: FileServer, data: bytes
) -> None:
    class Stopped(Exception):
        pass

    def stop(progress: Progress) -> None:
        if progress.done_bytes >= 1_000_000:
            raise Stopped

    catalogue = open_catalogue(url(server))
    with pytest.raises(Stopped):
        catalogue.pull("toy", progress=stop)
    kept = partial_of(catalogue).stat().st_size
    assert kept >= 1_000_000
    assert catalogue.pull("toy").read_bytes() == data
    assert server.ranges[-1] == f"bytes={kept}-"


def _start_pull(cache_dir: Path, user_catalogue: Path) -> subprocess.Popen[bytes]:
    program = "from orchestrator.workers.catalogue import Catalogue; Catalogue.from_environment().pull('toy')"
    environment = {**os.environ, "TTC_CACHE_DIR": str(cache_dir), "TTC_CATALOGUE": str(user_catalogue)}
    return subprocess.Popen([sys.executable, "-c", program], env=environment)


def test_two_processes_that_pull_one_model_download_it_once(
    server: FileServer, write_catalogue: Callable[..., Path], tmp_path: Path, data: bytes
) -> None:
    user_catalogue = write_catalogue(url(server))
    server.pause.clear()
    workers = [_start_pull(tmp_path / "c", user_catalogue) for _ in range(2)]
    _wait_until(lambda: bool(server.ranges))
    time.sleep(1)  # lets the other one reach the lock
    server.pause.set()
    assert [worker.wait(30) for worker in workers] == [0, 0]
    assert server.ranges == [None]
    settings = CatalogueSettings(cache_dir=tmp_path / "c", catalogue=user_catalogue)
    assert Catalogue(settings).path("toy").read_bytes() == data


def test_two_threads_that_pull_one_model_download_it_once(open_catalogue: OpenCatalogue, server: FileServer) -> None:
    catalogue = open_catalogue(url(server))
    threads = [threading.Thread(target=catalogue.pull, args=("toy",)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.ranges == [None]


def test_a_killed_pull_leaves_no_lock_and_is_continued(
    server: FileServer, write_catalogue: Callable[..., Path], tmp_path: Path, data: bytes
) -> None:
    user_catalogue = write_catalogue(url(server))
    server.cut_after = [2_000_000]
    first_reply = threading.Event()
    original = server._reply

    def hold_second(handler: object) -> None:
        if server.ranges:
            server.pause.clear()
            first_reply.set()
        original(handler)  # type: ignore[arg-type]

    server._reply = hold_second  # type: ignore[method-assign]
    worker = _start_pull(tmp_path / "c", user_catalogue)
    assert first_reply.wait(20)
    worker.kill()
    worker.wait()
    server._reply = original  # type: ignore[method-assign]
    server.pause.set()
    catalogue = Catalogue(CatalogueSettings(cache_dir=tmp_path / "c", catalogue=user_catalogue))
    assert not catalogue.is_pulled("toy")
    assert catalogue.pull("toy").read_bytes() == data
    assert server.ranges[-1] == "bytes=2000000-"


def _wait_until(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.01)
