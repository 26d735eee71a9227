"""Who may import what in moltis/, as tables, and the tests that hold the code to them.

FLOORS      packages: a module imports from its own package and from lower floors only, for types too
LAYERS      the modules of a package: each imports from its own line and from those above it
PURE        decisions: they import nothing that waits or touches the world, and of ours only what does not either
ONLY_IN     libraries that have one place, with the reason; one that is not here, nor in EVERYWHERE, is not imported

and no import goes round in a circle, those for types included.

A module that is new needs its place in its package's LAYERS; a package, its floor. A table has no row for what is gone.
"""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from moltis.config.kinds import KINDS

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "moltis"

FLOORS = {
    "moltis": 0,
    "moltis.names": 0,
    "moltis.shares": 0,
    "moltis.times": 0,
    "moltis.private": 0,
    "moltis.jsonrpc": 1,
    "moltis.access": 0,
    "moltis.printable": 0,
    "moltis.packages": 0,
    "moltis.containers": 0,
    "moltis.lastwords": 1,
    "moltis.steps": 0,
    "moltis.patterns": 0,
    "moltis.nesting": 1,
    "moltis.unicode": 1,
    "moltis.errors": 1,
    "moltis.paths": 1,
    "moltis.peers": 1,
    "moltis.proxies": 1,
    "moltis.threads": 2,
    "moltis.slices": 1,
    "moltis.redaction": 1,
    "moltis.logtail": 1,
    "moltis.config.kinds": 1,
    "moltis.config.limits": 1,
    "moltis.rest": 2,
    "moltis.config": 2,
    "moltis.server.states": 0,
    "moltis.server.lifecycle": 2,
    "moltis.server.status": 2,
    "moltis.server.story": 3,
    "moltis.server.diagram": 2,
    "moltis.server.mending": 3,
    "moltis.server.causes": 2,
    "moltis.server.transitions": 2,
    "moltis.session.envelope": 2,
    "moltis.session.handshake": 2,
    "moltis.session.parts": 2,
    "moltis.session.description": 2,
    "moltis.transport.frames": 2,
    "moltis.transport.remote.events": 2,
    "moltis.transport.remote.headers": 2,
    "moltis.http.addresses": 0,
    "moltis.http.origins": 0,
    "moltis.http": 2,
    "moltis.http.fetch": 3,
    "moltis.http.proxied": 3,
    "moltis.session.elicitation": 2,
    "moltis.session.mirrored": 3,
    "moltis.control.requests": 2,
    "moltis.control.client": 2,
    "moltis.logs": 3,
    "moltis.httpd": 4,
    "moltis.oauth": 5,
    "moltis.service": 3,
    "moltis.sdk": 2,
    "moltis.transport": 3,
    "moltis.session": 4,
    "moltis.server": 4,
    "moltis.gateway": 5,
    "moltis.operations": 6,
    "moltis.control": 7,
    "moltis.doctor": 7,
    "moltis.daemon": 8,
    "moltis.cli": 9,
    "moltis.__main__": 10,
}
"""The longest matching prefix counts. A module imports from its own package and from lower floors only."""
ON_TRANSPORTS = FLOORS["moltis.transport"] + 1

