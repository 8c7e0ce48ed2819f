"""Addresses and keys are checked before anything is sent."""

import pytest

from orchestrator.client.address import Address
from orchestrator.errors import InvalidRequest


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("TTC_BASE_URL", raising=False)
    monkeypatch.delenv("TTC_API_KEY", raising=False)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (None, "http://127.0.0.1:8000"),
        ("https://host", "https://host"),
        ("https://host:444/prefix/", "https://host:444/prefix"),
        ("http://host/v1", "http://host"),
        ("http://host/prefix/v1/", "http://host/prefix"),
    ],
)
def test_addresses_are_written_in_several_ways(given: str | None, meant: str):
    assert Address.of(given, None).base_url == meant


@pytest.mark.parametrize(
    "given", ["host", "ftp://host", "http://", "http://host:port", "http://me:secret@host", "http://h?a=1"]
)
def test_what_is_no_address_is_refused(given: str):
    with pytest.raises(InvalidRequest) as caught:
        Address.of(given, None)
    assert caught.value.field == "base_url"
    assert "secret" not in str(caught.value)


def test_variables_stand_in_for_arguments(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TTC_BASE_URL", "http://service")
    monkeypatch.setenv("TTC_API_KEY", "ttc-key\n")
    assert Address.of(None, None) == Address(base_url="http://service", api_key="ttc-key")
    assert Address.of("http://other", "another") == Address(base_url="http://other", api_key="another")
    assert Address.of(None, "").api_key is None


@pytest.mark.parametrize("key", ["two words", "a\nb", "schlüssel"])
def test_a_key_that_no_header_can_hold_is_refused_without_being_shown(key: str):
    with pytest.raises(InvalidRequest) as caught:
        Address.of(None, key)
    assert key not in str(caught.value)


def test_the_key_is_sent_and_not_shown():
    address = Address.of(None, "ttc-key")
    assert address.headers["authorization"] == "Bearer ttc-key"
    assert "ttc-key" not in repr(address)
