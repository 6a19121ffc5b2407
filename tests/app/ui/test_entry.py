"""Who is let in to the pages, by what, and what a browser must say before something is changed."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from app.audit import Audit
from app.operators import Operators
from app.ui import entry
from tests.app.ui.visiting import HTML, OLGA, TOKENS, VERA, Guest, visiting
from tests.conftest import Started
from tests.running import Running, config

FORM = {"content-type": "application/x-www-form-urlencoded"}


@pytest.fixture
async def running(gateway: Started) -> Running:
    models = {"small": "http://127.0.0.1:9", "large": "http://127.0.0.1:9"}
    return await gateway(config(models, policies={"auto": {"use": "direct", "model": "small"}}))


@pytest.fixture
def audit(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


@pytest.fixture
async def guest(running: Running, audit: Path) -> AsyncIterator[Guest]:
    """At pages that want a token, and write down who is turned away."""
    async with AsyncExitStack() as stack:
        log = Audit(str(audit))
        stack.callback(log.close)
        yield await stack.enter_async_context(visiting(running, Operators(TOKENS), log))


@pytest.fixture
async def local(running: Running) -> AsyncIterator[Guest]:
    """At pages that want none."""
    async with visiting(running) as it:
        yield it


def lines(audit: Path) -> list[dict[str, Any]]:
    """What is written down."""
    return [json.loads(line) for line in audit.read_text().splitlines()]


# --------------------------------------------------------------------------------- without a token


async def test_without_a_token_this_machine_is_answered(local: Guest) -> None:
    page = await local.read()
    assert page.status == 200
    assert "Sign out" not in page.text
    for head in ({"host": "evil.example"}, {"origin": "http://evil.example"}):
        refused = await local.client.get("/ui", headers={**HTML, **head})
        assert refused.status_code == 403
        assert "without a token" in refused.text
        assert "revision 1" not in refused.text


async def test_a_form_needs_what_only_our_pages_hold(local: Guest) -> None:
    form = (await local.read("/ui/policies/auto")).form("/ui/policies/auto")
    good = await local.send(form, "activate", **{"set.choice.model": "large"})
    assert await local.revision() == 2, good.text
    for proof in ("", "0" * 64, "é"):
        refused = await local.send(form, "activate", **{entry.FIELD: proof})
        assert refused.status == 403
    local.client.cookies.clear()
    refused = await local.send(form, "activate")  # the proof is that of another cookie
    assert refused.status == 403
    assert "load its page again" in refused.text
    assert await local.revision() == 2


FOREIGN: tuple[dict[str, str], ...] = (
    {},
    {"origin": "null"},
    {"origin": "http://127.0.0.1:1"},
    {"origin": "http://localhost"},
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
    {"sec-fetch-site": "none"},
)


async def test_a_form_of_another_origin_is_refused(local: Guest) -> None:
    form = (await local.read("/ui/policies/auto")).form("/ui/policies/auto")
    fields = {**form.fields, "do": "activate", "set.choice.model": "large"}
    for head in FOREIGN:
        refused = await local.client.post(form.action, data=fields, headers={**HTML, **head})
        assert refused.status_code == 403, head
    assert await local.revision() == 1


async def test_a_browser_that_says_only_its_origin_is_believed(local: Guest) -> None:
    form = (await local.read("/ui/policies/auto")).form("/ui/policies/auto")
    fields = {**form.fields, "do": "activate", "set.choice.model": "large"}
    taken = await local.client.post(form.action, data=fields, headers={"origin": local.url})
    assert taken.status_code == 303
    assert await local.revision() == 2


async def test_a_body_that_is_no_form_or_too_large_is_refused(local: Guest) -> None:
    await local.read()
    head = {**HTML, "origin": local.url}
    for kind, body, status in (
        ({"content-type": "application/json"}, b"{}", 415),
        (FORM, b"text=" + b"x" * 300_000, 413),
    ):
        answer = await local.client.post("/ui/config", content=body, headers={**head, **kind})
        assert answer.status_code == status


# ------------------------------------------------------------------------------------ with a token


async def test_a_token_becomes_a_cookie(guest: Guest) -> None:
    page = await guest.read("/ui/decisions")
    assert page.answer.url.path == "/ui/sign-in"
    page = await guest.send(page.form("/ui/sign-in"), token=TOKENS[OLGA])
    assert page.answer.url.path == "/ui/decisions"
    assert "Sign out olga" in page.text
    told = page.answer.history[0].headers["set-cookie"]
    assert "HttpOnly" in told
    assert "SameSite=strict" in told
    assert "Path=/ui" in told
    assert "Secure" not in told
    assert not [token for token in TOKENS.values() if token in told + page.answer.text]


async def test_behind_tls_the_cookie_is_for_tls_only(guest: Guest) -> None:
    form = (await guest.read()).form("/ui/sign-in")
    head = {"origin": "https://admin.example", "host": "admin.example"}
    fields = {**form.fields, "token": TOKENS[OLGA]}
    answer = await guest.client.post("/ui/sign-in", data=fields, headers=head)
    assert answer.status_code == 303
    assert "Secure" in answer.headers["set-cookie"]


async def test_a_wrong_token_opens_nothing_and_is_written_down(guest: Guest, audit: Path) -> None:
    page = await guest.sign_in("canary-wrong")
    assert page.status == 401
    assert "not the token of anybody" in page.text
    assert not guest.client.cookies
    (line,) = lines(audit)
    assert (line["outcome"], line["what"]) == ("turned away", "POST /ui/sign-in")
    assert "canary" not in str(line)


ELSEWHERE = (
    "//evil.example/ui", "https://evil.example/ui", "/ui\\@evil.example", "/uix", "/admin/config",
    "javascript:alert(1)", "",
)  # fmt: skip


async def test_a_sign_in_leads_nowhere_else(guest: Guest) -> None:
    form = (await guest.read()).form("/ui/sign-in")
    for to in ELSEWHERE:
        page = await guest.send(form, token=TOKENS[OLGA], to=to)
        assert page.answer.history[0].headers["location"] == "/ui", to


async def test_a_cookie_is_good_until_it_is_changed_or_old(
    guest: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    await guest.sign_in(TOKENS[VERA])
    (cookie,) = guest.client.cookies.jar
    name, value = cookie.name, str(cookie.value)
    assert name == f"tandem-{guest.url.rpartition(':')[2]}"
    who, until, chance, signed = value.split(".")
    forged = [
        ".".join([entry._encoded("olga"), until, chance, signed]),
        ".".join([who, str(int(until) + 1), chance, signed]),
        ".".join([who, until, chance, "0" * 64]),
        f"{who}.{until}.{signed}",
        value[:-1],
        who,
        "...",
        "é",
    ]
    for each in forged:
        head = [(b"accept", b"text/html"), (b"cookie", f"{name}={each}".encode())]
        assert (await guest.client.get("/ui", headers=head)).status_code == 303, each
    assert (await guest.read()).answer.url.path == "/ui"
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + entry.LASTS + 1)
    assert (await guest.client.get("/ui", headers=HTML)).status_code == 303


async def test_a_cookie_ends_with_its_token(running: Running) -> None:
    operators = Operators(TOKENS)
    async with visiting(running, operators) as guest:
        await guest.sign_in(TOKENS[OLGA])
        assert (await guest.read()).answer.url.path == "/ui"
        operators.take(Operators({**TOKENS, OLGA: "another"}))
        assert (await guest.read()).answer.url.path == "/ui/sign-in"


async def test_signing_out_takes_the_cookie(guest: Guest) -> None:
    page = await guest.sign_in(TOKENS[VERA])
    page = await guest.send(page.form("/ui/sign-out"))
    assert page.answer.url.path == "/ui/sign-in"
    assert not guest.client.cookies


async def test_a_script_is_told_in_words(guest: Guest) -> None:
    answer = await guest.client.get("/ui", headers={"accept": "*/*"})
    assert (answer.status_code, answer.text) == (401, "sign in first")


async def test_a_bearer_token_is_for_the_api_only(guest: Guest) -> None:
    head = {**HTML, "authorization": f"Bearer {TOKENS[OLGA]}"}
    assert (await guest.client.get("/ui", headers=head)).status_code == 303


# --------------------------------------------------------------------------------------- viewers


async def test_a_viewer_sees_everything_and_changes_nothing(guest: Guest, audit: Path) -> None:
    await guest.sign_in(TOKENS[VERA])
    for path in ("/ui", "/ui/decisions", "/ui/backends", "/ui/policies", "/ui/revisions"):
        assert (await guest.read(path)).status == 200
    page = await guest.read("/ui/policies/auto")
    form = page.form("/ui/policies/auto")
    assert form.disabled
    assert "may look and not change" in page.text
    form.buttons.append(("do", "activate"))  # as if the page had been tampered with
    for path, fields in (
        ("/ui/policies/auto", {"use": "direct", "set.choice.model": "large"}),
        ("/ui/new-policy", {"name": "x", "text": "{use: direct, model: large}"}),
        ("/ui/config", {"text": "{}"}),
        ("/ui/revisions/1", {}),
    ):
        form.action = path
        refused = await guest.send(form, "activate", **fields)
        assert refused.status == 403
        assert "vera is a viewer" in refused.text
    assert await guest.revision() == 1
    assert {(line["who"], line["outcome"], line["code"]) for line in lines(audit)} == {
        ("vera", "turned away", "operator_needed")
    }
