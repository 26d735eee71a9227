"""The daemon's log: facts in, lines of logs.jsonl out.

    get("moltis.mcp.lifecycle") -> Logger -> record (pure) -> LogSink (queue, thread) -> LogFile (rotation)

Whoever logs is never delayed and never sees an error. What is logged before `configure` or after `close` is kept, the
last `MAX_EARLY_RECORDS` of it, for the next `configure`. `_outlet` is the only global state of the program: modules ask
for their logger when they are imported, and only daemon.py knows where the log is.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

import structlog

from moltis.logs.record import Record, make_record
from moltis.logs.sink import LogSink, Shaped
from moltis.logtail import LEVELS, level_name
from moltis.redaction import Scrubber

__all__ = ["LogSink", "Logger", "close", "configure", "get", "reconfigure", "repeated"]

MAX_EARLY_RECORDS = 1000
"""Kept while there is no sink: a start has tens of them."""

MAX_FRAMES = 20
"""Kept of each traceback: the outermost and the innermost say where and why."""

QUIET_LIBRARIES = ("asyncio", "httpcore2", "httpx2", "mcp")
"""Never below WARNING: httpx2 logs whole URLs at INFO, with the secrets in their queries."""


class _Outlet:
    """Where every logger's records go: to the sink, or into a small store until there is one."""

    def __init__(self) -> None:
        self.sink: LogSink | None = None
        self.early: deque[Record] = deque(maxlen=MAX_EARLY_RECORDS)
        self.early_lost = 0

    @property
    def level(self) -> int:
        return self.sink.level if self.sink is not None else 0

    def accept(self, record: Record) -> None:
        if self.sink is not None:
            self.sink.accept(record)
            return
        self.early_lost += len(self.early) == MAX_EARLY_RECORDS
        self.early.append(record)

    def open(self, sink: LogSink) -> None:
        sink.count_dropped(self.early_lost)
        while self.early:
            record = self.early.popleft()
            if LEVELS[record["level"].lower()] >= sink.level:
                sink.accept(record)
        self.early_lost = 0
        self.sink = sink


_outlet = _Outlet()


def _stamp(_: object, level: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    event["_ts"] = time.time_ns() // 1_000_000
    event["_level"] = level.upper()
    return event


def _shape(_: object, __: str, event: structlog.typing.EventDict) -> tuple[tuple[Record], dict[str, Any]]:
    head = (event.pop("_ts"), event.pop("_level"), event.pop("_target"), str(event.pop("event")))
    return (make_record(*head, event),), {}


_PROCESSORS: list[Any] = [
    _stamp,
    # Never the locals of a frame: they hold tokens. structlog shows them unless told not to.
    structlog.processors.ExceptionRenderer(
        structlog.tracebacks.ExceptionDictTransformer(show_locals=False, use_rich=False, max_frames=MAX_FRAMES)
    ),
    _shape,
]


class Logger(structlog.BoundLoggerBase):
    """Logs facts: a past-tense snake_case message and typed fields. `bind(server=...)` gives one that adds fields.

    A field called `exc_info` (an exception, or True for the one being handled) becomes `exception`: its type, message
    and frames, causes included. Fields cannot be called `event`.
    """

    def debug(self, message: str, /, **fields: Any) -> None:
        self._log("debug", message, fields)

    def info(self, message: str, /, **fields: Any) -> None:
        self._log("info", message, fields)

    def warning(self, message: str, /, **fields: Any) -> None:
        self._log("warn", message, fields)

    def error(self, message: str, /, **fields: Any) -> None:
        self._log("error", message, fields)

    def exception(self, message: str, /, **fields: Any) -> None:
        """Log an error with the exception that is being handled."""
        self._log("error", message, {"exc_info": True, **fields})

    def _log(self, level: str, message: str, fields: dict[str, Any]) -> None:
        if LEVELS[level] < _outlet.level:
            return
        try:
            (record,), _ = self._process_event(level, message, fields)
            _outlet.accept(record)
        except Exception as error:
            # A field whose str() raises, say: that is no reason to stop whoever logs, nor to lose the fact.
            broken = {"log_error": type(error).__name__}
            head = (time.time_ns() // 1_000_000, level.upper(), self._context["_target"])
            _outlet.accept(make_record(*head, str(message), broken))


def get(target: str) -> Logger:
    """Return the logger of a target such as `moltis.mcp.lifecycle`; any time, from any thread."""
    return Logger(_outlet, _PROCESSORS, {"_target": target})


def repeated(
    target: str, message: str, names: tuple[str, ...], number: str
) -> Callable[[tuple[Hashable, ...], float], None]:
    """Return what logs one fact at level info, cheaply: called with the fields' values and a number.

    names: of the fields, whose values are short texts, or structs of such; number: the name of the field that differs
        each time.
    """
    shaped = Shaped("INFO", target, message, names, number)
    logger = get(target)

    def log(values: tuple[Hashable, ...], value: float) -> None:
        sink = _outlet.sink
        if sink is None:
            logger.info(message, **dict(zip(names, values, strict=True)), **{number: value})
        elif LEVELS["info"] >= sink.level:
            shaped.put(sink, values, value)

    return log


class _FromStandardLibrary(logging.Handler):
    """Brings what libraries log into the same file, as `moltis.library.NAME`."""

    def emit(self, record: logging.LogRecord) -> None:
        own = record.name.partition(".")[0] == "moltis"
        logger = get(record.name if own else f"moltis.library.{record.name}")
        fields = {"exc_info": record.exc_info} if record.exc_info and record.exc_info[0] else {}
        try:
            message = record.getMessage()
        except Exception:
            message = str(record.msg)
        logger._log(level_name(record.levelno), message, fields)


_handler = _FromStandardLibrary()


def configure(
    path: Path,
    level: str = "info",
    max_bytes: int = 10 * 1024 * 1024,
    backups: int = 5,
    scrubber: Scrubber | None = None,
    complain: Callable[[str], None] | None = None,
) -> LogSink:
    """Send every record to `path` from now on, those logged before included; see `LogSink` for the arguments.

    Raises:
        ValueError: There is no such level.
    """
    close()
    sink = LogSink(path, level=level, max_bytes=max_bytes, backups=backups, scrubber=scrubber, complain=complain)
    _outlet.open(sink)
    logging.getLogger().addHandler(_handler)
    _set_library_levels(sink.level)
    return sink


def reconfigure(*, level: str | None = None, max_bytes: int | None = None, backups: int | None = None) -> None:
    """Change what is given, as a reload may; does nothing before `configure`.

    Raises:
        ValueError: There is no such level.
    """
    if _outlet.sink is not None:
        _outlet.sink.reconfigure(level=level, max_bytes=max_bytes, backups=backups)
        _set_library_levels(_outlet.sink.level)


def close() -> None:
    """Write what is left, within a second, and stop. Harmless when nothing is configured."""
    sink, _outlet.sink = _outlet.sink, None
    if sink is not None:
        logging.getLogger().removeHandler(_handler)
        sink.close()


def _set_library_levels(level: int) -> None:
    logging.getLogger().setLevel(level)
    for name in QUIET_LIBRARIES:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))
