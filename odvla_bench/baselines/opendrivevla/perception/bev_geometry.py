"""Where bird's-eye view cells lie in the images, and how the view moves with the ego vehicle.

The view's cells are row-major: column = x (right), row = y (forward) of the LIDAR frame, from the
minimum up. Everything here is float32 or wider and uses no matrix product, which TF32 would round.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from odvla_bench.baselines.opendrivevla.perception.config import PerceptionConfig

MINIMUM_DEPTH_M = 1e-5
PAIR_BLOCK = 4096


def cell_grid(rows: int, columns: int, device: torch.device) -> Tensor:
    """(rows * columns, 2) x, y of the cell centres in units of the view, 0…1."""
    y = torch.linspace(0.5, rows - 0.5, rows, device=device) / rows
    x = torch.linspace(0.5, columns - 0.5, columns, device=device) / columns
    return torch.stack([x.repeat(rows), y.repeat_interleave(columns)], -1)


def pillar_points(config: PerceptionConfig, device: torch.device) -> Tensor:
    """(cells, points, 3) x, y, z of the points above each cell, LIDAR frame, metres."""
    low_x, low_y, low_z, high_x, high_y, high_z = config.range_m
    grid = cell_grid(config.bev_rows, config.bev_columns, device)
    depth = high_z - low_z
    z = torch.linspace(0.5, depth - 0.5, config.pillar_points, device=device) + low_z
    x = grid[:, 0] * (high_x - low_x) + low_x
    y = grid[:, 1] * (high_y - low_y) + low_y
    xy = torch.stack([x, y], -1)[:, None].expand(-1, config.pillar_points, -1)
    return torch.cat([xy, z[None, :, None].expand(len(grid), -1, -1)], -1)


def project(
    points_m: Tensor, lidar2img: Tensor, image_size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Points seen by cameras.

    Args:
        points_m: (cells, points, 3) LIDAR frame, metres.
        lidar2img: (B, cameras, 4, 4) LIDAR frame to pixels times depth.
        image_size: rows and columns of the (padded) images, pixels.

    Returns:
        (B, cameras, cells, points, 2) x, y in units of the image, and (B, cameras, cells, points)
        whether the point lies before the camera and in the image.
    """
    matrix = lidar2img.float()[:, :, None, None]
    x, y, z = points_m.float().unbind(-1)
    u, v, depth = (
        matrix[..., i, 0] * x + matrix[..., i, 1] * y + matrix[..., i, 2] * z + matrix[..., i, 3]
        for i in range(3)
    )
    safe_depth = depth.clamp(min=MINIMUM_DEPTH_M)
    u, v = u / safe_depth / image_size[1], v / safe_depth / image_size[0]
    visible = (depth > MINIMUM_DEPTH_M) & (u > 0) & (u < 1) & (v > 0) & (v < 1)
    return torch.stack([u, v], -1), visible


@dataclass(frozen=True)
class VisiblePairs:
    """Each cell with each camera that sees it, sorted by cell; the tail is padding."""

    cell: Tensor
    """(P) index into batch * cells."""
    image: Tensor
    """(P) index into batch * cameras."""
    points: Tensor
    """(P, points, 2) where the cell's pillar lies in the image, x, y in units of the image."""
    weight: Tensor
    """(P) one over the number of cameras that see the cell; 0 in the padding."""
    starts: Tensor
    """(batch * cells) first pair of each cell."""


def visible_pairs(points: Tensor, visible: Tensor) -> VisiblePairs:
    """The pairs of `project`'s result: the one place where the size depends on the data."""
    batch, cameras, cells, count, _ = points.shape
    seen = visible.any(-1).permute(0, 2, 1).reshape(batch * cells, cameras)
    cell, camera = seen.nonzero(as_tuple=True)
    padding = -len(cell) % PAIR_BLOCK
    cell, camera = (torch.nn.functional.pad(x, (0, padding)) for x in (cell, camera))
    item = cell // cells
    views = seen.sum(-1)
    weight = 1 / views.clamp(min=1).float()[cell]
    if padding:
        weight[-padding:] = 0
    flat = points.reshape(batch * cameras * cells, count, 2)
    image = item * cameras + camera
    return VisiblePairs(
        cell=cell,
        image=image,
        points=flat[image * cells + cell % cells],
        weight=weight,
        starts=views.cumsum(0) - views,
    )


def ego_shift(can_bus: Tensor, config: PerceptionConfig) -> Tensor:
    """(B, 18) frame-to-frame CAN-bus vectors → (B, 2) x, y motion in units of the view.

    The motion's direction is taken relative to the heading, entry -2 (radians).
    """
    motion = can_bus.double()
    dx, dy = motion[:, 0], motion[:, 1]
    distance = torch.hypot(dx, dy)
    angle = motion[:, -2] - torch.atan2(dy, dx)
    low_x, low_y, _, high_x, high_y, _ = config.range_m
    shift = [
        distance * angle.sin() / (high_x - low_x),
        distance * angle.cos() / (high_y - low_y),
    ]
    return torch.stack(shift, -1).float()


def rotate_view(view: Tensor, angle_deg: Tensor, rows: int, columns: int) -> Tensor:
    """Views turned about their middle, nearest cell, zeros from outside.

    Args:
        view: (B, rows * columns, C).
        angle_deg: (B) counter-clockwise as torchvision's `rotate` has it, with row 0 on top.
        rows: of the view.
        columns: of the view.

    Returns:
        (B, rows * columns, C).
    """
    angle = torch.deg2rad(angle_deg.double())[:, None]
    cos, sin = angle.cos(), angle.sin()
    x = torch.arange(columns, device=view.device).repeat(rows) - (columns / 2 - 0.5)
    y = torch.arange(rows, device=view.device).repeat_interleave(columns) - (rows / 2 - 0.5)
    # float32 and this order of operations decide ties as the original does.
    half_width, half_height = columns / 2, rows / 2
    u = x * (cos / half_width).float() - y * (sin / half_width).float()
    v = x * (sin / half_height).float() + y * (cos / half_height).float()
    column = (((u + 1) * columns - 1) / 2).round()
    row = (((v + 1) * rows - 1) / 2).round()
    inside = (column >= 0) & (column < columns) & (row >= 0) & (row < rows)
    index = torch.where(inside, row * columns + column, 0.0).long()
    turned = view.gather(1, index[..., None].expand_as(view))
    return turned * inside[..., None]
