"""One server's entry, as written, to a `ServerPlan`, as run: its kind, placeholders, defaults, the rules between keys.

A wrong entry is a plan with `problem`; it hurts no other. What its own keys mean is for its kind to say.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, NamedTuple, cast

from moltis.config.expansion import Base, Expansion, Planner, Room
from moltis.config.kinds import KINDS, Kind, implied
from moltis.config.limits import DECLARED, Limits
from moltis.config.model import ServerSection
from moltis.config.plan import (
    IDLE_STOP_SECS,
    MAX_INSTANCES,
    Asked,
    Elicitation,
    Launch,
    Protocol,
    ServerPlan,
    Share,
    Start,
)
from moltis.config.problem import Report, dotted
from moltis.config.scan import Path
from moltis.redaction import is_env_name

_CAPS = tuple((limit.name, limit.cap) for limit in DECLARED if limit.cap)


@dataclass(frozen=True, slots=True, repr=False)
class Planned:
    """A server's plan, with the values in it that must never be shown.

    `only_unresolved`: the entry is right as written, but a placeholder in it has no value.
    """

    server: ServerPlan
    secrets: frozenset[str]
    only_unresolved: bool = False


class _Part(NamedTuple):
    """What one kind makes of an entry."""

    planner: Planner
    expansion: Expansion
    launch: Launch


def plan_server(
    name: str, entry: ServerSection, path: Path, base: Base, report: Report, room: Room, *, wrong: int = 0
) -> Planned:
    """Plan one server; its problems go to `report`, where those from index `wrong` on are already about it."""
    parts = _parts(entry, base, room)
    found_before = _errors(report, wrong)
    kind, problem = _kind(entry)
    if problem and not found_before:
        report.error(path, problem)
    planner, used, launch = parts[kind.plans]
    for key, message in used.wrong:
        report.error((*path, *key), message)
    named = {key for key, _ in _errors(report, wrong)}
    _warn_of_unused(entry, kind, path, report)
    start = entry.start or ("always" if entry.share == "all" else "on_demand")
    _look_at_sharing(entry, start, path, report)
    planner.warn(entry, path, report, named)
    inherited = planner.inherited_problem(entry, base)
    for part in parts.values():
        part.planner.look_over(entry, part.launch, path, report)
    for miss in planner.near_misses(entry, launch):
        if dotted((*path, *miss.key)) not in named:
            report.warning((*path, *miss.key), miss.message, fails_check=miss.is_sure)
    limits = _limits(entry, base, path, report)
    errors = _errors(report, wrong)
    server = ServerPlan(
        name=name,
        transport=kind.name,
        launch=None if errors or inherited else launch,
        limits=limits,
        shown=planner.shown(entry, launch, base),
        display_name=entry.display_name,
        label=entry.label,
        enabled=entry.enabled,
        protocol=cast(Protocol, entry.protocol),
        elicitation=cast(Elicitation, entry.elicitation),
        sampling=cast(Asked, entry.sampling),
        roots=cast(Asked, entry.roots),
        share=cast(Share, entry.share),
        max_instances=MAX_INSTANCES if entry.max_instances is None else entry.max_instances,
        start=cast(Start, start),
        idle_stop_secs=IDLE_STOP_SECS if entry.idle_stop_secs is None else entry.idle_stop_secs,
        include_tools=tuple(entry.include_tools),
        exclude_tools=tuple(entry.exclude_tools),
        proxy=planner.proxy(entry, base),
        problem="; ".join(_within(error, dotted(path)) for error in errors[:3]) or inherited,
        launch_mark=_launch_mark(kind, planner.written(entry)),
    )
    secrets = {value for part in parts.values() for value in part.planner.secrets(part.launch, part.expansion.used)}
    only_unresolved = used.unresolved and len(errors) == sum("resolves to nothing" in m for _, m in used.wrong)
    return Planned(server, frozenset(secrets), only_unresolved)


def _parts(entry: ServerSection, base: Base, room: Room) -> dict[str, _Part]:
    """Return what each kind makes of an entry, by who plans it."""
    parts: dict[str, _Part] = {}
    for kind in KINDS.values():
        if kind.plans not in parts:
            planner: Planner = kind.code(kind.plans)
            expansion = planner.expansion(base, room)
            parts[kind.plans] = _Part(planner, expansion, planner.launch(entry, expansion))
    return parts


def _launch_mark(kind: Kind, written: list[str | None]) -> str:
    """Name how a server is reached: another command, argument, folder or URL is another server; another `env` is not.

    Of the text as written, so that no value of a placeholder is in it, and one way, for it is kept on disk.
    """
    return sha256(json.dumps([kind.name, written]).encode()).hexdigest()


def _errors(report: Report, start: int) -> list[tuple[str, str]]:
    return [(p.key, p.message) for p in report.problems[start:] if p.severity == "error"]


def _within(error: tuple[str, str], entry: str) -> str:
    """Return `KEY: MESSAGE` with the key as it is called inside of the entry."""
    key, message = error
    inner = key.removeprefix(entry).removeprefix(".")
    return f"{inner}: {message}" if inner else message


# Rules between keys --------------------------------------------------------------------------------------------------


def _kind(entry: ServerSection) -> tuple[Kind, str | None]:
    """Return the kind of a server and what is wrong with it.

    Differs from Rust Moltis, where a url without transport is an error: here it is `sse`, any remote server.
    A remote transport with a command is allowed, since the manual's own example has both.
    """
    given = {kind.needs for kind in KINDS.values() if kind.needs in entry.model_fields_set}
    meant = implied(given)
    if entry.transport is not None:
        kind = KINDS[entry.transport]
        if kind.needs not in given:
            return kind, f"transport {kind.name} needs a {kind.needs}"
        other = next((other for other in meant if other.needs != kind.needs), None) if kind.is_alone else None
        if other is None:
            return kind, None
        what = f"has both {kind.needs} and {other.needs}"
        return kind, f"{what}: remove the {other.needs}, or set transport to {other.name}"
    if not meant:
        asked = [kind.asks for kind in KINDS.values() if kind.is_implied]
        return next(iter(KINDS.values())), f"needs {' or '.join(asked)}"
    if len(meant) > 1:
        return meant[0], f"has both {meant[0].needs} and {meant[1].needs}: remove one, or set transport"
    return meant[0], None


def _warn_of_unused(entry: ServerSection, kind: Kind, path: Path, report: Report) -> None:
    others = dict.fromkeys(key for other in KINDS.values() for key in other.keys if key not in kind.keys)
    for key in others:
        if key in entry.model_fields_set:
            report.warning((*path, key), f"is not used by a {kind.called} server (transport {kind.name})")


def _look_at_sharing(entry: ServerSection, start: str, path: Path, report: Report) -> None:
    if entry.share != "all" and start == "always":
        told = f'must be "on_demand" with share = "{entry.share}": an instance runs while its host uses it'
        report.error((*path, "start"), told)
    elif start == "always" and entry.idle_stop_secs not in (None, IDLE_STOP_SECS):
        report.warning((*path, "idle_stop_secs"), 'does nothing to a server that always runs; set start = "on_demand"')
    if entry.share == "all" and entry.max_instances not in (None, MAX_INSTANCES):
        report.warning((*path, "max_instances"), 'does nothing to a server that all share; set share = "host"')


def _limits(entry: ServerSection, base: Base, path: Path, report: Report) -> Limits:
    limits, capped = merged_limits(base.limits, entry.limits())
    for key, cap in capped:
        report.warning((*path, key), f"is above {cap}, which caps it")
    return limits


def merged_limits(*layers: Mapping[str, Any]) -> tuple[Limits, list[tuple[str, str]]]:
    """Lay limits over the defaults, the most specific last; give also the pairs where a value is above its own cap.

    A cap that is not written where its value is rises with it: `request_timeout_secs = 900` alone means 900 seconds.
    """
    values = {limit.name: limit.default for limit in DECLARED}
    capped: list[tuple[str, str]] = []
    for layer in layers:
        values |= layer
        for key, cap in _CAPS:
            if values[key] > values[cap] and cap not in layer:
                values[cap] = values[key]
        own = [(key, cap) for key, cap in _CAPS if key in layer or cap in layer]
        capped = [(key, cap) for key, cap in own if values[key] > values[cap]]
    return Limits(**cast(Any, values)), capped


def env_name_problem(name: str) -> str | None:
    """Say why a name in `[env]` could never be asked for, or None."""
    return None if is_env_name(name) else "cannot be asked for by a placeholder: A-Z a-z 0-9 _, not a digit first"
