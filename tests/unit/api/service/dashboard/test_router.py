from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from orchestrator.api.service.dashboard import router

FOLDERS = [
    Path(str(resources.files("orchestrator.api") / "service" / "dashboard" / "static")),
    Path(str(resources.files("orchestrator.api") / "page")),
]
MODULES = [path for folder in FOLDERS for path in sorted(folder.glob("*.js"))]
IMPORT = re.compile(r'^import .* from "(.+)";$', re.MULTILINE)


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    app = FastAPI()
    app.include_router(router)
    with TestClient(app) as opened:
        yield opened


@pytest.mark.parametrize(
    ("address", "media_type"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/ui/main.js", "text/javascript; charset=utf-8"),
        ("/ui/page/tree.js", "text/javascript; charset=utf-8"),
        ("/ui/dashboard.css", "text/css; charset=utf-8"),
        ("/ui/icon.svg", "image/svg+xml"),
    ],
)
def test_files_have_their_types_and_may_not_be_taken_for_others(
    client: TestClient, address: str, media_type: str
) -> None:
    found = client.get(address)
    assert found.status_code == 200
    assert found.headers["content-type"] == media_type
    assert found.headers["x-content-type-options"] == "nosniff"
    assert len(found.content) == int(found.headers["content-length"]) > 0


def test_a_file_that_is_known_is_not_sent_again(client: TestClient) -> None:
    first = client.get("/ui/main.js")
    for tag in (first.headers["etag"], f'"other", W/{first.headers["etag"]}', "*"):
        again = client.get("/ui/main.js", headers={"If-None-Match": tag})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == first.headers["etag"]
    assert client.get("/ui/main.js", headers={"If-None-Match": '"older"'}).status_code == 200
    assert client.get("/").headers["etag"] != first.headers["etag"]


def test_only_the_pages_own_files_may_run_and_nothing_is_made_of_text(client: TestClient) -> None:
    policy = dict(part.split(" ", 1) for part in client.get("/").headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["require-trusted-types-for"] == "'script'"
    assert policy["frame-ancestors"] == policy["form-action"] == policy["base-uri"] == "'none'"
    assert "unsafe" not in str(policy)


def test_a_head_request_says_what_a_get_would(client: TestClient) -> None:
    head, found = client.head("/"), client.get("/")
    assert head.content == b""
    assert head.headers["content-length"] == found.headers["content-length"]


@pytest.mark.parametrize(
    "name", ["nothing.js", "index.html", "../router.py", "%2e%2e/router.py", "page/page.html", "page/../../cli.py", ""]
)
def test_other_files_are_not_served(client: TestClient, name: str) -> None:
    found = client.get(f"/ui/{name}")
    assert found.status_code == 404
    assert "def " not in found.text


def test_the_page_has_no_inline_code_and_every_file_it_names(client: TestClient) -> None:
    page = client.get("/").text
    assert not re.findall(r"<style|style=|\son\w+=|javascript:", page)
    assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", page))
    named = re.findall(r'(?:src|href)="(/ui/[^"]+)"', page)
    assert named
    assert all(client.get(name).status_code == 200 for name in named)


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.name)
def test_a_module_imports_what_is_there_and_makes_no_markup(module: Path) -> None:
    text = module.read_text(encoding="utf-8")
    for name in IMPORT.findall(text):
        assert name.startswith("./"), name
        target = FOLDERS[1] / name.removeprefix("./page/") if "/page/" in name else module.parent / name
        assert target.is_file(), name
    assert not re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text)
    assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", text)
    assert len(text.splitlines()) < 400


def test_no_style_sheet_loads_anything() -> None:
    for folder in FOLDERS:
        for sheet in folder.glob("*.css"):
            assert not re.findall(r"url\(|@import", sheet.read_text(encoding="utf-8")), sheet.name
