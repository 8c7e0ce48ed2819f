"""What stores promise about small records of other parts."""
# ruff: noqa: D102  # the tests are sentences

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.store import Store
from orchestrator.testing.store_suite import ODD_VALUES, StoreSuite


class DocumentsContract(StoreSuite):
    """The promises of `orchestrator.store.Documents`."""

    async def test_a_document_is_kept_until_it_is_removed(self, store: Store) -> None:
        assert await store.get_document("key", "a") is None
        for value in (ODD_VALUES, {"second": 2}, {}):
            await store.put_document("key", "a", value)
            assert await store.get_document("key", "a") == value
        for _ in range(2):
            await store.put_document("key", "a", None)
            assert await store.get_document("key", "a") is None

    async def test_changing_a_document_afterwards_changes_nothing(self, store: Store) -> None:
        value: dict[str, Any] = {"list": [1]}
        await store.put_document("key", "a", value)
        value["list"].append(2)
        found = await store.get_document("key", "a")
        assert found == {"list": [1]}
        found["list"].append(3)
        assert await store.get_document("key", "a") == {"list": [1]}

    async def test_kinds_do_not_mix(self, store: Store) -> None:
        await store.put_document("key", "a:b", {"n": 1})
        await store.put_document("key:a", "b", {"n": 2})
        assert await store.list_documents("key") == [("a:b", {"n": 1})]
        assert await store.list_documents("key:a") == [("b", {"n": 2})]
        assert await store.list_documents("") == []

    async def test_documents_are_listed_last_key_first_by_prefix_and_in_pages(self, store: Store) -> None:
        keys = ["a", "a/1", "a/2", "a/日", "a0", "b", "b%_*[x]?", "é"]
        for key in keys:
            await store.put_document("k", key, {"key": key})
        await store.put_document("k", "c", {})
        await store.put_document("k", "c", None)

        async def listed(**filters: Any) -> list[str]:  # Any: what list_documents takes
            found = await store.list_documents("k", **filters)
            assert all(value == {"key": key} for key, value in found)
            return [key for key, _ in found]

        assert await listed() == keys[::-1]
        assert await listed(prefix="a/") == ["a/日", "a/2", "a/1"]
        assert await listed(prefix="a/", limit=2) == ["a/日", "a/2"]
        assert await listed(prefix="a/", before="a/2") == ["a/1"]
        assert await listed(before="a0", limit=2) == ["a/日", "a/2"]
        assert await listed(prefix="b%_*[") == ["b%_*[x]?"]
        assert await listed(prefix="zz") == []
        assert await listed(limit=0) == []

    async def test_a_document_that_is_no_json_is_refused(self, store: Store) -> None:
        with pytest.raises(TypeError):
            await store.put_document("key", "a", {"x": object()})
        assert await store.get_document("key", "a") is None
