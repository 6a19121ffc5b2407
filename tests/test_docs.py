"""The documentation says what the code does: names, settings, defaults, links, and code that runs.

Both ways where that can be had: what the code has must be in the docs, and what the docs name must
be in the code.
"""

from __future__ import annotations

import ast
import dataclasses
import json
import re
import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

import pytest
from fastapi import FastAPI

from app.admin import admin_app
from app.admin_guard import admin_address
from app.cli import main
from app.gateway import PAGES, SURFACES
from app.operators import Operators
from app.report import welcome
from policies import TABLE
from router.config import parse
from router.observe import Observers
from router.references import build_policy
from router.revisions import Revisions
from router.steps import Policy
from router.wire import FORWARDED, SESSION_FIELDS

ROOT = Path(__file__).parents[1]
ROOMS = ("app", "router", "policies", "deploy")
MODELS = "models: {small: {backends: [http://a]}, other: {backends: [http://b]}"
MODELS += ", large: {backends: [http://c]}}\n"


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def pages() -> list[Path]:
    """Every page of prose."""
    named = [ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CHANGELOG.md")]
    return [*named, *sorted((ROOT / "docs").rglob("*.md"))]


def called(path: Path) -> str:
    return str(path.relative_to(ROOT))


def sources(*rooms: str) -> list[Path]:
    return sorted(path for room in rooms for path in (ROOT / room).rglob("*.py"))


def section(page: str, title: str) -> str:
    """What stands below the heading `title`, up to the next one of its level or above."""
    head = re.search(rf"^(#+) {re.escape(title)}\n", page, re.MULTILINE)
    assert head, f"there is no section {title}"
    rest = page[head.end() :]
    end = re.search(rf"^#{{1,{len(head[1])}}} ", rest, re.MULTILINE)
    return rest[: end.start()] if end else rest


def rows(page: str) -> Iterator[list[str]]:
    """The cells of every row of every table, headings and rulers included."""
    for line in page.splitlines():
        if line.startswith("|"):
            yield [cell.strip() for cell in line.strip("|").split("|")]


def words(cell: str) -> list[str]:
    """What stands in back quotes."""
    return re.findall(r"`([^`]+)`", cell)


# ----------------------------------------------------------------------------------------- links


@pytest.mark.parametrize("page", pages(), ids=called)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if link.startswith("https://"):
            continue
        name, _, heading = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        if heading:
            assert heading in anchors(target.read_text(encoding="utf-8")), link


def anchors(page: str) -> set[str]:
    """Headings as GitHub turns them into anchors."""
    headings = re.findall(r"^#+ (.*)$", page, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def test_the_index_names_every_page() -> None:
    index = text("docs/README.md")
    for page in (ROOT / "docs").rglob("*.md"):
        link = str(page.relative_to(ROOT / "docs"))
        assert link == "README.md" or f"({link})" in index, link


# ------------------------------------------------------------------------------ ARCHITECTURE.md


def test_the_code_map_names_every_module_and_no_other() -> None:
    mapped = [words(first)[0] for first, *_ in rows(text("ARCHITECTURE.md")) if ".py`" in first]
    files = [called(path) for path in sources(*ROOMS)]
    assert sorted(mapped) == sorted(files)


def test_what_architecture_names_is_there() -> None:
    """Tests, folders, and the classes and functions on a request's way."""
    page = text("ARCHITECTURE.md")
    named = r"`((?:app|router|policies|deploy|tests|requirements)/[\w./]+)`"
    for path in re.findall(named, page + text("docs/security.md")):
        assert (ROOT / path).exists(), path
    code = "".join(path.read_text(encoding="utf-8") for path in sources(*ROOMS))
    for name in re.findall(r"`?([A-Z][A-Za-z]+\.[a-z_]+)\b", section(page, "A request's way")):
        owner, method = name.split(".")
        assert f"class {owner}" in code, name
        assert re.search(rf"\b{method}\b", code), name


# ---------------------------------------------------------------------------- docs/policies.md


def test_every_kind_of_policy_is_in_the_list_of_them() -> None:
    listed = [words(first)[0] for first, *_ in rows(text("docs/policies.md")) if "](#" in first]
    assert sorted(listed) == sorted(TABLE)


@pytest.mark.parametrize("kind", TABLE)
def test_settings_and_defaults_are_those_of_the_policy(kind: str) -> None:
    table = rows(section(text("docs/policies.md"), kind))
    told = {words(row[0])[0]: row[1] for row in table if words(row[0])}
    assert told == dict(settings(TABLE[kind]))


def settings(kind: Any, group: str = "") -> Iterator[tuple[str, str]]:
    """Each setting with its default as the docs write it; those of a group under its name."""
    for field in (each for each in dataclasses.fields(kind) if each.init):
        yield f"{group}{field.name}", default(field)
        inner = re.fullmatch(r"(Mapping\[\w+, )?(\w+)\]?(?: \| None)?", str(field.type))
        nested = getattr(sys.modules[kind.__module__], inner[2], None) if inner else None
        if inner and dataclasses.is_dataclass(nested):
            yield from settings(nested, f"{field.name}.*." if inner[1] else f"{field.name}.")


def default(field: dataclasses.Field[Any]) -> str:
    if dataclasses.is_dataclass(field.default_factory):
        return "as below"
    if field.default_factory is not dataclasses.MISSING:
        return f"`{json.dumps(field.default_factory())}`"
    if field.default is dataclasses.MISSING:
        return "required"
    if field.default is None:
        return "none"
    long = isinstance(field.default, str) and len(field.default) > 40
    return "see below" if long else f"`{json.dumps(field.default)}`"


@pytest.mark.parametrize("kind", TABLE)
def test_reasons_are_those_of_the_policy(kind: str) -> None:
    found = re.search(r"^Reasons: (.*)$", section(text("docs/policies.md"), kind), re.MULTILINE)
    assert found
    assert tuple(words(found[1])) == TABLE[kind].reasons


# --------------------------------------------------------------------------------- docs/api.md


def test_clients_endpoints_are_those_of_the_gateway() -> None:
    told = endpoints(section(text("docs/api.md"), "For clients"))
    known = {f"POST {path}" for path in SURFACES}
    known |= {f"GET {path}" for path in PAGES}
    assert told == known | {"GET /v1/models/NAME"}


def test_operators_endpoints_are_those_of_the_admin_api() -> None:
    app = admin()
    known = {
        f"{method.upper()} {path}"
        for path, methods in app.openapi()["paths"].items()
        for method in methods
    }
    known |= {f"GET {app.docs_url}", f"GET {app.openapi_url}"}
    told = endpoints(section(text("docs/api.md"), "For operators"))
    assert told == {path.replace(":path", "") for path in known}


def endpoints(page: str) -> set[str]:
    known = re.compile(r"(GET|POST|PUT|DELETE) /")
    return {word for first, *_ in rows(page) for word in words(first) if known.match(word)}


def admin() -> FastAPI:
    revisions = Revisions(parse(MODELS + "default: small", TABLE), TABLE, Observers())
    return admin_app(revisions, Operators({}))


def test_headers_are_those_of_the_code() -> None:
    code = "".join(path.read_text(encoding="utf-8") for path in sources("app", "router"))
    api = section(text("docs/api.md"), "For clients")
    used = set(re.findall(r'b?"(x-[a-z-]+|server-timing|retry-after|www-authenticate)"', code))
    used |= {*FORWARDED}
    tables = "".join(map(str, rows(api)))
    assert not {name for name in used if f"`{name}`" not in tables}
    named = re.findall(r"`((?:x-|server-|retry-)[a-z-]+)`", text("docs/api.md") + text("README.md"))
    assert not set(named) - used


def test_session_fields_are_those_of_the_code() -> None:
    told = [words(first) for first, *_ in rows(text("docs/api.md"))]
    assert list(SESSION_FIELDS) in told


CODES = {"Fault": 3, "FaultError": 3, "broken": 1, "silent": 1, "bad": 2, "_no_draft": 2}
"""Which argument of these calls is an error's code."""
UNSEEN = {"no_models", "not_served"}
"""Codes of probing, which no client is told."""


def test_error_codes_are_those_of_the_gateway() -> None:
    told = codes_told(section(text("docs/api.md"), "Errors"))
    assert told == set(codes(("app", "router"), CODES)) - UNSEEN - {"client_gone"}


def test_error_codes_are_those_of_the_admin_api() -> None:
    told = codes_told(section(text("docs/api.md"), "For operators"))
    assert told == set(codes(("app",), {"AdminError": 1, "_error": 1}))


def codes_told(page: str) -> set[str]:
    return {code for row in rows(page) if row[0][:1].isdigit() for code in words(row[1])}


def codes(rooms: Iterable[str], calls: dict[str, int]) -> Iterator[str]:
    """The constants at these places of these calls, and their argument `code`."""
    for path in sources(*rooms):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                at = calls.get(node.func.id)
                if at is None:
                    continue
                found = [*node.args[at : at + 1]]
                found += [keyword.value for keyword in node.keywords if keyword.arg == "code"]
                for argument in found:
                    if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                        yield argument.value


# ---------------------------------------------------------------------- configurations in the docs


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text(page), re.MULTILINE | re.DOTALL)


SHOWN = ("README.md", "docs/policies.md", "docs/learning-from-traffic.md")


@pytest.mark.parametrize("block", [block for page in SHOWN for block in blocks(page, "yaml")])
def test_configurations_are_good(block: str) -> None:
    whole = block if "models:" in block else MODELS + block
    parse(whole if "default:" in whole else whole + "default: small\n", TABLE)


@pytest.mark.parametrize("page", ["README.md", "docs/config.md"])
def test_policies_that_are_put_are_good(page: str) -> None:
    found = re.findall(r"-d '(\{use: [^']*\})'", text(page))
    assert found
    for block in found:
        parse(f"{MODELS}policies: {{it: {block}}}", TABLE)


# ------------------------------------------------------------------------------------- README.md


def test_the_readme_shows_what_is_printed() -> None:
    document = parse(MODELS + "default: small", TABLE)
    _, admin_said = admin_address(document.config.admin, Operators({}))
    free = ("127.0.0.1", 0)
    with socket.create_server(free) as front, socket.create_server(free) as back:
        printed = welcome(document.config, front, back, admin_said, embedded=True)
        for listener, port in ((front, 8000), (back, 8001)):
            printed = printed.replace(f":{listener.getsockname()[1]}", f":{port}")
    assert printed in text("README.md")


def commands() -> Iterator[str]:
    """What follows `tandem` wherever a page shows a command."""
    shown = r"^(?:\.venv/bin/)?tandem (.+)$|`tandem ([^`]+)`"
    for page in pages():
        found = re.findall(shown, page.read_text(encoding="utf-8"), re.MULTILINE)
        yield from ("".join(either) for either in found)


@pytest.mark.parametrize("command", sorted(set(commands())))
def test_commands_are_there(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = command.split()
    options = [word for word in said if word.startswith("--")]
    with pytest.raises(SystemExit) as left:
        main([*(word for word in said if word not in options), "--help"])
    assert left.value.code == 0
    known = capsys.readouterr().out
    assert not [option for option in options if option not in known]


def test_make_has_what_is_asked_of_it() -> None:
    for page in pages():
        for target in re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text("utf-8"), re.MULTILINE):
            assert re.search(rf"^{target}:", text("Makefile"), re.MULTILINE), target


# ----------------------------------------------------------------------- docs/write-a-policy.md

GUIDE = "docs/write-a-policy.md"


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The policy of the guide, importable as if its file were there."""
    return loaded("policies/agree.py", monkeypatch)


def loaded(path: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    found = re.search(
        rf"^`{re.escape(path)}`:\n\n```python\n(.*?)^```", text(GUIDE), re.MULTILINE | re.DOTALL
    )
    assert found, f"the guide has no {path}"
    module = ModuleType(path.removesuffix(".py").replace("/", "."))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(found[1], path, "exec"), module.__dict__)  # noqa: S102  # our own page
    return module


@pytest.mark.usefixtures("example")
def test_the_guides_test_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    module = loaded("tests/policies/test_agree.py", monkeypatch)
    tests: list[Callable[[], None]] = [
        value for name, value in vars(module).items() if name.startswith("test_")
    ]
    assert tests
    for test in tests:
        test()


def test_the_guides_settings_are_accepted_and_refused(
    example: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = loaded("tests/policies/test_agree.py", monkeypatch)
    for kind, blocks_of_it in ((True, module.EXAMPLES), (False, module.NONSENSE)):
        for block in blocks_of_it:
            policy, complaints = build_policy({"use": "agree", **block}, table(example))
            assert (policy is not None) is kind, complaints


def test_the_guides_line_and_configurations_are_good(example: ModuleType) -> None:
    (line,) = blocks(GUIDE, "text")
    assert line.strip() == f'"agree": {example.Agree.__name__},'
    put = re.findall(r"-d '(\{use: [^']*\})'", text(GUIDE))
    for block in [*blocks(GUIDE, "yaml"), *(f"policies: {{it: {block}}}" for block in put)]:
        parse(MODELS + block, table(example))


def table(example: ModuleType) -> MappingProxyType[str, type[Policy]]:
    return MappingProxyType({**TABLE, "agree": example.Agree})
