"""Corpora over the admin API, on a real listener: who may, what is taken, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from policies.reading.corpus import Corpus
from router.revisions import Revisions
from tests.app.test_admin import ANY, TEXT, TOKEN, YAML, refused, serving
from tests.app.test_corpus_files import pdf

PATH = "/admin/corpora"
INVALID = "invalid_config"
BOOK = {
    "name": "book",
    "documents": [
        {"id": "1", "title": "One", "text": "The first."},
        {"id": "a/2", "text": "The second."},
    ],
}


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[httpx.Client]:
    monkeypatch.chdir(tmp_path)
    with serving(TOKEN) as (client, _):
        yield client


def configure(client: httpx.Client, corpora: str) -> None:
    """Swap the `corpora` section in, as an operator would."""
    text = f"{TEXT}corpora: {corpora}\n"
    answer = client.put("/admin/config", content=text, headers=YAML | ANY)
    assert answer.status_code == 200, answer.text


def test_a_corpus_is_made_read_changed_and_removed(client: httpx.Client, tmp_path: Path) -> None:
    assert client.get(PATH).json() == {"corpora": [], "damaged": []}
    made = client.post(PATH, json=BOOK)
    assert made.status_code == 200, made.text
    book = {
        "name": "book",
        "revision": 1,
        "etag": made.json()["etag"],
        "folder": "corpora/book",
        "documents": 2,
        "characters": 21,
    }
    assert made.json() == {**book, "problems": []}
    assert made.headers["etag"] == f'"{book["etag"]}"'
    assert client.get(PATH).json() == {"corpora": [book], "damaged": []}
    reader = Corpus(tmp_path / "corpora/book", iter(range(100, 200)).__next__)
    assert [d.text for d in reader.now().documents] == ["The first.", "The second."]
    added = client.post(PATH, json={"name": "book", "documents": [{"text": "The third."}]})
    assert (added.json()["documents"], added.json()["revision"]) == (3, 2)
    assert len(reader.now().documents) == 3, "it is seen without a restart"
    gone = client.delete(f"{PATH}/book/documents/a/2")
    assert gone.json()["documents"] == 2
    one = client.get(f"{PATH}/book")
    assert one.headers["etag"] == gone.headers["etag"]
    first = {"id": "1", "title": "One", "path": "", "characters": 10}
    assert one.json()["entries"][0] == first
    replaced = client.post(PATH, json={**BOOK, "replace": True})
    assert (replaced.json()["documents"], replaced.json()["revision"]) == (2, 4)
    assert client.delete(f"{PATH}/book").json() == {"corpora": [], "damaged": []}
    assert reader.now().documents == ()
    refused(client.get(f"{PATH}/book"), 404, "unknown")
    refused(client.delete(f"{PATH}/book"), 404, "unknown")
    refused(client.delete(f"{PATH}/book/documents/1"), 404, "unknown")


def test_a_disk_that_fails_is_told_as_such(client: httpx.Client, tmp_path: Path) -> None:
    (tmp_path / "corpora").write_text("no folder")
    refused(client.post(PATH, json=BOOK), 507, "disk")


def test_a_change_may_be_meant_for_one_revision(client: httpx.Client) -> None:
    etag = client.post(PATH, json=BOOK).headers["etag"]
    old = {"if-match": etag}
    more = {"name": "book", "documents": [{"id": "3", "text": "More."}]}
    assert client.post(PATH, json=more, headers=old).status_code == 200
    refused(client.post(PATH, json=BOOK, headers=old), 412, "stale")
    refused(client.delete(f"{PATH}/book/documents/1", headers=old), 412, "stale")
    refused(client.delete(f"{PATH}/book", headers=old), 412, "stale")
    assert client.delete(f"{PATH}/book", headers=ANY).status_code == 200


def test_files_are_uploaded_and_a_broken_one_costs_itself_only(client: httpx.Client) -> None:
    files = [
        ("files", ("a.txt", b"Text\r\nof two lines.", "text/plain")),
        ("files", ("b.pdf", pdf("A page."), "application/pdf")),
        ("files", ("c.pdf", b"%PDF-1.4 broken", "application/pdf")),
        ("files", ("d.bin", bytes(range(256)), "application/octet-stream")),
        ("files", ("\u00e9.md", "# \u00c9t\u00e9".encode(), "text/markdown")),
    ]
    made = client.post(PATH, data={"name": "book"}, files=files)
    assert made.status_code == 200, made.text
    problems = {each["path"]: each["reason"] for each in made.json()["problems"]}
    assert problems.keys() == {"c.pdf", "d.bin"}
    assert "PDF" in problems["c.pdf"]
    entries = client.get(f"{PATH}/book").json()["entries"]
    assert [(e["id"], e["characters"]) for e in entries] == [
        ("a.txt", 19),
        ("b.pdf", 7),
        ("\u00e9.md", 5),
    ]
    anew = client.post(PATH, data={"name": "book", "replace": "true"}, files=files[:1])
    assert anew.json()["documents"] == 1
    only_broken = client.post(PATH, data={"name": "other"}, files=files[2:4])
    assert "c.pdf" in refused(only_broken, 422, "invalid_corpus")["message"]


def test_a_folder_is_imported_where_that_is_allowed(client: httpx.Client, tmp_path: Path) -> None:
    (tmp_path / "shared/sub").mkdir(parents=True)
    (tmp_path / "shared/sub/a.txt").write_text("Text.")
    (tmp_path / "shared/b.bin").write_text("Text.")
    (tmp_path / "shared/link.txt").symlink_to("/etc/passwd")
    folder = {"name": "book", "folder": "."}
    why = refused(client.post(PATH, json=folder), 422, "invalid_corpus")["message"]
    assert "corpora.import_from" in why
    with serving(TOKEN, f"{TEXT}corpora: {{folder: kept, import_from: shared}}\n") as (other, _):
        made = other.post(PATH, json=folder)
        assert made.json()["folder"] == "kept/book"
        assert [each["path"] for each in made.json()["problems"]] == ["b.bin"]
        assert other.get(f"{PATH}/book").json()["entries"][0]["path"] == "sub/a.txt"
        for wanted in ("..", "/etc", "link.txt", "sub/../.."):
            refused(other.post(PATH, json={**folder, "folder": wanted}), 422, "invalid_corpus")


@pytest.mark.parametrize("section", ["{folder: /tmp}", "{import_from: /etc}"])
def test_an_operator_cannot_open_other_folders(client: httpx.Client, section: str) -> None:
    """Which of the machine's files are read and written is said by whoever starts the gateway."""
    text = f"{TEXT}corpora: {section}\n"
    error = refused(client.put("/admin/config", content=text, headers=YAML | ANY), 422, INVALID)
    assert error["problems"][0]["reason"].startswith("is set up once, at start")


