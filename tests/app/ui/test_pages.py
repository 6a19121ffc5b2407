"""The pages that show: complete without a script, safe with any name, true to what happened."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from app.ui.paper import HEADERS, POLICY
from app.ui.recent import KEPT
from router.observe import RequestEnded
from router.revisions import Behind
from tests.app.ui.visiting import Guest, visiting
from tests.conftest import Started
from tests.running import MESSAGES, Running, config, model
from tests.scripted import Backend, answers, hangs_up

ROOT = Path(__file__).parents[3]
PAGES = (
    "/ui", "/ui?window=1h", "/ui?window=nonsense", "/ui/decisions", "/ui/decisions?failed=1",
    "/ui/backends", "/ui/policies", "/ui/policies/auto", "/ui/policies/team/canary",
    "/ui/new-policy?use=split", "/ui/config", "/ui/revisions", "/ui/revisions/1",
    "/ui/playground", "/ui/sign-in",
)  # fmt: skip


@pytest.fixture
async def running(gateway: Started, small: Backend, large: Backend) -> Running:
    tree = config(
        {"small": small, "large": large},
        policies={
            "auto": {"use": "fallback", "targets": ["large", "small"]},
            "team/canary": {"use": "split", "weights": {"small": 1, "large": 9}},
        },
        baseline="large",
    )
    tree["models"]["large"] = model(large, price={"input": 10.0, "output": 20.0})
    return await gateway(tree)


@pytest.fixture
async def guest(running: Running) -> AsyncIterator[Guest]:
    async with visiting(running) as it:
        yield it


async def test_every_page_is_whole_and_keeps_to_itself(guest: Guest) -> None:
    for path in PAGES:
        page = await guest.read(path)  # which looks at its tags, labels and links
        assert page.status == 200, path
        assert page.answer.headers["content-security-policy"] == POLICY
        assert HEADERS.items() <= {k: page.answer.headers.get(k) for k in HEADERS}.items()
        assert page.answer.headers["cache-control"] == "no-store"
        assert {"main"} <= page.ids


async def test_there_is_nothing_elsewhere(guest: Guest) -> None:
    for path in ("/ui/nowhere", "/ui/policies/nobody", "/ui/revisions/77", "/ui/revisions/x"):
        page = await guest.read(path)
        assert page.status == 404, path
        assert "there is no" in page.text
        assert "Overview" in page.text
    for path in ("/ui/new-policy?use=nothing", "/ui/static/0/nothing.css"):
        assert (await guest.read(path)).status == 404
    assert (await guest.read("/ui/")).answer.url.path == "/ui"


@pytest.mark.slow
def test_the_wheel_has_what_pages_are_made_of(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as held:
        names = set(held.namelist())
    made = [*(ROOT / "app/ui/templates").iterdir(), *(ROOT / "app/ui/static").iterdir()]
    assert {str(path.relative_to(ROOT)) for path in made} <= names


async def test_static_files_are_kept_until_they_change(guest: Guest) -> None:
    page = await guest.read()
    links = re.findall(r'"(/ui/static/[^"]+)"', page.answer.text)
    assert {link.rpartition(".")[2] for link in links} == {"css", "js", "svg"}
    for link in links:
        file = await guest.client.get(link)
        assert file.status_code == 200
        assert "immutable" in file.headers["cache-control"]
        old = await guest.client.get(re.sub("/static/[^/]+/", "/static/0/", link))
        assert old.headers["cache-control"] == "no-store"
        assert not re.search(r"url\(|@import|https?://(?!www\.w3\.org)", file.text)


async def test_what_happened_is_told(
    guest: Guest, running: Running, small: Backend, large: Backend
) -> None:
    for target in ("auto", "small", "large"):
        await running.post(model=target)
    large.plays(hangs_up)
    await running.post(model="auto")
    await running.post(model="nosuch")
    small.plays(hangs_up)
    await running.post(model="small")
    await running.ended(5)
    page = await guest.read()
    assert "5 in" in page.text
    assert "model_not_found 1" in page.text
    assert "backend 1" in page.text
    assert "fell_back 1" in page.text
    decisions = await guest.read("/ui/decisions")
    assert "5 of 5" in decisions.text
    assert "fell_back" in decisions.text
    assert "503 backend" in decisions.text or "502 backend" in decisions.text
    assert MESSAGES[0]["content"] not in decisions.text
    only = await guest.read("/ui/decisions?policy=small&failed=1")
    assert "1 of 5" in only.text
    backends = await guest.read("/ui/backends")
    assert "ok 2 backend 1" in backends.text
    assert small.url in backends.text


async def test_savings_are_those_of_the_metrics(guest: Guest, running: Running) -> None:
    await running.post(model="small")
    await running.ended()
    page = await guest.read()
    assert "Saved 90 %" in page.text  # a tenth of the baseline's price
    assert "that large alone would cost" in page.text


async def test_idealised_runtimes_are_told_where_there_are_some(
    guest: Guest, gateway: Started, running: Running, small: Backend
) -> None:
    await running.post(model="small")
    await running.ended()
    assert "served alone" not in (await guest.read()).text
    tree = config({"small": small})
    tree["models"]["small"]["idealised"] = {"call": 3.0}
    timed = await gateway(tree)
    async with visiting(timed) as other:
        await timed.post(model="small")
        await timed.ended()
        assert "served alone: 3" in (await other.read()).text


async def test_a_process_that_is_behind_says_so(guest: Guest, running: Running) -> None:
    running.rooms.revisions.behind = Behind(7, "there is no such artifact")
    page = await guest.read("/ui/revisions")
    assert "cannot serve revision 7 and goes on with 1" in page.text
    assert "there is no such artifact" in page.text


async def test_words_of_others_are_shown_as_words(
    guest: Guest, running: Running, small: Backend, large: Backend
) -> None:
    evil = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
    for backend in (small, large):
        backend.plays(answers({"error": {"message": evil}}, 500))
    await running.post(model="auto")
    await running.ended()
    for path in ("/ui", "/ui/decisions", f"/ui/policies/{evil}", f"/ui/decisions?policy={evil}"):
        page = await guest.read(path)  # whose reading refuses scripts and handlers
        assert "<script>alert" not in page.answer.text
        assert "onerror=alert(1)>" not in page.answer.text


async def test_decisions_are_bounded(guest: Guest, running: Running) -> None:
    ended = await _one(running)
    for _ in range(KEPT + 10):
        running.rooms.gateway.observe(ended)
    assert f"{KEPT} of {KEPT}" in (await guest.read("/ui/decisions")).text


async def _one(running: Running) -> RequestEnded:
    await running.post(model="small")
    return await running.ended()
