"""The audit log: every change has its lines, and none is made that cannot be written down."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.audit import (
    MOST_CHANGES,
    TURNED_AWAY,
    Audit,
    AuditError,
    Change,
    Entry,
    changes_between,
)
from app.linefile import LineFile
from router.revisions import Revisions
from tests.app.test_admin import ANY, TEXT, TOKEN, VIEWERS, YAML, operations, refused, serving

POLICY = "/admin/policies/auto"
BLOCK = {"use": "pair", "small": "large", "large": "small"}
VERA = {"authorization": f"Bearer {VIEWERS}"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


@pytest.fixture
def admin(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[httpx.Client, Revisions]]:
    monkeypatch.chdir(tmp_path)
    with serving(TOKEN, audit=Audit(str(file))) as both:
        yield both


@pytest.fixture
def client(admin: tuple[httpx.Client, Revisions]) -> httpx.Client:
    return admin[0]


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def entry(what: str = "PUT /admin/config") -> Entry:
    return Entry("alice", "operator", "127.0.0.1", what)


# ------------------------------------------------------------------------------------ over the API


def test_a_change_is_written_down_before_and_after(client: httpx.Client, file: Path) -> None:
    etags = [client.get("/admin/config").headers["etag"].strip('"')]
    put = client.put(POLICY, json=BLOCK)
    etags.append(put.json()["etag"])
    asked, done = lines(file)
    assert {name: asked[name] for name in ("who", "role", "address", "what", "outcome")} == {
        "who": "operator",
        "role": "operator",
        "address": "127.0.0.1",
        "what": "PUT /admin/policies/auto",
        "outcome": "asked",
    }
    assert asked["id"] == done["id"]
    assert asked["when"] <= done["when"]
    assert done["when"].endswith("Z")
    assert done["outcome"] == "done"
    assert done["before"] == {"revision": 1, "etag": etags[0]}
    assert done["after"] == {"revision": 2, "etag": etags[1]}
    assert done["changes"] == [
        {"path": "policies.auto.small", "before": "small", "after": "large"},
        {"path": "policies.auto.large", "before": "large", "after": "small"},
    ]


def test_every_kind_of_change_is_in_it(client: httpx.Client) -> None:
    client.put("/admin/config", content=TEXT + "baseline: large\n", headers=YAML | ANY)
    client.put("/admin/policies/new", json={"use": "direct", "model": "small"})
    client.delete("/admin/policies/new")
    client.post("/admin/revisions/1/activate")
    book = {"name": "book", "documents": [{"id": "1", "text": "One."}, {"id": "2", "text": "Two."}]}
    client.post("/admin/corpora", json=book)
    client.delete("/admin/corpora/book/documents/1")
    client.delete("/admin/corpora/book")
    found = client.get("/admin/audit").json()["entries"]
    told = [(e["what"], e["outcome"]) for e in reversed(found)]
    assert told == [
        ("PUT /admin/config", "done"),
        ("PUT /admin/policies/new", "done"),
        ("DELETE /admin/policies/new", "done"),
        ("POST /admin/revisions/1/activate", "done"),
        ("POST /admin/corpora", "done"),
        ("DELETE /admin/corpora/book/documents/1", "done"),
        ("DELETE /admin/corpora/book", "done"),
    ]
    corpora = [(e["before"], e["after"]) for e in reversed(found)][-3:]
    revision = [(before or {}).get("revision") for pair in corpora for before in pair]
    assert revision == [None, 1, 1, 2, 2, None]
    assert corpora[1][0]["etag"] != corpora[1][1]["etag"]


def test_what_is_refused_is_in_it(client: httpx.Client, file: Path) -> None:
    client.put("/admin/config", content=TEXT, headers=YAML)
    client.put("/admin/config", content="a: hunter2-in-the-wrong-place", headers=YAML | ANY)
    client.put(POLICY, json=BLOCK, headers={"if-match": '"other"'})
    client.post("/admin/revisions/first/activate")
    client.post("/admin/revisions/9/activate")
    told = [(line["outcome"], line.get("code")) for line in lines(file)][1::2]
    assert told == [
        ("refused", "if_match_required"),
        ("refused", "invalid_config"),
        ("refused", "stale"),
        ("refused", "invalid_parameter"),
        ("refused", "unknown"),
    ]
    assert "hunter2" not in file.read_text()


def test_a_mistake_of_ours_is_in_it(
    admin: tuple[httpx.Client, Revisions], file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, revisions = admin
    monkeypatch.setattr(revisions, "activate", None)
    refused(client.post("/admin/revisions/1/activate"), 500, "mistake")
    assert [line["outcome"] for line in lines(file)] == ["asked", "failed"]


def test_who_is_turned_away_is_in_it(client: httpx.Client, file: Path) -> None:
    refused(client.put(POLICY, json=BLOCK, headers=VERA), 403, "operator_needed")
    refused(client.get("/admin/config", headers={"authorization": "Bearer x"}), 401, "unauthorised")
    away = [{n: line.get(n) for n in ("who", "what", "outcome", "code")} for line in lines(file)]
    assert away == [
        {"who": "vera", "what": f"PUT {POLICY}", "outcome": "turned away", "code": OPERATOR},
        {"who": None, "what": "GET /admin/config", "outcome": "turned away", "code": UNKNOWN},
    ]
    assert "Bearer" not in file.read_text()


OPERATOR, UNKNOWN = "operator_needed", "unauthorised"


def test_what_changes_nothing_is_not_in_it(client: httpx.Client, file: Path) -> None:
    for method, path in operations(client):
        if method == "GET" or path == "/admin/config/check":
            client.request(method, path, content=TEXT, headers=YAML)
    assert file.read_text() == ""


def test_no_change_without_a_line(
    admin: tuple[httpx.Client, Revisions], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a full disk."""
    client, revisions = admin
    before = revisions.runtime

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(LineFile, "write", full)
    for method, path in operations(client):
        answer = client.request(method, path, content=json.dumps(BLOCK), headers=YAML | ANY)
        changes = method != "GET" and path not in ("/admin/config/check", "/admin/feedback")
        assert (answer.status_code == 503) is changes, f"{method} {path}: {answer.text}"
    error = refused(client.put(POLICY, json=BLOCK), 503, "audit")
    assert "nothing was changed" in error["message"]
    assert "No space left on device" in error["message"]
    assert revisions.runtime is before
    refused(client.put(POLICY, json=BLOCK, headers=VERA), 403, "operator_needed")


