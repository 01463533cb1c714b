"""%-templates of the tables' rows, laid out as the real tables are: one field or number a line."""

from __future__ import annotations

from collections.abc import Iterable


def _row(**fields: str) -> str:
    """A %-template of one row from the templates of its fields."""
    return "{\n" + ",\n".join(f'"{name}": {value}' for name, value in fields.items()) + "\n}"


def array(items: Iterable[str]) -> str:
    """A JSON array of items that are JSON or %-templates already."""
    inner = ",\n".join(items)
    return f"[\n{inner}\n]" if inner else "[]"


_TEXT, _INT = '"%s"', "%d"
_XYZ, _WXYZ = array(["%r"] * 3), array(["%r"] * 4)
SCENE = _row(
    token=_TEXT,
    log_token=_TEXT,
    nbr_samples=_INT,
    first_sample_token=_TEXT,
    last_sample_token=_TEXT,
    name=_TEXT,
    description=_TEXT,
)
SAMPLE = _row(token=_TEXT, timestamp=_INT, prev=_TEXT, next=_TEXT, scene_token=_TEXT)
SAMPLE_DATA = _row(
    token=_TEXT,
    sample_token=_TEXT,
    ego_pose_token=_TEXT,
    calibrated_sensor_token=_TEXT,
    timestamp=_INT,
    fileformat=_TEXT,
    is_key_frame="%s",
    height=_INT,
    width=_INT,
    filename=_TEXT,
    prev=_TEXT,
    next=_TEXT,
)
EGO_POSE = _row(token=_TEXT, timestamp=_INT, rotation=_WXYZ, translation=_XYZ)
CALIBRATED = _row(
    token=_TEXT, sensor_token=_TEXT, translation=_XYZ, rotation=_WXYZ, camera_intrinsic="%s"
)
ANNOTATION = _row(
    token=_TEXT,
    sample_token=_TEXT,
    instance_token=_TEXT,
    visibility_token=_TEXT,
    attribute_tokens="%s",
    translation=_XYZ,
    size=_XYZ,
    rotation=_WXYZ,
    prev=_TEXT,
    next=_TEXT,
    num_lidar_pts=_INT,
    num_radar_pts=_INT,
)
INSTANCE = _row(
    token=_TEXT,
    category_token=_TEXT,
    nbr_annotations=_INT,
    first_annotation_token=_TEXT,
    last_annotation_token=_TEXT,
)
LOG = _row(token=_TEXT, logfile=_TEXT, vehicle=_TEXT, date_captured=_TEXT, location=_TEXT)
MAP = _row(category=_TEXT, token=_TEXT, filename=_TEXT, log_tokens="%s")
SENSOR = _row(token=_TEXT, channel=_TEXT, modality=_TEXT)
ATTRIBUTE = _row(token=_TEXT, name=_TEXT, description=_TEXT)
LIDARSEG_CATEGORY = _row(token=_TEXT, name=_TEXT, description=_TEXT, index=_INT)
VISIBILITY = _row(description=_TEXT, token=_TEXT, level=_TEXT)
