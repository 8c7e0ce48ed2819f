"""``ttc keys``: API keys of the service, and what they may spend."""

from __future__ import annotations

import asyncio
import json
import math
import re
import time
from collections.abc import Callable, Coroutine
from datetime import datetime
from typing import Any, TypeVar

import click

from orchestrator.api.service.security.keys import KeyBook, KeyRecord, KeyText
from orchestrator.api.service.security.principal import TOTAL, KeyLimits, day_of
from orchestrator.api.terminal.console import result_console
from orchestrator.api.terminal.durations import seconds_of
from orchestrator.api.terminal.options import existing_store_path, json_option, store_options, store_path
from orchestrator.budget import CAP_OF_AMOUNT, UNLIMITED, Budget
from orchestrator.config import read_settings
from orchestrator.errors import InvalidRequest
from orchestrator.store import Store

_T = TypeVar("_T")
_RATE = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)/([smh])")
_UNITS_S = {"s": 1, "m": 60, "h": 3600}
_BUDGETS = {"per_request": "per request", "per_day": "per day", "total": "in total"}


@click.group()
def keys() -> None:
    """Make, list and revoke API keys of the service.

    A service without keys answers to this machine only. As soon as there is one, every request needs one.

    \b
    Start here:
      ttc keys create --tenant acme --per-day usd=5 --rate 10/s
      ttc keys list
    """  # noqa: D301  # click wants the character


@keys.command()
@click.option("--tenant", required=True, metavar="NAME", help="Whose jobs the key sees; keys of a tenant share them.")
@click.option("--name", default="", metavar="TEXT", help="What the key is for.")
@click.option("--per-request", metavar="BUDGET", help="Caps on each job, for instance tokens=20000,seconds=120.")
@click.option("--per-day", metavar="BUDGET", help="Caps on all jobs of a UTC day, for instance usd=5.")
@click.option("--total", metavar="BUDGET", help="Caps on all jobs of the key.")
@click.option("--rate", metavar="N/s", help="Requests per second that change something (also N/m, N/h).")
@click.option("--burst", type=click.IntRange(1), help="Requests that may come at once; by default those of a second.")
@click.option("--max-running", type=click.IntRange(1), help="Chats of the tenant that one process runs at once.")
@click.option("--max-waiting", type=click.IntRange(1), help="Jobs of the tenant that may wait.")
@click.option("--expires", metavar="AGE", help="When the key stops working, for instance 30d; by default never.")
@click.option("--admin", is_flag=True, help="The key sees the usage of all keys of its tenant.")
@store_options
@json_option("the key and its limits as a JSON object")
def create(
    *,
    tenant: str,
    name: str,
    per_request: str | None,
    per_day: str | None,
    total: str | None,
    rate: str | None,
    burst: int | None,
    max_running: int | None,
    max_waiting: int | None,
    expires: str | None,
    admin: bool,
    store: str | None,
    as_json: bool,
) -> None:
    """Make a key. It is shown once, on stdout; the store keeps only a hash of it."""
    rate_per_s = None if rate is None else _rate_per_s(rate)
    if burst is not None and rate_per_s is None:
        raise InvalidRequest("--burst needs a --rate", field="burst", value=burst)
    limits = KeyLimits(
        per_request=_budget(per_request),
        per_day=_budget(per_day),
        total=_budget(total),
        rate_per_s=rate_per_s,
        burst=burst or max(1, math.ceil(rate_per_s or 1)),
        max_running=max_running,
        max_waiting=max_waiting,
    )
    lifetime_s = None if expires is None else seconds_of(expires, option="--expires")
    path = store_path(store, read_settings())
    if path == "memory:":
        raise InvalidRequest("a key in memory would be gone at once; name a store that lasts", field="store")
    made = _with_store(
        path,
        lambda opened: KeyBook(opened).create(tenant, limits=limits, name=name, is_admin=admin, lifetime_s=lifetime_s),
    )
    if as_json:
        click.echo(json.dumps({"key": str(made.text), **made.record.view(time.time())}))
        return
    click.echo(str(made.text))
    click.echo(f"key {made.record.id} of tenant {tenant}; it will not be shown again", err=True)
    for hint in _hints(limits):
        click.echo(f"hint: {hint}", err=True)


