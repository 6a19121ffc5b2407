"""`tandem train experts` and `tandem train prior`: learn from outcome rows.

Only reads the command line and prints; the work is in `policies.training`, which needs the `train`
extra and is imported when the command runs.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from policies.composition.artifact import Card, Expert
    from policies.composition.embedder import Embedder
    from policies.composition.prior import Prior
    from policies.training.experts.pipeline import Trained, Training
    from policies.training.experts.recipe import Recipe
    from policies.training.outcomes.rows import Rows

MISSING = "install tandem-gateway[train], in a checkout `make train-tools`"


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
    add("--clusters", type=_count, metavar="N", help=clusters)
    add("--trees", type=_count, metavar="N", help="trees of a forest: fewer are a smaller artifact")
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
    return _guarded(_train, options)


def main_prior(options: argparse.Namespace) -> int:
    """Learn a prior, and write it."""
    return _guarded(_train_prior, options)


def _guarded(work: Callable[[argparse.Namespace], int], options: argparse.Namespace) -> int:
    """Turns what can go wrong into one line."""
    try:
        from policies.composition.embedder import EmbedderError
        from policies.training.experts.maps import MapError
        from policies.training.outcomes.errors import RowsError

        try:
            return work(options)
        except (EmbedderError, MapError, RowsError) as error:
            reason = str(error)
    except ModuleNotFoundError as error:
        reason = f"{error.name} is not installed: {MISSING}"
    except OSError as error:
        reason = f"{error.filename or ''}: {error.strerror or error}".removeprefix(": ")
    print(f"tandem: {reason}", file=sys.stderr)
    return 1


def _train(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from policies.composition.artifact import write_artifact
    from policies.training.experts.pipeline import steps, train
    from policies.training.outcomes.rows import read_rows

    rows = read_rows(options.rows)
    if options.models:
        rows = rows.of([name.strip() for name in options.models.split(",")])
    training = _training(options, rows)
    with tqdm(total=steps(training), desc="training", file=sys.stderr, disable=None) as bar:

        def progress(what: str) -> None:
            bar.set_postfix_str(what)
            bar.update()

        trained = train(rows, training, progress)
    write_artifact(options.out, trained.card, trained.parts)
    print(json.dumps(_figures(trained.card)) if options.json else _report(trained, options.out))
    return 0


def _training(options: argparse.Namespace, rows: Rows) -> Training:
    from policies.training.experts.pipeline import Training
    from policies.training.outcomes.rows import read_rows

    embedder = _embedder(options)
    remote = options.embeddings is not None
    prior = None if remote or embedder is None or options.no_prior else _prior(rows, embedder)
    return Training(
        experts=_experts(options, rows),
        recipe=_recipe(options),
        embedder=embedder,
        remote=remote,
        prior=prior,
        resident_gb=options.resident,
        held=read_rows(options.held) if options.held else None,
        data={"files": [path.name for path in options.rows], "seed": options.seed},
    )


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
    from policies.training.remote_embedder import RemoteEmbedder

    if not options.embeddings_model:
        raise RowsError("--embeddings: name its model with --embeddings-model")
    return RemoteEmbedder.connect(options.embeddings, options.embeddings_model, options.key_env)


def _prior(rows: Rows, embedder: Embedder) -> Prior | None:
    """The shipped prior without the groups that know some of these rows."""
    from policies.composition.prior import shipped

    prior = shipped()
    if prior.embedder != embedder.fingerprint:
        return None
    strangers = prior.strangers(rows.prompts)
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
    means = np.nanmean(rows.costs, axis=0)
    return {
        model: float(mean)
        for model, mean in zip(rows.models, means, strict=True)
        if not np.isnan(mean)
    }


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
        if not model or number < 0:
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
    lines.append("  expected quality, on rows unseen:")
    for model, figures in known["experts"].items():
        explained = 1 - figures["squared_error"] / max(figures["squared_error_of_the_mean"], 1e-12)
        told = f"{explained:.1%} of the variance explained, off by"
        off = figures["calibration_error"]
        lines.append(f"    {model}: mean score {figures['mean_score']:.3f}; {told} {off:.3f}")
    best = max(card.maps, key=lambda one: one.quality)
    most = f"up to a mean score of {best.quality:.3f} at {best.cost:.3g} {best.unit}"
    lines.append(f"  maps: {len(card.maps)}, {most}")
    lines.append(f"  use it: {{use: experts, artifact: {out}}}")
    return "\n".join(lines)


def _train_prior(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from policies.composition.embedder import minilm
    from policies.training.outcomes.errors import RowsError
    from policies.training.outcomes.rows import read_rows
    from policies.training.prior import write_prior

    groups: dict[str, Rows] = {}
    for one in options.rows:
        name, equals, file = one.partition("=")
        if not (name and equals and file):
            raise RowsError(f"--rows {one}: write NAME=FILE")
        groups[name] = read_rows([Path(file)])
    with tqdm(total=len(groups), desc="prior", file=sys.stderr, disable=None) as bar:

        def progress(what: str) -> None:
            bar.set_postfix_str(what)
            bar.update()

        write_prior(groups, minilm(), options.out, progress)
    print(f"{options.out}: {', '.join(f'{name} ({len(rows)})' for name, rows in groups.items())}")
    return 0


def _count(text: str) -> int:
    """An argument that is a number from 1 on."""
    if (value := int(text)) < 1:
        raise ValueError
    return value
