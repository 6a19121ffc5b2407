"""The admin API over a real listener: the shape of answers, who is let in, what stays secret."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from socket import socket
from typing import Any

import httpx
import pytest
import uvicorn

from app.admin import admin_app
from app.admin_guard import LARGEST_BODY, admin_address, is_loopback
from app.audit import Audit
from app.operators import Operator, Operators, Role
from router.config import Document, Form, parse
from router.fleet import Abilities
from router.revisions import Revisions
from router.sections import AdminConfig
from router.steps import Surface
from tests.tiny_policies import TABLE

TEXT = """\
# This comment travels.
models:
  small: {backends: [http://127.0.0.1:8101/v1], api_key_env: SMALL_KEY}
  large: {backends: [http://127.0.0.1:8102]}
policies:
  auto: {use: pair, small: small, large: large}
default: auto
"""
TOKEN = "hunter2-admin-token"
VIEWERS = "hunter2-viewers-token"
ENVIRONMENT = {"SMALL_KEY": "hunter2-backend-key"}
YAML = {"content-type": "application/yaml"}
ANY = {"if-match": "*"}


def known(token: str | None) -> Operators:
    """An operator with this token, and a viewer, if there are tokens at all."""
    if not token:
        return Operators({})
    return Operators(
        {Operator("operator", Role.OPERATOR): token, Operator("vera", Role.VIEWER): VIEWERS}
    )


class Server(uvicorn.Server):
    """Says when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = threading.Event()

    async def startup(self, sockets: list[socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()

    @property
    def port(self) -> int:
        return int(self.servers[0].sockets[0].getsockname()[1])


@contextmanager
def serving(
    token: str | None, text: str = TEXT, audit: Audit | None = None
) -> Iterator[tuple[httpx.Client, Revisions]]:
    revisions = Revisions(parse(text, TABLE), TABLE, lambda _: None, ENVIRONMENT)
    app = admin_app(revisions, known(token), audit=audit)
    config = uvicorn.Config(app, port=0, log_level="critical")
    server = Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    assert server.up.wait(10), "the listener did not come up"
    headers = {"authorization": f"Bearer {token}"} if token else {}
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{server.port}", headers=headers) as client:
            yield client, revisions
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def admin() -> Iterator[tuple[httpx.Client, Revisions]]:
    with serving(TOKEN) as pair:
        yield pair


@pytest.fixture
def client(admin: tuple[httpx.Client, Revisions]) -> httpx.Client:
    return admin[0]


def refused(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The error of `answer`, which must have exactly the documented shape."""
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"error"}
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"message", "code", "problems"}
    assert error["code"] == code
    assert error["message"]
    return error


# -------------------------------------------------------------------------------- configuration


def test_the_document_is_read_as_json_and_as_yaml(client: httpx.Client) -> None:
    as_json = client.get("/admin/config")
    as_yaml = client.get("/admin/config", headers={"accept": "application/yaml"})
    assert as_json.json()["default"] == "auto"
    assert as_yaml.text == TEXT
    assert as_yaml.headers["content-type"].startswith("application/yaml")
    assert as_json.headers["etag"] == as_yaml.headers["etag"]
    assert as_json.headers["vary"] == "accept"


def test_read_change_and_write_back(admin: tuple[httpx.Client, Revisions]) -> None:
    client, revisions = admin
    read = client.get("/admin/config")
    document = read.json() | {"default": "small"}
    match = {"if-match": read.headers["etag"]}
    written = client.put("/admin/config", json=document, headers=match)
    assert written.status_code == 200
    assert written.json()["number"] == 2
    assert written.json()["active"] is True
    assert written.headers["etag"] == client.get("/admin/config").headers["etag"]
    assert revisions.runtime.default == "small"
    error = refused(client.put("/admin/config", json=document, headers=match), 412, "stale")
    assert "revision 2 is active" in error["message"]


def test_replacing_needs_if_match(client: httpx.Client) -> None:
    refused(client.put("/admin/config", content=TEXT, headers=YAML), 428, "if_match_required")
    assert client.put("/admin/config", content=TEXT, headers=YAML | ANY).status_code == 200


@pytest.mark.parametrize("tag", ['W/"{}"', '"other"', "{}", "", '"a", "b"'])
def test_only_a_strong_etag_of_the_active_revision_matches(client: httpx.Client, tag: str) -> None:
    etag = client.get("/admin/config").headers["etag"].strip('"')
    headers = YAML | {"if-match": tag.format(etag)}
    refused(client.put("/admin/config", content=TEXT, headers=headers), 412, "stale")
    headers = YAML | {"if-match": f'"other", "{etag}"'}
    assert client.put("/admin/config", content=TEXT, headers=headers).status_code == 200


def test_a_wrong_document_is_refused_with_all_its_problems(
    admin: tuple[httpx.Client, Revisions],
) -> None:
    client, revisions = admin
    before = revisions.runtime
    wrong = TEXT.replace("small: small", "small: smal") + "listn: {}\n"
    error = refused(
        client.put("/admin/config", content=wrong, headers=YAML | ANY), 422, "invalid_config"
    )
    problems = [
        {
            "path": "policies.auto.small",
            "reason": 'there is no model named "smal"; did you mean "small"?',
            "line": 6,
        },
        {
            "path": "listn",
            "reason": 'there is no such setting; did you mean "listen"?',
            "line": 8,
        },
    ]
    assert error["problems"] == problems
    checked = client.post("/admin/config/check", content=wrong, headers=YAML)
    assert checked.json() == {"ok": False, "etag": None, "problems": problems}
    assert revisions.runtime is before


def test_a_check_says_what_the_etag_would_be(client: httpx.Client) -> None:
    etag = client.get("/admin/config").headers["etag"].strip('"')
    checked = client.post("/admin/config/check", content=TEXT, headers=YAML)
    assert checked.json() == {"ok": True, "etag": etag, "problems": []}
    assert client.get("/admin/revisions").json()["active"] == 1


def test_bodies_that_are_no_document(client: httpx.Client) -> None:
    put = "/admin/config"
    refused(client.put(put, data={"a": "b"}, headers=ANY), 415, "unknown_notation")
    refused(client.put(put, content=b"\xff", headers=YAML | ANY), 415, "unknown_notation")
    large = b"#" * (LARGEST_BODY + 1)
    refused(client.put(put, content=large, headers=YAML | ANY), 413, "too_large")
    refused(client.put(put, content="{", headers=YAML | ANY), 422, "invalid_config")


# ------------------------------------------------------------------------- policies and revisions


def test_one_policy_is_swapped(client: httpx.Client) -> None:
    assert client.get("/admin/policies").json() == {
        "policies": [
            {
                "name": "auto",
                "use": "pair",
                "settings": {"small": "small", "large": "large"},
                "default": True,
            }
        ]
    }
    block = {"use": "ladder", "targets": ["small", "auto"]}
    created = client.put("/admin/policies/team/canary", json=block)
    assert created.json()["what"] == "PUT policies/team/canary"
    as_yaml = "use: direct\nmodel: large\n"
    replaced = client.put("/admin/policies/team/canary", content=as_yaml, headers=YAML)
    assert replaced.json()["number"] == 3
    names = [policy["name"] for policy in client.get("/admin/policies").json()["policies"]]
    assert names == ["auto", "team/canary"]
    assert client.delete("/admin/policies/team/canary").json()["number"] == 4
    refused(client.delete("/admin/policies/team/canary"), 404, "unknown")


def test_a_wrong_policy_is_refused(client: httpx.Client) -> None:
    block = {"use": "pair", "small": "small", "large": "auto"}
    error = refused(client.put("/admin/policies/canary", json=block), 422, "invalid_config")
    assert error["problems"] == [
        {
            "path": "policies.canary.large",
            "reason": '"auto" is a policy; this setting needs a model',
            "line": None,
        }
    ]
    twice = "use: direct\nmodel: small\nmodel: large\n"
    error = refused(
        client.put("/admin/policies/canary", content=twice, headers=YAML), 422, "invalid_config"
    )
    assert error["problems"][0]["path"] == "model"
    stale = {"if-match": '"other"'}
    refused(client.put("/admin/policies/canary", json=block, headers=stale), 412, "stale")


def test_rollback(client: httpx.Client) -> None:
    client.put("/admin/config", content=TEXT + "baseline: large\n", headers=YAML | ANY)
    back = client.post("/admin/revisions/1/activate")
    assert (back.json()["number"], back.json()["what"]) == (3, "rolled back to 1")
    listed = client.get("/admin/revisions").json()
    assert listed["active"] == 3
    assert [revision["number"] for revision in listed["revisions"]] == [3, 2, 1]
    assert [revision["active"] for revision in listed["revisions"]] == [True, False, False]
    assert client.get("/admin/revisions/2").json()["config"]["baseline"] == "large"
    refused(client.get("/admin/revisions/99"), 404, "unknown")
    refused(client.post("/admin/revisions/99/activate"), 404, "unknown")
    refused(client.get("/admin/revisions/first"), 422, "invalid_parameter")


def test_backends(admin: tuple[httpx.Client, Revisions]) -> None:
    client, revisions = admin
    backend = revisions.runtime.pools["small"].backends[0]
    backend.enter()
    backend.abilities = Abilities("0.32.0", frozenset({Surface.CHAT}), ("qwen",), 4096)
    shown = client.get("/admin/backends").json()["backends"]
    assert [(one["model"], one["backend"]) for one in shown] == [
        ("small", "127.0.0.1:8101"),
        ("large", "127.0.0.1:8102"),
    ]
    assert shown[0]["in_flight"] == 1
    assert shown[0]["abilities"]["surfaces"] == ["chat/completions"]
    assert shown[1]["abilities"]["surfaces"] is None
    assert shown[0]["sleep"] is None


def test_backends_that_sleep(admin: tuple[httpx.Client, Revisions]) -> None:
    client, revisions = admin
    rest = revisions.runtime.pools["large"].backends[0].rest
    rest.manage(5.0)
    rest.enter("asleep")
    shown = client.get("/admin/backends").json()["backends"]
    assert shown[1]["sleep"] == {
        "state": "asleep",
        "draining": False,
        "waiting": 0,
        "wake": 5.0,
        "why": "",
    }


# ------------------------------------------------------------------------------------ who may ask


def operations(client: httpx.Client) -> list[tuple[str, str]]:
    """Every documented operation, with parameters filled in."""
    paths = client.get("/admin/openapi.json").json()["paths"]
    return [
        (method.upper(), path.replace("{name}", "auto").replace("{number}", "1"))
        for path, methods in paths.items()
        for method in methods
    ]


def test_every_operation_but_health_needs_the_token(client: httpx.Client) -> None:
    asked = operations(client)
    assert len(asked) > 10
    for header in ("", "Bearer", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer é"):
        for method, path in asked:
            given = {b"authorization": header.encode(), b"content-type": b"application/yaml"}
            answer = client.request(method, path, headers=given, content=b"#" * 10)
            if path == "/healthz":
                assert answer.json() == {"status": "ok", "revision": 1}
            else:
                refused(answer, 401, "unauthorised")
                assert answer.headers["www-authenticate"] == "Bearer"


SEEN_BY_VIEWERS = {"POST /admin/config/check"}
"""What is no GET and changes nothing."""


def test_a_viewer_sees_everything_and_changes_nothing(
    admin: tuple[httpx.Client, Revisions],
) -> None:
    client, revisions = admin
    asked = operations(client)
    before = revisions.active
    viewer = YAML | ANY | {"authorization": f"Bearer {VIEWERS}"}
    for method, path in asked:
        answer = client.request(method, path, headers=viewer, content=b"use: direct")
        if method == "GET" or f"{method} {path}" in SEEN_BY_VIEWERS:
            assert answer.status_code not in (401, 403), f"{method} {path}"
        else:
            error = refused(answer, 403, "operator_needed")
            assert error["message"] == "vera is a viewer; this needs the role operator"
    assert revisions.active is before


OPEN = {"/healthz", "/admin/docs", "/admin/openapi.json"}
"""What needs no token: it tells nothing of the configuration."""


def routes(router: Any) -> Iterator[tuple[str, str]]:
    """Every route, those that no description names included."""
    for route in router.routes:
        if (inner := getattr(route, "original_router", None)) is not None:
            yield from routes(inner)
        else:
            yield from ((method, route.path) for method in sorted(route.methods))


def test_every_route_asks_for_a_role(admin: tuple[httpx.Client, Revisions]) -> None:
    client, revisions = admin
    found = list(routes(admin_app(revisions, known(TOKEN))))
    assert len(found) > len(operations(client))
    for method, path in found:
        filled = re.sub(r"{[^}]*}", "1", path)
        answer = client.request(method, filled, headers={"authorization": "Bearer x"})
        assert (answer.status_code == 401) is (path not in OPEN), f"{method} {path}"


def test_a_body_is_not_read_before_the_token(client: httpx.Client) -> None:
    large = b"#" * (LARGEST_BODY + 1)
    answer = client.put("/admin/config", content=large, headers=YAML | {"authorization": "Bearer"})
    refused(answer, 401, "unauthorised")


def test_without_a_token_only_this_machine_is_answered() -> None:
    with serving(None) as (client, _):
        get = "/admin/config"
        for host in ("127.0.0.1", "localhost:8001", "[::1]:8001", "127.8.8.8"):
            assert client.get(get, headers={"host": host}).status_code == 200
        for host in (
            "evil.example",
            "127.0.0.1.evil.example",
            "10.0.0.7",
            "localhost@evil",
            "[",
            "",
        ):
            refused(client.get(get, headers={"host": host}), 403, "foreign_host")
        post = "/admin/revisions/1/activate"
        for origin in ("https://evil.example", "null", "http://[", ""):
            refused(client.post(post, headers={"origin": origin}), 403, "foreign_origin")
        assert client.post(post, headers={"origin": "http://localhost:8001"}).status_code == 200


@pytest.mark.parametrize(
    ("host", "token", "bound"),
    [
        ("0.0.0.0", "t", "0.0.0.0"),  # noqa: S104 (that it is not bound is the point)
        ("0.0.0.0", None, "127.0.0.1"),  # noqa: S104
        ("10.0.0.7", "", "127.0.0.1"),
        ("admin.internal", None, "127.0.0.1"),
        ("::", None, "127.0.0.1"),
        ("localhost", None, "localhost"),
        ("::1", None, "::1"),
        ("127.0.0.2", None, "127.0.0.2"),
    ],
)
def test_the_address(host: str, token: str | None, bound: str) -> None:
    chosen, sentence = admin_address(AdminConfig(host=host, token_env="TOKEN"), known(token))
    assert chosen == bound
    assert token or is_loopback(chosen)
    assert ("token is required" if token else "set TOKEN") in sentence
    assert (host in sentence) == (not token and bound != host)


# ------------------------------------------------------------------------------------ the edges


def test_no_answer_holds_a_secret(client: httpx.Client) -> None:
    leak = TEXT.replace("http://", "http://me:hunter2@")
    answers = [
        client.request(method, path, content=leak, headers=YAML | ANY)
        for method, path in operations(client)
    ]
    answers += [client.get("/admin/openapi.json"), client.get("/admin/docs")]
    for answer in answers:
        assert "hunter2" not in answer.text, answer.url
        assert "hunter2" not in json.dumps(dict(answer.headers)), answer.url


def test_errors_have_one_shape(
    admin: tuple[httpx.Client, Revisions], monkeypatch: pytest.MonkeyPatch
) -> None:
    client, revisions = admin
    refused(client.get("/nothing"), 404, "http")
    refused(client.post("/admin/backends"), 405, "http")
    monkeypatch.setattr(revisions, "history", lambda: 1 / 0)
    error = refused(client.get("/admin/revisions"), 500, "mistake")
    assert "ZeroDivision" not in json.dumps(error)


def test_answers_are_documented(client: httpx.Client) -> None:
    described = client.get("/admin/openapi.json").json()
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            assert operation.get("description"), f"{method} {path} says nothing"
            assert {"200", "202"} & operation["responses"].keys()
            assert path == "/healthz" or operation["security"] == [{"HTTPBearer": []}]
    assert client.get("/admin/docs").status_code == 200


def test_a_path_is_what_it_is(client: httpx.Client) -> None:
    """No redirect to wherever `Host` points, and no path but those there are."""
    for path in (
        "/admin/config/",
        "/admin//config",
        "//admin/config",
        "/admin/%2e%2e/healthz",
        "/admin/corpora/..%2f..%2fetc",
        "/ADMIN/config",
    ):
        answer = client.get(path, headers={"host": "evil.example"})
        refused(answer, 404, "http")
        assert "location" not in answer.headers


BOMBS = {
    "aliases": "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n",
    "merge": "a: &a {b: 1}\nc: {<<: *a}\n",
    "depth": "[" * 100_000,
    "tag": "a: !!python/object/apply:os.system [true]\n",
    "number": "a: " + "9" * 100_000,
    "nul": "a: \0",
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_a_document_that_is_a_trap(client: httpx.Client, bomb: str) -> None:
    checked = client.post("/admin/config/check", content=bomb, headers=YAML)
    assert checked.json()["ok"] is False
    assert len(checked.content) < 2000


def test_one_document_is_checked_at_a_time(
    admin: tuple[httpx.Client, Revisions], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each may take seconds of the one interpreter that also serves requests."""
    client, revisions = admin
    checking, most = 0, 0
    check = revisions.check

    async def counted(text: str, form: Form) -> Document:
        nonlocal checking, most
        checking += 1
        most = max(most, checking)
        try:
            return await check(text, form)
        finally:
            checking -= 1

    monkeypatch.setattr(revisions, "check", counted)

    def ask(_: int) -> int:
        return client.post("/admin/config/check", content=TEXT, headers=YAML).status_code

    with ThreadPoolExecutor(4) as several:
        assert set(several.map(ask, range(12))) == {200}
    assert most == 1
