"""What an entry expands to is bounded before it is put together; one that is beyond hurts nobody else."""

from __future__ import annotations

import tracemalloc

import pytest

from moltis import redaction
from moltis.config import expansion, local
from moltis.config.expansion import FREE_GROWTH_BYTES, MAX_GROWTH_BYTES
from moltis.config.load import Loaded, loads, plan_entry
from moltis.config.local import MAX_LAUNCH_BYTES, MAX_STRING_BYTES
from moltis.config.plan import RemoteLaunch, StdioLaunch
from moltis.config.remote import MAX_HEADER_BYTES, MAX_URL_BYTES
from moltis.errors import ConfigError

NEIGHBOUR = '[mcp.servers.small]\ncommand = "x"\nargs = ["$S", "${B}"]\n'
SMALL = {"S": "s", "B": "b" * 5000}


def read(text: str, **values: str) -> Loaded:
    loaded = loads(text + NEIGHBOUR, values | SMALL, {"HOME": "/home/me"})
    small = loaded.plan.server("small")
    assert small is not None
    assert small.launch == StdioLaunch("x", ("s", "b" * 5000))
    return loaded


def asking(times: int) -> str:
    return ", ".join(['"$X"'] * times)


def problem(text: str, **values: str) -> str | None:
    server = read(f"[mcp.servers.x]\n{text}\n", **values).plan.server("x")
    assert server is not None
    assert (server.launch is None) == (server.problem is not None)
    return server.problem


@pytest.mark.parametrize(
    ("text", "most", "words"),
    [
        ('command = "x"\nargs = ["a", "$X"]', MAX_STRING_BYTES - 1, "args[1]: is longer than 128 KiB"),
        ('command = "x"\nenv = { NAME = "$X" }', MAX_STRING_BYTES - 6, "env.NAME: is longer than 128 KiB"),
        ('command = "x"\ncwd = "/$X"', 4094, "cwd: is longer than 4 KiB"),
        ('url = "https://a.example/$X"', MAX_URL_BYTES - 18, "url: is longer than 8 KiB"),
        ('url = "https://a.example"\nheaders = { K = "$X" }', MAX_HEADER_BYTES, "headers.K: is longer than 64 KiB"),
        (
            'url = "https://a.example"\noauth = { scopes = ["a", "$X"] }',
            MAX_URL_BYTES,
            "oauth.scopes[1]: is longer than 8 KiB",
        ),
    ],
)
def test_a_text_is_as_long_as_it_can_be_used_and_no_longer(text: str, most: int, words: str) -> None:
    assert problem(text, X="x" * most) is None
    told = problem(text, X="x" * (most + 1))
    assert str(told).startswith(words)
    assert "xxx" not in str(told)


