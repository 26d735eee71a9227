"""Whoever waits for a name can stop waiting at once, and a name that hangs is in nobody's way."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence

import anyio
import anyio.lowlevel
import pytest
from trio.testing import MockClock

from moltis.http.dialing import MAX_THREADS, Resolver, _Waiter, resolve
from moltis.http.words import CONNECT_SECS

VIRTUAL = ("trio", {"clock": MockClock(autojump_threshold=0)})
LOOPS = [("asyncio", {"use_uvloop": True}), ("asyncio", {}), ("trio", {})]


class System:
    """A system's resolver; a host whose name begins with "hang" waits for `release`."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.release = threading.Event()
        self.error: Exception | None = None

    def __call__(self, host: str) -> Sequence[str]:
        self.asked.append(host)
        if host.startswith("hang"):
            self.release.wait()
        if self.error is not None:
            raise self.error
        return [f"address of {host}"]


@pytest.fixture
def system() -> Iterator[System]:
    system = System()
    yield system
    system.release.set()


async def until_asked(system: System, *hosts: str) -> None:
    with anyio.fail_after(5):
        while sorted(system.asked) != sorted(hosts):
            await anyio.lowlevel.checkpoint()


@pytest.mark.parametrize("anyio_backend", LOOPS)
async def test_whoever_stops_waiting_is_gone_at_once_and_others_are_served(
    anyio_backend: object, system: System
) -> None:
    resolver = Resolver(system)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(resolver.addresses, "hang.example")
        await until_asked(system, "hang.example")
        assert await resolver.addresses("good.example") == ["address of good.example"]
        tasks.cancel_scope.cancel()
    assert not system.release.is_set()


@pytest.mark.parametrize("anyio_backend", LOOPS)
async def test_all_who_ask_for_a_name_share_one_lookup_and_the_next_is_a_new_one(
    anyio_backend: object, system: System
) -> None:
    resolver = Resolver(system)
    answers = []

    async def ask() -> None:
        answers.append(await resolver.addresses("hang.example"))

    async with anyio.create_task_group() as tasks:
        for _ in range(50):
            tasks.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
        assert system.asked == ["hang.example"]
        system.release.set()
    assert answers == [["address of hang.example"]] * 50
    await ask()
    assert system.asked == ["hang.example"] * 2


async def test_a_lookup_that_was_left_is_joined_by_the_next(system: System) -> None:
    resolver = Resolver(system)
    for _ in range(3):
        with anyio.move_on_after(0.01) as waited:
            await resolver.addresses("hang.example")
        assert waited.cancelled_caught
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(resolver.addresses, "hang.example")
        await anyio.wait_all_tasks_blocked()
        system.release.set()
    assert system.asked == ["hang.example"]


async def test_there_are_so_many_threads_and_what_is_more_waits(system: System) -> None:
    resolver = Resolver(system, max_threads=2)
    answers = []

    async def ask(host: str) -> None:
        answers.append(await resolver.addresses(host))

    async with anyio.create_task_group() as tasks:
        for host in ("hang1", "hang2", "third", "fourth", "third"):
            tasks.start_soon(ask, host)
            await anyio.wait_all_tasks_blocked()
        with anyio.move_on_after(0.01) as waited:
            await ask("nobody is interested any more")
        assert waited.cancelled_caught
        await until_asked(system, "hang1", "hang2")
        system.release.set()
    assert len(answers) == 5
    assert sorted(system.asked) == ["fourth", "hang1", "hang2", "third"]
    assert await resolver.addresses("nobody is interested any more")


def test_the_bound_is_one_of_the_process() -> None:
    assert MAX_THREADS == 32


@pytest.mark.parametrize("anyio_backend", [VIRTUAL])
async def test_a_name_that_nobody_answers_for_is_an_error_in_time(anyio_backend: object, system: System) -> None:
    began = anyio.current_time()
    with pytest.raises(socket.gaierror) as caught:
        await Resolver(system).addresses("hang.example")
    assert caught.value.errno == socket.EAI_AGAIN
    assert anyio.current_time() - began == pytest.approx(CONNECT_SECS)


@pytest.mark.parametrize("literal", ["127.0.0.1", "::1", "::ffff:7f00:1", "fe80::1%eth0", "255.255.255.255"])
async def test_a_literal_is_its_own_address_and_asks_nobody(literal: str, system: System) -> None:
    assert await Resolver(system).addresses(literal) == [literal]
    assert system.asked == []


async def test_an_error_comes_out_to_each_as_one_of_its_own(system: System) -> None:
    system.error = socket.gaierror(socket.EAI_NONAME, "no such name")
    resolver = Resolver(system)
    errors = []

    async def ask() -> None:
        with pytest.raises(socket.gaierror) as caught:
            await resolver.addresses("hang.example")
        errors.append(caught.value)

    async with anyio.create_task_group() as tasks:
        for _ in range(2):
            tasks.start_soon(ask)
        await anyio.wait_all_tasks_blocked()
        system.release.set()
    assert [error.args for error in errors] == [system.error.args] * 2
    assert errors[0] is not errors[1]


@pytest.mark.parametrize("error", [OSError(5, "x"), "ü".encode, ValueError("s3cret"), MemoryError()])
async def test_whatever_goes_wrong_in_a_lookup_somebody_hears_of_it(error: object, system: System) -> None:
    if callable(error):
        with pytest.raises(UnicodeError) as made:
            error("ascii")
        error = made.value
    assert isinstance(error, Exception)
    system.error = error
    with pytest.raises((OSError, UnicodeError)) as caught:
        await Resolver(system).addresses("as.example")
    assert "s3cret" not in str(caught.value)


async def test_without_a_thread_it_is_an_ordinary_failure(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    resolver = Resolver(system, max_threads=1)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        for _ in range(3):
            with pytest.raises(OSError, match="no thread"):
                await resolver.addresses("as.example")
    assert await resolver.addresses("as.example")


@pytest.mark.parametrize(("backend", "options"), LOOPS)
def test_an_answer_for_a_loop_that_is_closed_is_dropped(backend: str, options: dict[str, object]) -> None:
    async def wait() -> _Waiter:
        return _Waiter()

    anyio.run(wait, backend=backend, backend_options=options).tell()


async def test_the_system_is_asked() -> None:
    assert set(await resolve("localhost", 80)) & {"127.0.0.1", "::1"}
    for name in ("nothing.invalid", "x" * 300, "käse.example", "", "a b"):
        with pytest.raises((OSError, UnicodeError)):
            await resolve(name, 80)


EXITS = """
import socket, sys, time
socket.getaddrinfo = lambda *args, **more: time.sleep(60)
import anyio
from moltis.http.addresses import Scope
from moltis.http.clients import server_client
from moltis.http.fetch import Fetcher

async def main():
    async with server_client(None) as client:
        for reach in (client.get, Fetcher(None, frozenset(Scope)).get):
            with anyio.move_on_after(0.1) as waited:
                await reach("https://hang.example/")
            assert waited.cancelled_caught

anyio.run(main, backend_options={"use_uvloop": sys.argv[1] == "uvloop"})
"""


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_a_process_ends_while_a_name_hangs(loop: str) -> None:
    done = subprocess.run([sys.executable, "-c", EXITS, loop], timeout=30, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
