"""What each server turned out to speak, on disk beside what it listed: `known/NAME.era`, one small file a server.

    {"format":1,"mark":"...","lesson":"modern","server":"name 1.0"}

A lesson only spares a start what the last one paid for; the server's own answer decides. So whatever is wrong with a
file, it is as if there were none, and set aside.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import partial
from pathlib import Path
from typing import Final

import anyio
import msgspec

from moltis import logs
from moltis.config.files import Records, records_in
from moltis.config.plan import Plan, ServerPlan
from moltis.errors import MoltisError
from moltis.names import file_stem, name_of_stem
from moltis.session.handshake import EraMemory, Lesson
from moltis.threads import in_thread

log = logs.get("moltis.daemon")

MAX_FILE_BYTES: Final = 4096

_FORMAT: Final = 1
_SUFFIX: Final = ".era"


class _File(msgspec.Struct):
    format: int
    mark: str
    lesson: Lesson
    server: str = ""


class Learnt(ABC):
    """What is learnt of servers, and written on a thread, one server after the other, while `run` runs."""

    gap_secs: float = 0.0
    """Between two times that something is written."""

    def __init__(self) -> None:
        self._wake = anyio.Event()
        self._writing = anyio.Lock()

    @abstractmethod
    async def _write_all(self) -> None:
        """Write what is not written yet; called by one at a time."""

    async def run(self) -> None:
        """Write what is learnt, for as long as this runs."""
        while True:
            await self._wake.wait()
            self._wake = anyio.Event()
            await self.write()
            if self.gap_secs:
                await anyio.sleep(self.gap_secs)

    async def write(self) -> None:
        """Write what is not written yet."""
        async with self._writing:
            await self._write_all()


class Eras(Learnt):
    """Of all servers of a daemon. Files are read when it is made, and written on a thread, one after the other."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self._memories: dict[str, tuple[str, EraMemory]] = {}
        self._dirty: set[str] = set()
        self._records = Records(MAX_FILE_BYTES, _lesson, _tell, durable=False)
        self._read = {name: found for name, path in self._files() if (found := self._records.load(path)) is not None}

    def of(self, plan: ServerPlan) -> EraMemory:
        """Return what is known of a server as it is reached now; what it teaches from now on is kept."""
        mark = plan.launch_mark
        known = self._memories.get(plan.name)
        if known is not None and known[0] == mark:
            return known[1]
        file = self._read.pop(plan.name, None)
        memory = EraMemory(on_change=partial(self._changed, plan.name))
        if file is not None and file.mark == mark:
            memory.lesson, memory.server = file.lesson, file.server
        self._memories[plan.name] = (mark, memory)
        return memory

    def retain(self, plan: Plan) -> None:
        """Forget the servers that are not in the plan any more."""
        names = {server.name for server in plan.servers}
        for name in (self._memories.keys() | self._read.keys()) - names:
            self._memories.pop(name, None)
            self._read.pop(name, None)
            self._mark_dirty(name)

    async def _write_all(self) -> None:
        while self._dirty:
            name = self._dirty.pop()
            mark, memory = self._memories.get(name, ("", EraMemory()))
            file = _File(_FORMAT, mark, memory.lesson, memory.server) if memory.lesson else None
            try:
                await in_thread(self._write, name, file)
            except MoltisError as problem:
                log.warning("era_not_kept", server=name, problem=problem.message)

    def _changed(self, name: str, memory: EraMemory) -> None:
        known = self._memories.get(name)
        if known is not None and known[1] is memory:  # else it is of another launch, or removed
            self._mark_dirty(name)

    def _mark_dirty(self, name: str) -> None:
        self._dirty.add(name)
        self._wake.set()

    def _write(self, name: str, file: _File | None) -> None:
        path = self._folder / f"{file_stem(name)}{_SUFFIX}"
        if file is None:
            self._records.remove(path)
        else:
            self._records.save(path, msgspec.json.encode(file))

    def _files(self) -> list[tuple[str, Path]]:
        found = records_in(self._folder, _SUFFIX, _tell)
        return [(name, path) for path in found if (name := name_of_stem(path.name.removesuffix(_SUFFIX))) is not None]


def _tell(what: str) -> None:
    log.warning("era_not_read", problem=what)


def _lesson(data: bytes) -> _File:
    file = msgspec.json.decode(data, type=_File)
    if file.format != _FORMAT:
        raise ValueError("not a file of this version")
    return file