PURE = {
    "moltis.times",
    "moltis.jsonrpc",
    "moltis.access",
    "moltis.shares",
    "moltis.names",
    "moltis.printable",
    "moltis.containers",
    "moltis.lastwords",
    "moltis.steps",
    "moltis.patterns",
    "moltis.nesting",
    "moltis.unicode",
    "moltis.errors",
    "moltis.redaction",
    "moltis.proxies",
    "moltis.config.kinds",
    "moltis.config.limits",
    "moltis.config.expansion",
    "moltis.config.remote",
    "moltis.config.plan",
    "moltis.config.web",
    "moltis.config.scan",
    "moltis.config.credentials",
    "moltis.config.foreign",
    "moltis.config.surroundings",
    "moltis.config.near_misses",
    "moltis.server.states",
    "moltis.server.lifecycle",
    "moltis.server.transitions",
    "moltis.server.status",
    "moltis.server.story",
    "moltis.server.diagram",
    "moltis.server.mending",
    "moltis.server.causes",
    "moltis.session.envelope",
    "moltis.session.parts",
    "moltis.session.description",
    "moltis.session.handshake",
    "moltis.session.pace",
    "moltis.transport.frames",
    "moltis.transport.remote.events",
    "moltis.transport.remote.headers",
    "moltis.http.addresses",
    "moltis.http.origins",
    "moltis.http.heads",
    "moltis.oauth.model",
    "moltis.oauth.resource",
    "moltis.oauth.authserver",
    "moltis.oauth.registration",
    "moltis.oauth.authorize",
    "moltis.oauth.callback",
    "moltis.oauth.grants",
    "moltis.oauth.urls",
    "moltis.oauth.documents",
    "moltis.oauth.decisions",
    "moltis.transport.remote.outcomes",
    "moltis.transport.remote.replies",
    "moltis.session.elicitation",
    "moltis.session.mirrored",
    "moltis.control.requests",
    "moltis.operations.registry",
    "moltis.operations.api",
    "moltis.operations.definitions",
    "moltis.operations.events",
    "moltis.operations.params",
    "moltis.gateway.messages",
    "moltis.gateway.api",
    "moltis.gateway.naming",
    "moltis.gateway.catalogue",
    "moltis.gateway.templates",
    "moltis.gateway.revisions",
    "moltis.gateway.rounds",
    "moltis.gateway.parking",
    "moltis.gateway.failures",
    "moltis.gateway.abilities",
    "moltis.gateway.shelves",
    "moltis.gateway.doors",
    "moltis.gateway.http.modern",
    "moltis.httpd.router",
    "moltis.cli.connect.ledger",
    "moltis.session.attribution",
    "moltis.session.face",
    "moltis.session.passing",
    "moltis.session.calls",
    "moltis.sdk.messages",
    "moltis.config.keys",
    "moltis.config.model",
    "moltis.config.problem",
    "moltis.config.sensitive",
    "moltis.gateway.http.refusals",
    "moltis.gateway.introduction",
    "moltis.gateway.refusals",
    "moltis.gateway.wellformed",
    "moltis.http.cookies",
    "moltis.httpd.asgi",
    "moltis.logs.record",
    "moltis.server.working",
    "moltis.session.listing",
    "moltis.session.results",
}
IMPURE = {
    "anyio", "asyncio", "httpx", "httpx2", "mcp", "os", "random", "secrets", "select", "signal", "socket",
    "structlog", "subprocess", "threading", "time", "trio", "uvloop",
}  # fmt: skip

ONLY_IN = {
    "asyncio": {"moltis.transport.wire": "callbacks on pipes and sockets have no anyio form"},
    "pydantic": {"moltis.config": "moltis.toml is checked with it; wire types are msgspec"},
    "tomli_w": {
        "moltis.config.overrides": "writes env.toml, which is ours alone",
        "moltis.gateway.token_file": "and so is tokens.toml",
    },
    "structlog": {"moltis.logs": "the one sink"},
    "click": {"moltis.cli": "the command line"},
    "httpx2": {
        "moltis.http": "the one HTTP stack",
        "moltis.transport.remote": "its connections are made of it",
        "moltis.sdk.client": "the SDK's client is handed one",
    },
    "httpcore2": {"moltis.http": "where addresses are checked and pinned"},
    "authlib": {"moltis.oauth.endpoint": "the token endpoint"},
    "joserfc": {"moltis.oauth.endpoint": "keys of client authentication"},
    "h11": {"moltis.oauth.loopback": "the page that a login comes back to"},
    "keyring": {"moltis.oauth.cipher": "where the key of the token store is"},
    "cryptography": {"moltis.oauth.cipher": "encrypts the token store"},
    "uvicorn": {"moltis.httpd.server": "the HTTP server under all applications"},
    "httptools": {"moltis.httpd.server": "its parser, of which it says what a request may be"},
    "uvloop": {"moltis.daemon.running": "the event loop is chosen where it is begun"},
    "tomli": {"moltis.config.document": "reads moltis.toml"},
    "pydantic_core": {"moltis.config": "pydantic's errors"},
    "pydantic_settings": {"moltis.config.environment": "MOLTIS_SECTION__KEY"},
    "prometheus_client": {"moltis.gateway.metrics": "the text format"},
    "referencing": {"moltis.rest.document": "`$ref` of OpenAPI documents"},
    "mcp": {"moltis.sdk.client": "the program of a process of its own, which asks a server as the SDK does"},
    "random": {"moltis.daemon": "chance enters where the world is put together"},
}
"""Who may import what, and why."""
EVERYWHERE = {"anyio", "msgspec"}
"""Libraries that have no one place: tasks and time are anyio's, and structs and what is on the wire are msgspec's."""