def test_a_change_whose_end_cannot_be_written_says_so(
    client: httpx.Client,
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It was made already; the first line says who asked for it."""
    written: list[bytes] = []
    write = LineFile.write

    def once(self: LineFile, data: bytes) -> None:
        if written:
            raise OSError(28, "No space left on device")
        written.append(data)
        write(self, data)

    monkeypatch.setattr(LineFile, "write", once)
    assert client.put(POLICY, json=BLOCK).status_code == 200
    assert "PUT /admin/policies/auto by operator done, and " in caplog.text
    (known,) = client.get("/admin/audit", headers=VERA).json()["entries"]
    assert (known["who"], known["outcome"]) == ("operator", "asked")


def test_paths_cannot_forge_lines(client: httpx.Client, file: Path) -> None:
    forged = '/admin/policies/a%0D{"who":"mallory"}%1b[31m' + "x" * 1000
    client.delete(forged)
    assert {line["who"] for line in lines(file)} == {"operator"}
    assert max(map(len, file.read_bytes().splitlines())) < 1000
    assert file.read_bytes().isascii()
    assert b"\x1b" not in file.read_bytes()


def test_reading_it(client: httpx.Client, file: Path) -> None:
    for _ in range(4):
        client.delete("/admin/policies/none")
    with file.open("ab") as handed:
        handed.write(b'{"id": 7}\nnot json\n\n{"id": "x"}\n{"cut')
    found = client.get("/admin/audit", params={"limit": 4}, headers=VERA).json()["entries"]
    assert len(found) == 3, "what is no entry takes a place and is not shown"
    for limit in ("0", "1001", "x"):
        answer = client.get("/admin/audit", params={"limit": limit})
        refused(answer, 422, "invalid_parameter")


def test_without_a_file_there_is_none() -> None:
    with serving(TOKEN) as (client, _):
        refused(client.get("/admin/audit"), 409, "no_audit")


# ---------------------------------------------------------------------------------------- the file


def test_only_its_owner_reads_it(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    Audit(str(file)).close()
    assert file.stat().st_mode & 0o777 == 0o600
    assert not caplog.records
    file.chmod(0o644)
    Audit(str(file)).close()
    assert "chmod 600" in caplog.text


def test_a_file_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(AuditError, match=r"cannot open .*\(admin\.audit\): No such file"):
        Audit(str(tmp_path / "none/audit"))


def test_it_is_only_appended_to(file: Path) -> None:
    first = Audit(str(file))
    first.asked(entry("first"))
    second = Audit(str(file))  # another process, or the next start
    second.asked(entry("second"))
    first.asked(entry("third"))
    assert [line["what"] for line in lines(file)] == ["first", "second", "third"]


WRITER = """
import sys
from app.audit import Audit, Entry
audit = Audit(sys.argv[1])
for number in range(50):
    audit.asked(Entry(sys.argv[2], "operator", "::1", "x" * 200))
"""


@pytest.mark.slow
def test_processes_share_it(file: Path) -> None:
    commands = [[sys.executable, "-c", WRITER, str(file), str(n)] for n in range(2)]
    processes = [subprocess.Popen(command) for command in commands]
    assert [process.wait(60) for process in processes] == [0, 0]
    assert len(lines(file)) == 100


def test_a_flood_of_strangers_fills_no_disk(file: Path) -> None:
    now = 0.0
    audit = Audit(str(file), clock=lambda: now)
    for _ in range(1000):
        audit.turned_away(entry(), "unauthorised")
    assert len(lines(file)) == TURNED_AWAY
    now = 60.0
    audit.turned_away(entry(), "unauthorised")
    assert lines(file)[-1]["left_out"] == 1000 - TURNED_AWAY


def test_the_last_lines_of_a_long_file(file: Path) -> None:
    audit = Audit(str(file))
    for number in range(400):
        each = entry(f"{number} " + "é" * 100)
        audit.asked(each)
        audit.ended(each, "done")
    assert file.stat().st_size > 200_000
    found = audit.last(300)
    assert [each["what"].split()[0] for each in found] == [str(n) for n in range(399, 99, -1)]
    assert {each["outcome"] for each in found} == {"done"}


def test_a_gone_file_is_said(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    audit = Audit(str(file))
    file.unlink()
    with pytest.raises(AuditError, match="cannot be read: No such file"):
        audit.last(1)
    file.mkdir()
    with pytest.raises(AuditError, match="cannot be written"):
        audit.asked(entry())
    with caplog.at_level(logging.ERROR):
        audit.turned_away(entry(), "unauthorised")
    assert "was turned away, and" in caplog.text


def test_what_two_documents_differ_in() -> None:
    before = {"a": {"b": 1, "c": [1]}, "d": "x", "e": None, "n": 1}
    after = {"a": {"b": 2, "c": [1, 2]}, "f": {"g": True}, "e": None, "n": 1.0}
    assert list(changes_between(before, after)) == [
        Change("a.b", 1, 2),
        Change("a.c", "[1]", "[1, 2]"),
        Change("d", "x", None),
        Change("n", 1, 1.0),
        Change("f", None, '{"g": true}'),
    ]
    ((path, _, long),) = [
        (c.path, c.before, c.after) for c in changes_between({}, {"p": "x" * 999})
    ]
    assert path == "p"
    assert len(long) < 300


def test_a_new_document_does_not_fill_the_log(client: httpx.Client, file: Path) -> None:
    models = "".join(f"  m{n}: {{backends: [http://h:{n + 1}]}}\n" for n in range(300))
    client.put("/admin/config", content=f"models:\n{models}default: m1\n", headers=YAML | ANY)
    done = lines(file)[-1]
    assert len(done["changes"]) == MOST_CHANGES
    assert done["more_changes"] > 200
    assert file.stat().st_size < 64_000
