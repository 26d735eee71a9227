"""One linear pass finds every key's line, and refuses what would cost the parser more than it is worth."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from typing import Any

import pytest
import tomli
from hypothesis import given, settings
from hypothesis import strategies as st
from toml_texts import documents

from moltis.config.document import parse
from moltis.config.scan import MAX_BYTES, Path, TooMuch, scan
from moltis.errors import ConfigError


def key_paths(value: Any, path: Path = ()) -> set[Path]:
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    found = {path} if path else set()
    return found.union(*(key_paths(inner, (*path, key)) for key, inner in items))


@settings(deadline=None)
@given(documents())
def test_the_scan_finds_exactly_the_keys_that_the_parser_finds(text: str) -> None:
    tables = tomli.loads(text)
    found = scan(text)
    assert found.stopped_at is None
    assert set(found.lines) == key_paths(tables)


@settings(deadline=None)
@given(documents())
def test_the_span_of_every_statement_is_its_value(text: str) -> None:
    for entry in scan(text).entries:
        value = text[entry.value_start : entry.value_end]
        assert tomli.loads(f"value = {value}").keys() == {"value"}


@settings(deadline=None)
@given(st.text("ab.=\"[]{},#\n\r \\'1", max_size=60))
def test_the_scan_takes_any_text_and_understands_whatever_the_parser_does(text: str) -> None:
    found = scan(text)
    try:
        tables = tomli.loads(text)
    except tomli.TOMLDecodeError:
        return
    assert found.stopped_at is None
    assert set(found.lines) == key_paths(tables)


LINES = """\
# one
a = 1
b.c = 2 # [x]

[t."u v"]
  s = '''
[not.a.table]
x = 1
'''
  "q\\u0041" = 3
  list = [
    1,  # ]
    { k = 2,
      l = 3 },
  ]
[[arr]]
[[arr]]
n = { o = { p = 1979-05-27 07:32:00Z } }
[arr.sub]
z = 1
"""


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("a",), 2),
        (("b",), 3),
        (("b", "c"), 3),
        (("t",), 5),
        (("t", "u v", "s"), 6),
        (("t", "u v", "qA"), 10),
        (("t", "u v", "list", 0), 12),
        (("t", "u v", "list", 1, "k"), 13),
        (("t", "u v", "list", 1, "l"), 14),
        (("arr",), 16),
        (("arr", 0), 16),
        (("arr", 1, "n", "o", "p"), 18),
        (("arr", 1, "sub", "z"), 20),
        (("arr", 1, "sub", "missing", "deeper"), 19),
    ],
)
def test_a_key_is_on_its_line(path: Path, line: int) -> None:
    assert scan(LINES).line_of(path) == line


def test_windows_line_ends_count_once_and_the_root_has_no_line() -> None:
    found = scan("a = 1\r\n\r\nb = 2\r\n")
    assert found.line_of(("b",)) == 3
    assert found.line_of(("nothing",)) is None


BOMBS = {
    "dotted key of 20 000 parts": ("a" + ".a" * 20_000 + " = 1", "16 dotted parts"),
    "dotted header": ("[a" + ".a" * 20_000 + "]", "16 dotted parts"),
    "dotted key in an inline table": ("x = { a" + ".a" * 20_000 + " = 1 }", "16 dotted parts"),
    "100 000 nested arrays": ("a = " + "[" * 100_000, "64 deep"),
    "100 000 nested tables": ("a = " + "{a=" * 100_000, "64 deep"),
    "deep by many short dotted keys": ("a = " + "{a.a.a.a.a.a.a.a=" * 9, "64 deep"),
    "number of 5 000 digits": ("a = " + "9" * 5_000, "100 digits"),
    "signed": ("a = -" + "9" * 5_000, "100 digits"),
    "hexadecimal": ("a = 0x" + "f" * 5_000, "100 digits"),
    "with underscores": ("a = 1" + "_1" * 5_000, "100 digits"),
    "in an array": ("a = [1, " + "9" * 5_000, "100 digits"),
    "float": ("a = 1." + "9" * 5_000, "100 digits"),
    "too many tables": ("".join(f"[a{i}.b.c.d.e.f.g.h]\n" for i in range(10_000)), "50000 keys"),
    "too many values": ("a = [" + "1," * 200_000, "100000 values"),
    "too large": ("# " + "x" * MAX_BYTES, "larger than"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_before_the_parser_sees_it(name: str) -> None:
    text, words = BOMBS[name]
    with pytest.raises(TooMuch, match=words):
        scan(f"ok = 1\n{text}")
    with pytest.raises(ConfigError, match=words) as raised:
        parse(f"ok = 1\n{text}", "moltis.toml")
    assert raised.value.message.startswith("moltis.toml:")


def test_a_bomb_names_its_line() -> None:
    with pytest.raises(TooMuch) as raised:
        scan("x = 1\n\n" + "a." * 20 + "b = 1\n")
    assert raised.value.line == 3


@pytest.mark.parametrize("name", [n for n in BOMBS if "too" not in n])
def test_a_bomb_of_a_few_kilobytes_costs_next_to_nothing(name: str) -> None:
    text, _ = BOMBS[name]
    tracemalloc.start()
    try:
        with pytest.raises(TooMuch):
            scan(text)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000


def test_a_bomb_is_refused_in_a_process_that_could_not_pay_for_it() -> None:
    """A parser takes 1.5 GiB for this key; the process may have 256 MiB of address space more than it starts with."""
    script = (
        "import resource, sys; from moltis.config.document import parse; from moltis.errors import ConfigError\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * 4096 if sys.platform == 'linux' else 2**30\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, used + 2**28))\n"
        "try: parse('a' + '.a' * 20000 + ' = 1', 'x')\n"
        "except ConfigError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True)
    assert "16 dotted parts" in done.stdout


HARMLESS = {
    "sixteen parts": ".".join("a" * 16) + " = 1",
    "a long string": 'a = "' + "9" * 100_000 + '"',
    "digits in a comment": "# " + "9" * 5_000,
    "dots in a string": "a = '" + "a." * 5_000 + "'",
    "brackets in a string": 'a = """' + "[{" * 5_000 + '"""',
    "many newlines": "\n" * 900_000,
    "a wide array": "a = [" + "[]," * 90_000 + "]",
    "a long bare key": "a" * 100_000 + " = 1",
}


@pytest.mark.parametrize("name", HARMLESS)
def test_what_only_looks_like_a_bomb_is_read(name: str) -> None:
    parse(HARMLESS[name], "moltis.toml")


@pytest.mark.parametrize(
    "text",
    [
        'a="""\n' * 60_000,
        'x=["\\"""' * 60_000,
        "a = '" * 100_000,
        "a=[" + "#\n" * 200_000,
        '"' * 300_000,
        "\\" * 300_000,
    ],
    ids=["open strings", "escapes", "quotes", "comments", "only quotes", "only backslashes"],
)
def test_hostile_nonsense_is_refused_in_linear_time(text: str) -> None:
    """A quadratic scan of these would take minutes, and the test's own time limit would say so."""
    with pytest.raises(ConfigError):
        parse(text, "moltis.toml")


