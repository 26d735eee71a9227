"""The sections of moltis.toml as written: types and bounds, key by key. `None` means not written.

Rules between keys, placeholders and defaults are not known here (`expand.py`). No value ever gets into a message: it
may be a secret. A wrong key is reported and left out, so that the rest of its section is still understood.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

from moltis.config import plugins  # noqa: F401  # isort: skip
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
    create_model,
)
from pydantic_core import ErrorDetails

from moltis.config import foreign, kinds
from moltis.config.keys import (
    ASKED,
    ELICITATION_ALIASES,
    ELICITATIONS,
    GRANTS,
    KEYS,
    LIMITS,
    PROTOCOLS,
    REDIRECT_HOSTS,
    SHARES,
    STARTS,
    Key,
    SectionName,
    key_of,
)
from moltis.config.limits import MAX_SECS, MIN_SECS
from moltis.config.near_misses import in_braces
from moltis.config.problem import Report
from moltis.config.scan import Path
from moltis.config.web import host_name, page_origin, split_listen
from moltis.names import did_you_mean, name_problem
from moltis.redaction import Malformed, Template, is_env_name


def _one_of(words: Iterable[str], aliases: Mapping[str, str] | None = None) -> AfterValidator:
    """Check a word; the message names the known words and the nearest of them, never the wrong one."""
    known = tuple(words)

    def check(word: str) -> str:
        word = (aliases or {}).get(word, word)
        if word not in known:
            raise ValueError(f"must be one of {', '.join(known)}{did_you_mean(word, known)}")
        return word

    return AfterValidator(check)


def _kind(word: str) -> str:
    kind = kinds.named(word)
    if kind is None:
        raise ValueError(f"must be one of {', '.join(kinds.KINDS)}{did_you_mean(word, kinds.KINDS)}")
    return kind.name


def _template(value: object) -> Template:
    if not isinstance(value, str):
        raise ValueError("must be text in quotes")
    if "\0" in value:
        raise ValueError("must not contain a NUL")
    try:
        return Template(value)
    except Malformed as error:
        raise ValueError(in_braces(error.inner) or str(error)) from None


def _proxy(value: object) -> Template:
    template = _template(value)
    text = template.text.replace("$$", "$")
    if not template.names and text not in ("none", "env"):
        from moltis.proxies import setting

        setting(text, {}, own=False)
    return template


def _plain(value: object) -> object:
    if isinstance(value, str) and ("\0" in value or not value.strip()):
        raise ValueError("must not be empty or contain a NUL")
    return value


def _one_line(value: str) -> str:
    if not value.isprintable() or len(value) > 200:
        raise ValueError("must be one line of at most 200 characters")
    return value


def _label(value: str) -> str:
    if problem := name_problem(value[:80], "label"):
        raise ValueError(problem.removeprefix(f"label {value[:80]!r} "))
    return value


def _listen(value: str) -> str:
    split_listen(value)
    return value


def _prompt(value: str) -> str:
    """A list of words (OpenID Connect Core section 3.1.2.1), or nothing."""
    if value and re.fullmatch(r"[a-z_]{1,40}( [a-z_]{1,40}){0,3}", value) is None:
        raise ValueError('must be words like "consent" or "select_account", or "" to leave it out')
    return value


def _secs_or_never(value: float) -> float:
    if 0 < value < MIN_SECS:
        raise ValueError(f"must be 0, or at least {MIN_SECS:g}")
    return value


def _variable_name(value: str) -> str:
    if not is_env_name(value):
        raise ValueError('must be names of variables, like "HTTPS_PROXY", without $ and value')
    return value


Secs = Annotated[float, Field(ge=MIN_SECS, le=MAX_SECS, allow_inf_nan=False)]
SecsOrNever = Annotated[float, Field(ge=0, le=MAX_SECS, allow_inf_nan=False), AfterValidator(_secs_or_never)]
Text = Annotated[str, BeforeValidator(_plain)]
Expandable = Annotated[Template, PlainValidator(_template)]
ProxySetting = Annotated[Template, PlainValidator(_proxy)]
VariableName = Annotated[Text, AfterValidator(_variable_name)]


class _Section(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, hide_input_in_errors=True, defer_build=True)

    def written(self) -> dict[str, Any]:
        """Return the keys that stand in the file, with their values."""
        return {name: getattr(self, name) for name in self.model_fields_set}


def _program(value: object) -> object:
    if isinstance(value, list):
        raise ValueError("must be text: write its first word here, and the others as args")
    return _plain(value)


Program = Annotated[str, BeforeValidator(_program)]


def _bounds(section: SectionName, name: str) -> Any:
    key = key_of(section, name)
    return Field(ge=key.low, le=key.high)


def _checked(key: Key, text: Any = Text) -> tuple[Any, Any]:
    """Return type and default of a key, as `create_model` takes them. text: the type of its text, or of each in it."""
    match key.kind:
        case "seconds":
            return Secs | None, None
        case "count":
            return Annotated[int, _bounds(key.section, key.name)] | None, None
        case "flag":
            return bool | None, None
        case "choice":
            return Annotated[str, _one_of(key.words)] | None, None
        case "list":
            return tuple[text, ...] | None, Field(None, strict=False)
        case "text":
            return text | None, None
        case "table":
            return dict[str, text] | None, None


def _section_of(name: str, keys: Iterable[Key], **texts: Any) -> type[_Section]:
    """Return the checks of keys of which the table says all, but for what their `texts` have to be."""
    fields: dict[str, Any] = {key.name: _checked(key, texts.get(key.name, Text)) for key in keys}
    return create_model(name, __base__=_Section, **fields)


if not TYPE_CHECKING:
    DaemonSection = _section_of("DaemonSection", (key for key in KEYS if key.section == "daemon"))
    GatewaySection = _section_of(
        "GatewaySection",
        (key for key in KEYS if key.section == "gateway"),
        listen=Annotated[Text, AfterValidator(_listen)],
        allowed_hosts=Annotated[Text, AfterValidator(host_name)],
        allowed_origins=Annotated[Text, AfterValidator(page_origin)],
    )
    _Limits = _section_of("_Limits", LIMITS)
else:

    class DaemonSection(_Section):
        """`[daemon]`: a field for each of its keys."""

    class GatewaySection(_Section):
        """`[gateway]`: a field for each of its keys."""

    class _Limits(_Section):
        """A field for each of `Limits`."""


class LimitsSection(_Limits):
    """What `[mcp]` sets for all servers and each server may override: a key for each of `Limits`."""

    def limits(self) -> dict[str, Any]:
        """Return the limits that stand in the file."""
        return {k: v for k, v in self.written().items() if k in LimitsSection.model_fields}


class McpSection(LimitsSection):
    """`[mcp]`, without its servers."""

    first_list_secs: Secs | None = None
    env_pass: list[VariableName] = []
    proxy: ProxySetting | None = None
    max_concurrent_starts: Annotated[int, _bounds("mcp", "max_concurrent_starts")] | None = None
    max_servers_per_project: Annotated[int, _bounds("mcp", "max_servers_per_project")] | None = None


class ProjectSection(_Section):
    """`[projects.NAME]`, without its servers."""

    path: Text | None = None
    exclude: list[Text] = []


class OAuthSection(_Section):
    """`[mcp.servers.NAME.oauth]`."""

    client_id: Expandable | None = None
    client_secret: Expandable | None = None
    private_key: Expandable | None = None
    auth_url: Expandable | None = None
    token_url: Expandable | None = None
    scopes: list[Expandable] | None = None
    client_metadata_url: Expandable | None = None
    grant: Annotated[str, _one_of(GRANTS)] | None = None
    callback_port: Annotated[int, _bounds("oauth", "callback_port")] | None = None
    redirect_host: Annotated[str, _one_of(REDIRECT_HOSTS)] | None = None
    issuer: Expandable | None = None
    resource: Expandable | None = None
    prompt: Annotated[str, AfterValidator(_prompt)] | None = None
    offline_access: bool | None = None


class ServerSection(LimitsSection):
    """`[mcp.servers.NAME]`."""

    command: Program | None = None
    args: list[Expandable] = []
    env: dict[str, Expandable] = {}
    env_pass: list[VariableName] | None = None
    cwd: Expandable | None = None
    enabled: bool = True
    display_name: Annotated[Text, AfterValidator(_one_line)] | None = None
    label: Annotated[str, AfterValidator(_label)] | None = None
    transport: Annotated[str, AfterValidator(_kind)] | None = None
    url: Expandable | None = None
    headers: dict[str, Expandable] = {}
    include_tools: list[Text] = []
    exclude_tools: list[Text] = []
    protocol: Annotated[str, _one_of(PROTOCOLS)] = "auto"
    elicitation: Annotated[str, _one_of(ELICITATIONS, ELICITATION_ALIASES)] = "host"
    sampling: Annotated[str, _one_of(ASKED)] = "host"
    roots: Annotated[str, _one_of(ASKED)] = "host"
    share: Annotated[str, _one_of(SHARES)] = "all"
    max_instances: Annotated[int, _bounds("server", "max_instances")] | None = None
    start: Annotated[str, _one_of(STARTS)] | None = None
    idle_stop_secs: SecsOrNever | None = None
    ca_file: Text | None = None
    proxy: ProxySetting | None = None
    oauth: OAuthSection | None = None


ACCEPTED: dict[type[_Section], frozenset[str]] = {
    McpSection: frozenset({"servers"}),
    ProjectSection: frozenset({"servers"}),
}
"""Keys of a section that are not its own to check: the servers."""

SectionT = TypeVar("SectionT", bound=_Section)


def read_section(model: type[SectionT], raw: object, path: Path, report: Report) -> SectionT:
    """Check one section; every wrong key is an error in `report` and left out, every unknown one a warning."""
    if not isinstance(raw, dict):
        report.error(path, "must be a table: write it as a [section]")
        return model()
    kept = _known_only(model, _copy(raw), path, report)
    if not kept:
        return model.model_construct()  # whose checker need not be made
    while True:
        try:
            return model.model_validate(kept)
        except ValidationError as errors:
            # Each round drops at least one key or element, so this ends.
            details = errors.errors(include_url=False, include_context=False, include_input=False)
            for detail in details:
                report.error((*path, *_within(kept, detail["loc"])), _message(detail))
            for detail in reversed(details):  # of a list, from its end
                _drop(kept, detail["loc"])


def _known_only(model: type[_Section], raw: dict[str, Any], path: Path, report: Report) -> dict[str, Any]:
    known: dict[str, Any] = {}
    accepted = ACCEPTED.get(model, frozenset())
    for name, value in raw.items():
        if name in model.model_fields:
            known[name] = value
        elif name not in accepted:
            instead = foreign.instead_of(name, value) if model is ServerSection else None
            report.unknown_key((*path, name), (*model.model_fields, *accepted), instead)
    if model is ServerSection:
        known |= foreign.as_ours(raw)
    if isinstance(known.get("oauth"), dict):
        known["oauth"] = _known_only(OAuthSection, known["oauth"], (*path, "oauth"), report)
    return known


def _copy(value: Any) -> Any:
    return {k: _copy(v) for k, v in value.items()} if isinstance(value, dict) else value


def _within(raw: Any, location: tuple[str | int, ...]) -> Path:
    """Return the part of an error's location that is a path in the file; the rest names the checker's own steps."""
    path: Path = ()
    for part in location:
        match raw, part:
            case dict(), str() if part in raw:
                raw = raw[part]
            case list(), int() if part < len(raw):
                raw = raw[part]
            case _:
                break
        path += (part,)
    return path


EACH_ALONE: Final = frozenset({"allowed_hosts", "allowed_origins"})
"""Lists of which a wrong element costs only itself: the others let in nobody more than they say."""


def _drop(raw: dict[str, Any], location: tuple[str | int, ...]) -> None:
    """Take out the innermost table's key that the location passes, or its element where each stands alone."""
    at: Any = raw
    owner, last = raw, str(location[0])
    for part in _within(raw, location):
        if not isinstance(at, dict):
            if last in EACH_ALONE and isinstance(part, int):
                owner[last] = [*at[:part], *at[part + 1 :]]
                return
            break
        owner, last = at, str(part)
        at = at[last]
    owner.pop(last, None)


_MESSAGES = {
    "string_type": "must be text in quotes",
    "float_type": "must be a number of seconds",
    "int_type": "must be a whole number",
    "bool_type": "must be true or false",
    "list_type": 'must be a list, as in ["a", "b"]',
    "tuple_type": 'must be a list, as in ["a", "b"]',
    "dict_type": 'must be a table, as in { NAME = "value" }',
    "model_type": "must be a table: write it as a [section]",
    "finite_number": "must be a finite number",
}


def _message(detail: ErrorDetails) -> str:
    text = detail["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    return _MESSAGES.get(detail["type"], text)
