"""One record of logs.jsonl as one line that a person reads.

Pure. A record is only known to be a JSON object: whatever is in it, one printable line comes out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from moltis.cli.phrases import exit_words
from moltis.cli.screen import indented, one_line
from moltis.cli.table import paint
from moltis.lastwords import plain

STDERR = "moltis.mcp.stderr"
STYLE = {"ERROR": "red", "WARN": "yellow", "INFO": "green", "DEBUG": "dim"}


def sentence(record: Mapping[str, Any], colour: bool = False) -> str:
    """Return `2026-11-21 12:04:05 INFO  files: ready -> backoff: ...`, in local time."""
    level = str(record.get("level", "?"))
    found = record.get("fields")
    fields: dict[str, Any] = dict(found) if isinstance(found, dict) else {}
    server = fields.pop("server", None)
    who = f"{one_line(str(server))}: " if server else ""
    target = str(record.get("target"))
    if target == STDERR and "line" in fields:
        words = f"| {indented(plain(str(fields['line'])))}"
    else:
        words = one_line(_words(target, str(record.get("message")), fields))
    painted = paint(f"{one_line(level):<5}", STYLE.get(level, ""), colour)
    return f"{_when(record.get('ts'))} {painted} {paint(who, 'bold', colour)}{words}"


def _when(ts: Any) -> str:
    try:
        return f"{datetime.fromtimestamp(ts / 1000).astimezone():%Y-%m-%d %H:%M:%S}"
    except (TypeError, ValueError, OverflowError, OSError):
        return "-"


def _words(target: str, message: str, fields: dict[str, Any]) -> str:
    match target, message:
        case "moltis.mcp.lifecycle", "server_state_changed":
            return _transition(fields)
        case "moltis.mcp.call", _ if "tool" in fields:
            took = (
                f" in {_decimal(fields['duration_ms'], 0)} ms"
                if isinstance(fields.get("duration_ms"), int | float)
                else ""
            )
            return f"{fields['tool']} {fields.get('outcome', '')}{took}{_for_host(fields.get('host'))}"
        case _:
            told = [f"{key}={_value(value)}" for key, value in fields.items() if value is not None]
            return " ".join([message, *told])


def _for_host(host: Any) -> str:
    """Say whose call it was; nothing of one that no host made."""
    if not isinstance(host, dict):
        return ""
    told = [str(host[key]) for key in ("name", "version") if host.get(key) not in (None, "unknown")]
    token = f" (token {host['token']})" if host.get("token") else ""
    return f", for {' '.join(told) or 'a host without a name'}{token}"


def _transition(fields: Mapping[str, Any]) -> str:
    reason = f": {fields['reason']}" if fields.get("reason") else ""
    details = []
    if isinstance(fields.get("exit_code"), int):
        details.append(exit_words(fields["exit_code"]))
    if fields.get("attempt"):
        details.append(f"attempt {fields['attempt']}")
    if isinstance(fields.get("delay_secs"), int | float):
        details.append(f"next in {_decimal(fields['delay_secs'], 1)}s")
    if fields.get("pid"):
        details.append(f"pid {fields['pid']}")
    more = f" ({', '.join(details)})" if details else ""
    return f"{fields.get('from')} -> {fields.get('to')}{reason}{more}"


def _decimal(number: float, places: int) -> str:
    """Write a number with so many decimal places; an integer that no float can hold is written as it is."""
    try:
        return f"{number:.{places}f}"
    except OverflowError:
        return str(number)


def _value(value: Any) -> str:
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False)
    except RecursionError:  # it was just shallow enough to be read
        return "(nested too deeply to be shown)"
