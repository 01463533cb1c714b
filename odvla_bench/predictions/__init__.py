"""Planning predictions: one plan of six waypoints a sample, whatever file they come in.

Read are, by the file's ending:

    .parquet        columns `sample_token` and `x_m`, `y_m` (lists of six metres) or `text`.
    .jsonl .ndjson  one object a line with the same keys, or with `id` and `answer` as the released
                    OpenDriveVLA code writes them; `answer` may be a list, its first is scored.
    .json           a list of such objects; lines of them, as the released `plan_conv.json`; or one
                    object of token → text or [[x, y], …], as its `pred_trajs_dict.json`.
    .pkl .pickle    a dict of token → array (6, 2) or (1, 6, 2), through the safe reader.

A token may end in `_trajectory`. Coordinates are metres in the LIDAR frame of the keyframe, x right
and y forward, absolute, at 0.5, 1.0, … 3.0 s. Where a row has a text, the text is what is scored,
and coordinates beside it are not read.

A file is read whole or not at all: every defect is collected, and the error lists them. A text that
does not parse is no defect of the file: it is kept with status `failed` and NaN coordinates, and
what it scores is the protocol's business.
"""

from odvla_bench.predictions.reader import read_predictions
from odvla_bench.predictions.table import PlanningPredictions, TokenMatch, check_tokens
from odvla_bench.predictions.writer import write_predictions

__all__ = [
    "PlanningPredictions",
    "TokenMatch",
    "check_tokens",
    "read_predictions",
    "write_predictions",
]
