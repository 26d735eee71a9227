"""A process that uses the same token store as the test: `python store_worker.py WHAT FOLDER [ARGUMENT ...]`."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import anyio
import msgspec
from anyio import to_thread
from store_samples import KEY, RESOURCE, number_of, record

from moltis.http.addresses import Scope
from moltis.http.fetch import Fetcher
from moltis.oauth.endpoint import TokenEndpoint
from moltis.oauth.store import StoreProblem, TokenStore, fingerprint

NOBODY = 65534


def forks(folder: Path) -> None:
    """Fork a writer for every line of stdin, say its pid, and say when it is dead."""
    for _ in sys.stdin:
        pid = os.fork()
        if pid == 0:
            write_for_ever(TokenStore(folder))
        print(pid, flush=True)
        os.waitpid(pid, 0)
        print("dead", flush=True)


def write_for_ever(store: TokenStore) -> None:
    number = number_of(store.load(KEY))
    while True:
        store.begin_refresh(KEY, fingerprint(f"refresh-canary-{number}"))
        number += 1
        store.save(record(number, padding=100_000))


def refreshes(folder: Path, token_endpoint: str, rounds: str) -> None:
    """Be a daemon whose access token has expired, so many times; say how often that took a refresh of its own."""

    async def work() -> int:
        store = TokenStore(folder)
        expired = record(1)
        fetcher = Fetcher(None, frozenset({Scope.LOOPBACK}))
        assert expired.client is not None
        refreshed = 0
        for _ in range(int(rounds)):
            async with store.lock(KEY):
                kept = await to_thread.run_sync(store.load, KEY)
                assert kept is not None
                assert kept.tokens is not None
                assert kept.tokens.refresh_token is not None
                if kept.tokens == expired.tokens:
                    endpoint = TokenEndpoint(fetcher, record(token_endpoint=token_endpoint).server, expired.client)
                    mark = fingerprint(kept.tokens.refresh_token)
                    await to_thread.run_sync(store.begin_refresh, KEY, mark)
                    tokens = await endpoint.refresh(kept.tokens, RESOURCE)
                    kept = msgspec.structs.replace(kept, tokens=tokens)
                    await to_thread.run_sync(store.save, kept)
                    refreshed += 1
                expired = kept
        await fetcher.aclose()
        return refreshed

    print(anyio.run(work))


def limited(folder: Path) -> None:
    """Save more than this process may write into a file."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
    tell_what_a_failed_save_leaves(folder, padding=100_000)


def read_only(folder: Path) -> None:
    """Save into a folder without the right to, as an ordinary user."""
    if os.geteuid() == 0:
        # From here, for the way here may be closed to that user.
        os.chdir(folder.parent)
        folder = Path(folder.name)
        for path in (Path(), folder, *folder.iterdir()):
            os.chown(path, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    folder.chmod(0o500)
    tell_what_a_failed_save_leaves(folder)


def full(folder: Path) -> None:
    """Save to a full disk, mounted for this process alone, and once more when there is space again."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,mode=700", "none", str(folder)], check=True)
    store = TokenStore(folder)
    store.save(record(1))
    filler = folder / "filler"
    try:
        filler.write_bytes(bytes(1 << 20))
    except OSError:
        pass
    tell_what_a_failed_save_leaves(folder)
    filler.unlink()
    store.save(record(2))
    print(number_of(store.load(KEY)))


def tell_what_a_failed_save_leaves(folder: Path, padding: int = 0) -> None:
    store = TokenStore(folder)
    problem = ""
    try:
        store.save(record(2, padding=padding))
    except StoreProblem as error:
        problem = error.message
    print(json.dumps({"problem": problem, "kept": number_of(store.load(KEY)), "files": sorted(os.listdir(folder))}))


WHAT: dict[str, Callable[..., None]] = {
    "forks": forks,
    "refreshes": refreshes,
    "limited": limited,
    "read_only": read_only,
    "full": full,
}

if __name__ == "__main__":
    WHAT[sys.argv[1]](Path(sys.argv[2]), *sys.argv[3:])