LAYERS: dict[str, tuple[str, ...]] = {
    "config": (
        "credentials files foreign kinds limits plugins scan surroundings web",
        "document near_misses plan problem splice",
        "keys overrides projects",
        "environment model",
        "origins sensitive",
        "expansion",
        "expand local",
        "remote",
        "load",
        "edit",
    ),
    "gateway": (
        "messages abilities doors levels metrics naming parking revisions rounds "
        "showing templates token_file views wellformed",
        "api failures introduction known outbox refusals tokens waits",
        "asking catalogue endpoints forwarding instances listens relay shelves subscriptions visibility",
        "host lines",
        "gateway http",
    ),
    "gateway.http": (
        "exchange kept modern refusals",
        "reading sessions",
        "conversations plain",
        "application",
        "listener",
    ),
    "http": (
        "addresses words",
        "bodies dialing origins tls",
        "carrier cookies heads pinned",
        "authorized proxied",
        "clients",
        "fetch",
    ),
    "httpd": ("address asgi", "events router server"),
    "logs": ("record", "file", "sink"),
    "oauth": (
        "documents model pages urls",
        "authorize authserver callback decisions grants registration resource",
        "browser cipher discovery endpoint folder jobs loopback store",
        "keeper",
        "flow",
        "login",
    ),
    "rest": ("document", "schemas", "operations"),
    "session": (
        "attribution elicitation face hooks mirrored pace parts results",
        "calls description envelope handshake liveness",
        "facts listing lists oddities passing questions unasked wishes",
        "dialogue listen negotiation",
        "requests",
        "beside session",
    ),
    "server": (
        "slots states",
        "causes lifecycle status",
        "life mending working",
        "record story transitions",
        "actor diagram",
        "supervisor",
    ),
    "operations": ("events params", "api", "reach registry", "definitions"),
    "control": ("client endpoint requests", "registry", "conversation methods", "listener"),
    "daemon": (
        "auth configuration eras guard ports process trials watch",
        "logins memories projects second_opinion",
        "remotes serving",
        "hosts session_factory",
        "servers",
        "world",
        "running",
    ),
    "cli.connect": ("door ledger standin starter", "start", "pump", "quick", "command"),
    "transport": ("wire", "frames spawned task warden", "containment inside kinds lines", "stdio", "remote"),
    "transport.remote": (
        "events headers replies",
        "base outcomes",
        "delivery incoming",
        "legacy renewal sessions standing streamable",
        "opening",
    ),
    "transport.wire": ("buffers loop", "link pipes sockets"),
}
"""What of a large package is built on what: each line knows itself and those above it. What is said of a package's
module holds for all that is in it."""


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def nodes(path: Path, having: str = "") -> Iterator[ast.AST]:
    """Yield all of a module's syntax tree, or nothing if `having` is nowhere in its text."""
    text = path.read_text(encoding="utf-8")
    if having in text:
        yield from ast.walk(ast.parse(text))


@functools.cache
def import_statements(path: Path) -> tuple[ast.Import | ast.ImportFrom, ...]:
    """Return a module's imports: it is parsed once for all tests, which do not keep its tree, a thousand objects."""
    return tuple(node for node in nodes(path) if isinstance(node, ast.Import | ast.ImportFrom))


@functools.cache
def imports(path: Path) -> frozenset[str]:
    found: set[str] = set()
    for node in import_statements(path):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        else:
            assert node.level == 0, f"{path}: relative import"
            found |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(found)


OF_KINDS = {
    ".".join(place.partition(":")[0].split(".")[:2])
    for kind in KINDS.values()
    for place in (kind.plans, kind.checks, kind.opens)
}
"""Where the kinds of servers have their code. A package that has no floor of its own is built on transports."""