def test_length_is_counted_in_bytes_and_without_placeholders_too() -> None:
    key = 'command = "x"\nargs = ["$X"]'
    assert problem(key, X="\u00e9" * (MAX_STRING_BYTES // 2 - 1)) is None
    assert "128 KiB" in str(problem(key, X="\u00e9" * (MAX_STRING_BYTES // 2)))
    assert "128 KiB" in str(problem(f'command = "x"\nargs = ["{"x" * MAX_STRING_BYTES}"]'))
    assert "4096 bytes" in str(problem(f'command = "/{"x" * 4095}"'))


def test_arguments_and_environment_are_counted_together_with_what_the_kernel_adds() -> None:
    most = MAX_LAUNCH_BYTES - len("x") - 9
    each = MAX_STRING_BYTES // 2
    count = most // (each + 9)
    args = ", ".join(['"$X"'] * count)
    fits = f'command = "x"\nargs = [{args}, "$Y"]'
    last = most - count * (each + 9) - 9
    assert problem(fits, X="x" * each, Y="y" * last) is None
    assert str(problem(fits, X="x" * each, Y="y" * (last + 1))).startswith(f"args[{count}]: is where arguments and")
    with_env = f'command = "x"\nargs = [{args}]\nenv = {{ K = "$Y" }}'
    assert str(problem(with_env, X="x" * each, Y="y" * last)).startswith("env.K: is where arguments and environment")
    many = f'command = "x"\nargs = [{asking(5_000)}]'
    assert problem(many, X="x" * (MAX_LAUNCH_BYTES // 5_000 - 10)) is None
    assert "2 MiB" in str(problem(many, X="x" * (MAX_LAUNCH_BYTES // 5_000 - 8)))


def test_headers_are_counted_together() -> None:
    headers = ", ".join(f'K{n} = "$X"' for n in range(5))
    told = str(problem(f'url = "https://a.example"\nheaders = {{ {headers} }}', X="x" * 60_000))
    assert told.startswith("headers.K4: is where url and headers get longer than 256 KiB together")


def test_what_is_not_used_makes_no_server_invalid() -> None:
    assert problem('command = "x"\nheaders = { K = "$X" }', X="x" * 100_000) is None
    assert problem('url = "https://a.example"\nargs = ["$X"]', X="x" * 200_000) is None


@pytest.mark.parametrize("value", ["x" * 900_000, "x" * 100_000, "\u00e9" * 60_000, " " * 900_000])
def test_the_work_of_planning_does_not_grow_with_what_it_would_expand_to(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of half a megabyte that would expand to hundreds of gigabytes."""
    counted = 0
    count = redaction.utf8_bytes

    def utf8_bytes(text: str, most: int) -> int:
        nonlocal counted
        counted += len(text)
        return count(text, most)

    for module in (expansion, local):
        monkeypatch.setattr(module, "utf8_bytes", utf8_bytes)
    one = f'[mcp.servers.one]\ncommand = "x"\nargs = ["{"$X" * 100_000}"]\n'
    many = f'[mcp.servers.many]\ncommand = "x"\nargs = [{asking(5_000)}]\n'
    text = one + many + "".join(f'[mcp.servers.s{n}]\ncommand = "x"\nargs = ["$X", "$X"]\n' for n in range(300))
    loaded = read(text, X=value)
    assert all(s.problem is not None for s in loaded.plan.servers if s.name in ("one", "many"))
    assert counted < 303 * MAX_STRING_BYTES + MAX_LAUNCH_BYTES  # one string too many for each, at the most
    launches = [s.launch for s in loaded.plan.servers if isinstance(s.launch, StdioLaunch)]
    assert sum(len(arg) for launch in launches for arg in launch.args) < MAX_GROWTH_BYTES + 303 * FREE_GROWTH_BYTES


def test_all_servers_of_a_file_share_what_they_expand_to_and_a_small_one_has_its_own() -> None:
    text = "".join(f'[mcp.servers.s{n}]\ncommand = "x"\nargs = [{asking(10)}]\n' for n in range(20))
    loaded = read(text, X="x" * 100_000)
    problems = [s.problem for s in loaded.plan.servers if s.name != "small"]
    assert problems[:8] == [None] * 8
    assert all("all servers together" in str(told) for told in problems[8:])


def test_memory_stays_what_it_is_when_a_value_is_asked_for_again_and_again() -> None:
    value = "x" * 900_000
    tracemalloc.start()
    try:
        problem(f'command = "x"\nargs = [{asking(80)}]', X=value)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10 * len(value)


def test_an_entry_that_is_to_be_added_or_tried_is_held_to_it_too() -> None:
    base = loads("", {"X": "x" * 900_000}, {}).base
    with pytest.raises(ConfigError, match=r"args\[0\]: is longer than 128 KiB"):
        plan_entry("a", {"command": "x", "args": ["$X"]}, base)
    planned = plan_entry("a", {"url": "https://a.example", "headers": {"K": "v"}}, base)
    assert isinstance(planned.server.launch, RemoteLaunch)
