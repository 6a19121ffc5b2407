"""The pages in a real browser, over the real pair: a real user's way, by mouse and by keyboard.

Each test's page listens for what must never happen: an error of the script, a request to another
host, something that the pages' own policy blocks. Pictures of all pages, in light, dark and on a
phone, are kept in the folder that TANDEM_UI_PICTURES names, to be looked at.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import pytest
import pytest_asyncio
from playwright.async_api import Browser, ConsoleMessage, Page, Request, async_playwright, expect

from app import embedded
from app.operators import Operators
from app.report import QUESTION
from router.observe import RequestEnded
from tests.app.ui.visiting import OLGA, TOKENS, VERA, visiting
from tests.running import CHAT, Running, config, eventually, running
from tests.scripted import Backend, answers, chat_events, hangs_up, raw, scripted, stalls

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "chromium-headless-shell")
PAGES = (
    "/ui", "/ui/playground", "/ui/decisions", "/ui/backends", "/ui/policies", "/ui/policies/ead",
    "/ui/policies/read", "/ui/new-policy?use=cascade", "/ui/config", "/ui/revisions",
    "/ui/revisions/1",
)  # fmt: skip
ASKED = {"model": "auto", "temperature": 0, "messages": [{"role": "user", "content": QUESTION}]}

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.slow,
    pytest.mark.timeout(120),
    pytest.mark.xdist_group("pair"),
]


# --------------------------------------------------------------------------------- what is started


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None and not os.environ.get("CI"):
        pytest.skip("no Chromium here: apt-get install chromium")
    assert program, "no Chromium: .ci/run installs it"
    expect.set_options(timeout=20_000)
    as_root = ["--no-sandbox"] if os.geteuid() == 0 else []
    async with async_playwright() as play:
        it = await play.chromium.launch(executable_path=program, args=as_root)
        yield it
        await it.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def odd() -> AsyncIterator[Backend]:
    """A backend whose answers the test writes."""
    async with scripted("odd") as backend:
        yield backend


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(odd: Backend) -> AsyncIterator[Running]:
    """The embedded pair's own configuration, with one model more."""
    pair = await embedded.start()
    try:
        document = json.loads(json.dumps(_tree(pair.document)))
        document["models"]["odd"] = {"backends": [odd.url]}
        async with running(document) as it:
            yield it
    finally:
        await pair.close()


def _tree(text: str) -> Any:
    from policies import TABLE
    from router.config import parse

    return dict(parse(text, TABLE).written.tree)


@asynccontextmanager
async def opened(
    browser: Browser,
    url: str,
    *,
    dark: bool = False,
    wide: int = 1200,
    script: bool = True,
    calm: bool = False,
) -> AsyncIterator[Page]:
    """A page of a browser of its own, which must not do what no page of ours may."""
    scheme: Literal["dark", "light"] = "dark" if dark else "light"
    context = await browser.new_context(
        base_url=url,
        viewport={"width": wide, "height": 800},
        color_scheme=scheme,
        java_script_enabled=script,
        reduced_motion="reduce" if calm else "no-preference",
    )
    wrong: list[str] = []

    def asked(request: Request) -> None:
        if not request.url.startswith((url, "data:")):
            wrong.append(f"asks {request.url}")

    def said(message: ConsoleMessage) -> None:
        refused = "Failed to load resource: the server responded with a status of"
        if message.type in ("error", "warning") and refused not in message.text:
            wrong.append(message.text)

    page = await context.new_page()
    page.on("request", asked)
    page.on("console", said)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.set_default_timeout(20_000)
    yield page
    await context.close()
    assert wrong == []


@pytest_asyncio.fixture(loop_scope="module")
async def page(browser: Browser, gateway: Running) -> AsyncIterator[Page]:
    """A page on a wide screen."""
    async with visiting(gateway) as guest, opened(browser, guest.url) as it:
        yield it


# --------------------------------------------------------------------------------------- all pages


