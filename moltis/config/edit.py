"""One server, or one key, of moltis.toml changed: everything else in the file stays byte for byte.

The new text is parsed again and compared with what was meant before it replaces the file, so a file is right or
untouched. Blocking: it waits for the disk, and up to 5 s for another writer; call it from a thread.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from moltis.config.document import FileText, NoFile, parse, read_file
from moltis.config.expansion import Base
from moltis.config.files import one_writer, replace
from moltis.config.foreign import is_switch
from moltis.config.keys import SERVER_KEYS
from moltis.config.load import plan_entry, same_but_for_case
from moltis.config.model import McpSection, read_section
from moltis.config.problem import Report
from moltis.config.splice import Unwritable, changed, same
from moltis.errors import ConfigError, UnknownServer

_BOM = b"\xef\xbb\xbf"

Tables = dict[str, Any]


def add_server(path: Path, name: str, entry: Mapping[str, Any]) -> None:
    """Write a new `[mcp.servers.NAME]`; makes the file (0600) when there is none. Keys that are None are left out.

    Raises:
        ConfigError: when the name is taken or wrong, a key is wrong (named), or the file cannot be read or written.
    """
    plan_entry(name, entry, Base())
    ordered = {key: entry[key] for key in SERVER_KEYS if entry.get(key) is not None}

    def change(tables: Tables) -> None:
        servers = _servers(tables)
        if other := same_but_for_case(name, servers):
            raise ConfigError(f"there is already a server {other!r}", server=name, hint=f"moltis mcp remove {other}")
        _own_label(servers, name, ordered.get("label"))
        servers[name] = ordered

    _edit(path, change, may_create=True)


def update_server(path: Path, name: str, changes: Mapping[str, Any]) -> None:
    """Set keys of a server; a value of None takes the key out, a table replaces the whole of the old one.

    Raises:
        UnknownServer: when the file has no such server.
        ConfigError: when the entry would be wrong (the key is named), or the file cannot be read or written.
    """

    def change(tables: Tables) -> None:
        entry = _server(tables, name)
        if changes.get("enabled"):
            _no_other_switch(entry)
        for key, value in changes.items():
            if value is None:
                entry.pop(key, None)
            else:
                entry[key] = value
        _own_label(_servers(tables), name, changes.get("label"))
        # Unknown keys that are there already are `config check`'s business, not this change's.
        plan_entry(name, {k: v for k, v in entry.items() if k in SERVER_KEYS or k in changes}, Base())

    _edit(path, change)


def remove_server(path: Path, name: str) -> None:
    """Take a server out of the file, with the comments inside of its section; those above it stay.

    Raises:
        UnknownServer: when the file has no such server.
        ConfigError: when the file cannot be read or written.
    """

    def change(tables: Tables) -> None:
        _known(tables, name)
        del _servers(tables)[name]

    _edit(path, change)


def set_enabled(path: Path, name: str, enabled: bool) -> None:
    """Set `enabled` of a server, whether or not the rest of its entry is right.

    Raises:
        UnknownServer: when the file has no such server.
        ConfigError: when the file cannot be read or written.
    """

    def change(tables: Tables) -> None:
        entry = _server(tables, name)
        if enabled:
            _no_other_switch(entry)
        if not enabled or "enabled" in entry:
            entry["enabled"] = enabled

    _edit(path, change)


def set_mcp(path: Path, key: str, value: Any) -> None:
    """Set a key of `[mcp]`; None takes it out, so that the default is in force.

    Raises:
        ConfigError: when the key or its value is wrong, or the file cannot be read or written.
    """
    report = Report(str(path))
    read_section(McpSection, {key: value} if value is not None else {}, ("mcp",), report)
    if key not in McpSection.model_fields or report.problems:
        problem = report.problems[0].message if report.problems else "unknown key"
        raise ConfigError(f"mcp.{key}: {problem}")

    def change(tables: Tables) -> None:
        if value is not None:
            _table(tables, "mcp")[key] = value
        elif "mcp" in tables:
            _table(tables, "mcp").pop(key, None)

    _edit(path, change, may_create=True)


def _no_other_switch(entry: Tables) -> None:
    """Take out `disabled` and the like, which are obeyed though not ours: who enables a server wants it to run."""
    for key in [key for key in entry if is_switch(key)]:
        del entry[key]


def _own_label(servers: Mapping[str, Any], name: str, label: object) -> None:
    """Refuse a label that is another server's, or its name."""
    if not isinstance(label, str):
        return
    for other, entry in servers.items():
        taken = (other, entry.get("label") if isinstance(entry, dict) else None)
        if other != name and any(isinstance(each, str) and each.lower() == label.lower() for each in taken):
            told = f"servers {other!r} and {name!r} would have one name"
            raise ConfigError(f"label: {told}", server=name, hint="give each its own label")


def _table(tables: Tables, key: str) -> Tables:
    value = tables.setdefault(key, {})
    if not isinstance(value, dict):
        raise ConfigError(f"{key} must be a table: write it as a [section]", hint="moltis config check")
    return value


def _servers(tables: Tables) -> Tables:
    return _table(_table(tables, "mcp"), "servers")


def _known(tables: Tables, name: str) -> Any:
    servers = _servers(tables)
    if name not in servers:
        raise UnknownServer(name, servers)
    return servers[name]


def _server(tables: Tables, name: str) -> Tables:
    entry = _known(tables, name)
    if not isinstance(entry, dict):
        raise ConfigError(f"mcp.servers.{name} must be a table", server=name, hint="moltis config check")
    return entry


def _edit(path: Path, change: Callable[[Tables], None], *, may_create: bool = False) -> None:
    with one_writer(path) as target:
        try:
            file = read_file(path)
        except NoFile:
            if not may_create:
                raise
            file = FileText("", b"", 0o600)
        text = file.text
        tables = parse(text, str(path)).tables
        meant = copy.deepcopy(tables)
        change(meant)
        new = _checked(text, tables, meant, path)
        if new == text:
            return
        if (target.read_bytes() if target.exists() else b"") != file.raw:
            raise ConfigError(f"{path} was changed by another program just now", hint="try again")
        raw = (_BOM if file.raw.startswith(_BOM) else b"") + new.encode()
        replace(target, raw, lambda written: parse(read_file(written).text, str(written)), file.mode)


def _compact(tables: Tables) -> Tables:
    """Leave out `[mcp]` and `[mcp.servers]` where they are empty: written out or not, they mean the same."""
    mcp = tables.get("mcp")
    if not isinstance(mcp, dict):
        return tables
    mcp = {k: v for k, v in mcp.items() if (k, v) != ("servers", {})}
    return {k: mcp if k == "mcp" else v for k, v in tables.items() if k != "mcp" or mcp}


def _checked(text: str, tables: Tables, meant: Tables, path: Path) -> str:
    """Give the new text.

    Raises:
        ConfigError: when it would not mean what it should; then the file has a form that only a person can edit.
    """
    try:
        new = changed(text, tables, meant)
        if same(_compact(parse(new, str(path)).tables), _compact(meant)):
            return new
    except Unwritable as error:
        raise ConfigError(f"{path}: cannot write {error}") from None
    except ConfigError:
        pass
    raise ConfigError(f"{path} cannot be changed by program in the form it has", hint=f"edit {path} by hand")