def test_the_parser_never_sees_what_the_scan_did_not_understand() -> None:
    with pytest.raises(ConfigError, match=r"moltis\.toml:1:"):
        parse("a = = 1\n" + "b" + ".b" * 20_000 + " = 1", "moltis.toml")


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("a = b", "1:5", "text needs quotes"),
        ("a = 1\nb 2", "2:3", "'=' is missing"),
        ("[a\n", "1:3", "']' is missing"),
        ("a=1\na=2", "2:4", "twice"),
        ("[a]\n[a]", "2:3", "twice"),
        ("a={b=1,b=2}", "1:11", "twice"),
        ("a={b=1}\na.c=2", "2:6", "already complete"),
        ("a=[1\n", "2:1", "no end"),
        ("a={b=1\n", "2:1", "no end"),
        ('a="x\nb=1', "1:5", "closing quote"),
        ("a='''x", "1:7", "closing quote"),
        ('a="""x', "1:7", "closing quote"),
        ("a='x", "1:5", "closing quote"),
        ("a=1 2", "1:5", "something follows"),
        ('a="\\q"', "1:6", "backslash"),
        ("é=1", "1:1", "not TOML"),
        ('a="\x01"', "1:4", "control character"),
        ("<<<<<<< HEAD", "1:1", "not TOML"),
        ("{}", "1:1", "not TOML"),
        ('{"mcpServers": {}}', "1:1", "not TOML"),
    ],
)
def test_a_syntax_error_has_its_place_and_a_remedy(text: str, place: str, words: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse(text, "dir/moltis.toml")
    assert raised.value.message.startswith(f"dir/moltis.toml:{place}: ")
    assert words in raised.value.message


@settings(deadline=None)
@given(st.text("ab.=\"[]{},#\n \\'1", max_size=40))
def test_a_syntax_error_never_quotes_the_file_nor_holds_it(text: str) -> None:
    secret = "hunter22hunter22"
    with pytest.raises(ConfigError) as raised:
        parse(f'KEY = "{secret}"\n{text}"{secret}"\n= nothing', "m")
    assert secret not in str(raised.value)
    assert raised.value.__cause__ is None