@pytest.mark.parametrize(("look", "wide"), [("light", 1200), ("dark", 1200), ("light", 360)])
async def test_every_page_fits_its_screen(
    browser: Browser, gateway: Running, tmp_path: Path, look: str, wide: int
) -> None:
    folder = Path(os.environ.get("TANDEM_UI_PICTURES", tmp_path))
    for target in ("auto", "ead", "cascade", "small", "large", "nobody"):
        await gateway.client.post(CHAT, json={**ASKED, "model": target})
    async with (
        visiting(gateway) as guest,
        opened(browser, guest.url, dark=look == "dark", wide=wide) as page,
    ):
        for path in PAGES:
            await page.goto(path)
            width = await page.evaluate("document.documentElement.scrollWidth")
            assert width <= wide, path
            name = path.strip("/").replace("/", "-").partition("?")[0]
            picture = folder / f"{name}-{look}-{wide}.png"
            await page.screenshot(path=picture, full_page=True)
            assert picture.stat().st_size > 5_000


async def test_what_is_live_is_refreshed_without_losing_the_page(
    page: Page, gateway: Running
) -> None:
    await page.goto("/ui/decisions")
    count = page.locator("#live tbody tr")
    before = await count.count()
    await page.evaluate("window.mine = true")
    await gateway.client.post(CHAT, json={**ASKED, "model": "small", "max_tokens": 4})
    await expect(count).to_have_count(before + 1)
    assert await page.evaluate("window.mine")
    time = page.locator("#live time").first
    assert "UTC" not in await time.inner_text()


async def test_it_works_without_a_script(browser: Browser, gateway: Running) -> None:
    async with visiting(gateway) as guest, opened(browser, guest.url, script=False) as page:
        await page.goto("/ui")
        await expect(page.get_by_role("heading", name="Overview")).to_be_visible()
        await expect(page.get_by_text("refresh every")).to_be_hidden()
        await page.goto("/ui/policies/ead")
        await page.fill("#f-window", "many")
        await page.locator("form.settings").get_by_role("button", name="Check").click()
        await expect(page.get_by_role("alert")).to_contain_text("policies.ead.window")
        await page.goto("/ui/playground")
        await expect(page.get_by_text("needs its script")).to_be_visible()


async def test_the_keyboard_is_enough(page: Page, gateway: Running) -> None:
    await page.goto("/ui/policies")
    await page.keyboard.press("Tab")
    await expect(page.locator(".skip")).to_be_focused()
    await page.keyboard.press("Enter")
    await page.keyboard.press("Tab")
    first = page.locator("main a").first
    await expect(first).to_be_focused()
    assert await first.evaluate("(it) => getComputedStyle(it).outlineStyle") == "solid"
    await page.goto("/ui/policies/hedged")
    await page.locator("#f-delay").focus()
    await page.keyboard.press("Control+A")
    await page.keyboard.type("0.75")
    await page.keyboard.press("Enter")  # the first button of the form, which only checks
    await expect(page.get_by_role("status").first).to_contain_text("found nothing wrong")
    await expect(page.locator(".diff .added")).to_contain_text("delay: 0.75")
    assert gateway.rooms.revisions.active.number == 1


async def test_a_policy_is_changed_and_rolled_back(page: Page, gateway: Running) -> None:
    revisions = gateway.rooms.revisions
    before = revisions.active.number
    await page.goto("/ui/policies/ead")
    settings = page.locator("form.settings")
    await page.fill("#f-threshold", "lots")
    await settings.get_by_role("button", name="Activate").click()
    await expect(page.get_by_role("alert")).to_contain_text("policies.ead.threshold: must be a")
    await expect(page.locator("#f-threshold")).to_have_attribute("aria-invalid", "true")
    await page.fill("#f-threshold", "0.25")
    await settings.get_by_role("button", name="Activate").click()
    await expect(page.get_by_role("status").first).to_contain_text(f"Revision {before + 1} serves")
    assert revisions.runtime.config.policies["ead"]["threshold"] == 0.25
    await page.goto(f"/ui/revisions/{before}")
    await page.get_by_role("button", name="Roll back").click()
    await expect(page.get_by_role("status").first).to_contain_text(f"Revision {before + 2} serves")
    assert revisions.runtime.config.policies["ead"]["threshold"] == 0.136


