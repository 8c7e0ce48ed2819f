"""Job records, rows and amounts as Redis keeps them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from orchestrator.budget import AMOUNT_NAMES, Amount
from orchestrator.store import JobRecord, JobState, JournalRow
from orchestrator.stores.books import cost_in
from orchestrator.stores.redis.keys import place_in_queue
from orchestrator.stores.rows import encoded, encoded_rows


def record_fields(record: JobRecord) -> dict[str, str]:
    """The hash of a new job; fields that are None are left out."""
    fields = {
        "id": record.id,
        "spec": encoded(record.spec),
        "state": record.state.value,
        "created_at": repr(float(record.created_at)),
        "updated_at": repr(float(record.updated_at)),
        "epoch": str(record.epoch),
        "owner": record.owner,
        "result": None if record.result is None else encoded(record.result),
        "cost": None if record.result is None else amount_text(cost_in(record.result)),
        "tenant": record.tenant,
        "key_id": record.key_id,
        "priority": str(record.priority),
        "due_at": None if record.due_at is None else repr(float(record.due_at)),
        "batch": record.batch,
        "idempotency_key": record.idempotency_key,
        "is_cancel_wanted": "1" if record.is_cancel_wanted else "0",
        "next": "0",
        "place": place_in_queue(record),
        "at": "none",
        "lease_us": "0",
        "lease_until_us": "0",
    }
    return {name: value for name, value in fields.items() if value is not None}


def decoded_record(fields: Sequence[bytes]) -> JobRecord:
    """The inverse, from fields and values by turns."""
    texts = {name.decode(): value.decode() for name, value in pairs(fields)}
    return JobRecord(
        id=texts["id"],
        spec=json.loads(texts["spec"]),
        state=JobState(texts["state"]),
        created_at=float(texts["created_at"]),
        updated_at=float(texts["updated_at"]),
        epoch=int(texts["epoch"]),
        owner=texts.get("owner"),
        result=json.loads(texts["result"]) if "result" in texts else None,
        tenant=texts["tenant"],
        key_id=texts["key_id"],
        priority=int(texts["priority"]),
        due_at=float(texts["due_at"]) if "due_at" in texts else None,
        batch=texts.get("batch"),
        idempotency_key=texts.get("idempotency_key"),
        is_cancel_wanted=texts["is_cancel_wanted"] == "1",
    )


def pairs(values: Sequence[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Names and values that come by turns."""
    return zip(values[::2], values[1::2], strict=True)


def row_texts(rows: Sequence[JournalRow]) -> list[str]:
    """Each row as ``[kind, data]``."""
    return [f"[{encoded(kind)},{data}]" for _, kind, data in encoded_rows(rows)]


def decoded_rows(texts: Sequence[bytes], first: int) -> list[JournalRow]:
    """The inverse, for rows from position ``first`` on."""
    return [JournalRow(seq, *json.loads(text)) for seq, text in enumerate(texts, first)]


def amount_text(amount: Amount | None) -> str:
    """Six numbers; none for None."""
    return "" if amount is None else " ".join(str(max(0, getattr(amount, name))) for name in AMOUNT_NAMES)


def decoded_amount(text: bytes | None) -> Amount:
    """The inverse; nothing for None."""
    return Amount(*map(int, (text or b"").split()))
