"""`odvla-bench score-text`: score two JSON Lines files, without a build."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from odvla_bench.cli import options
from odvla_bench.cli.console import out, print_table
from odvla_bench.errors import InputError

if TYPE_CHECKING:
    from odvla_bench.metrics.text.profiles import ScoreOptions
    from odvla_bench.metrics.text.tables import ScoreTable


def score_text(
    *,
    preds: Annotated[
        Path, typer.Option(help='JSON Lines of {"id", "prediction"}; null counts as missing.')
    ],
    refs: Annotated[
        Path,
        typer.Option(
            help='JSON Lines of {"id"} with "references" (captions), "narration" and "reasoning" '
            '(nux-*), or "answer", "template_type" and "num_hop" (nuscenesqa-*); "scene" groups '
            "samples for the intervals."
        ),
    ],
    profile: Annotated[str, typer.Option(help="How to score, for example nucaption-ptb.")],
    bertscore: options.BertScore = False,
    bertscore_model: options.BertScoreModel = "roberta-large",
    bertscore_layer: options.BertScoreLayer = None,
    resamples: options.Resamples = 1000,
    seed: options.Seed = 0,
    workers: Annotated[
        int | None, typer.Option(min=1, help="JVMs for METEOR.", show_default="one a core")
    ] = None,
    out_file: Annotated[
        Path | None, typer.Option("--out", help="Write the result to this file, as JSON.")
    ] = None,
) -> None:
    """Score texts against references under a named profile."""
    from odvla_bench.datasets.writer import write_json
    from odvla_bench.predictions.texts import match_answers, read_records

    choices = score_options(
        bertscore, bertscore_model, bertscore_layer, resamples=resamples, seed=seed, workers=workers
    )
    targets = read_records(refs)
    predictions = match_answers(preds, read_records(preds), list(targets))
    table = _score(profile, predictions, targets, refs, choices)
    print_scores(table)
    if out_file is not None:
        try:
            write_json(out_file, as_json(table))
        except OSError as error:
            raise InputError(f"{out_file} cannot be written: {error.strerror}.") from error


def score_options(
    bertscore: bool,  # noqa: FBT001
    model: str,
    layer: int | None,
    *,
    resamples: int = 1000,
    seed: int = 0,
    workers: int | None = None,
) -> ScoreOptions:
    """What a command was told about how to score."""
    from odvla_bench.metrics.text.profiles import ScoreOptions
    from odvla_bench.metrics.text.scoring import TextOptions
    from odvla_bench.metrics.text.tables import Resampling

    return ScoreOptions(
        bertscore=bertscore,
        text=TextOptions(bertscore_model=model, bertscore_layer=layer, workers=workers),
        resampling=Resampling(resamples=resamples, seed=seed),
    )


def print_scores(table: ScoreTable) -> None:
    """Print every number times 100 with its interval, what was counted, and the signature."""
    rows = [
        (row.group, row.metric, _number(row.value), *map(_number, row.interval or ()))
        for row in table.rows
    ]
    header = ("group", "metric", "score × 100", "low", "high")
    print_table(table.profile, header, rows, numbers_from=2)
    out.print(", ".join(f"{name}: {count}" for name, count in table.counts.items()))
    out.print(table.signature, soft_wrap=True)


def _number(value: float) -> str:
    return "-" if value != value else f"{100 * value:.2f}"


def _score(
    name: str,
    predictions: list[str | None],
    targets: dict[str, dict[str, Any]],
    refs: Path,
    options: ScoreOptions,
) -> ScoreTable:
    from odvla_bench.metrics import dense_captioning, qa
    from odvla_bench.metrics.text import profiles
    from odvla_bench.registry import suggest

    clusters = _clusters(targets, refs)
    if name in qa.PROFILES:
        if options.bertscore:
            raise profiles.no_bertscore(f"Profile {name}")
        return qa.score_qa(
            qa.PROFILES.get(name),
            predictions,
            _column(targets, "answer", str, refs),
            _column(targets, "template_type", str, refs),
            _column(targets, "num_hop", int, refs),
            clusters=clusters,
            resampling=options.resampling,
        )
    if name in dense_captioning.PROFILES:
        raise InputError(
            f"Profile {name} scores captions of boxes, which needs a build: "
            "odvla-bench eval --task tod3cap --data BUILD."
        )
    if name not in profiles.PROFILES:
        raise suggest(name, [*profiles.PROFILES, *qa.PROFILES], kind="profile")
    profile = profiles.PROFILES.get(name)
    if isinstance(profile, profiles.NuxProfile):
        columns = (_column(targets, key, str, refs) for key in ("narration", "reasoning"))
        parts = [profiles.NuxParts(*pair) for pair in zip(*columns, strict=True)]
        return profiles.score_nux(profile, predictions, parts, clusters=clusters, options=options)
    references = _column(targets, "references", list, refs)
    return profiles.score_captions(
        profile, predictions, references, clusters=clusters, options=options
    )


def _column(targets: dict[str, dict[str, Any]], key: str, kind: type, refs: Path) -> list[Any]:
    """One field of every reference."""
    for name, record in targets.items():
        if not isinstance(record.get(key), kind) or isinstance(record[key], bool):
            raise InputError(
                f"{refs}: id {name!r} needs {key!r} as {kind.__name__}; "
                f"it has {sorted(record)}. See `odvla-bench score-text --help`."
            )
    return [record[key] for record in targets.values()]


def _clusters(targets: dict[str, dict[str, Any]], refs: Path) -> list[str] | None:
    """The scene of every reference, or None if no reference names one."""
    if any("scene" in record for record in targets.values()):
        return _column(targets, "scene", str, refs)
    return None


def as_json(table: ScoreTable) -> dict[str, Any]:
    """The result as plain JSON values; a number that does not exist is null."""
    return {
        "profile": table.profile,
        "signature": table.signature,
        "counts": dict(table.counts),
        "scores": [
            {
                "group": row.group,
                "metric": row.metric,
                "value": row.value if row.value == row.value else None,
                "interval": list(row.interval) if row.interval else None,
            }
            for row in table.rows
        ],
    }
