"""The shape of the house: who may import whom, what a policy costs, how long things may grow.

Reads source text and imports nothing of it but the table of policies.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path

import pytest

from policies import TABLE

ROOT = Path(__file__).parents[1]
ROOMS = ("app", "router", "policies", "deploy")
HOUSE = {*ROOMS, "tests"}
LONGEST_FILE = 400
LONGEST_FUNCTION = 60
SHARED = {
    "router.steps",
    "router.phrases",
    "router.overheard",
    "router.fleet",
    "policies.duet",
    "policies.filtering",
    "policies.gate",
    "policies.composition",
    "policies.reading",
    "policies.verdicts",
}
"""What of the house a policy may know."""
SHARED_BY_POLICIES = ("policies/duet", "policies/filtering", "policies/verdicts")
"""Folders of what several need, which may know no more than they do."""
GATE = "policies.gate"
"""The one room that other people's servers load too."""
IN_VLLM = "policies.vllm_gate"
"""What stands between it and vLLM."""
ADAPTERS = {"engine_gate"}
"""Files among the policies that are none: they sit in an engine."""
FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "common", "base", "manager", "misc"}
"""Names of files that say nothing, and so end up holding everything."""
EDGE = {
    "app",
    "policies",
    "deploy",
    "tests",
    "starlette",
    "fastapi",
    "uvicorn",
    "prometheus_client",
}


def sources(*rooms: str) -> list[Path]:
    return sorted(path for room in rooms for path in (ROOT / room).rglob("*.py"))


def text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(path: Path) -> Iterator[str]:
    """The dotted names of all modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(text(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def of_the_house(path: Path) -> set[str]:
    return {name for name in imports(path) if name.split(".")[0] in HOUSE}


def two_words(module: str) -> str:
    return ".".join(module.split(".")[:2])


def rooms(path: Path) -> set[str]:
    """The first words of what it imports: rooms of the house, and libraries."""
    return {name.split(".")[0] for name in imports(path)}


# ------------------------------------------------------------------------------- who imports whom


def test_the_core_knows_no_web_framework_and_no_policy() -> None:
    assert not {named(path): found for path in sources("router") if (found := rooms(path) & EDGE)}


def test_a_policy_knows_the_vocabulary_and_the_fleet_only() -> None:
    """What fits and trains policies, in folders below, may know more."""
    for path in [*(ROOT / "policies").glob("*.py"), *sources(*SHARED_BY_POLICIES)]:
        if path.stem in ADAPTERS:
            continue
        strange = {name for name in of_the_house(path) if two_words(name) not in SHARED}
        if path == ROOT / "policies/__init__.py":
            strange = {name for name in strange if not name.startswith("policies.")}
        assert not strange, named(path)


def test_the_gate_stands_alone() -> None:
    """It runs inside other people's servers: nothing of the house comes with it."""
    for path in sources("policies/gate"):
        assert {two_words(name) for name in of_the_house(path)} <= {GATE}, named(path)
        assert "torch" not in rooms(path), named(path)
    adapters = [ROOT / f"policies/{name}.py" for name in ADAPTERS]
    known = {GATE, IN_VLLM, *(f"policies.{name}" for name in ADAPTERS)}
    for path in [*sources("policies/vllm_gate"), *adapters]:
        assert {two_words(name) for name in of_the_house(path)} <= known, named(path)


def test_the_pair_stands_alone() -> None:
    """It is a backend like any other: it knows the gateway as little as vLLM does."""
    for path in sources("deploy"):
        others = {name for name in of_the_house(path) if not name.startswith("deploy.")}
        assert {two_words(name) for name in others - {"deploy"}} <= {GATE}, named(path)


# -------------------------------------------------------------------------- the price of a policy


def test_the_table_is_complete() -> None:
    """Every policy stands in it under the name of its file."""
    files = {path.stem for path in (ROOT / "policies").glob("*.py")} - {"__init__", *ADAPTERS}
    modules = {name: policy.__module__ for name, policy in TABLE.items()}
    assert modules == {name: f"policies.{name}" for name in files}


def test_a_policy_costs_two_files_and_one_line() -> None:
    """Nothing else imports it: the rest of the house knows the table."""
    files = {policy.__module__ for policy in TABLE.values()}
    tests = {path.stem.removeprefix("test_") for path in (ROOT / "tests/policies").glob("*.py")}
    assert TABLE.keys() <= tests
    for path in sources("app", "router"):
        assert not files & set(imports(path)), named(path)


@pytest.mark.parametrize("policy", TABLE.values(), ids=TABLE)
def test_a_policy_is_frozen(policy: type) -> None:
    assert is_dataclass(policy)
    assert policy.__dataclass_params__.frozen  # type: ignore[attr-defined]  # not in typeshed


# ----------------------------------------------------------------------------------------- sizes


def test_files_stay_short() -> None:
    lengths = {named(path): len(text(path).splitlines()) for path in sources(*ROOMS)}
    assert not {name: length for name, length in lengths.items() if length > LONGEST_FILE}


def test_functions_stay_short() -> None:
    lengths = {
        f"{named(path)}:{node.lineno} {node.name}": (node.end_lineno or 0) - node.lineno + 1
        for path in sources(*ROOMS)
        for node in ast.walk(ast.parse(text(path)))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert not {name: length for name, length in lengths.items() if length > LONGEST_FUNCTION}


def test_files_have_names_that_say_something() -> None:
    assert not [named(path) for path in sources(*HOUSE) if path.stem in FORBIDDEN_NAMES]


def test_files_say_at_their_head_what_they_are_for() -> None:
    silent = [path for path in sources(*HOUSE) if not ast.get_docstring(ast.parse(text(path)))]
    assert not list(map(named, silent))


# ----------------------------------------------------------------------------------------- locks


@pytest.mark.parametrize("path", sorted((ROOT / "requirements").iterdir()), ids=named)
def test_locks_name_no_registry(path: Path) -> None:
    assert not re.search(r"://|--(extra-)?index|--find-links| @ ", text(path))
