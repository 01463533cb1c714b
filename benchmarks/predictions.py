"""Reading 6,019 predictions from each accepted form, and 100,000 plans through each codec.

python -m benchmarks.predictions [--repeat 5]
"""

from __future__ import annotations

import argparse
import json
import pickle
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.measure import here, markdown, seconds
from odvla_bench.datasets.waypoints import get_codec
from odvla_bench.predictions import read_predictions, write_predictions

N_SAMPLES = 6_019
N_PLANS = 100_000


def plans(count: int) -> np.ndarray:
    """(count, 6, 2) random walks forward, metres, at two decimals."""
    steps = np.random.default_rng(0).normal((0, 3), (0.3, 1), (count, 6, 2))
    return np.round(np.cumsum(steps, axis=1), 2)


def write_files(folder: Path) -> list[Path]:
    """The same predictions in each accepted form."""
    xy = plans(N_SAMPLES)
    tokens = [f"{i:032x}" for i in range(N_SAMPLES)]
    texts = get_codec("text").encode_batch(xy)
    answers = [
        json.dumps({"id": f"{token}_trajectory", "question": "q" * 1500, "answer": [text]})
        for token, text in zip(tokens, texts, strict=True)
    ]
    (folder / "plan_conv.json").write_text("\n".join(answers))
    named = {f"{token}_trajectory": [plan.tolist()] for token, plan in zip(tokens, xy, strict=True)}
    (folder / "pred_trajs_dict.json").write_text(json.dumps(named))
    arrays = dict(zip(tokens, xy, strict=True))
    (folder / "pred_trajs_dict.pkl").write_bytes(pickle.dumps(arrays))
    for name in ("coordinates.parquet", "coordinates.jsonl"):
        write_predictions(folder / name, tokens, xy[..., 0], xy[..., 1])
    write_predictions(folder / "texts.parquet", tokens, text=texts)
    return sorted(folder.iterdir())


def codec_row(name: str, repeat: int, **options: str) -> tuple[str, str, str]:
    """Encoding and decoding times of one codec; a repair policy gets answers to repair."""
    codec = get_codec(name, **options)
    xy = plans(N_PLANS)
    texts = codec.encode_batch(xy)
    if options:
        texts = [text.replace(",(", ", (") for text in texts]
    encode = seconds(here(lambda: codec.encode_batch(xy), repeat=repeat))
    decode = seconds(here(lambda: codec.decode_batch(texts), repeat=repeat))
    return f"{name}/{codec.repair}", encode, decode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=5)
    repeat = parser.parse_args().repeat
    with tempfile.TemporaryDirectory() as folder:
        files = write_files(Path(folder))
        rows = [
            (path.name, seconds(here(lambda p=path: read_predictions(p), repeat=repeat)))
            for path in files
        ]
    print(markdown(("file of 6,019 predictions", "read, CPU s"), rows))
    codecs = [codec_row(name, repeat) for name in ("text", "delta", "bins")]
    codecs.append(codec_row("text", repeat, repair="released"))
    print("\n" + markdown(("codec, 100,000 plans", "encode, CPU s", "decode, CPU s"), codecs))


if __name__ == "__main__":
    main()