@pytest.mark.slow
@pytest.mark.parametrize(
    "body",
    [
        {},
        {"name": "book"},
        {"name": "../book", "documents": [{"text": "x"}]},
        {"name": "a/b", "documents": [{"text": "x"}]},
        {"name": "book", "documents": [{"text": 7}]},
        {"name": "book", "documents": [{"text": "x", "url": "y"}]},
        {"name": "book", "documents": [{"id": "a\nb", "text": "x"}]},
        {"name": "book", "documents": [{"id": "x" * 600, "text": "x"}]},
        {"name": "book", "documents": {"text": "x"}},
        {"name": "book", "documents": [], "how": "fast"},
        [],
    ],
)
def test_bodies_that_are_no_corpus(client: httpx.Client, body: object) -> None:
    error = refused(client.post(PATH, json=body), 422, "invalid_corpus")
    assert len(error["message"]) > 10
    assert client.get(PATH).json() == {"corpora": [], "damaged": []}


def test_bodies_that_are_no_json_or_no_form(client: httpx.Client) -> None:
    json_ = {"content-type": "application/json"}
    for content in (
        b"{",
        b"\xff",
        b"[" * 100_000,
        b'{"name": "b", "documents": [{"text": "\\ud800"}]}',
    ):
        refused(client.post(PATH, content=content, headers=json_), 422, "invalid_corpus")
    refused(
        client.post(PATH, content=b"a", headers={"content-type": "text/plain"}),
        415,
        "unknown_notation",
    )
    for form in ("multipart/form-data", "multipart/form-data; boundary=x"):
        headers = {"content-type": form}
        refused(client.post(PATH, content=b"--x\r\n\r\n", headers=headers), 422, "invalid_corpus")


def test_what_is_too_large(client: httpx.Client) -> None:
    configure(client, "{limit_mb: 0.01}")
    large = {"name": "book", "documents": [{"id": "1", "text": "x" * 12_000}]}
    refused(client.post(PATH, json=large), 413, "too_large")
    half = {"name": "book", "documents": [{"id": "1", "text": "x" * 6_000}]}
    assert client.post(PATH, json=half).status_code == 200
    half["documents"] = [{"id": "2", "text": "y" * 6_000}]
    message = refused(client.post(PATH, json=half), 413, "too_large")["message"]
    assert "corpora.limit_mb" in message
    assert client.get(f"{PATH}/book").json()["documents"] == 1


def test_only_the_operator_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    wrong = {"authorization": "Bearer wrong"}
    with serving(TOKEN) as (client, _):
        refused(client.get(PATH, headers=wrong), 401, "unauthorised")
        refused(client.post(PATH, json=BOOK, headers=wrong), 401, "unauthorised")
        refused(client.delete(f"{PATH}/book", headers=wrong), 401, "unauthorised")
    with serving(None) as (client, revisions):
        assert isinstance(revisions, Revisions)
        page = {"origin": "https://evil.example"}
        form = {"data": {"name": "book"}, "files": {"files": ("a.txt", b"x")}}
        refused(client.post(PATH, headers=page, **form), 403, "foreign_origin")  # type: ignore[arg-type]
        refused(client.post(PATH, headers={"origin": "null"}, json=BOOK), 403, "foreign_origin")
        assert client.get(PATH).json() == {"corpora": [], "damaged": []}
