"""What `npx` and `uvx` would run for an entry: the package it names, whether that is one version for good, and the
version that was installed last.

Reads their caches and nothing else: no network, and nothing is started. The layouts are those of npm 7 and later
(libnpmexec, `_npx/HASH/package.json`) and of uv (`archive-v0`), which neither of them promises; what is not found is
unknown, and no fault.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

MAX_FILE_BYTES = 1024 * 1024

_NPX_SWITCHES = frozenset(
    {"-y", "--yes", "--no", "-q", "--quiet", "-s", "--silent", "--offline", "--prefer-offline", "--prefer-online", "-g"}
)
_NPX_VALUES = frozenset({"--registry", "--cache", "--node-options", "--userconfig", "--prefix", "--loglevel"})
_UVX_SWITCHES = frozenset(
    {"-q", "--quiet", "-v", "--verbose", "--isolated", "-n", "--no-cache", "--refresh", "-U", "--upgrade", "--offline"}
    | {"--no-config", "--native-tls", "--managed-python", "--no-managed-python", "--no-progress", "--no-env-file"}
    | {"--no-python-downloads", "--reinstall", "--no-index", "--no-build", "--no-binary"}
)
_UVX_VALUES = frozenset(
    {"-p", "--python", "--with", "-w", "--with-editable", "--with-requirements", "--index", "--index-url", "-i"}
    | {"--default-index", "--extra-index-url", "--find-links", "-f", "--constraints", "-c", "--overrides", "--env-file"}
    | {"--refresh-package", "-P", "--upgrade-package", "--prerelease", "--resolution", "--exclude-newer", "--cache-dir"}
    | {"--build-constraints", "-b", "--directory", "--project", "--config-file", "--link-mode", "--color"}
)
_NPM_NAME = re.compile(r"(@[\w.-]+/[\w.-]+|[A-Za-z0-9][\w.-]*)(?:@(.*))?")
_PYPI_NAME = re.compile(r"([A-Za-z0-9][\w.-]*)(?:\[[^\]]*\])?\s*(?:(@|==|[<>~!]=?)\s*(.*))?")
_NPM_VERSION = re.compile(r"v?\d+\.\d+\.\d+(?:[-+][\w.+-]+)?")
_PYPI_VERSION = re.compile(r"\d[\w.!+]*")


@dataclass(frozen=True, slots=True)
class Unpinned:
    """A package of which each start may run another version.

    written: as the entry has it. pinned: the same with a version. version: what was installed last; None if unknown.
    """

    runner: str
    written: str
    pinned: str
    version: str | None


def unpinned(command: str, args: Sequence[str], environ: Mapping[str, str]) -> Unpinned | None:
    """Return the package that an entry runs in whatever version it finds, or None where it names one, or runs none.

    environ: HOME and what moves the caches count.
    """
    runner = PurePath(command).name
    if runner == "npx" or (runner == "npm" and args[:1] == ["exec"]):
        return _of_npm(runner, args if runner == "npx" else args[1:], environ)
    if runner == "uvx" or (runner == "uv" and list(args[:2]) == ["tool", "run"]):
        return _of_uv(runner, args if runner == "uvx" else args[2:], environ)
    return None


def _named(
    args: Sequence[str], switches: frozenset[str], values: frozenset[str], chosen: frozenset[str]
) -> tuple[str | None, bool]:
    """Return what is to be run, and whether by an option of `chosen`; None where an option is not known.

    values: the options that a value follows; what follows an unknown one might be a secret, and no package.
    """
    words = iter(args)
    for word in words:
        option, is_joined, value = word.partition("=")
        if option in chosen:
            return (value if is_joined else next(words, None)), True
        if word == "--":
            return next(words, None), False
        if not word.startswith("-"):
            return word, False
        if option in values:
            if not is_joined:
                next(words, None)
        elif option not in switches:
            break
    return None, False


def _of_npm(runner: str, args: Sequence[str], environ: Mapping[str, str]) -> Unpinned | None:
    written, _ = _named(args, _NPX_SWITCHES, _NPX_VALUES, frozenset({"-p", "--package"}))
    found = _NPM_NAME.fullmatch(written or "")
    if written is None or found is None or _NPM_VERSION.fullmatch(found[2] or ""):
        return None  # a folder, a git repository, an archive; or pinned
    version = _npx_version(written, found[1], environ)
    return Unpinned(runner, written, f"{found[1]}@{version or 'VERSION'}", version)


def _npx_version(written: str, package: str, environ: Mapping[str, str]) -> str | None:
    cache = environ.get("npm_config_cache") or environ.get("NPM_CONFIG_CACHE")
    home = environ.get("HOME")
    if not cache and not home:
        return None
    installed: list[tuple[float, str]] = []
    for folder in _folders(Path(cache) if cache else Path(home or "/") / ".npm", "_npx/*"):
        made = _json(folder / "package.json")
        packages = _object(made.get("_npx")).get("packages")
        wanted = written in packages if isinstance(packages, list) else package in _object(made.get("dependencies"))
        of = folder / "node_modules" / package / "package.json"
        version = _json(of).get("version") if wanted else None
        if isinstance(version, str) and _NPM_VERSION.fullmatch(version):
            installed.append((_changed_at(of), version))
    return max(installed)[1] if installed else None


def _of_uv(runner: str, args: Sequence[str], environ: Mapping[str, str]) -> Unpinned | None:
    written, by_option = _named(args, _UVX_SWITCHES, _UVX_VALUES, frozenset({"--from"}))
    found = _PYPI_NAME.fullmatch(written or "")
    if written is None or found is None:
        return None
    if found[2] in ("==", "@") and _PYPI_VERSION.fullmatch(found[3] or ""):
        return None
    name = found[1]
    version = _uv_version(name, environ)
    bare = written.partition(found[2])[0].rstrip() if found[2] else written
    return Unpinned(runner, written, f"{bare}{'==' if by_option else '@'}{version or 'VERSION'}", version)


def _uv_version(name: str, environ: Mapping[str, str]) -> str | None:
    """Return the version of an installed tool, or else the newest of the environments that uvx has made."""
    home = Path(environ.get("HOME") or "/")
    tools = Path(environ.get("UV_TOOL_DIR") or Path(environ.get("XDG_DATA_HOME") or home / ".local/share") / "uv/tools")
    cache = Path(environ.get("UV_CACHE_DIR") or Path(environ.get("XDG_CACHE_HOME") or home / ".cache") / "uv")
    plain = re.sub(r"[-_.]+", "-", name).lower()
    info = re.compile(re.escape(plain).replace("\\-", "[-_.]+") + r"-(\d[\w.!+]*)\.dist-info", re.IGNORECASE)
    packages = "lib/python*/site-packages/*.dist-info"
    places = ((tools, f"{plain}/{packages}"), (cache, f"archive-v*/*/{packages}"), (cache, "archive-v*/*/*.dist-info"))
    for folder, pattern in places:
        versions = [found[1] for path in _folders(folder, pattern) if (found := info.fullmatch(path.name))]
        if versions:
            return max(versions, key=_ordered)
    return None


def _ordered(version: str) -> tuple[int, ...]:
    """Return what puts versions in their order, well enough for those of one package (PEP 440 has more to say)."""
    return tuple(int(number) for number in re.findall(r"\d{1,9}", version))


def _folders(place: Path, pattern: str) -> Iterator[Path]:
    try:
        yield from place.glob(pattern)
    except OSError:
        return


def _object(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else {}


def _changed_at(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except OSError:
        return 0.0


def _json(file: Path) -> dict[str, object]:
    try:
        with file.open("rb") as opened:
            made = json.loads(opened.read(MAX_FILE_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return _object(made)
