"""Files as documents: what is read of each kind, what is refused and why, and which of a folder."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from app.corpus_files import (
    FileError,
    document_of,
    files_below,
    import_folder,
    pdf_text,
    read_file,
    source_of,
)


def pdf(*pages: str) -> bytes:
    """A PDF of pages with a line of text each, as small as one may be."""
    kids = " ".join(f"{3 + 2 * number} 0 R" for number in range(len(pages)))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>",
    ]
    font = "<< /Font << /F1 << /Type /Font /Subtype /Type1 /BaseFont /Helvetica >> >> >>"
    for number, line in enumerate(pages):
        drawn = f"BT /F1 12 Tf 72 700 Td ({line}) Tj ET"
        page = f"/Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Resources {font}"
        objects += [
            f"<< {page} /Contents {4 + 2 * number} 0 R >>",
            f"<< /Length {len(drawn)} >>\nstream\n{drawn}\nendstream",
        ]
    data = b"%PDF-1.4\n"
    starts = []
    for number, body in enumerate(objects, 1):
        starts.append(len(data))
        data += f"{number} 0 obj\n{body}\nendobj\n".encode()
    table = "".join(f"{start:010} 00000 n \n" for start in starts)
    size = len(objects) + 1
    end = f"xref\n0 {size}\n0000000000 65535 f \n{table}trailer\n<< /Size {size} /Root 1 0 R >>\n"
    return data + f"{end}startxref\n{len(data)}\n%%EOF\n".encode()


@pytest.mark.parametrize(
    ("name", "data", "text"),
    [
        ("a.txt", "H\u00e9llo.".encode(), "H\u00e9llo."),
        ("deep/b.MD", b"# Head\r\n", "# Head\r\n"),
        ("c.csv", "\ufeffa,b".encode(), "a,b"),
        ("d.json", b'{"a": 1}', '{"a": 1}'),
        ("e.html", b"<title>T</title><p>Hi <b>you</b>", "T\n\nHi you"),
        ("f.txt", "Hi".encode("utf-16"), "Hi"),
        ("g.pdf", pdf("Page one.", "Page two."), "Page one.\n\nPage two."),
    ],
)
def test_kinds_of_files(name: str, data: bytes, text: str) -> None:
    read = document_of(name, data)
    assert (read.id, read.title, read.path) == (name, name.rpartition("/")[2], name)
    assert read.text == text
    assert read.source == source_of(data) != source_of(data + b"x")


@pytest.mark.parametrize(
    ("name", "data", "why"),
    [
        ("a.docx", b"PK", "its name ends in none of: txt, "),
        ("txt", b"x", "its name ends in none of"),
        ("a.txt", b"\xff\0", "it is not UTF-8 text"),
        ("a.txt", b" \n", "there is no text in it"),
        ("a.pdf", b"", "it cannot be read as a PDF"),
        ("a.pdf", b"no PDF at all", "it cannot be read as a PDF"),
        ("a.pdf", pdf("One.")[:200], "it cannot be read as a PDF"),
        ("a.pdf", pdf(""), "there is no text in it"),
    ],
)
def test_files_that_are_no_documents(name: str, data: bytes, why: str) -> None:
    with pytest.raises(FileError, match=why):
        document_of(name, data)


def test_a_pdf_that_takes_too_long() -> None:
    with pytest.raises(FileError, match="longer than"):
        pdf_text(pdf("One."), seconds=0.01)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "root/sub").mkdir(parents=True)
    (tmp_path / "root/.git").mkdir()
    for name in ("root/a.txt", "root/sub/b.txt", "root/.hidden", "root/.git/c.txt", "secret.txt"):
        (tmp_path / name).write_text("text")
    (tmp_path / "root/link.txt").symlink_to(tmp_path / "secret.txt")
    (tmp_path / "root/out").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "root/pipe")
    return tmp_path / "root"


def test_a_folder_without_links_hidden_files_and_pipes(tree: Path) -> None:
    assert [str(file.relative_to(tree)) for file in files_below(tree)] == ["a.txt", "sub/b.txt"]
    assert read_file(tree / "a.txt") == b"text"
    for name, why in (("link.txt", "symbolic links"), ("pipe", "regular"), ("x", "No such file")):
        with pytest.raises(FileError, match=why):
            read_file(tree / name)


def test_folders_are_imported_from_below_one_only(tree: Path) -> None:
    below = str(tree)
    assert import_folder(".", below) == tree
    assert import_folder("sub", below) == import_folder(str(tree / "sub"), below) == tree / "sub"
    for wanted, why in (
        ("..", "does not lie below"),
        ("sub/../..", "does not lie below"),
        ("/etc", "does not lie below"),
        (f"{below}x", "does not lie below"),
        ("a\0b", "does not lie below"),
        ("out", "symbolic link"),
        ("out/root", "symbolic link"),
        ("nothing", "no such folder"),
        ("a.txt", "no such folder"),
    ):
        with pytest.raises(FileError, match=why):
            import_folder(wanted, below)
    with pytest.raises(FileError, match=r"set corpora\.import_from"):
        import_folder("sub", None)
