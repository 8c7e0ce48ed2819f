"""Keys and passwords have no place in a fleet file, and messages do not repeat them."""

from __future__ import annotations

import pytest

from orchestrator.errors import InvalidRequest
from orchestrator.fleet_file import ModelEntry


@pytest.mark.parametrize(
    "line",
    [
        'engine = { api_key = "very-private" }',
        'engine = { options = { headers = { Authorization = "Bearer very-private" } } }',
        'engine = { env = ["hf_veryprivate0123456789"] }',
        'engine = { hf_token = "very-private" }',
        'model = "openai:m@https://user:very-private@host/v1"',
        'engine = { base_url = "https://user:very-private@host/v1" }',
    ],
)
def test_a_secret_in_the_file_is_refused_and_not_repeated(read, line: str):
    model = "" if line.startswith("model") else 'model = "openai:m"\n'
    with pytest.raises(InvalidRequest) as caught:
        read(f"[models.m]\n{model}{line}")
    assert "${NAME}" in caught.value.message
    assert "private" not in str(caught.value.fields())


@pytest.mark.parametrize(
    "line", ['api_key = "${KEY}"', 'stop_token = "<end>"', "max_tokens = 5", 'base_url = "https://u:${P}@h/v1"']
)
def test_what_is_no_secret_is_not_taken_for_one(read, line: str):
    assert read(f'[models.m]\nmodel = "openai:m"\nengine = {{ {line} }}').models["m"].engine


def test_entries_made_in_python_hold_no_secrets_either():
    with pytest.raises(ValueError, match="in plain text"):
        ModelEntry(model="openai:m", engine={"api_key": "very-private"})