def floor(module: str) -> int:
    best = max((p for p in FLOORS if module == p or module.startswith(p + ".")), key=len)
    return ON_TRANSPORTS if best == "moltis" and module.startswith(tuple(OF_KINDS)) else FLOORS[best]


ALL = list(modules())
KNOWN = {name for name, _ in ALL}


@pytest.mark.parametrize(("name", "path"), ALL, ids=[n for n, _ in ALL])
def test_imports_point_down_the_floors(name: str, path: Path) -> None:
    own_package = ".".join(name.split(".")[:2])
    for target in imports(path) & KNOWN:
        same_package = target == own_package or target.startswith(own_package + ".")
        assert same_package or target == "moltis" or floor(target) < floor(name), f"{name} imports {target}"


@functools.cache
def lines_for_types(path: Path) -> frozenset[int]:
    """Return the lines of a module that only a type checker reads."""
    blocks = (node for node in nodes(path, "TYPE_CHECKING") if isinstance(node, ast.If))
    bodies = (node.body for node in blocks if ast.unparse(node.test).rpartition(".")[2] == "TYPE_CHECKING")
    return frozenset(line for body in bodies for n in body for line in range(n.lineno, (n.end_lineno or n.lineno) + 1))


def meant(path: Path, *, for_types: bool = True) -> set[str]:
    """Return the modules of ours that one imports: of `from a import b`, `a.b` if that is one.

    for_types: those that are imported for types only among them.
    """
    found: set[str] = set()
    for node in import_statements(path):
        if not for_types and node.lineno in lines_for_types(path):
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        else:
            of = {alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            found |= {of[name] if of[name] in KNOWN else node.module or "" for name in of}
    return found & KNOWN


def layer(package: str, module: str) -> int | None:
    """Return in which line of its package a module is; None if it is in none."""
    name = module.removeprefix(f"moltis.{package}.").partition(".")[0]
    return next((n for n, line in enumerate(LAYERS[package]) if name in line.split()), None)


@pytest.mark.parametrize("package", sorted(LAYERS))
def test_within_a_large_package_imports_point_down_its_layers(package: str) -> None:
    inside = {name: path for name, path in ALL if name.startswith(f"moltis.{package}.")}
    assert inside
    for name, path in inside.items():
        own = layer(package, name)
        assert own is not None, f"LAYERS does not say what of moltis.{package} {name} is built on"
        for target in meant(path) & inside.keys():
            below = layer(package, target)
            assert below is not None
            assert below <= own, f"{name} imports {target}"


def test_no_import_goes_round_in_a_circle_even_for_types() -> None:
    left = {name: meant(path) - {name} for name, path in ALL}
    while free := {name for name, targets in left.items() if not targets & left.keys()}:
        left = {name: targets for name, targets in left.items() if name not in free}
    while dead := left.keys() - {target for targets in left.values() for target in targets}:  # they only lead into one
        left = {name: targets for name, targets in left.items() if name not in dead}
    assert not left, f"these import each other: {sorted(left)}"


@pytest.mark.parametrize("name", sorted(PURE))
def test_pure_modules_import_nothing_that_waits_or_touches_the_world(name: str) -> None:
    path = dict(ALL)[name]
    roots = {target.partition(".")[0] for target in imports(path)}
    assert not roots & IMPURE


LENT = {
    "moltis.transport": "`signal`, for the names of signals, and the seam itself",
    "moltis.session.wishes": "a cancelled wait is told by anyio; `gateway.api` names its type",
    "moltis.gateway.tokens": "what makes tokens; operations name the types of what it says",
    "moltis.slices": "turns of the event loop; operations lend them on",
    "moltis.operations.reach": "waits for servers; an operation is a function over the daemon",
    "moltis.config.plugins": "keeps pydantic from loading plugins, which is a variable of the environment",
    "moltis.config.local": "`~user`, which the password database knows; `config.remote` has a `~` too",
}
"""Modules that are not pure and that pure ones import, and what they need of them."""


@pytest.mark.parametrize("name", sorted(PURE))
def test_pure_modules_import_of_ours_what_is_pure_too(name: str) -> None:
    """Else one would wait, or touch the world, by the module beside it. What is for types only is not looked at."""
    lent = {target for target in meant(dict(ALL)[name], for_types=False) if target not in PURE}
    assert lent <= LENT.keys() | {"moltis"}


@pytest.mark.parametrize("library", sorted(ONLY_IN))
def test_a_library_is_imported_only_where_it_has_its_reason(library: str) -> None:
    allowed = ONLY_IN[library]
    for name, path in ALL:
        if library in {target.partition(".")[0] for target in imports(path)}:
            assert any(name == a or name.startswith(a + ".") for a in allowed), f"{name} imports {library}"


def test_a_library_that_is_imported_has_its_place() -> None:
    """A new dependency is seen here: it needs a reason."""
    found = {target.partition(".")[0] for _name, path in ALL for target in imports(path)}
    known = {"moltis", *sys.stdlib_module_names, *EVERYWHERE, *ONLY_IN}
    assert found - known == set()
    assert (EVERYWHERE | ONLY_IN.keys()) - found == set(), "is imported nowhere any more"


def test_the_tables_have_no_row_for_what_is_gone() -> None:
    inside = {module.removeprefix("moltis.") for module in KNOWN}
    assert {f"{package}.{name}" for package in LAYERS for line in LAYERS[package] for name in line.split()} <= inside
    assert FLOORS.keys() | PURE | LENT.keys() <= KNOWN


def test_each_package_says_what_is_in_it() -> None:
    for folder in {path.parent for _name, path in ALL}:
        assert (folder / "__init__.py").read_text(encoding="utf-8").startswith('"""'), folder


def test_operations_know_nothing_of_how_they_are_asked_for() -> None:
    """Whatever front there is, it calls the same ones."""
    fronts = ("moltis.control", "moltis.gateway.http", "moltis.gateway.lines", "moltis.gateway.messages")
    wires = ("moltis.transport.wire", "socket", "asyncio", "starlette", "uvicorn")
    for name, path in ALL:
        if name.startswith("moltis.operations"):
            assert not [t for t in imports(path) for each in fronts + wires if t == each or t.startswith(each + ".")]


def test_threads_are_had_in_one_place() -> None:
    """`in_thread` alone says in our words that no thread can be started; elsewhere that would be a fault of ours."""
    for name, path in ALL:
        used = any(isinstance(node, ast.Attribute) and node.attr == "to_thread" for node in nodes(path, "to_thread"))
        if used or any("to_thread" in target.split(".") for target in imports(path)):
            assert name == "moltis.threads", f"{name} uses anyio.to_thread"


def test_the_warden_needs_nothing_but_the_standard_library() -> None:
    roots = {target.partition(".")[0] for target in imports(PACKAGE / "transport" / "warden.py")}
    assert roots - {"__future__"} <= set(sys.stdlib_module_names)


def test_the_daemon_never_imports_the_sdk() -> None:
    """Importing it adds half to the daemon's memory; benchmarks/README.md has the figures."""
    for name, path in ALL:
        assert name == "moltis.sdk.client" or "moltis.sdk.client" not in imports(path), name
    script = "import sys, moltis.daemon.world, moltis.daemon.second_opinion, moltis.cli.app; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert not {"mcp", "mcp_types", "moltis.sdk.client"} & set(loaded)


def test_a_daemon_without_remote_servers_imports_neither_http_nor_oauth() -> None:
    script = "import sys, moltis.daemon.world; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert not {"httpx2", "httpcore2", "authlib", "h11", "cryptography", "moltis.daemon.logins"} & set(loaded)


def test_only_those_who_start_and_reach_servers_look_into_a_launch() -> None:
    """`StdioLaunch` and `RemoteLaunch` hold expanded values; what is shown comes from `Shown`, the text as written."""
    allowed = (
        "moltis.config", "moltis.transport", "moltis.doctor", "moltis.daemon.logins", "moltis.daemon.second_opinion",
    )  # fmt: skip
    fields = {"env", "args", "url", "headers", "oauth", "proxies", "way"}
    for name, path in ALL:
        for node in nodes(path, "launch"):
            if isinstance(node, ast.Attribute) and node.attr in fields and "launch" in ast.unparse(node.value):
                assert name.startswith(allowed), f"{name} looks at launch.{node.attr}"
