"""`tandem eval`: what a policy is worth on rows of outcomes, or on a log of decisions.

Only reads the command line; it is imported with every `tandem` command, so what it does is not. The
work is done by `app.evaluation` (rows) and `app.evaluation_logged` (a log).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app import arguments

if TYPE_CHECKING:
    from app.evaluation import Evaluation, Method
    from policies.training.outcomes.rows import Rows
    from policies.training.scoring.neighbours import Embed

UNITS = ("usd", "work", "parameters", "price", "idealised", "idealised_usd", "rank")
"""Of `policies.training.outcomes.costs.Unit`, which is not imported for `--help`."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    add = parser.add_argument
    source = parser.add_mutually_exclusive_group(required=True)
    rows = "outcomes: Parquet, JSON lines or CSV with prompt and score/MODEL; may be repeated"
    source.add_argument("--rows", type=Path, nargs="+", action="extend", metavar="FILE", help=rows)
    log = "a log of decisions to estimate from, instead of rows; may be repeated"
    source.add_argument("--log", type=Path, nargs="+", action="extend", metavar="FILE", help=log)
    policy = "an artifact's folder, a block '{use: ...}', or with --config a policy's name"
    add("--policy", required=True, metavar="P", help=policy)
    parts = (
        "with --policy experts: train a router on all parts of the rows but one and judge it on "
        "that one, for N parts, or for each task"
    )
    add("--cross-fit", type=_parts, metavar="N|task", help=parts)
    add("--config", type=Path, metavar="FILE", help="the gateway.yaml that holds the policy")
    setting = "a setting of the policy, over those of the artifact or block; may be repeated"
    add("--set", dest="settings", action="append", default=[], metavar="NAME=VALUE", help=setting)
    mapped = "a model of the policy and the rows' name of it: then only these; may be repeated"
    add("--as", dest="mapped", action="append", default=[], metavar="NAME=COLUMN", help=mapped)
    models = parser.add_mutually_exclusive_group()
    several = "only these models; default: those that the policy ranks, or all"
    models.add_argument("--models", type=_names, metavar="A,B,...", help=several)
    pair = "only these two, the small one first"
    models.add_argument("--pair", type=_pair, metavar="SMALL,LARGE", help=pair)
    params = "active parameters of a model that the table does not know; may be repeated"
    add("--params", action="append", default=[], metavar="NAME=BILLIONS", help=params)
    unit = "what a cost is counted in (default: the first that is known of every model)"
    add("--cost", choices=UNITS, help=unit)
    train = "the rows that k-NN learns from, such as the policy's; may be repeated"
    add("--train", type=Path, nargs="+", action="extend", default=[], metavar="FILE", help=train)
    add("--no-knn", action="store_true", help="leave out k-NN, which embeds every prompt")
    scores = "scores of logged decisions: a file with id and score; may be repeated"
    add("--scores", type=Path, nargs="+", action="extend", default=[], metavar="FILE", help=scores)
    draws = "resamples for the intervals (default: %(default)s)"
    add("--bootstrap", type=arguments.count, default=1000, metavar="N", help=draws)
    seed = "for resamples, folds and the policy's own draws (default: %(default)s)"
    add("--seed", type=int, default=0, metavar="S", help=seed)
    add("--plot", type=Path, metavar="FILE.png", help="draw quality over cost or large share")
    add("--json", action="store_true", help="print the figures as JSON, curves included")


def main(options: argparse.Namespace) -> int:
    """Judge the policy, and print what it is worth."""
    from app.judged import JudgedError
    from policies.composition.embedder import EmbedderError
    from policies.training.outcomes.errors import RowsError
    from policies.training.replay import ReplayError
    from router.config import ConfigError

    try:
        return _logged(options) if options.log else _rows(options)
    except (ConfigError, EmbedderError, JudgedError, ReplayError, RowsError) as error:
        print(f"tandem: {error}", file=sys.stderr)
    except ModuleNotFoundError as error:
        print(
            f"tandem: {error.name} is not installed: install tandem-gateway[train], in a checkout "
            "`make train-tools`",
            file=sys.stderr,
        )
    return 1


