"""Running the Java programs of pycocoevalcap: lines in, lines out, within a time limit."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from odvla_bench.errors import MissingDependencyError, OdvlaError

# The serial collector and class sharing halve a short-lived JVM's start and memory.
_JVM_OPTIONS = ("-XX:+UseSerialGC", "-Xshare:auto")


class JavaError(OdvlaError):
    """A Java program that is missing, failed, or gave no answer in time."""


def pycocoevalcap_file(*parts: str) -> Path:
    """The path of a file inside the installed package pycocoevalcap, which is not imported.

    Raises:
        MissingDependencyError: pycocoevalcap is not installed.
    """
    spec = importlib.util.find_spec("pycocoevalcap")
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependencyError(
            "pycocoevalcap", extra="text", purpose="PTB tokenization and METEOR"
        )
    return Path(next(iter(spec.submodule_search_locations)), *parts)


@lru_cache
def java_version() -> str:
    """The version line of the Java runtime on PATH.

    Raises:
        JavaError: there is no Java runtime.
    """
    answer = subprocess.run([_java(), "-version"], capture_output=True, check=False, timeout=60)
    first_line = answer.stderr.decode(errors="replace").partition("\n")[0]
    return first_line.replace('"', "").strip()


def run_lines(
    arguments: Sequence[str], lines: Sequence[str], *, purpose: str, timeout_s: float
) -> list[str]:
    r"""The output lines of `java ARGUMENTS` fed with `lines` on standard input, both UTF-8.

    Writing, reading and the error stream go on at once, so that no pipe can fill up and block.
    Nothing is written to disk. On any failure the JVM is killed before the error is raised.

    Args:
        arguments: what follows `java` on the command line.
        lines: without line ends; the program must take each as one line.
        purpose: names the program in messages, for example "PTB tokenization".
        timeout_s: wall-clock limit, seconds.

    Raises:
        JavaError: no Java, a limit exceeded, a non-zero exit, or fewer than `len(lines)` answers.
    """
    data = "\n".join(lines).encode() + b"\n"
    with subprocess.Popen(
        [_java(purpose), *_JVM_OPTIONS, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            out, errors = process.communicate(data, timeout=timeout_s)
        except subprocess.TimeoutExpired as error:
            process.kill()
            raise JavaError(
                f"{purpose} gave no answer for {len(lines)} lines within {timeout_s:.0f} s "
                "and was stopped. Shorten the longest texts, or raise the time limit."
            ) from error
        except BaseException:
            process.kill()
            raise
    answers = out.decode(errors="replace").split("\n")[:-1]
    # METEOR goes on without its paraphrases when it cannot read them, and only says so.
    failed = process.returncode != 0 or b"Exception" in errors
    if failed or len(answers) < len(lines):
        message = errors.decode(errors="replace").strip()[-500:] or "no message"
        raise JavaError(
            f"{purpose} stopped after {len(answers)} of {len(lines)} lines "
            f"(java exit status {process.returncode}): {message}. "
            "Run it again; if it was killed for memory, free some first."
        )
    return answers


def _java(purpose: str = "Scoring") -> str:
    """The Java program on PATH."""
    path = shutil.which("java")
    if path is None:
        raise JavaError(
            f"{purpose} needs a Java runtime (8 or newer), and there is no `java` on PATH. Install "
            "one, for example: apt install default-jre-headless, or conda install openjdk"
        )
    return path
