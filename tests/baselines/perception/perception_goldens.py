"""How goldens are loaded into modules and compared."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

Load = Callable[[str], dict[str, Tensor]]


def fill(
    module: nn.Module, weights: dict[str, Tensor], prefix: str = "", *, partial: bool = False
) -> None:
    """Load the weights under `prefix`: all of the module's, or with `partial` some of them."""
    own = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
    result = module.load_state_dict(own, strict=False)
    missing = [k for k in result.missing_keys if "num_batches_tracked" not in k]
    assert partial or missing == []
    assert own
    module.eval()


def rows(out: Tensor, outputs: dict[str, Tensor], name: str) -> tuple[Tensor, Tensor]:
    """The stored rows of a large output: ours and the golden's."""
    return out.reshape(-1, 256)[outputs[f"{name}.rows"]], outputs[name]


def close(ours: Tensor, theirs: Tensor, tolerance: float) -> None:
    """Nowhere further apart than `tolerance`, in units of the golden's largest value if over 1."""
    assert ours.shape == theirs.shape
    if theirs.numel():
        error = (ours - theirs).abs().max().item()
        assert error <= tolerance * max(1.0, theirs.abs().max().item())
