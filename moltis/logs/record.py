"""What one line of logs.jsonl is, as pure functions from an event to bytes.

    {"ts": ms since the epoch, "level": "INFO", "target": "moltis.mcp.lifecycle", "message": "...", "fields": {...}}

Knows nothing of files, threads or time. Whatever is put in, one line of ASCII JSON comes out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from moltis.redaction import Scrubber

MAX_LINE_BYTES = 64 * 1024
"""A longer record is cut: one line of a server's stderr or one traceback must not fill the log."""

MAX_KEPT_CHARS = 4096
"""What is kept of each string of a record that is too long."""

MAX_DEPTH = 32
"""Fields nested deeper, or in a circle, are cut here; real ones have two or three levels."""

_NOT_ASCII = re.compile(r"[^\x00-\x7e]")
_encoder = msgspec.json.Encoder()

Record = dict[str, Any]


def make_record(ts: int, level: str, target: str, message: str, fields: Mapping[str, Any]) -> Record:
    """Put the parts of a record in their order; `ts` is in ms since the epoch, `level` upper case."""
    return {"ts": ts, "level": level, "target": target, "message": message, "fields": _plain(fields)}


def finish(record: Record, scrubber: Scrubber | None) -> bytes:
    """Return the record without secrets, as one line with its newline."""
    return encode(record if scrubber is None else scrubber.value(record))


def encode(record: Record) -> bytes:
    """Return one line of at most `MAX_LINE_BYTES`, newline included; never raises for a record of `make_record`."""
    line = _json(record)
    if len(line) >= MAX_LINE_BYTES:
        line = _json(_cut(record))
    if len(line := _ascii(line)) < MAX_LINE_BYTES:
        return line + b"\n"
    kept = {key: record["fields"][key] for key in ("server",) if key in record["fields"]}
    return _ascii(_json(_cut({**record, "fields": {**kept, "cut_bytes": len(line)}}))) + b"\n"


def _json(record: Record) -> bytes:
    try:
        return _encoder.encode(record)
    except UnicodeEncodeError:
        return _encoder.encode(_whole_characters(record))


def _ascii(line: bytes) -> bytes:
    """Escape every character that is not printable ASCII.

    Outside of strings JSON is ASCII, so this is always right. U+2028, C1 controls and bidi overrides are harmless to a
    JSON parser, and not to `tail -f`, nor to whoever splits lines by Unicode's rules.
    """
    if line.isascii() and b"\x7f" not in line:
        return line
    return _NOT_ASCII.sub(_escape, line.decode()).encode()


def _escape(match: re.Match[str]) -> str:
    units = match.group().encode("utf-16-be").hex()
    return "".join(f"\\u{units[i : i + 4]}" for i in range(0, len(units), 4))


def _plain(value: Any, depth: int = 0) -> Any:
    """Reduce a value to what JSON has, so that the scrubber sees every character that will be written."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        # Beyond 64 bits neither msgspec nor most readers of JSON follow.
        return int(value) if -(2**63) <= value < 2**63 else str(value)
    if isinstance(value, float):
        return float(value)
    if depth >= MAX_DEPTH:
        return "[too deep]"
    if isinstance(value, msgspec.Struct):
        value = msgspec.structs.asdict(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item, depth + 1) for item in value]
    if isinstance(value, (bytes, bytearray)):
        return value.decode("utf-8", "replace")
    return str(value)


def _map_strings(value: Any, change: Any) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {change(key): _map_strings(item, change) for key, item in value.items()}
    if isinstance(value, list):
        return [_map_strings(item, change) for item in value]
    return value


def _whole_characters(record: Record) -> Record:
    """Replace each surrogate that has no partner by U+FFFD: JSON parsers refuse them."""
    whole: Record = _map_strings(
        record, lambda text: text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    )
    return whole


def _cut(record: Record) -> Record:
    def shorten(text: str) -> str:
        more = len(text) - MAX_KEPT_CHARS
        return text if more <= 0 else f"{text[:MAX_KEPT_CHARS]}... [{more} more characters]"

    short: Record = _map_strings(record, shorten)
    return short
