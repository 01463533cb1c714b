"""Options that several commands share, so that they read alike everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

NuScenesRoot = Annotated[
    Path,
    typer.Option(
        "--nuscenes-root", help="Folder that holds v1.0-*/, and where present can_bus/ and maps/."
    ),
]
Version = Annotated[str, typer.Option("--version", help="Folder of tables, such as v1.0-trainval.")]
BuildDir = Annotated[Path, typer.Option("--data", help="A build made by `odvla-bench build-data`.")]
CacheDir = Annotated[
    Path | None,
    typer.Option(help="Where parsed tables are kept.", show_default="$ODVLA_CACHE or ~/.cache"),
]
MemoryLimit = Annotated[
    str, typer.Option(help="What reading the JSON tables may take, such as 500MB.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what lies there.")]
Split = Annotated[str, typer.Option(help="Split of the build, such as val.")]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]
SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="Leave out keyframes with unreadable images.")
]
BertScore = Annotated[bool, typer.Option("--bertscore", help="Add BERTScore to captions' scores.")]
BertScoreModel = Annotated[
    str, typer.Option(help="For BERTScore: a model's name, or the folder of one.")
]
BertScoreLayer = Annotated[
    int | None, typer.Option(help="For BERTScore: layer to compare; needed for a folder.")
]
Resamples = Annotated[int, typer.Option(min=0, help="Resamples for the intervals; 0 for none.")]
