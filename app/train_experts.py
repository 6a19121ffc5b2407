"""`tandem train experts` and `tandem train prior`: learn from outcome rows.

Only reads the command line and prints; the work is in `policies.training`, which needs the `train`
extra and is imported when the command runs.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app import arguments
from app.training import bar, check_folder, guarded

if TYPE_CHECKING:
    from policies.composition.artifact import Card, Expert
    from policies.composition.embedder import Embedder
    from policies.composition.prior import Prior
    from policies.training.experts.pipeline import Trained, Training
    from policies.training.experts.recipe import Recipe
    from policies.training.outcomes.rows import Rows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `tandem train experts`."""
    add = parser.add_argument_group("rows").add_argument
    rows = "outcomes: Parquet, JSON lines or CSV with prompt and score/MODEL, perhaps task"
    add("--rows", type=Path, nargs="+", action="extend", required=True, metavar="FILE", help=rows)
    add("--models", metavar="A,B,...", help="only these experts, in this order; default: all")
    held = "further rows that budgets and risk bounds are tried on; default: the folds"
    add("--held", type=Path, nargs="+", action="extend", metavar="FILE", help=held)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the artifact")
    _add_costs(parser)
    _add_recipe(parser)
    _add_embedder(parser)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def _add_costs(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("what experts cost").add_argument
    several = "may be repeated"
    params = f"active parameters in billions, where the name does not tell; {several}"
    add("--params", action="append", default=[], metavar="MODEL=BILLIONS", help=params)
    usd = f"price of a request in USD; default: what the rows say; {several}"
    add("--usd", action="append", default=[], metavar="MODEL=USD", help=usd)
    memory = f"memory that its server takes, in GB; {several}"
    add("--memory", action="append", default=[], metavar="MODEL=GB", help=memory)
    resident = "GB that all experts in use may take together (needs --memory for each)"
    add("--resident", type=float, metavar="GB", help=resident)


def _add_recipe(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("the router").add_argument
    what = "what is looked at: everything, or only the form, for the quickest decision"
    add("--features", choices=("all", "lexical"), default="all", help=what)
    clusters = "categories to find where rows have no task (default: follows from the rows)"
    add("--clusters", type=arguments.count, metavar="N", help=clusters)
    add(
        "--trees",
        type=arguments.count,
        metavar="N",
        help="trees of a forest: fewer are a smaller artifact",
    )
    prior = "leave out what is known from other models' answers to public questions"
    add("--no-prior", action="store_true", help=prior)
    add("--seed", type=int, default=0, help="default: %(default)s")


def _add_embedder(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("another embedder than the local one").add_argument
    add("--embeddings", metavar="URL", help="a server with /v1/embeddings")
    add("--embeddings-model", metavar="NAME", help="its model")
    add("--key-env", metavar="NAME", help="environment variable that holds its API key")


def add_prior_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `tandem train prior`."""
    rows = "outcomes of one source, which becomes a group of this name; may be repeated"
    add = parser.add_argument
    add("--rows", action="append", required=True, metavar="NAME=FILE", help=rows)
    add("--out", type=Path, required=True, metavar="DIR", help="the prior's folder")


def main(options: argparse.Namespace) -> int:
    """Learn, write, and say how good it is."""
    return guarded(_train, options)


def main_prior(options: argparse.Namespace) -> int:
    """Learn a prior, and write it."""
    return guarded(_train_prior, options)


def _train(options: argparse.Namespace) -> int:
    from policies.composition.artifact import write_artifact
    from policies.training.experts.frontier import draw_pictures
    from policies.training.experts.pipeline import check, steps, train
    from policies.training.outcomes.rows import read_rows

    check_folder(options.out)
    rows = read_rows(options.rows)
    if options.models:
        rows = rows.of([name.strip() for name in options.models.split(",")])
    check(rows)
    training = _training(options, rows)
    embedded = len(rows) + (0 if training.held is None else len(training.held))
    with (
        bar("training", steps(training)) as fitting,
        bar("embedding", 0 if training.reads is None else embedded) as embedding,
    ):

        def progress(what: str) -> None:
            fitting.set_postfix_str(what)
            fitting.update()

        trained = train(rows, replace(training, embedded=embedding.update), progress)
    write_artifact(options.out, trained.card, trained.parts)
    draw_pictures(trained.card, trained.parts.reference, options.out)
    print(json.dumps(_figures(trained.card)) if options.json else _report(trained, options.out))
    return 0


def _training(options: argparse.Namespace, rows: Rows) -> Training:
    from policies.training.experts.pipeline import Training

    embedder = _embedder(options)
    remote = options.embeddings is not None
    held = _held(options, rows)
    prompts = [*rows.prompts, *(held.prompts if held is not None else ())]
    prior = None if remote or embedder is None or options.no_prior else _prior(prompts, embedder)
    return Training(
        experts=_experts(options, rows),
        recipe=_recipe(options),
        embedder=embedder,
        remote=remote,
        prior=prior,
        resident_gb=options.resident,
        held=held,
        data={"files": [path.name for path in options.rows], "seed": options.seed},
    )


def _held(options: argparse.Namespace, rows: Rows) -> Rows | None:
    """The rows that are held back, without those whose prompts are among `rows`."""
    import numpy as np

    from policies.composition.prior import hashed
    from policies.training.outcomes.errors import RowsError
    from policies.training.outcomes.rows import read_rows

    if not options.held:
        return None
    held = read_rows(options.held).of(rows.models)
    known = np.isin(hashed(held.prompts), hashed(rows.prompts))
    if known.all():
        raise RowsError("--held: all of these prompts are among --rows: hold others back")
    if known.any():
        print(
            f"tandem: {known.sum()} of {len(held)} rows held back are left out: their prompts are "
            "among --rows",
            file=sys.stderr,
        )
    return held.at(np.flatnonzero(~known))


def _recipe(options: argparse.Namespace) -> Recipe:
    from dataclasses import replace

    from policies.training.experts.recipe import Recipe

    recipe = Recipe(seed=options.seed, features=options.features, clusters=options.clusters)
    return recipe if options.trees is None else replace(recipe, trees=options.trees)


def _embedder(options: argparse.Namespace) -> Embedder | None:
    from policies.composition.embedder import minilm
    from policies.training.outcomes.errors import RowsError

    if options.embeddings is None:
        return minilm() if options.features == "all" else None
    if not options.embeddings_model:
        raise RowsError("--embeddings: name its model with --embeddings-model")
    from policies.training.remote_embedder import RemoteEmbedder

    return RemoteEmbedder.connect(options.embeddings, options.embeddings_model, options.key_env)


def _prior(prompts: Sequence[str], embedder: Embedder) -> Prior | None:
    """The shipped prior without the groups that know some of these prompts."""
    from policies.composition.prior import shipped
    from policies.training.outcomes.errors import RowsError

    try:
        prior = shipped()
    except ValueError as error:
        raise RowsError(f"the prior is damaged ({error}): restore deploy/prior") from None
    if prior.embedder != embedder.fingerprint:
        return None
    strangers = prior.strangers(prompts)
    if left_out := [name for name in prior.names if name not in strangers]:
        print(
            f"tandem: the prior's {', '.join(left_out)} left out: it was learned from some of "
            "these rows",
            file=sys.stderr,
        )
    return prior.of(strangers) if strangers else None


def _experts(options: argparse.Namespace, rows: Rows) -> tuple[Expert, ...]:
    from policies.composition.artifact import Expert
    from policies.training.outcomes.errors import RowsError
    from policies.training.outcomes.models import facts

    params, usd, memory = (_told(options, name, rows) for name in ("params", "usd", "memory"))
    if options.resident is not None and len(memory) < len(rows.models):
        missing = next(model for model in rows.models if model not in memory)
        raise RowsError(f"--resident: say what {missing} takes: --memory {missing}=GB")
    spent = _spent(rows)
    experts = tuple(
        Expert(
            model,
            params.get(model, facts(model).params_b),
            usd.get(model, spent.get(model)),
            memory.get(model),
        )
        for model in rows.models
    )
    if unknown := [expert.name for expert in experts if expert.params_b is None]:
        print(
            f"tandem: nobody knows how many parameters {', '.join(unknown)} has (say so with "
            "--params NAME=BILLIONS): budgets in parameters cannot be kept",
            file=sys.stderr,
        )
    return experts


def _spent(rows: Rows) -> Mapping[str, float]:
    """What each expert's answers cost on average, where the rows say so."""
    import numpy as np

    if rows.costs is None:
        return {}
    known = zip(rows.models, rows.costs.T, strict=True)
    return {model: float(np.nanmean(costs)) for model, costs in known if not np.isnan(costs).all()}


def _told(options: argparse.Namespace, name: str, rows: Rows) -> Mapping[str, float]:
    """MODEL=NUMBER options by model."""
    from policies.training.outcomes.errors import RowsError
    from policies.training.outcomes.tables import spelled_alike

    known = {spelled_alike(model): model for model in rows.models}
    found: dict[str, float] = {}
    stated: Sequence[str] = getattr(options, name)
    for one in stated:
        model, _, value = one.rpartition("=")
        try:
            number = float(value)
        except ValueError:
            number = -1.0
        if not model or not 0 <= number < math.inf:
            raise RowsError(f"--{name} {one}: write MODEL=NUMBER")
        if spelled_alike(model) not in known:
            held = ", ".join(rows.models)
            raise RowsError(f"--{name} {one}: the rows hold no model {model}; they hold {held}")
        found[known[spelled_alike(model)]] = number
    return found


# ------------------------------------------------------------------------------------ what is said


def _figures(card: Card) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(card)


def _report(trained: Trained, out: Path) -> str:
    card = trained.card
    known = card.metrics
    found = f"{len(card.experts)} experts, {len(card.categories)} categories ({card.source})"
    lines = [f"{out}: {card.data['rows']} rows, {found}"]
    right, off = known["category_accuracy"], known["category_calibration_error"]
    lines.append(
        f"  category: right on {right:.1%} of rows unseen, its confidence off by {off:.3f}"
    )
    unsure = f"{known['abstained']:.1%} of prompts like these, which go to the fallback"
    lines.append(f"  too uncertain to choose for: {unsure}")
    lines.append("  expected quality, on rows unseen:")
    for model, figures in known["experts"].items():
        explained = 1 - figures["squared_error"] / max(figures["squared_error_of_the_mean"], 1e-12)
        told = f"{explained:.1%} of the variance explained, off by"
        off = figures["calibration_error"]
        lines.append(f"    {model}: mean score {figures['mean_score']:.3f}; {told} {off:.3f}")
    best = max(card.maps, key=lambda one: one.quality)
    most = f"up to a mean score of {best.quality:.3f} at {best.cost:.3g} {best.unit}"
    lines.append(f"  maps: {len(card.maps)}, {most}")
    lines += _frontier(card)
    lines.append(f"  use it: {{use: experts, artifact: {out}}}")
    return "\n".join(lines)


def _frontier(card: Card) -> list[str]:
    """The curve of the quality model, as a small table."""
    curve = card.metrics["frontier"]
    if curve is None:
        return ["  no row knows the score of every expert: there is no curve"]
    lines = [
        f"  by quality, on {curve['rows']} rows unseen ({card.reference}), by {curve['unit']}:",
        f"    {curve['unit']:>8}  score (95 %)            lots   oracle",
    ]
    for point in curve["points"]:
        spread = f"{point['score']:.3f} ({point['low']:.3f} to {point['high']:.3f})"
        lines.append(
            f"    {point['cost']:8.3g}  {spread}  {point['lots']:.3f}  {point['oracle']:.3f}"
        )
    for name in ("apgr", "aiq"):
        if name in curve:
            each = curve[name]
            spread = f"{each['value']:.3f} ({each['low']:.3f} to {each['high']:.3f})"
            lines.append(f"  {name.upper()} {spread}")
    return lines


def _train_prior(options: argparse.Namespace) -> int:
    from policies.composition.embedder import minilm
    from policies.training.outcomes.errors import RowsError
    from policies.training.outcomes.rows import read_rows
    from policies.training.prior import write_prior

    check_folder(options.out)
    groups: dict[str, Rows] = {}
    for one in options.rows:
        name, equals, file = one.partition("=")
        if not (name and equals and file):
            raise RowsError(f"--rows {one}: write NAME=FILE")
        if name in groups:
            raise RowsError(f"--rows {one}: there is a group {name} already")
        groups[name] = read_rows([Path(file)])
    with bar("embedding", sum(len(rows.complete()) for rows in groups.values())) as embedding:
        write_prior(groups, minilm(), options.out, embedding.update)
    print(f"{options.out}: {', '.join(f'{name} ({len(rows)})' for name, rows in groups.items())}")
    return 0