async def test_one_signs_in_and_out(browser: Browser, gateway: Running) -> None:
    async with (
        visiting(gateway, Operators(TOKENS)) as guest,
        opened(browser, guest.url) as page,
    ):
        await page.goto("/ui/policies/ead")
        await page.fill("#token", TOKENS[VERA])
        await page.keyboard.press("Enter")
        await expect(page).to_have_url(f"{guest.url}/ui/policies/ead")
        await expect(page.locator("form.settings button").first).to_be_disabled()
        (cookie,) = await page.context.cookies()
        assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Strict", "/ui")
        await page.get_by_role("button", name="Sign out vera").click()
        await page.fill("#token", TOKENS[OLGA])
        await page.get_by_role("button", name="Sign in").click()
        await page.goto("/ui/policies/ead")
        await expect(page.locator("form.settings button").first).to_be_enabled()


# -------------------------------------------------------------------------------------- playground


async def test_every_token_shows_who_wrote_it(page: Page, gateway: Running) -> None:
    await page.goto("/ui/playground")
    await page.get_by_role("button", name="Try an example").click()
    await page.keyboard.press("Enter")
    await expect(page.locator(".verdict")).to_contain_text("Both say the same")
    shown = page.locator(".answer").first.locator(".token")
    pairs = [
        (await one.get_attribute("class"), await one.text_content()) for one in await shown.all()
    ]
    told = await gateway.client.post(CHAT, json=ASKED, headers={"x-tandem-explain": "1"})
    tokens = told.json()["tandem"]["choices"][0]["tokens"]
    looks = {"small": "token w0", "large": "token w1"}
    assert _merged(pairs) == _merged([(looks[each["model"]], each["text"]) for each in tokens])
    assert {look for look, _ in pairs} == set(looks.values())
    figures = await page.locator(".figures").first.inner_text()
    for word in ("written by", "by large", "cost", "first text", "all of it", "why"):
        assert word in figures
    alone = page.locator(".answer").nth(1)
    await expect(alone.get_by_role("heading")).to_have_text("large alone")
    assert await alone.locator(".w0").count() == 0
    large = page.locator(".text .w1").first
    small = page.locator(".text .w0").first
    lines = [
        await it.evaluate("(it) => getComputedStyle(it).textDecorationLine")
        for it in (small, large)
    ]
    assert lines == ["none", "underline"]


def _merged(pieces: list[tuple[Any, Any]]) -> list[tuple[str, str]]:
    """Neighbours of one look as one: a stream may cut an answer elsewhere than a body does."""
    merged: list[tuple[str, str]] = []
    for look, text in pieces:
        if merged and merged[-1][0] == look:
            merged[-1] = (look, merged[-1][1] + text)
        elif text:
            merged.append((look, text))
    return merged


async def test_a_conversation_goes_on_with_what_was_said(page: Page, gateway: Running) -> None:
    await page.goto("/ui/playground")
    await page.uncheck("#beside")
    await page.select_option("#target", "small")
    prompts = []
    before = len([seen for seen in gateway.seen if isinstance(seen, RequestEnded)])
    for number, text in enumerate(("What is 3 + 4?", "And now?"), start=1):
        await page.fill("#message", text)
        await page.get_by_role("button", name="Send").click()
        await expect(page.locator(".answer .figures:visible")).to_have_count(number)
        prompts.append((await gateway.ended(before + number)).delivered.prompt)
    assert prompts[1] > prompts[0]
    await page.get_by_role("button", name="New conversation").click()
    await expect(page.locator(".answer")).to_have_count(0)
    await expect(page.locator("#message")).to_be_focused()


