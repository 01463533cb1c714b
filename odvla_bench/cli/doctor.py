"""`odvla-bench doctor`: what is installed, what a nuScenes root holds, and what mends it."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Annotated

import typer

from odvla_bench.cli.console import out, print_table
from odvla_bench.provenance import package_version

EXTRAS = {
    "text": {"pycocoevalcap": "pycocoevalcap", "bert_score": "bert-score"},
    "train": {"torch": "torch", "transformers": "transformers", "accelerate": "accelerate"},
    "nuscenes": {"nuscenes": "nuscenes-devkit"},
    "ray": {"ray": "ray"},
    "viz": {"matplotlib": "matplotlib", "PIL": "pillow"},
}
"""Extra → module → distribution."""

MAPS = ("boston-seaport", "singapore-hollandvillage", "singapore-onenorth", "singapore-queenstown")

Row = tuple[str, str, str]


def doctor(
    nuscenes_root: Annotated[
        Path | None,
        typer.Option("--nuscenes-root", help="A nuScenes root to look at as well."),
    ] = None,
) -> None:
    """Say what is installed, what a nuScenes root holds and lacks, and what mends it."""
    rows = installed()
    print_table("Installed", ("part", "state", "to mend"), rows, numbers_from=3)
    if nuscenes_root is not None:
        root_rows = look_at_root(nuscenes_root)
        print_table(str(nuscenes_root), ("part", "state", "to mend"), root_rows, numbers_from=3)
        if not any(name.startswith("v1.0-") for name, _, _ in root_rows):
            out.print("No tables: nothing can be built from this root.")
            raise typer.Exit(2)


def installed() -> list[Row]:
    """One row an optional distribution, and one for Java."""
    rows = [("odvla-bench", package_version(), "")]
    for extra, modules in EXTRAS.items():
        for module, distribution in modules.items():
            there = importlib.util.find_spec(module) is not None
            mend = "" if there else f"pip install 'odvla-bench[{extra}]'"
            rows.append((distribution, package_version(distribution) if there else "absent", mend))
    java = shutil.which("java")
    rows.append(("java", java or "absent", "" if java else "install a Java runtime, 8 or later"))
    return rows


def look_at_root(root: Path) -> list[Row]:
    """One row a part of a nuScenes root: tables of each version, CAN bus, maps, images."""
    if not root.is_dir():
        from odvla_bench.errors import InputError

        raise InputError(f"{root}: no such folder. Give the folder that holds v1.0-*/.")
    rows = [_version(folder) for folder in sorted(root.glob("v1.0-*")) if folder.is_dir()]
    poses = len(list((root / "can_bus").glob("*_pose.json")))
    download = "download it from nuscenes.org and unpack it into the root"
    rows.append(
        (
            "can_bus/",
            f"{poses} scenes" if poses else "absent",
            "" if poses else f"CAN bus: {download}",
        )
    )
    for name in MAPS:
        there = (root / "maps" / "expansion" / f"{name}.json").is_file()
        mend = "" if there else f"map expansion v1.3: {download}"
        rows.append((f"maps/expansion/{name}.json", "present" if there else "absent", mend))
    cameras = root / "samples" / "CAM_FRONT"
    images = sum(1 for _ in cameras.iterdir()) if cameras.is_dir() else 0
    mend = "" if images else f"keyframe blobs (only for perception): {download}"
    rows.append(("samples/", f"{images} front images" if images else "absent", mend))
    return rows


def _version(folder: Path) -> Row:
    from odvla_bench.datasets.nuscenes.load import table_files
    from odvla_bench.errors import InputError

    try:
        files = table_files(folder)
    except InputError as error:
        return folder.name, "incomplete", str(error)
    size = sum(path.stat().st_size for path in files.values())
    options = f"--nuscenes-root {folder.parent} --version {folder.name} --out BUILD"
    state = f"{len(files)} tables, {size / 1e6:,.0f} MB"
    return folder.name, state, f"ready: odvla-bench build-data {options}"
