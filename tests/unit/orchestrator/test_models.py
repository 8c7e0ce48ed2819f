from __future__ import annotations

import pytest

from orchestrator.config import Settings
from orchestrator.errors import CallerError, InvalidRequest
from orchestrator.models import DEFAULT_ENGINE, open_model, split_model


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("qwen", (DEFAULT_ENGINE, "qwen")),
        ("/a/b.gguf", (DEFAULT_ENGINE, "/a/b.gguf")),
        ("scripted:babble", ("scripted", "babble")),
        ("openai:m@https://h:8000/v1", ("openai", "m@https://h:8000/v1")),
        ("C:\\models\\x.gguf", (DEFAULT_ENGINE, "C:\\models\\x.gguf")),
        ("scripted:", ("scripted", "")),
    ],
)
def test_the_engine_is_named_before_a_colon_if_there_is_such_an_engine(text: str, expected: tuple[str, str]) -> None:
    assert split_model(text) == expected


@pytest.mark.parametrize("text", ["", "  ", "\n"])
def test_an_empty_name_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        split_model(text)


async def test_a_scripted_model_opens_by_name() -> None:
    engine = await open_model("scripted:say=hello", settings=Settings())
    assert engine.describe().engine == "scripted"
    await engine.aclose()


@pytest.mark.parametrize("text", ["scripted:nonsense", "scripted:arithmetic,accuracy=much", "scripted:arithmetic,x=1"])
async def test_a_target_that_means_nothing_is_refused(text: str) -> None:
    with pytest.raises(CallerError):
        await open_model(text, settings=Settings())
