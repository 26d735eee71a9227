"""What a `docker run` of an entry lacks, without which a container does not serve, or is left behind.

Pure. A container belongs to docker itself: it ends with its client only if it has a stdin to be closed (`-i`), and a
first process that minds SIGTERM (`--init`); what is left can be found only by a name (`--name`, `--cidfile`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

_SWITCHES = frozenset(
    {"--detach", "--disable-content-trust", "--init", "--interactive", "--no-healthcheck", "--oom-kill-disable"}
    | {"--privileged", "--publish-all", "--quiet", "--read-only", "--rm", "--sig-proxy", "--tty", "--use-api-socket"}
)
"""The long options that no value follows."""
_SHORT_SWITCHES = frozenset("diPqt")
_NO = frozenset({"false", "0", "f", "False", "FALSE"})


@dataclass(frozen=True, slots=True)
class DockerRun:
    """The options of a `docker run` that decide how its container lives and ends."""

    interactive: bool = False
    tty: bool = False
    detach: bool = False
    init: bool = False
    rm: bool = False
    named: bool = False

    def missing(self) -> list[str]:
        """Return the options whose absence leaves something behind."""
        kept = (("--rm", self.rm), ("--init", self.init), ("--name", self.named))
        return [option for option, there in kept if not there]


def docker_run(command: str, args: Sequence[str]) -> DockerRun | None:
    """Read the options of a `docker run` (or podman's); None for anything else."""
    if PurePath(command).name not in ("docker", "podman"):
        return None
    words = list(args)
    if words[:1] == ["container"]:
        del words[0]
    if words[:1] != ["run"]:
        return None
    seen: set[str] = set()
    options = iter(words[1:])
    for word in options:
        if word == "--" or not word.startswith("-") or word == "-":
            break
        if word.startswith("--"):
            name, is_joined, value = word.partition("=")
            if name not in _SWITCHES:
                seen.add(name)
                if not is_joined:
                    next(options, None)
            elif value not in _NO:
                seen.add(name)
            continue
        for at, letter in enumerate(word[1:], 1):
            seen.add(f"-{letter}")
            if letter not in _SHORT_SWITCHES:
                if at == len(word) - 1:
                    next(options, None)
                break
    return DockerRun(
        interactive=bool(seen & {"-i", "--interactive"}),
        tty=bool(seen & {"-t", "--tty"}),
        detach=bool(seen & {"-d", "--detach"}),
        init="--init" in seen,
        rm="--rm" in seen,
        named=bool(seen & {"--name", "--cidfile"}),
    )
