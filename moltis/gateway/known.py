"""What servers listed when they were last ready, on disk: one file a server.

    {"format":1,"mark":"...","agreed":{...},"tools":[...],"resources":[...],"resourceTemplates":[...],"prompts":[...]}

The items are the bytes that the server sent. This is a memory and no more. Whatever is wrong with a file, it is as if
there were none, and set aside. A power cut may cost it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec
from msgspec.structs import replace as replace_members

from moltis.config.files import Records, one_writer_in, records_in
from moltis.errors import ConfigError
from moltis.gateway.api import Known
from moltis.gateway.showing import Showing, read_showing
from moltis.jsonrpc import MALFORMED
from moltis.names import file_stem, name_of_stem, supervised_name_problem
from moltis.private import UNFINISHED
from moltis.redaction import scrubbed
from moltis.session.description import describe
from moltis.session.handshake import INITIALIZE, Agreed
from moltis.session.listing import Item, Kind, ListError, Pages, json_without_secrets, without_secrets

MAX_FILE_BYTES: Final = 16 * 1024 * 1024
"""Of one server. Of what is more, nothing is kept."""

_FORMAT: Final = 1
_SUFFIX: Final = ".json"
_SHOWN: Final = "_shown.json"
"""No server has such a name."""

_MAX_SHOWN_BYTES: Final = 4 * 1024 * 1024
"""It comes from a moltis.toml, of at most 1 MiB."""


class _File(msgspec.Struct):
    format: int
    mark: str
    agreed: Agreed
    tools: msgspec.Raw
    resources: msgspec.Raw
    templates: msgspec.Raw = msgspec.field(name="resourceTemplates")
    prompts: msgspec.Raw


_DECODER: Final = msgspec.json.Decoder(_File)


def _tell_nobody(what: str) -> None:
    pass


class KnownStore:
    """All files of one folder, which is made when first written to (0700). One daemon at a time uses it.

    Every method blocks, on the disk, and may be called from any thread.

    scrub: takes known secrets out of a text; a server may repeat its own in what it lists and says of itself.
    tell: told in a sentence what was found wrong.
    """

    def __init__(
        self, folder: Path, scrub: Callable[[str], str] = str, tell: Callable[[str], None] = _tell_nobody
    ) -> None:
        self._folder = folder
        self._scrub = scrub
        self._tell = tell
        self._records = Records(MAX_FILE_BYTES, _known, tell, durable=False)
        self._showings = Records(_MAX_SHOWN_BYTES, read_showing, tell, durable=False)

    def load_all(self) -> dict[str, tuple[str, Known]]:
        """Return what is known, with its mark, by server. Never raises; what cannot be used is set aside."""
        self._remove_unfinished()
        return {name: found for name, path in self._files() if (found := self._records.load(path)) is not None}

    def read_all(self) -> dict[str, tuple[str, Known]]:
        """Return the same for who is not the daemon: nothing is changed or waited for. Never raises."""
        return {name: found for name, path in self._files() if (found := self._records.peek(path)) is not None}

    def showing(self) -> Showing | None:
        """Return how the last daemon showed its servers, None if nobody knows; changes nothing. Never raises."""
        return self._showings.peek(self._folder / _SHOWN)

    def save_showing(self, showing: Showing) -> None:
        """Keep how servers are shown.

        Raises:
            ConfigError: it cannot be written; what was kept before is still there.
        """
        self._showings.save(self._folder / _SHOWN, msgspec.json.encode(showing))

    def save(self, name: str, mark: str, known: Known) -> None:
        """Keep what is known of a server; if that is too much, nothing is.

        Raises:
            ConfigError: it cannot be written; what was kept before is still there.
            ValueError: that is no server's name.
        """
        path = self._path(name)
        data = _encoded(mark, known, self._scrub)
        if data is None:
            self.forget(name)
            return
        self._records.save(path, data)

    def forget(self, name: str) -> None:
        """Keep nothing of a server. Never raises for a server's name."""
        self._records.remove(self._path(name))

    def _path(self, name: str) -> Path:
        problem = supervised_name_problem(name)
        if problem:
            raise ValueError(problem)
        return self._folder / f"{file_stem(name)}{_SUFFIX}"

    def _files(self) -> list[tuple[str, Path]]:
        found = records_in(self._folder, _SUFFIX, self._tell)
        return [(name, path) for path in found if (name := name_of_stem(path.name.removesuffix(_SUFFIX))) is not None]

    def _remove_unfinished(self) -> None:
        with suppress(OSError, ConfigError):
            if self._folder.is_dir():
                with one_writer_in(self._folder):
                    for path in self._folder.glob(f".*{UNFINISHED}"):
                        path.unlink()  # whoever was writing it is dead, for the lock is ours


# --- a file


def _without_secrets(known: Known, scrub: Callable[[str], str]) -> Known:
    agreed = known.agreed
    return Known(
        replace_members(
            agreed,
            server_info=scrubbed(agreed.server_info, scrub),
            instructions=scrubbed(agreed.instructions, scrub),
            capabilities=scrubbed(agreed.capabilities, scrub, keys=False),
            more={name: msgspec.Raw(json_without_secrets(bytes(raw), scrub)) for name, raw in agreed.more.items()},
        ),
        *(
            tuple(without_secrets(items, scrub))
            for items in (known.tools, known.resources, known.templates, known.prompts)
        ),
    )


def _encoded(mark: str, known: Known, scrub: Callable[[str], str]) -> bytes | None:
    try:
        known = _without_secrets(known, scrub)
        data = msgspec.json.encode(
            _File(
                _FORMAT,
                mark,
                known.agreed,
                tools=_array(known.tools),
                resources=_array(known.resources),
                templates=_array(known.templates),
                prompts=_array(known.prompts),
            )
        )
    except (*MALFORMED, OverflowError, TypeError):
        return None  # what a server says of itself may be nested too deeply, or hold a number too long to be written
    return data if len(data) <= MAX_FILE_BYTES else None


def _array(items: tuple[Item, ...]) -> msgspec.Raw:
    return msgspec.Raw(b"[%b]" % b",".join(item.raw for item in items))


def _known(data: bytes) -> tuple[str, Known]:
    """Read a file's content; whatever is wrong with it is one of `MALFORMED`."""
    file = _DECODER.decode(data)
    if file.format != _FORMAT:
        raise ValueError("not a file of this version")
    more = {name: raw.copy() for name, raw in file.agreed.more.items()}  # not to keep the whole file
    return file.mark, Known(
        replace_members(_described(file.agreed), more=more),
        tools=_items(Kind.TOOLS, file.tools),
        resources=_items(Kind.RESOURCES, file.resources),
        templates=_items(Kind.TEMPLATES, file.templates),
        prompts=_items(Kind.PROMPTS, file.prompts),
    )


def _described(agreed: Agreed) -> Agreed:
    """Return what a server said of itself as it is read today: older files have it as it came."""
    said = {"capabilities": agreed.capabilities, "serverInfo": agreed.server_info}
    found = describe(INITIALIZE, msgspec.json.encode(said), modern=False)
    return replace_members(agreed, capabilities=found.capabilities, server_info=found.server_info)


def _items(kind: Kind, array: msgspec.Raw) -> tuple[Item, ...]:
    """Read items as they were read when the server sent them: what does not pass there does not pass here."""
    pages = Pages(kind)
    try:
        pages.add(b'{"%b":%b}' % (kind.member.encode(), array))
    except ListError as fault:
        raise ValueError("not a list as servers send it") from fault
    if pages.nameless or pages.repeated or pages.missing or pages.truncated:
        raise ValueError("not a list as it is kept")
    return tuple(pages.items)