def _rows(options: argparse.Namespace) -> int:
    from app.evaluation import evaluated
    from app.flattery import flattering
    from app.judged import judged
    from policies.training.outcomes.rows import read_rows

    rows = read_rows(options.rows)
    if options.cross_fit is not None:
        return _told(options, _cross_fitted(options, rows))
    policy = judged(options, rows.models)
    train = read_rows(options.train) if options.train else None
    if train is not None:
        train = _renamed(train, policy.names.columns)
    flatters = flattering(policy.name, policy.stage.targets, rows.prompts)
    return _told(options, evaluated(policy, rows, _method(options, train)), flatters)


def _cross_fitted(options: argparse.Namespace, rows: Rows) -> Evaluation:
    """Routers trained on parts of the rows, each judged on the part that it has not seen."""
    from app.cross_fit import KIND, CrossFit, judged_by_parts, replayed_by_parts
    from app.evaluation import evaluated
    from app.judged import JudgedError, names_of, settings_of

    if options.policy != KIND:
        raise JudgedError(f"--cross-fit: trains a router, so say --policy {KIND}")
    names = names_of(options, rows.models)
    parts = None if options.cross_fit == "task" else options.cross_fit
    fit = CrossFit(parts, settings_of(options.settings), options.seed)
    judged = judged_by_parts(names)
    method = _method(options, None)
    return evaluated(judged, rows, method, lambda r: replayed_by_parts(r, names, fit, _bar))


def _told(options: argparse.Namespace, found: Evaluation, flatters: str | None = None) -> int:
    from app.evaluation_report import figures, plot, report, warnings

    for warning in [*([flatters] if flatters else []), *warnings(found)]:
        print(f"tandem: {warning}", file=sys.stderr)
    if options.plot is not None and not _plotted(found, options.plot, plot):
        return 1
    print(json.dumps(figures(found)) if options.json else report(found))
    return 0


def _plotted(found: Evaluation, file: Path, plot: Any) -> bool:
    try:
        plot(found, file)
    except OSError as error:
        print(f"tandem: {file}: {error.strerror or error}", file=sys.stderr)
        return False
    return True


def _logged(options: argparse.Namespace) -> int:
    from app.evaluation_logged import figures, judge_log, report, warnings
    from policies.training.decisions import read_decisions

    decisions = read_decisions(options.log, options.scores, options.seed)
    found = judge_log(options, decisions, _method(options, None))
    for warning in warnings(found):
        print(f"tandem: {warning}", file=sys.stderr)
    print(json.dumps(figures(found)) if options.json else report(found))
    return 0


def _method(options: argparse.Namespace, train: Rows | None) -> Method:
    from app.evaluation import Method
    from policies.training.outcomes.costs import Unit

    return Method(
        draws=options.bootstrap,
        seed=options.seed,
        unit=Unit(options.cost) if options.cost else None,
        embed=None if options.no_knn else _embedding(),
        train=train,
        watch=_bar,
    )


def _renamed(train: Rows, columns: Any) -> Rows:
    """The training rows with their models called as the policy calls them."""
    from policies.training.outcomes.tables import spelled_alike

    called = {spelled_alike(column): name for name, column in columns.items()}
    return train.called([called.get(spelled_alike(model), model) for model in train.models])


def _embedding() -> Embed:
    """Vectors of texts by the local embedder, each text's made once."""
    from policies.composition.embedder import minilm
    from policies.training.scoring.neighbours import remembering

    return remembering(minilm().embed, _bar)


def _bar(found: Iterable[Any], about: str, number: int) -> Iterable[Any]:
    from tqdm import tqdm

    bar: Iterable[Any] = tqdm(found, about, number, leave=False, disable=None)
    return bar


def _names(text: str) -> Sequence[str]:
    """An argument that is a list of names."""
    names = [name.strip() for name in text.split(",")]
    if not all(names) or len(set(names)) < len(names):
        raise ValueError
    return names


def _pair(text: str) -> Sequence[str]:
    """An argument that is two names."""
    names = _names(text)
    if len(names) != 2:
        raise ValueError
    return names


def _parts(text: str) -> int | str:
    """An argument that is a number from 2 on, or the word task."""
    if text == "task":
        return text
    if (parts := int(text)) < 2:
        raise ValueError
    return parts
