"""Changing things from the pages: checked first, activated under an ETag, written down, undone."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from app.audit import Audit
from app.operators import Operators
from tests.app.ui.visiting import OLGA, TOKENS, Guest, visiting
from tests.conftest import Started
from tests.running import Running, config

ELSEWHERE = {"small": "http://127.0.0.1:9", "large": "http://127.0.0.1:9"}
POLICY = "/ui/policies/auto"


@pytest.fixture
async def running(gateway: Started) -> Running:
    policies: dict[str, Any] = {
        "auto": {"use": "split", "weights": {"small": 1, "large": 9}, "salt": " x"},
        "upon": {"use": "fallback", "targets": ["auto", "large"]},
    }
    return await gateway(config(ELSEWHERE, policies=policies))


@pytest.fixture
async def guest(running: Running) -> AsyncIterator[Guest]:
    async with visiting(running) as it:
        yield it


def block(guest: Guest, name: str = "auto") -> Any:
    return guest.running.rooms.revisions.runtime.config.policies.get(name)


async def test_a_setting_is_checked_and_activated(guest: Guest) -> None:
    page = await guest.read(POLICY)
    checked = await guest.send(page.form(POLICY), "check", **{"set.switch.sticky": "false"})
    assert checked.status == 200
    assert "The check found nothing wrong" in checked.text
    assert "+ sticky: false" in checked.text
    assert await guest.revision() == 1
    done = await guest.send(checked.form(POLICY), "activate")
    assert "Revision 2 serves now" in done.text
    assert block(guest) == {
        "use": "split", "weights": {"small": 1, "large": 9}, "salt": " x", "sticky": False,
    }  # fmt: skip
    again = await guest.send(done.form(POLICY), "check")
    assert "nothing would change" in again.text


async def test_what_is_wrong_is_told_with_its_path(guest: Guest) -> None:
    form = (await guest.read(POLICY)).form(POLICY)
    for do in ("check", "activate"):
        page = await guest.send(form, do, **{"set.yaml.weights": "{small: 1, larg: 2}"})
        assert page.status == 422
        assert "policies.auto.weights.larg: there is no model or policy" in page.text
        assert 'did you mean "large"?' in page.text
        assert page.form(POLICY).fields["set.yaml.weights"] == '{"small": 1, "larg": 2}'
        assert 'aria-invalid="true"' in page.answer.text
    unread = await guest.send(form, "activate", **{"set.yaml.weights": "{small: "})
    assert unread.status == 422
    assert unread.form(POLICY).fields["set.yaml.weights"] == '"{small: "'
    assert await guest.revision() == 1


async def test_a_block_may_be_typed(guest: Guest) -> None:
    page = await guest.read(POLICY)
    form = page.forms[[f.action for f in page.forms].index(POLICY) + 1]
    assert "text" in form.fields
    done = await guest.send(form, "activate", text="use: direct # plain\nmodel: small")
    assert "Revision 2 serves now" in done.text
    assert block(guest) == {"use": "direct", "model": "small"}
    for text, why in (
        ("use: direct\nmodel: [", "cannot be read"),
        ("use: nothing", "there is no such kind of policy"),
        ("model: small", "this setting is required"),
        ("", "this setting is required"),
    ):
        page = await guest.send(form, "check", text=text)
        assert page.status == 422
        assert why in page.text


async def test_who_comes_second_is_told_and_keeps_what_was_typed(guest: Guest) -> None:
    first = (await guest.read(POLICY)).form(POLICY)
    await guest.send(first, "activate", **{"set.switch.sticky": "false"})
    second = await guest.send(first, "activate", **{"set.number.unknown": "", "set.text.salt": "y"})
    assert second.status == 412
    assert "Somebody else was faster" in second.text
    assert "- sticky: false" in second.text
    assert await guest.revision() == 2
    again = await guest.send(second.form(POLICY), "activate")
    assert "Revision 3 serves now" in again.text


async def test_a_policy_is_made_and_removed(guest: Guest) -> None:
    page = await guest.read("/ui/new-policy?use=direct")
    form = page.form("/ui/new-policy")
    taken = await guest.send(form, "activate", name="auto", **{"set.choice.model": "small"})
    assert taken.status == 422
    assert "there is a policy of this name already" in taken.text
    bad = await guest.send(form, "check", name="a b", **{"set.choice.model": "small"})
    assert bad.status == 422
    assert "a name has at most" in bad.text
    missing = await guest.send(form, "check", name="mine", **{"set.choice.model": ""})
    assert "policies.mine.model: this setting is required" in missing.text
    made = await guest.send(form, "activate", name="team/mine", **{"set.choice.model": "small"})
    assert "Revision 2 serves now" in made.text
    gone = await guest.send(made.form("/ui/policies/team/mine"), "", do="remove")
    assert gone.answer.url.path == "/ui/policies"
    assert block(guest, "team/mine") is None
    assert await guest.revision() == 3


async def test_what_is_referred_to_is_not_removed(guest: Guest) -> None:
    form = (await guest.read(POLICY)).form(POLICY)
    page = await guest.send(form, "", do="remove")
    assert page.status == 422
    assert 'policies.upon.targets.0: there is no model or policy named "auto"' in page.text
    gone = await guest.send(form, "", do="remove", etag="another")
    assert gone.status == 412
    form.action = "/ui/policies/nobody"
    assert (await guest.send(form, "", do="remove")).status == 404


async def test_the_whole_document_keeps_its_comments(guest: Guest) -> None:
    page = await guest.read("/ui/config")
    form = page.form("/ui/config")
    text = "# why\n" + form.fields["text"].replace("'", '"')
    changed = text.replace('salt: " x"', "salt: y")
    assert changed != text
    checked = await guest.send(form, "check", text=changed)
    assert "+ salt: y" in checked.text.replace("  ", " ")
    done = await guest.send(checked.form("/ui/config"), "activate")
    assert "Revision 2 serves now" in done.text
    assert done.form("/ui/config").fields["text"] == changed
    bad = await guest.send(
        done.form("/ui/config"), "activate", text=changed + "\nlisten: {port: 1}"
    )
    assert "listen: is set up once, at start" in bad.text
    assert await guest.revision() == 2


async def test_a_revision_is_rolled_back_to(guest: Guest) -> None:
    form = (await guest.read(POLICY)).form(POLICY)
    await guest.send(form, "activate", **{"set.switch.sticky": "false"})
    page = await guest.read("/ui/revisions/1")
    assert "- sticky: false" in page.text
    back = page.form("/ui/revisions/1")
    stale = await guest.send(back, etag="another")
    assert stale.status == 412
    done = await guest.send(back)
    assert "Revision 3 serves now" in done.text
    assert "rolled back to 1" in done.text
    assert "sticky" not in block(guest)


async def test_changes_are_written_down(running: Running, tmp_path: Path) -> None:
    audit = Audit(str(tmp_path / "audit.jsonl"))
    async with visiting(running, Operators(TOKENS), audit) as guest:
        await guest.sign_in(TOKENS[OLGA])
        form = (await guest.read(POLICY)).form(POLICY)
        await guest.send(form, "check", **{"set.switch.sticky": "false"})
        await guest.send(form, "activate", **{"set.switch.sticky": "false"})
        await guest.send(form, "activate", **{"set.switch.sticky": "true"})
        page = await guest.read("/ui/revisions")
        kept = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
        told = [(line["who"], line["what"], line["outcome"], line.get("code")) for line in kept]
        assert told == [
            ("olga", f"POST {POLICY}", "asked", None),
            ("olga", f"POST {POLICY}", "done", None),
            ("olga", f"POST {POLICY}", "asked", None),
            ("olga", f"POST {POLICY}", "refused", "stale"),
        ]
        assert kept[1]["changes"] == [
            {"path": "policies.auto.sticky", "before": None, "after": False}
        ]
        assert "Audit log" in page.text
        assert "policies.auto.sticky: null → false" in page.text
        audit.close()
        refused = await guest.send((await guest.read(POLICY)).form(POLICY), "activate")
        assert refused.status == 503
        assert "nothing was changed" in refused.text
    assert await guest.revision() == 2