@keys.command("list")
@click.option("--tenant", metavar="NAME", help="Only keys of this tenant.")
@store_options
@json_option("a JSON array")
def list_keys(*, tenant: str | None, store: str | None, as_json: bool) -> None:
    """List keys, oldest first, revoked ones too."""
    found = _with_store(existing_store_path(store), lambda opened: KeyBook(opened).all(tenant=tenant))
    now = time.time()
    if as_json:
        click.echo(json.dumps([record.view(now) for record in found], indent=2))
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("key", "tenant", "state", "created", "expires", "limits", "name"):
        table.add_column(column, no_wrap=column != "name")
    for record in found:
        expires = "never" if record.expires_at is None else _day(record.expires_at)
        limits = "yes" if record.limits.to_json() else "none"
        table.add_row(
            record.id, record.tenant, record.state(now), _day(record.created_at), expires, limits, record.name
        )
    result_console().print(table if found else "no keys")


@keys.command()
@click.argument("key_id", metavar="ID")
@store_options
@json_option("a JSON object")
def show(*, key_id: str, store: str | None, as_json: bool) -> None:
    """Show a key: its limits, and what it has spent today and in total."""
    now = time.time()
    periods = {"today": day_of(now), "total": TOTAL}

    async def read(opened: Store) -> tuple[KeyRecord, dict[str, Any]]:  # Any: JSON values
        record = await KeyBook(opened).get(_id_of(key_id))
        spending = {}
        for name, period in periods.items():
            spent, set_aside = await opened.spent(record.id, period)
            spending[name] = {"spent": spent.to_json(), "set_aside": set_aside.to_json()}
        return record, spending

    record, spending = _with_store(existing_store_path(store), read)
    view = record.view(now) | {"usage": spending}
    if as_json:
        click.echo(json.dumps(view, indent=2))
        return
    click.echo(f"key      {record.id}  {record.state(now)}{'  admin' if record.is_admin else ''}")
    click.echo(f"tenant   {record.tenant}")
    click.echo(f"name     {record.name or '-'}")
    click.echo(f"created  {_day(record.created_at)}")
    click.echo(f"expires  {'never' if record.expires_at is None else _day(record.expires_at)}")
    for name, value in record.limits.to_json().items():
        click.echo(f"limit    {_BUDGETS.get(name, name)}: {_worded(value)}")
    for name, sums in spending.items():
        click.echo(f"{name:<8} spent {_worded(sums['spent'])}; set aside {_worded(sums['set_aside'])}")


@keys.command()
@click.argument("key_ids", metavar="ID...", nargs=-1, required=True)
@store_options
@json_option("a JSON object")
def revoke(*, key_ids: tuple[str, ...], store: str | None, as_json: bool) -> None:
    """End keys. Services that run believe what they know of a key for some seconds more (service.key_cache_s)."""
    ids = [_id_of(text) for text in key_ids]

    async def end(opened: Store) -> None:
        book = KeyBook(opened)
        for key_id in ids:
            await book.get(key_id)  # an unknown id is refused before anything is revoked
        for key_id in ids:
            await book.revoke(key_id)

    _with_store(existing_store_path(store), end)
    click.echo(json.dumps({"revoked": ids}) if as_json else f"{len(ids)} revoked")


def _id_of(text: str) -> str:
    """The id; of a whole key, which people paste here, its public part only."""
    key = KeyText.read(text.strip())
    return text if key is None else key.id


def _budget(text: str | None) -> Budget:
    return UNLIMITED if text is None else Budget.parse(text)


def _rate_per_s(text: str) -> float:
    match = _RATE.fullmatch(text.strip())
    if match is None:
        raise InvalidRequest(
            f"--rate must be a number and a unit (/s, /m, /h), for instance 10/s, not {text!r}",
            field="rate",
            value=text,
        )
    return float(match[1]) / _UNITS_S[match[2]]


def _hints(limits: KeyLimits) -> list[str]:
    """What is probably not what was meant."""
    capped = {name for budget in (limits.per_day, limits.total) for name in budget.caps()}
    loose = sorted(CAP_OF_AMOUNT[name] for name in capped - limits.per_request.caps().keys())
    if not loose:
        return []
    return [
        f"a job that names no cap on {', '.join(loose)} sets all that is left of it aside, and others have to wait for "
        "its end; --per-request limits what one job may take"
    ]


def _worded(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}={amount:g}" for name, amount in value.items()) or "nothing"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _day(at: float) -> str:
    return datetime.fromtimestamp(at).strftime("%Y-%m-%d %H:%M")


def _with_store(path: str, use: Callable[[Store], Coroutine[Any, Any, _T]]) -> _T:
    """What ``use`` makes of the store; Any: coroutines neither take nor yield values here."""
    from orchestrator.stores import open_store

    async def work() -> _T:
        store = await open_store(path)
        try:
            return await use(store)
        finally:
            await store.aclose()

    return asyncio.run(work())
