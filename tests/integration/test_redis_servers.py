"""Redis servers that cannot keep a store, or may not, or only in part; and what is said of them."""

from __future__ import annotations

import asyncio
import logging
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.errors import InvalidRequest, StoreFailed
from orchestrator.store import SCHEMA_VERSION, JobRecord, JobState, JournalRow
from orchestrator.stores import new_owner, open_store
from orchestrator.stores.redis import RedisStore

from .redis_server import RedisServer, eventually

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    folder = tmp_path_factory.mktemp("redis")
    with RedisServer(folder, "--unixsocket", str(folder / "redis.sock")) as server:
        yield server


@pytest.fixture(autouse=True)
def _nothing_is_left(server: RedisServer) -> None:
    server.ask("FLUSHALL")


async def refusal(url: str) -> StoreFailed:
    with pytest.raises(StoreFailed) as caught:
        await RedisStore.open(url, patience_s=0.3)
    return caught.value


async def test_stores_are_opened_by_url_and_do_not_see_each_others_jobs(server: RedisServer) -> None:
    urls = [
        server.url,
        f"{server.url}/1",
        f"{server.url}/0?prefix=other:",
        f"unix://{server.log.with_name('redis.sock')}?db=2",
    ]
    stores = [await open_store(url) for url in urls]
    for number, store in enumerate(stores):
        assert isinstance(store, RedisStore)
        await store.create(JobRecord(id=f"j{number}"))
    for number, store in enumerate(stores):
        assert [job.id for job in await store.list_jobs()] == [f"j{number}"]
        store.check_integrity()
        await store.aclose()


async def test_every_key_is_in_one_slot(server: RedisServer) -> None:
    store = await RedisStore.open(server.url)
    await store.create(JobRecord(id="a", tenant="t", batch="b", idempotency_key="k"))
    await store.take(new_owner(), lease_s=60)
    await store.append("a", 1, [JournalRow(0, "mark", {})])
    await store.ask_to_cancel("a")
    await store.set_aside("x", "a", amount := (await store.spent("x", "day"))[0], caps={"day": amount})
    await store.admit("x", rate_per_s=1, burst=1)
    await store.put_document("k", "a", {})
    keys = [line for line in server.answer("KEYS *").splitlines() if not line.startswith(("*", "$"))]
    assert len(keys) >= 15
    assert all(key.startswith("{ttc:}") for key in keys)
    await store.aclose()


