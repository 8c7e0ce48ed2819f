from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.config import config_path, read_settings
from orchestrator.errors import InvalidRequest


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("TTC_MODEL", "TTC_POLICY", "TTC_CONFIG", "TTC_STORE", "TTC_MAX_SAMPLE_TOKENS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))


def test_variables_go_before_the_file_and_arguments_before_both(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "c.toml"
    file.write_text('model = "from-file"\npolicy = "single"\n[llama_cpp]\nnum_threads = 3\n')
    monkeypatch.setenv("TTC_CONFIG", str(file))
    assert config_path() == file
    assert (read_settings().model, read_settings().llama_cpp.num_threads) == ("from-file", 3)
    monkeypatch.setenv("TTC_MODEL", "from-variable")
    assert (read_settings().model, read_settings().policy) == ("from-variable", "single")
    assert read_settings(model="given").model == "given"


@pytest.mark.parametrize(
    ("name", "value", "field"),
    [
        ("TTC_MAX_SAMPLE_TOKENS", "many", "TTC_MAX_SAMPLE_TOKENS"),
        ("TTC_MAX_SAMPLE_TOKENS", "0", "TTC_MAX_SAMPLE_TOKENS"),
        ("TTC_LLAMA_CPP__NUM_THREADS", "-1", "TTC_LLAMA_CPP__NUM_THREADS"),
        ("TTC_SERVICE__DEFAULT_BUDGET", "tokns=4", "TTC_SERVICE__DEFAULT_BUDGET"),
        ("TTC_SERVICE__CONCURENCY", "4", "TTC_SERVICE__CONCURENCY"),
    ],
)
def test_a_value_that_cannot_be_used_is_named_with_its_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, field: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(InvalidRequest) as caught:
        read_settings()
    assert caught.value.field == field
    assert value in str(caught.value)


def test_a_key_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TTC_OPENAI__API_KEY", "sk-secret")
    assert "sk-secret" not in repr(read_settings())


@pytest.mark.parametrize("text", ["model = ", "\x00\xff", "[llama_cpp"])
def test_a_file_that_is_no_toml_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str) -> None:
    file = tmp_path / "bad.toml"
    file.write_bytes(text.encode("latin-1"))
    monkeypatch.setenv("TTC_CONFIG", str(file))
    with pytest.raises(InvalidRequest, match=r"bad\.toml"):
        read_settings()


def test_a_file_that_is_named_must_exist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TTC_CONFIG", str(tmp_path / "none.toml"))
    with pytest.raises(InvalidRequest):
        read_settings()


def test_a_key_of_the_file_that_is_no_setting_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "c.toml"
    file.write_text('modle = "typo"\n')
    monkeypatch.setenv("TTC_CONFIG", str(file))
    with pytest.raises(InvalidRequest, match=r"no setting 'modle'; known: .*\bmodel\b"):
        read_settings()
