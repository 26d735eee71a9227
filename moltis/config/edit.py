"""One server, or one key, of moltis.toml changed: everything else in the file stays byte for byte.

The new text is parsed again and compared with what was meant before it replaces the file, so a file is right or
untouched. Blocking: it waits for the disk, and up to 5 s for another writer; call it from a thread.
"""

from __future__ import annotations

import copy
import os
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
from moltis.errors import ConfigError, UnknownProject, UnknownServer, UsageError
from moltis.names import name_problem, section_of, split_name

_BOM = b"\xef\xbb\xbf"

Tables = dict[str, Any]


def add_server(path: Path, name: str, entry: Mapping[str, Any]) -> None:
    """Write a new server; makes the file (0600) when there is none. Keys that are None are left out.

    Raises:
        ConfigError: when the name is taken or wrong, a key is wrong (named), or the file cannot be read or written.
    """
    plan_entry(name, entry, _base(name))
    ordered = {key: entry[key] for key in SERVER_KEYS if entry.get(key) is not None}
    project, own = split_name(name)

    def change(tables: Tables) -> None:
        servers = _servers_beside(tables, name)
        if other := same_but_for_case(own, servers):
            full = other if project is None else f"{project}/{other}"
            raise ConfigError(f"there is already a server {full!r}", server=name, hint=f"moltis mcp remove {full}")
        if other := project and same_but_for_case(own, _servers(tables)):
            told = f"{other!r} is a server of all projects: a project's own needs another name"
            raise ConfigError(told, server=name, hint=f"moltis project exclude {project} {other}")
        _own_label(tables, name, ordered.get("label"))
        servers[own] = ordered

    _edit(path, change, may_create=project is None)


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
        _own_label(tables, name, changes.get("label"))
        # Unknown keys that are there already are `config check`'s business, not this change's.
        plan_entry(name, {k: v for k, v in entry.items() if k in SERVER_KEYS or k in changes}, _base(name))

    _edit(path, change)


def remove_server(path: Path, name: str) -> None:
    """Take a server out of the file, with the comments inside of its section; those above it stay.

    Raises:
        UnknownServer: when the file has no such server.
        ConfigError: when the file cannot be read or written.
    """

    def change(tables: Tables) -> None:
        _known(tables, name)
        del _servers_beside(tables, name)[split_name(name)[1]]

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


def add_project(path: Path, name: str, folder: str) -> None:
    """Write a new `[projects.NAME]`; makes the file when there is none. `folder`: absolute, or begins with `~`.

    Raises:
        UsageError: that is no name, or no folder.
        ConfigError: the name or the folder is another project's, or the file cannot be read or written.
    """
    if problem := name_problem(name[:80], "project name"):
        raise UsageError(problem)
    written = os.path.normpath(folder)
    meant = os.path.expanduser(written)
    if not os.path.isabs(meant) or "\0" in meant or not os.path.isdir(meant):
        raise UsageError(f"there is no folder {folder[:200]!r}", hint="name it as it stands, from / or ~ on")

    def change(tables: Tables) -> None:
        projects = _table(tables, "projects")
        if other := same_but_for_case(name, projects):
            raise ConfigError(f"there is already a project {other!r}", hint=f"moltis project remove {other}")
        for other, entry in projects.items():
            its = entry.get("path") if isinstance(entry, dict) else None
            if isinstance(its, str) and os.path.realpath(_at(its, path)) == os.path.realpath(meant):
                raise ConfigError(f"that is the folder of the project {other!r}", hint=f"moltis project show {other}")
        projects[name] = {"path": written}

    _edit(path, change, may_create=True)


def _at(folder: str, file: Path) -> str:
    return os.path.join(file.absolute().parent, os.path.expanduser(folder))


def remove_project(path: Path, name: str) -> None:
    """Take a project out of the file, with its own servers.

    Raises:
        UnknownProject: the file has no such project.
        ConfigError: the file cannot be read or written.
    """

    def change(tables: Tables) -> None:
        _project(tables, name)
        del tables["projects"][name]

    _edit(path, change)


