"""The three descriptions of one set of packages agree: pyproject.toml, requirements.lock, environment.yml."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]

# conda-forge's name where it is another project's on PyPI.
CONDA_NAMES = {"python-duckdb": "duckdb"}
LOCKS = {"requirements.lock": "all", "requirements-peers.lock": "bench-peers"}


def declared(*extras: str) -> dict[str, Requirement]:
    """What pyproject.toml asks for, by name: the core and the given extras."""
    words = [*PROJECT["dependencies"], *(word for extra in extras for word in EXTRAS[extra])]
    return {canonicalize_name(requirement.name): requirement for requirement in map(Requirement, words)}


def locked(file: str) -> dict[str, str]:
    """Name and version of every pin in a lock file."""
    return dict(re.findall(r"^([a-z0-9.-]+)(?:\[[a-z,]+\])?==([^ \\]+)", (ROOT / file).read_text(), re.MULTILINE))


def extras_of(name: str) -> list[str]:
    """The extras an extra stands for: `all` names the others."""
    return sorted({extra for word in EXTRAS[name] for extra in Requirement(word).extras}) if name == "all" else [name]


def test_all_is_every_extra_but_the_peers() -> None:
    assert extras_of("all") == sorted(EXTRAS.keys() - {"all", "bench-peers"})


def test_conda_environment_asks_for_the_same() -> None:
    items = re.findall(r"^ +- ([a-z].*)$", (ROOT / "environment.yml").read_text(), re.MULTILINE)
    wanted = [item for item in items if item not in ("conda-forge", "nodefaults", "pip", "pip:")]
    found = {}
    for item in wanted:
        requirement = Requirement(item)
        name = canonicalize_name(CONDA_NAMES.get(requirement.name, requirement.name))
        assert name not in found, f"{name} is listed twice"
        found[name] = str(requirement.specifier)
    expected = {name: str(requirement.specifier) for name, requirement in declared(*extras_of("all")).items()}
    assert found == expected | {"python": PROJECT["requires-python"]}


@pytest.mark.parametrize("file", LOCKS)
def test_lock_satisfies_what_is_declared(file: str) -> None:
    pins = locked(file)
    wanted = declared(*extras_of(LOCKS[file]))
    unsatisfied = {
        name: f"{requirement.specifier} but {pins.get(name)} is locked"
        for name, requirement in wanted.items()
        if name not in pins or not requirement.specifier.contains(pins[name])
    }
    assert unsatisfied == {}, "run `make lock`"


@pytest.mark.parametrize("file", [*LOCKS, "requirements-object-store.lock", "requirements-uv.lock"])
def test_every_pin_has_a_hash_and_no_place(file: str) -> None:
    text = (ROOT / file).read_text()
    pins = [pin for pin in re.split(r"\n(?=\S)", text) if not pin.startswith("#")]
    assert [pin for pin in pins if "--hash=sha256:" not in pin] == []
    assert re.findall(r"https?://|file:|--(?:extra-)?index-url|--find-links", text) == []


def test_peers_do_not_move_what_is_measured() -> None:
    ours, theirs = locked("requirements.lock"), locked("requirements-peers.lock")
    assert {name: version for name, version in theirs.items() if ours.get(name, version) != version} == {}