async def test_a_server_without_a_file_is_warned_of(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        await (await RedisStore.open(server.url)).aclose()
    assert "appendonly yes" in caplog.text


async def test_a_server_with_a_file_is_not_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with RedisServer(tmp_path, appendfsync="everysec") as server, caplog.at_level(logging.WARNING):
        await (await RedisStore.open(server.url)).aclose()
    assert caplog.text == ""


async def test_data_of_a_later_version_is_refused_by_number(server: RedisServer) -> None:
    server.ask(f"HSET {{ttc:}}meta schema {SCHEMA_VERSION + 1}")
    error = await refusal(server.url)
    assert error.fields()["schema_version"] == SCHEMA_VERSION + 1
    assert "upgrade" in str(error)


async def test_other_data_under_the_prefix_is_named(server: RedisServer) -> None:
    server.ask("SET {ttc:}meta x")
    assert "?prefix=" in str(await refusal(server.url))


async def test_a_password_is_needed_used_and_never_shown(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RedisServer(tmp_path) as server:
        server.ask("CONFIG SET requirepass open-sesame")
        for url in (server.url, server.url.replace("//", "//:wrong-secret@")):
            error = await refusal(url)
            assert "user or password" in str(error)
            assert "wrong-secret" not in str(error.fields())
        store = await RedisStore.open(server.url.replace("//", "//default:open-sesame@"))
        await store.create(JobRecord(id="a"))
        store.check_integrity()
        await store.aclose()
        with pytest.raises(StoreFailed) as caught:
            await store.get("a")
        assert "sesame" not in str(caught.value.fields()) + caplog.text


async def test_a_user_who_may_do_what_the_how_to_says_can_keep_a_store(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        page = Path(__file__).parents[2].joinpath("docs/howto/redis.md").read_text()
        (rule,) = [line for line in page.splitlines() if line.startswith("ACL SETUSER")]
        assert server.ask(rule) == b"+OK"
        store = await RedisStore.open(server.url.replace("//", "//ttc:secret@"))
        await store.create(JobRecord(id="a"))
        assert await store.take(new_owner(), lease_s=60) is not None
        await store.append("a", 1, [JournalRow(0, "mark", {})], state=JobState.SUCCEEDED)
        await store.wait_for_news("a", after=-1, timeout_s=5)
        await store.wait_for_work(timeout_s=5)
        await store.delete("a")
        store.check_integrity()
        await store.aclose()
        with pytest.raises(StoreFailed, match="does not allow"):
            await RedisStore.open(server.url.replace("//", "//ttc:secret@") + "?prefix=other:")


async def test_a_replica_is_refused_as_such(server: RedisServer, tmp_path: Path) -> None:
    with RedisServer(tmp_path, "--replicaof", "127.0.0.1", str(server.port)) as replica:
        await eventually(lambda: "master_link_status:up" in replica.answer("INFO replication"))
        assert "name the primary" in str(await refusal(replica.url))


async def test_a_server_that_is_full_refuses_writes_whole_and_takes_them_again_later(server: RedisServer) -> None:
    store = await RedisStore.open(server.url)
    await store.create(JobRecord(id="a", owner=new_owner()), lease_s=60)
    server.ask("CONFIG SET maxmemory 1mb")
    try:
        with pytest.raises(StoreFailed, match="maxmemory"):
            await store.append("a", 1, [JournalRow(0, "mark", {})])
        assert await store.read("a") == []
        store.check_integrity()
    finally:
        server.ask("CONFIG SET maxmemory 0")
    await store.append("a", 1, [JournalRow(0, "mark", {})])
    store.check_integrity()
    await store.aclose()


async def test_a_server_that_throws_keys_away_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    options = ("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru")
    with RedisServer(tmp_path, *options, appendfsync="everysec") as server, caplog.at_level(logging.WARNING):
        await (await RedisStore.open(server.url)).aclose()
    assert "noeviction" in caplog.text


async def test_journals_of_finished_jobs_are_kept_as_long_as_is_asked_for(server: RedisServer) -> None:
    store = await RedisStore.open(f"{server.url}?journal_ttl_s=1")
    for job_id in "ab":
        await store.create(JobRecord(id=job_id, owner=new_owner()), lease_s=60)
        await store.append(job_id, 1, [JournalRow(0, "mark", {})])
    await store.append("a", 1, [JournalRow(1, "final", {})], state=JobState.SUCCEEDED, result={"answer": "42"})
    assert len(await store.read("a")) == 2
    await asyncio.sleep(1.2)
    assert await store.read("a") == []
    assert (await store.get("a")).result == {"answer": "42"}
    assert len(await store.read("b")) == 1
    store.check_integrity()
    await store.aclose()


async def test_damage_is_found(server: RedisServer) -> None:
    store = await RedisStore.open(server.url)
    damages = ("RPOP {ttc:}rows:ID", "ZREM {ttc:}held ID", "ZREM {ttc:}state:running ID", "DEL {ttc:}job:ID")
    for number, damage in enumerate(damages):
        job_id = f"j{number}"
        await store.create(JobRecord(id=job_id, owner=new_owner()), lease_s=60)
        await store.append(job_id, 1, [JournalRow(0, "mark", {})])
        store.check_integrity()
        server.ask(damage.replace("ID", job_id))
        with pytest.raises(AssertionError, match=job_id):
            store.check_integrity()
        server.ask("FLUSHALL")
    await store.aclose()


async def test_the_store_follows_its_keys_to_another_node_of_a_cluster(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    option = ("--cluster-enabled", "yes")
    with RedisServer(tmp_path / "one", *option) as one, RedisServer(tmp_path / "two", *option) as two:
        assert one.ask("CLUSTER ADDSLOTSRANGE 0 8191") == two.ask("CLUSTER ADDSLOTSRANGE 8192 16383") == b"+OK"
        assert one.ask(f"CLUSTER MEET 127.0.0.1 {two.port} {two.bus_port}") == b"+OK"
        await eventually(lambda: all("cluster_state:ok" in node.answer("CLUSTER INFO") for node in (one, two)))
        for prefix in ("a:", "b:", "c:", "d:"):
            store = await RedisStore.open(f"{one.url}?prefix={prefix}")
            await store.create(JobRecord(id="a"))
            waiting = asyncio.ensure_future(store.wait_for_news("a", after=-1, timeout_s=20))
            assert await store.take(new_owner(), lease_s=60) is not None
            await store.append("a", 1, [JournalRow(0, "mark", {})])
            await waiting
            store.check_integrity()
            await store.aclose()
        sizes = [int(node.ask("DBSIZE")[1:]) for node in (one, two)]
        assert all(sizes), f"both nodes have keys: {sizes}"


async def test_a_server_is_reached_through_tls_and_its_certificate_is_checked(tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True)
    assert ssl.create_default_context(cafile=certificate)
    with RedisServer(tmp_path) as plain:
        for name, value in (("cert-file", certificate), ("key-file", key), ("ca-cert-file", certificate)):
            if plain.ask(f"CONFIG SET tls-{name} {value}") != b"+OK":
                pytest.skip("this redis-server has no TLS")
        plain.ask("CONFIG SET tls-auth-clients no")
        port = plain.bus_port
        assert plain.ask(f"CONFIG SET tls-port {port}") == b"+OK"
        store = await RedisStore.open(f"rediss://127.0.0.1:{port}?ssl_ca_certs={certificate}")
        await store.create(JobRecord(id="a"))
        store.check_integrity()
        await store.aclose()
        assert "cannot be reached" in str(await refusal(f"rediss://127.0.0.1:{port}"))


@pytest.mark.parametrize("url", ["redis://127.0.0.1:1", "unix:///nowhere/redis.sock", "redis://no-such-host.invalid"])
async def test_a_server_that_is_not_there_is_named(url: str) -> None:
    error = await refusal(url)
    assert f"'{url}" in str(error)
    assert "cannot be reached" in str(error)


async def test_names_that_are_no_unicode_are_refused(server: RedisServer) -> None:
    store = await RedisStore.open(server.url)
    for attempt in (store.get("\udcff"), store.create(JobRecord(id="\udcff")), store.read("\udcff")):
        with pytest.raises(InvalidRequest):
            await attempt
    await store.create(JobRecord(id="a"))
    await store.aclose()