def exclude_server(path: Path, project: str, server: str) -> None:
    """Have a project do without a server of all.

    Raises:
        UnknownProject, UnknownServer: the file has none of that name.
        ConfigError: it is the project's own, or the file cannot be read or written.
    """

    def change(tables: Tables) -> None:
        entry = _project(tables, project)
        own = split_name(server)[1] if server.startswith(f"{project}/") else server
        if own not in _servers(tables) and own in _table(entry, "servers"):
            told = f"{own!r} is the project's own, and nothing to be excluded"
            raise ConfigError(told, server=f"{project}/{own}", hint=f"moltis mcp disable {project}/{own}")
        if server not in _servers(tables):
            raise UnknownServer(server, _servers(tables))
        excluded = _excluded(entry, project)
        if server not in excluded:
            entry["exclude"] = [*excluded, server]

    _edit(path, change)


def include_server(path: Path, project: str, server: str) -> None:
    """Exclude a server no more. Raises as `exclude_server`; one that is excluded need not be known."""

    def change(tables: Tables) -> None:
        entry = _project(tables, project)
        excluded = _excluded(entry, project)
        if server in excluded:
            entry["exclude"] = [other for other in excluded if other != server]
        elif server not in _servers(tables):
            raise UnknownServer(server, [*_servers(tables), *excluded])

    _edit(path, change)


def _excluded(entry: Tables, project: str) -> list[str]:
    excluded = entry.get("exclude", [])
    if not (isinstance(excluded, list) and all(isinstance(each, str) for each in excluded)):
        raise ConfigError(f"projects.{project}.exclude must be a list", hint="moltis config check")
    return excluded


def _no_other_switch(entry: Tables) -> None:
    """Take out `disabled` and the like, which are obeyed though not ours: who enables a server wants it to run."""
    for key in [key for key in entry if is_switch(key)]:
        del entry[key]


def _base(name: str) -> Base:
    """Return what an entry is looked at on that is to be written: of a project's own, its folder has some path."""
    project, _ = split_name(name)
    return Base() if project is None else Base(project=(project, "/"))


def _own_label(tables: Tables, name: str, label: object) -> None:
    """Refuse a label that is another server's, or its name."""
    if not isinstance(label, str):
        return
    beside = _servers_beside(tables, name)
    for servers, project in ((_servers(tables), None), (beside, split_name(name)[0])):
        for own, entry in servers.items():
            other = own if project is None else f"{project}/{own}"
            taken = (own, entry.get("label") if isinstance(entry, dict) else None)
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


def _servers_beside(tables: Tables, name: str) -> Tables:
    """Return the servers of all, or those of the project whose own a server is.

    Raises:
        UnknownProject: there is no such project.
    """
    project, _ = split_name(name)
    return _servers(tables) if project is None else _table(_project(tables, project), "servers")


def _project(tables: Tables, name: str) -> Tables:
    projects = _table(tables, "projects")
    if name not in projects:
        raise UnknownProject(name, projects)
    return _table(projects, name)


def _known(tables: Tables, name: str) -> Any:
    servers, (project, own) = _servers_beside(tables, name), split_name(name)
    if own not in servers:
        raise UnknownServer(name, [other if project is None else f"{project}/{other}" for other in servers])
    return servers[own]


def _server(tables: Tables, name: str) -> Tables:
    entry = _known(tables, name)
    if not isinstance(entry, dict):
        raise ConfigError(f"{'.'.join(section_of(name))} must be a table", server=name, hint="moltis config check")
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
    """Leave out `[mcp]`, `[projects]` and tables of servers where they are empty: written or not is the same."""
    made = dict(tables)
    if isinstance(mcp := made.get("mcp"), dict):
        made["mcp"] = _without_servers(mcp)
    if isinstance(projects := made.get("projects"), dict):
        made["projects"] = {k: _without_servers(v) if isinstance(v, dict) else v for k, v in projects.items()}
    return {k: v for k, v in made.items() if k not in ("mcp", "projects") or v != {}}


def _without_servers(section: Tables) -> Tables:
    return {k: v for k, v in section.items() if (k, v) != ("servers", {})}


def _checked(text: str, tables: Tables, meant: Tables, path: Path) -> str:
    """Return the new text.

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
