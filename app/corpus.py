"""`tandem corpus`: the documents that are kept with the gateway, made and looked at on this disk.

Reads the command line and prints; `app.corpora` does the rest. A gateway that runs sees a change
within seconds. Adding is idempotent: a file whose bytes are known under its name is not read again,
so a command that was cut off goes on where it was when it is given again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.arguments import count

if TYPE_CHECKING:
    from app.corpora import Corpora, Given
    from policies.reading.corpus import Manifest

AT_ONCE = 8 << 20
"""Characters of new documents after which a revision is written."""
MEBIBYTE = 1 << 20


def add_arguments(parser: argparse.ArgumentParser, action: str) -> None:
    """The options of one of the actions: add, embed, list, show, remove."""
    add = parser.add_argument
    parser.set_defaults(action=_ACTIONS[action])
    if action != "list":
        add("name", metavar="NAME", help="the corpus")
    if action == "add":
        kinds = "files, or folders of them: text, Markdown, HTML, CSV, JSON, PDF"
        add("files", type=Path, nargs="+", metavar="FILE", help=kinds)
        anew = "remove the documents that are not among these files"
        add("--replace", action="store_true", help=anew)
    if action == "embed":
        like = "as the policy's search.{}; default: {}"
        add("--chunk-tokens", type=count, metavar="N", help=like.format("chunk_tokens", 600))
        add("--overlap-tokens", type=count, metavar="N", help=like.format("overlap_tokens", 100))
    if action == "remove":
        add("document", nargs="?", metavar="ID", help="only this document")
    add("--config", type=Path, metavar="FILE", help="gateway.yaml, for its `corpora`")
    add("--json", action="store_true", help="what is printed, as JSON")


def main(options: argparse.Namespace) -> int:
    """Do it, and say what there is then; 1 if something could not be done."""
    from app.corpora import Corpora
    from policies.reading.corpus import CorpusError

    try:
        folder, megabytes = _settings(options.config)
        corpora = Corpora(folder, int(megabytes * MEBIBYTE))
        action: Callable[[argparse.Namespace, Corpora], int] = options.action
        return action(options, corpora)
    except (CorpusError, ValueError) as error:
        reason = str(error)
    except OSError as error:
        reason = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    print(f"tandem: {reason}", file=sys.stderr)
    return 1


def _settings(config: Path | None) -> tuple[Path, float]:
    """Where corpora are, and how large one may be, in MiB. Only that section is looked at."""
    from pydantic import ValidationError

    from router.decode import ConfigError, Form, decode
    from router.explain import explain
    from router.sections import CorporaConfig

    if config is None:
        return Path(CorporaConfig().folder), CorporaConfig().limit_mb
    form = Form.JSON if config.suffix == ".json" else Form.YAML
    text = config.read_text(encoding="utf-8-sig")
    section: Any = {}
    try:
        section = decode(text, form, str(config)).tree.get("corpora", {})
        settings = CorporaConfig.model_validate_json(json.dumps(section))
    except ConfigError as error:
        raise ValueError(f"{config}: {error.problems[0]}") from None
    except ValidationError as error:
        path, reason = next(iter(explain(error, section, CorporaConfig)))
        where = ".".join(map(str, ("corpora", *path)))
        raise ValueError(f"{config}: {where}: {reason}") from None
    return Path(settings.folder), settings.limit_mb


# ------------------------------------------------------------------------------------- actions


def _add(options: argparse.Namespace, corpora: Corpora) -> int:
    from tqdm import tqdm

    from app.corpora import UnknownCorpusError

    files = dict(_named(options.files))
    try:
        known = {(e.id, e.source): e.digest for e in corpora.one(options.name).entries}
    except UnknownCorpusError:
        known = {}
    broken: dict[str, str] = {}
    with tqdm(files.items(), desc="reading", file=sys.stderr, unit="file", disable=None) as bar:
        for batch in _batches(_read(bar, known, broken)):
            corpora.put(options.name, batch)
    if options.replace:
        corpora.keep(options.name, files.keys())
    for name, reason in broken.items():
        print(f"tandem: {name}: {reason}", file=sys.stderr)
    try:
        manifest = corpora.one(options.name)
    except UnknownCorpusError:
        return 1  # every file was broken, which has been said
    told = {**_told(corpora, manifest), "problems": broken}
    _print(options, told, [_line(corpora, manifest)])
    return 1 if broken else 0


def _read(
    files: Iterable[tuple[str, Path]], known: dict[tuple[str, str], str], broken: dict[str, str]
) -> Iterator[Given]:
    """The documents that are new or other than what is known."""
    from dataclasses import replace

    from app.corpus_files import FileError, document_of, read_file, source_of

    for name, file in files:
        try:
            data = read_file(file)
            if (name, source_of(data)) not in known:
                yield replace(document_of(name, data), path=str(file))
        except FileError as error:
            broken[name] = str(error)


def _batches(given: Iterable[Given]) -> Iterator[list[Given]]:
    batch: list[Given] = []
    size = 0
    for each in given:
        batch.append(each)
        size += len(each.text)
        if size >= AT_ONCE:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _named(paths: Sequence[Path]) -> Iterator[tuple[str, Path]]:
    """Each file by what its document is called: its path in its folder, or its name."""
    from app.corpus_files import files_below

    for path in paths:
        if path.is_dir():
            for file in files_below(path):
                yield file.relative_to(path).as_posix(), file
        else:
            yield path.name, path


def _embed(options: argparse.Namespace, corpora: Corpora) -> int:
    """Make the vectors that are missing; what is made is kept, also if it is cut off."""
    from tqdm import tqdm

    from policies.composition.embedder import EmbedderError, minilm
    from policies.reading.corpus import load
    from policies.reading.index import Index
    from policies.reading.kept_vectors import encoded, recall
    from policies.reading.recipe import Recipe

    manifest = corpora.one(options.name)
    folder = corpora.folder / options.name
    stated = {"chunk_tokens": options.chunk_tokens, "overlap_tokens": options.overlap_tokens}
    recipe = Recipe(**{name: value for name, value in stated.items() if value is not None})
    try:
        embedder = minilm()
        texts = [document.text for document in load(folder).documents]
        index = recall(Index(texts, recipe), folder, embedder.fingerprint)
    except EmbedderError as error:
        raise ValueError(str(error)) from None
    left = len(index.unread())
    with tqdm(total=left, desc="embedding", file=sys.stderr, unit="window", disable=None) as bar:
        try:
            index.complete(embedder.embed, bar.update)
        finally:
            corpora.keep_vectors(options.name, encoded(index, embedder.fingerprint))
    told = {**_told(corpora, manifest), "windows": len(index.windows), "embedded": left}
    new = f"{left:,} of {len(index.windows):,} windows embedded"
    _print(options, told, [f"{_line(corpora, manifest)}; {new}"])
    return 0


def _list(options: argparse.Namespace, corpora: Corpora) -> int:
    every = corpora.every()
    lines = [_line(corpora, manifest) for manifest in every]
    damaged = corpora.damaged()
    if not lines and not damaged:
        lines = [f"there is no corpus in {corpora.folder}"]
    _print(options, [_told(corpora, manifest) for manifest in every], lines)
    for why in damaged:
        print(f"tandem: {why}", file=sys.stderr)
    return 1 if damaged else 0


def _show(options: argparse.Namespace, corpora: Corpora) -> int:
    manifest = corpora.one(options.name)
    rows = [(e.id, e.title, e.path, e.characters) for e in manifest.entries]
    keys = ("id", "title", "path", "characters")
    told = _told(corpora, manifest) | {"entries": [dict(zip(keys, r, strict=True)) for r in rows]}
    lines = [f"{characters:>12,}  {id_}" for id_, _, _, characters in rows]
    _print(options, told, [_line(corpora, manifest), *lines])
    return 0


def _remove(options: argparse.Namespace, corpora: Corpora) -> int:
    if options.document is None:
        corpora.drop(options.name)
        _print(options, {"name": options.name, "documents": 0}, [f"{options.name} is gone"])
        return 0
    manifest = corpora.take(options.name, options.document)
    _print(options, _told(corpora, manifest), [_line(corpora, manifest)])
    return 0


_ACTIONS = {"add": _add, "embed": _embed, "list": _list, "show": _show, "remove": _remove}


def _told(corpora: Corpora, manifest: Manifest) -> dict[str, Any]:
    return {
        "name": manifest.name,
        "revision": manifest.revision,
        "folder": str(corpora.folder / manifest.name),
        "documents": len(manifest.entries),
        "characters": manifest.characters,
    }


def _line(corpora: Corpora, manifest: Manifest) -> str:
    count = len(manifest.entries)
    return (
        f"{corpora.folder / manifest.name}: {count} document{'' if count == 1 else 's'}, "
        f"{manifest.characters:,} characters, revision {manifest.revision}"
    )


def _print(options: argparse.Namespace, told: Any, lines: Sequence[str]) -> None:
    print(json.dumps(told, indent=1) if options.json else "\n".join(lines))
