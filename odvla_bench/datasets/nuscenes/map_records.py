"""The records of a map expansion file (version 1.3), parsed by Arrow; only the fields needed.

Arrow parses three times as fast as the standard library and makes no objects, but cannot say which
record is damaged; that is looked up where it refuses a file.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import json as arrow_json

from odvla_bench.errors import InputError

LINE_LAYERS = ("lane_divider", "road_divider", "traffic_light")
POLYGON_LAYERS = (
    "drivable_area",
    "road_segment",
    "lane",
    "lane_connector",
    "ped_crossing",
    "walkway",
    "stop_line",
    "carpark_area",
)

Columns = dict[str, pa.Array]
"""The fields of a layer's records by name, `token` among them. What a record lacks is null."""

_OLDEST_VERSION = (1, 3)
_MAX_FILE_BYTES = 1 << 30
_OBJECT = re.compile(rb"\s*\{")
_TEXT, _TEXTS = pa.string(), pa.list_(pa.string())
_FIELDS: dict[str, dict[str, pa.DataType]] = {
    "node": {"x": pa.float64(), "y": pa.float64()},
    "line": {"node_tokens": _TEXTS},
    "polygon": {
        "exterior_node_tokens": _TEXTS,
        "holes": pa.list_(pa.struct({"node_tokens": _TEXTS})),
    },
    **{name: {"line_token": _TEXT} for name in LINE_LAYERS},
    **{name: {"polygon_token": _TEXT} for name in POLYGON_LAYERS},
    "traffic_light": {"line_token": _TEXT, "traffic_light_type": _TEXT},
    "drivable_area": {"polygon_tokens": _TEXTS},
    "road_segment": {"polygon_token": _TEXT, "is_intersection": pa.bool_()},
    "lane": {"polygon_token": _TEXT, "lane_type": _TEXT},
    "stop_line": {"polygon_token": _TEXT, "stop_line_type": _TEXT},
}
_LACKS = {
    "x": "has no numbers `x` and `y`",
    "y": "has no numbers `x` and `y`",
    "node_tokens": "has no list of node tokens",
    "exterior_node_tokens": "has no list of node tokens",
    "holes": "has `holes` that are not a list of objects with lists of node tokens",
    "polygon_tokens": "has no list `polygon_tokens`",
}
_PYTHON_TYPES: dict[pa.DataType, Any] = {
    pa.string(): str,
    pa.float64(): (int, float),
    pa.bool_(): bool,
}


def read_records(path: Path) -> dict[str, Columns]:
    """Layer → its records, each with a token; also of `node`, `line` and `polygon`.

    Raises:
        InputError: not a map of version 1.3, no such layer, a record without a token, or a field
            of another type.
    """
    if path.stat().st_size > _MAX_FILE_BYTES:
        raise InputError(f"{path}: larger than any nuScenes map (1 GiB). Unpack the file again.")
    try:
        content = _parse(path.read_bytes())
    except pa.ArrowInvalid as error:
        raise _why_not(path, error) from error
    _check_version(path, content["version"][0].as_py())
    return {name: _columns(path, name, content[name]) for name in _FIELDS}


def damaged(path: Path, layer: str, token: str, what: str) -> InputError:
    """The error for one record."""
    return InputError(f"{path}: {layer} {token} {what}. Unpack the map expansion again.")


def lacks(field: str) -> str:
    """What to say of a record without a field that it needs, or with another type in it."""
    return _LACKS.get(field, f"has another type of value in `{field}` than maps have")


def _check_version(path: Path, version: str | None) -> None:
    """Refuse what is older than 1.3."""
    version = "1.0" if version is None else version
    try:
        new_enough = tuple(map(int, version.split("."))) >= _OLDEST_VERSION
    except ValueError:
        new_enough = False
    if not new_enough:
        raise InputError(
            f"{path}: map expansion version {version}; 1.3 is needed. "
            "Download the latest map expansion of nuScenes."
        )


def _parse(content: bytes) -> Columns:
    """The version, and the records of each layer: arrays of one row."""
    # pyarrow 25 crashes on a file that says only `null`.
    if not _OBJECT.match(content):
        raise pa.ArrowInvalid("it is no JSON object")
    layers = {n: pa.list_(pa.struct({"token": _TEXT, **f})) for n, f in _FIELDS.items()}
    table = arrow_json.read_json(
        pa.BufferReader(content),
        read_options=arrow_json.ReadOptions(use_threads=False, block_size=len(content) + 1),
        parse_options=arrow_json.ParseOptions(
            explicit_schema=pa.schema({"version": _TEXT, **layers}),
            newlines_in_values=True,
            unexpected_field_behavior="ignore",
        ),
    )
    table.validate(full=True)
    if table.num_rows != 1:
        raise pa.ArrowInvalid("it is not one JSON object")
    return {name: table[name].combine_chunks() for name in table.column_names}


def _columns(path: Path, layer: str, found: pa.ListArray) -> Columns:
    if found.null_count:
        raise _no_layer(path, layer)
    records = found.flatten()
    columns = dict(zip(_names(records.type), records.flatten(), strict=True))
    if columns["token"].null_count:
        raise _no_token(path, layer, columns["token"].is_null().index(True).as_py())
    return columns


def _names(kind: pa.StructType) -> list[str]:
    return [kind.field(i).name for i in range(kind.num_fields)]


def _why_not(path: Path, error: pa.ArrowInvalid) -> InputError:
    """What is wrong with a file that Arrow refuses."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as wrong:
        return InputError(f"{path}: not a whole JSON file ({wrong}). Unpack it again.")
    if not isinstance(raw, dict):
        return InputError(f"{path}: not a map expansion file (no object). Unpack it again.")
    for layer, fields in _FIELDS.items():
        if not isinstance(raw.get(layer), list):
            return _no_layer(path, layer)
        for number, record in enumerate(raw[layer]):
            if not isinstance(record, dict) or not isinstance(record.get("token"), str):
                return _no_token(path, layer, number)
            for name, kind in fields.items():
                if not _fits(value := record.get(name), kind):
                    what = f"{lacks(name)} ({name!r} is {value!r:.60})"
                    return damaged(path, layer, record["token"], what)
    return InputError(f"{path}: not a map expansion file ({error}). Unpack it again.")


def _fits(value: Any, kind: pa.DataType) -> bool:
    """Whether Arrow takes a parsed JSON value for a type."""
    if value is None:
        return True
    if pa.types.is_list(kind):
        return isinstance(value, list) and all(_fits(v, kind.value_type) for v in value)
    if pa.types.is_struct(kind):
        fields = (kind.field(i) for i in range(kind.num_fields))
        return isinstance(value, dict) and all(_fits(value.get(f.name), f.type) for f in fields)
    return isinstance(value, _PYTHON_TYPES[kind]) and (
        kind == pa.bool_() or not isinstance(value, bool)
    )


def _no_layer(path: Path, layer: str) -> InputError:
    return InputError(f"{path}: no layer {layer!r}. Unpack the map expansion again.")


def _no_token(path: Path, layer: str, number: int) -> InputError:
    return InputError(
        f"{path}: record {number} of layer {layer!r} has no `token`. "
        "Unpack the map expansion again."
    )
