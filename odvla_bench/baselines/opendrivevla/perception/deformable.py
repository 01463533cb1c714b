"""The two deformable operations, both as one fused, weighted gather of rows.

Sampling a feature map at a real-valued point is a sum of four rows (pixels) with bilinear weights;
attention adds a weight to each point and modulated convolution one to each tap. The whole sum is
linear in the rows, so it is one `embedding_bag`: nothing of the size points × channels is written.
Pixel (i, j) has its centre at (i, j); outside the map everything is zero.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@functools.lru_cache(maxsize=256)
def constant(values: tuple[Any, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    """A tensor of fixed numbers, copied to its device once: each copy would wait for the GPU."""
    with torch.inference_mode(False):  # noqa: FBT003 (torch.compile knows no keyword here)
        return torch.tensor(values, device=device, dtype=dtype)


def bilinear_corners(
    x: Tensor,
    y: Tensor,
    width: Tensor | int,
    height: Tensor | int,
    *,
    scale: Tensor | float = 1.0,
    stride: int = 1,
    base: Tensor | int = 0,
    dim: int = -1,
) -> tuple[Tensor, Tensor]:
    """Where the four pixels around points lie in a list of rows, and their weights.

    Args:
        x: (...) columns, pixels.
        y: (...) rows, pixels.
        width: columns of the map, or an int32 tensor that broadcasts with `x`.
        height: rows of the map, likewise.
        scale: (...) factor of each point's weights.
        stride: list rows from one pixel to the next.
        base: (...) list row of the map's first pixel.
        dim: where the axis of the four pixels goes.

    Returns:
        (..., 4, ...) rows `base + stride * (row * width + column)`, in range also where the weight
        is zero, and (..., 4, ...) bilinear weights times `scale`, zero outside the map.
    """
    columns, x_weights = _axis(x, width)
    rows, y_weights = _axis(y, height)
    # What belongs to one axis is done on that axis, before pairs of the two are formed.
    columns = [column * stride + base for column in columns]
    rows = [row.to(columns[0].dtype) * (width * stride) for row in rows]
    y_weights = [weight * scale for weight in y_weights]
    index = torch.stack([row + column for row in rows for column in columns], dim)
    weight = torch.stack([v * u for v in y_weights for u in x_weights], dim)
    return index, weight


def _axis(x: Tensor, size: Tensor | int) -> tuple[list[Tensor], list[Tensor]]:
    """The int32 neighbours, below and above, of positions along one axis, and their weights."""
    below = x.floor()
    share = x - below
    inside = ((below >= 0) & (below < size), (below >= -1) & (below < size - 1))
    weights = [
        torch.where(here, weight, 0.0)
        for here, weight in zip(inside, (1 - share, share), strict=True)
    ]
    # Points may lie anywhere, also where the conversion wraps around: held in range after it.
    first = below.to(torch.int32)
    if isinstance(size, Tensor):
        return [torch.minimum(i.clamp(min=0), size - 1) for i in (first, first + 1)], weights
    return [i.clamp(0, size - 1) for i in (first, first + 1)], weights


def weighted_gather(rows: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """`sum_k weight[b, k] * rows[index[b, k]]` for rows (R, C) and bags (B, K) → (B, C)."""
    return F.embedding_bag(
        index, rows, mode="sum", per_sample_weights=weight.to(rows.dtype).contiguous()
    )


def deformable_attention(
    value: Tensor,
    shapes: Sequence[tuple[int, int]],
    locations: Tensor,
    weights: Tensor,
    source: Tensor | None = None,
) -> Tensor:
    """Multi-scale deformable attention (Zhu et al. 2021, eq. 3), without its projections.

    Args:
        value: (N, S, heads, C) features of N items, levels one after the other, row-major.
        shapes: rows and columns of each level; their products sum to S.
        locations: (Q, heads, levels, points, 2) x, y in units of the level's size, 0…1.
        weights: (Q, heads, levels, points) attention.
        source: (Q) which item each query reads; all read item 0 without it.

    Returns:
        (Q, heads * C).
    """
    queries, heads, levels, points, _ = locations.shape
    items, length, _, channels = value.shape
    sizes = constant(tuple(shapes), value.device, torch.int32)
    height, width = sizes[:, 0, None], sizes[:, 1, None]
    starts = [0]
    for rows, columns in shapes[:-1]:
        starts.append(starts[-1] + rows * columns)
    kind = _index_type(items * length * heads)
    start = constant(tuple(starts), value.device, kind)[:, None] * heads
    base = start + torch.arange(heads, device=value.device, dtype=kind)[:, None, None]
    if source is not None:
        base = base + (source * (length * heads)).to(kind)[:, None, None, None]
    index, weight = bilinear_corners(
        locations[..., 0] * width - 0.5,
        locations[..., 1] * height - 0.5,
        width,
        height,
        scale=weights,
        stride=heads,
        base=base,
        dim=2,
    )
    bag = levels * points * 4
    return weighted_gather(
        value.reshape(-1, channels),
        index.reshape(queries * heads, bag),
        weight.reshape(queries * heads, bag),
    ).view(queries, heads * channels)


def flat_read(sampling: Tensor, queries: int) -> Tensor:
    """What the official kernel reads from a tensor made for more levels than there are.

    It takes the number of levels from the feature maps (one), so query q and head m read group
    `heads * q + m` of the flat tensor: only the first `1 / levels` of the queries matter.

    Args:
        sampling: (B, ceil(Q / levels), heads, levels, points, ...) offsets, locations or weights.
        queries: Q.

    Returns:
        (B, Q, heads, 1, points, ...).
    """
    batch, _, heads = sampling.shape[:3]
    flat = sampling.reshape(batch, -1, heads, 1, *sampling.shape[4:])
    if flat.shape[1] < queries:
        raise ValueError(f"the sampling points serve {flat.shape[1]} queries, not {queries}")
    return flat[:, :queries]


def modulated_deform_conv2d(
    x: Tensor,
    offset: Tensor,
    mask: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
) -> Tensor:
    """Deformable convolution with modulation (Zhu et al. 2019, DCNv2), one deformable group.

    Args:
        x: (N, C, H, W).
        offset: (N, 2 * taps, H', W') row and column offset of each tap, interleaved, pixels.
        mask: (N, taps, H', W') modulation.
        weight: (O, C, k, k).
        bias: (O).
        stride: pixels between outputs.
        padding: zero pixels around x.
        dilation: pixels between taps.

    Returns:
        (N, O, H', W') in the memory format of x.
    """
    batch, channels, height, width = x.shape
    out_height, out_width = offset.shape[-2:]
    size = weight.shape[-1]
    taps = size * weight.shape[-2]
    # Coordinates stay in float32 (or wider) under autocast: half precision misses pixels.
    offset = offset.float() if offset.dtype.itemsize < 4 else offset
    grid = functools.partial(torch.arange, device=x.device, dtype=offset.dtype)
    tap = grid(size) * dilation - padding
    rows = (grid(out_height) * stride)[:, None, None] + tap.repeat_interleave(size)
    columns = (grid(out_width) * stride)[None, :, None] + tap.repeat(size)
    shifts = offset.permute(0, 2, 3, 1).reshape(batch, out_height, out_width, taps, 2)
    kind = _index_type(batch * height * width)
    image = torch.arange(batch, device=x.device, dtype=kind) * (height * width)
    index, modulated = bilinear_corners(
        columns + shifts[..., 1],
        rows + shifts[..., 0],
        width,
        height,
        scale=mask.permute(0, 2, 3, 1),
        base=image[:, None, None, None],
    )
    columns_of_x = weighted_gather(
        x.permute(0, 2, 3, 1).reshape(-1, channels), index.view(-1, 4), modulated.view(-1, 4)
    )
    flat_weight = weight.permute(0, 2, 3, 1).reshape(weight.shape[0], -1)
    out = F.linear(columns_of_x.view(-1, taps * channels), flat_weight, bias)
    out = out.view(batch, out_height, out_width, -1).permute(0, 3, 1, 2)
    return out.contiguous() if x.is_contiguous() else out


class DeformableConv2d(nn.Module):
    """A 3 × 3 modulated deformable convolution; offsets and mask come from an ordinary one."""

    def __init__(self, inputs: int, outputs: int) -> None:
        """Make the convolution of `inputs` to `outputs` channels, without bias."""
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs, 3, 3))
        nn.init.kaiming_uniform_(self.weight, nonlinearity="relu")
        self.conv_offset = nn.Conv2d(inputs, 27, 3, padding=1)
        nn.init.zeros_(self.conv_offset.weight)
        nn.init.zeros_(self.conv_offset.bias)  # type: ignore[arg-type]
        self._kernel = _torchvision_kernel()

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, O, H, W)."""
        sampling = self.conv_offset(x)
        offset, mask = sampling[:, :18], sampling[:, 18:].float().sigmoid()
        # In half precision torchvision would place the samples in half precision too.
        if self._kernel is None or x.dtype.itemsize < 4:
            return modulated_deform_conv2d(x, offset, mask, self.weight, padding=1)
        return self._kernel(x, offset, self.weight, None, padding=(1, 1), mask=mask)


@functools.cache
def _torchvision_kernel() -> Callable[..., Tensor] | None:
    """The operation of torchvision if it imports: its layout of offsets is the same."""
    try:
        from torchvision.ops import deform_conv2d
    except (ImportError, RuntimeError):  # a build for another torch raises RuntimeError
        return None
    return deform_conv2d


def _index_type(rows: int) -> torch.dtype:
    """The narrowest type that counts so many rows."""
    return torch.int32 if rows < 2**31 else torch.int64