async def test_stop_stops_the_model(page: Page, odd: Backend) -> None:
    odd.plays(stalls(*chat_events(["Once upon"], "odd")[:2]))
    before = odd.cancelled
    await page.goto("/ui/playground")
    await page.select_option("#target", "odd")
    await page.fill("#message", "Tell me")
    await page.keyboard.press("Enter")
    await expect(page.locator(".answer .text").first).to_contain_text("Once upon")
    await expect(page.get_by_role("button", name="Send")).to_be_disabled()
    await page.get_by_role("button", name="Stop").click()
    await expect(page.locator(".answer .error").first).to_have_text("stopped")
    await eventually(lambda: odd.cancelled == before + 1)
    await expect(page.get_by_role("button", name="Send")).to_be_enabled()


async def test_what_fails_is_told(page: Page, odd: Backend) -> None:
    await page.goto("/ui/playground")
    await page.uncheck("#beside")
    await page.select_option("#target", "odd")
    error = page.locator(".answer .error").last
    began = b"".join(chat_events(["Half of"], "odd")[:2])
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
    for number, (script, words) in enumerate(
        (
            (answers({"error": {"message": "no such luck"}}, 400), "refused (400): no such luck"),
            (hangs_up, "refused (502)"),
            (raw(head + began), "the answer broke off"),
        ),
        start=1,
    ):
        odd.plays(script)
        await page.fill("#message", "Tell me")
        await page.keyboard.press("Enter")
        await expect(page.locator(".answer")).to_have_count(number)
        await expect(error).to_contain_text(words)
    await expect(page.locator(".answer").last).to_contain_text("Half of")
    await page.fill("#temperature", "hot")
    await page.fill("#message", "Tell me")
    await page.keyboard.press("Enter")
    await expect(page.locator("#state")).to_contain_text("temperature is no number: hot")


async def test_keys_are_asked_for_and_stay_in_the_page(
    browser: Browser, odd: Backend, tmp_path: Path
) -> None:
    from app.keys import new_key

    secret, entry = new_key("alice")
    file = tmp_path / "keys.yaml"
    file.write_text(json.dumps({"keys": [{"name": "alice", "sha256": entry.sha256}]}))
    odd.plays(stalls())
    async with (
        running(config({"odd": odd}, keys={"file": str(file)})) as keyed,
        visiting(keyed) as guest,
        opened(browser, guest.url) as page,
    ):
        await page.goto("/ui/playground")
        for key, words in (("tdm-wrong", "refused (401)"), (secret, "stopped")):
            await page.fill("#key", key)
            await page.fill("#message", "Tell me")
            await page.locator("#message").press("Enter")
            if key == secret:
                await eventually(lambda: odd.open > 0)
                await page.get_by_role("button", name="Stop").click()
            await expect(page.locator(".answer .error").last).to_contain_text(words)
        kept = await page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}])")
        assert kept == "[{},{}]"
        await page.reload()
        assert await page.input_value("#key") == ""


@pytest.mark.parametrize(("calm", "moves"), [(True, "none"), (False, "blink")])
async def test_who_wants_calm_gets_it(
    browser: Browser, gateway: Running, odd: Backend, calm: bool, moves: str
) -> None:
    odd.plays(stalls(*chat_events(["Once"], "odd")[:2]))
    async with visiting(gateway) as guest, opened(browser, guest.url, calm=calm) as page:
        await page.goto("/ui/playground")
        await page.select_option("#target", "odd")
        await page.fill("#message", "Tell me")
        await page.keyboard.press("Enter")
        text = page.locator(".busy .text").first
        await expect(text).to_contain_text("Once")
        script = "(it) => getComputedStyle(it, '::after').animationName"
        assert await text.evaluate(script) == moves
        await page.get_by_role("button", name="Stop").click()
