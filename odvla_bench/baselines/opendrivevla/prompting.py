"""How a model's prompts are made: a profile of `datasets.prompts`, and what of it is shown."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from odvla_bench.datasets.nuscenes.ego import COMMANDS
from odvla_bench.datasets.prompts import Lines, PromptProfile, get_profile
from odvla_bench.datasets.waypoints import WaypointCodec, get_codec
from odvla_bench.registry import suggest

INPUTS = ("visual", "ego", "history", "command")
"""What a prompt can show (paper, Table 5)."""

_INPUT_OF = {
    **dict.fromkeys(("<scene>", "<track>", "<map>", "<object>"), ("visual",)),
    "<ego>": ("ego", "history"),
    "<command>": ("command",),
}
"""Sentinel → the inputs that its lines show, a line each where there are several."""


class ShownProfile(PromptProfile):
    """A profile some of whose lines are left out of every prompt."""

    def user_text(self, sentinels: str, question: str, fields: Mapping[str, str]) -> str:
        """The user text of one instruction, with the lines that there are."""
        shown = " ".join(s for s in sentinels.split() if s in self._line)
        return super().user_text(shown, question, fields)


@dataclass(frozen=True)
class Prompting:
    """How a model's prompts are made."""

    profile: PromptProfile
    inputs: tuple[str, ...] = INPUTS
    codec_name: str = "text"

    @property
    def visual(self) -> bool:
        """Whether prompts have visual tokens."""
        return "visual" in self.inputs

    def codec(self, table: str = "planning") -> WaypointCodec:
        """How waypoints are written in the answers of a table."""
        return get_codec(self.codec_name, variable_length=table == "forecasting")

    def with_command(self, command: str) -> Prompting:
        """The same prompts with one driving command in place of the recorded ones.

        Raises:
            UnknownNameError: no such command.
        """
        if command not in COMMANDS:
            raise suggest(command, list(COMMANDS), kind="driving command")
        lines = tuple((s, line.replace("{command}", command)) for s, line in self.profile.lines)
        return dataclasses.replace(self, profile=dataclasses.replace(self.profile, lines=lines))


def make_prompting(
    profile: str = "default",
    *,
    inputs: Sequence[str] = INPUTS,
    codec: str = "text",
    system_file: str | Path = "",
) -> Prompting:
    """Prompts of a profile that show some of `INPUTS`.

    Args:
        profile: "default" or "released".
        inputs: names of `INPUTS`.
        codec: see `get_codec`.
        system_file: file of the system text, for a profile that has none.

    Raises:
        UnknownNameError: no such profile, input or codec.
        InputError: see `get_profile`.
    """
    for name in inputs:
        if name not in INPUTS:
            raise suggest(name, list(INPUTS), kind="prompt input")
    get_codec(codec)
    whole = get_profile(profile, system_file=Path(system_file) if system_file else None)
    fields = {f.name: getattr(whole, f.name) for f in dataclasses.fields(whole)}
    shown = ShownProfile(**fields | {"lines": _shown(whole.lines, inputs)})
    return Prompting(shown, tuple(i for i in INPUTS if i in inputs), codec)


def _shown(lines: Lines, inputs: Sequence[str]) -> Lines:
    kept = []
    for sentinel, text in lines:
        names = _INPUT_OF[sentinel]
        parts = zip(text.split("\n"), names, strict=True)
        if left := [part for part, name in parts if name in inputs]:
            kept.append((sentinel, "\n".join(left)))
    return tuple(kept)
