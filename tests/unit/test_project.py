"""The project is put together as pyproject.toml, the packages and their entry points say."""

import ast
import importlib
import re
import tomllib
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Any

import pytest

from orchestrator import registry

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
FOLDERS = PROJECT["tool"]["setuptools"]["package-dir"]
SOURCES = sorted(path for folder in FOLDERS.values() for path in (ROOT / folder).rglob("*.py"))
ENTRIES = [
    pytest.param(group, name, value, id=f"{group}:{name}")
    for group, entries in PROJECT["project"]["entry-points"].items()
    for name, value in entries.items()
]


def docstring(path: Path) -> str | None:
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


def listed_names(path: Path) -> list[str] | None:
    """The module's ``__all__``, if it has one that is written out."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and any(getattr(target, "id", None) == "__all__" for target in node.targets):
            return list(ast.literal_eval(node.value))
    return None


def test_every_folder_with_modules_is_a_listed_package():
    packages = PROJECT["tool"]["setuptools"]["packages"]
    found = set()
    for package, folder in FOLDERS.items():
        for init in (ROOT / folder).rglob("__init__.py"):
            found.add(".".join([package, *init.parent.relative_to(ROOT / folder).parts]))
    assert sorted(packages) == sorted(found)
    without_init = {path.parent for path in SOURCES if not (path.parent / "__init__.py").exists()}
    assert not without_init


def test_the_installed_version_is_the_one_written_down():
    assert version("ttc-orchestrator") == PROJECT["project"]["version"]


@pytest.mark.parametrize(("group", "name", "value"), ENTRIES)
def test_every_entry_point_is_installed_and_loads(group: str, name: str, value: str):
    if group == "orchestrator.engines" and name == "llama_cpp":
        pytest.importorskip("llama_cpp")
    (entry,) = [entry for entry in entry_points(group=group) if entry.name == name]
    assert entry.value == value, "the project was changed after it was installed"
    assert entry.load() is not None


def test_every_kind_of_entry_point_that_the_registry_knows_has_a_name():
    for kind in ("policy", "verifier", "engine", "answer reader", "command"):
        assert registry.names(kind)


@pytest.mark.parametrize("name", registry.names("policy"))
def test_policies_are_registered_under_their_own_names(name: str):
    assert registry.load_policy(name).name == name


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_module_says_what_it_is_for(path: Path):
    assert docstring(path), "a module opens with what it owns and what it leaves to others"


@pytest.mark.parametrize(
    "path", [path for path in SOURCES if listed_names(path)], ids=lambda path: str(path.relative_to(ROOT))
)
def test_exported_names_are_sorted_and_exist(path: Path):
    names = listed_names(path) or []
    assert names == sorted(names) or names == sorted(names, key=lambda name: (not name.isupper(), name))
    package, folder = next(
        (package, folder) for package, folder in FOLDERS.items() if path.is_relative_to(ROOT / folder)
    )
    parts = path.relative_to(ROOT / folder).with_suffix("").parts
    module = importlib.import_module(".".join([package, *(part for part in parts if part != "__init__")]))
    assert all(hasattr(module, name) for name in names)


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=lambda page: page.stem)
def test_the_links_of_the_documentation_lead_somewhere(page: Path):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_files_that_pages_name_exist():
    text = (ROOT / "docs" / "structure.md").read_text(encoding="utf-8")
    for name in re.findall(r"`((?:orchestrator|policies|verifiers|workers|api|bench|tests)/[\w/]+(?:\.py|/))`", text):
        assert (ROOT / name).exists(), name
