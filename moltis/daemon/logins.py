"""The logins of a daemon's remote servers, and their connections: everything heavy is imported here.

A login belongs to a way of reaching a server (URL, headers, client), not to its name; when that changes it ends, and
what it has kept on disk is found again by whoever is reached the same way.
"""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial

import anyio
import msgspec
from anyio.abc import TaskGroup
from msgspec.structs import replace

from moltis import logs
from moltis.config.plan import DaemonPlan, Plan, RemoteLaunch, ServerPlan
from moltis.daemon.auth import NO_AUTH, Auth, Surroundings
from moltis.errors import LoginNeeded, MoltisError, ServerNotReady, UsageError
from moltis.http.authorized import Refusal
from moltis.http.fetch import Fetcher
from moltis.http.origins import canonical_resource
from moltis.names import entry_of
from moltis.oauth import browser, cipher, loopback
from moltis.oauth.callback import Callback, parse_callback
from moltis.oauth.jobs import Crowd
from moltis.oauth.keeper import Means
from moltis.oauth.login import Login, News
from moltis.oauth.model import ClientConfig, OAuthProblem
from moltis.oauth.store import StoreProblem, TokenStore
from moltis.server import mending
from moltis.server.lifecycle import AuthDone
from moltis.server.states import State
from moltis.times import stamp
from moltis.transport import Connection, Notices, Receiver, Transport
from moltis.transport.remote.opening import RemoteTransport

log = logs.get("moltis.oauth")


class Logins:
    """All of them, by server. `encrypted`: whether the token store shall be; takes effect when the daemon starts."""

    def __init__(
        self, surroundings: Surroundings, tasks: TaskGroup, daemon: Callable[[], DaemonPlan], *, encrypted: bool
    ) -> None:
        """Make it; blocks while the keyring is asked."""
        self._at = surroundings
        self._tasks = tasks
        self._daemon = daemon
        self._store = _store(surroundings, encrypted=encrypted)
        self._logins: dict[str, tuple[RemoteLaunch, Login]] = {}
        self._auths: dict[str, Auth] = {}
        """As they were told last."""
        self._crowd = Crowd()
        self._leaving: dict[Login, anyio.Event] = {}
        self._trials: set[Login] = set()
        """Of servers that are tried and are not otherwise connected to."""

    # --- connections

    def transport(self, plan: ServerPlan, on_oversized: Callable[[int], None], *, trial: bool) -> Transport:
        """Return the transport of one run."""
        launch = _launch(plan)
        open_by = partial(
            RemoteTransport,
            plan.name,
            plan.transport,
            launch,
            plan.limits,
            tasks=self._tasks,
            on_oversized=on_oversized,
            roll=random.random,
        )
        may_log_in = not launch.own_authorization
        if not trial:
            return open_by(credentials=self._login(plan))
        known = self._known(plan)
        if known is not None:
            return open_by(credentials=_OnTrial(plan.name, known, may_log_in=may_log_in))
        login = self._make(plan.name, launch)
        self._trials.add(login)
        credentials = _OnTrial(plan.name, login, may_log_in=may_log_in)
        return _Trial(open_by(credentials=credentials), self._tasks, partial(self._tried, login))

    async def held(self, plan: ServerPlan) -> str | None:
        """Return the Authorization header of the login that there is, as it is; None without one."""
        known = self._known(plan)
        if known is not None:
            return await known.held()
        login = self._make(plan.name, _launch(plan))
        self._trials.add(login)
        try:
            return await login.held()
        finally:
            self._tried(login)

    # --- logins

    async def begin(self, plan: ServerPlan, *, new_client: bool) -> str | None:
        """Begin a login, or join the one under way, and give its URL."""
        try:
            return await self._login(plan).begin(new_client=new_client)
        except OAuthProblem as problem:
            raise self._in_our_words(plan.name, problem) from None

    async def complete(
        self, callback_url: str | None, *, state: str | None, code: str | None, iss: str | None, error: str | None
    ) -> str:
        """Complete the login that this answers, and give its server's name."""
        try:
            callback = parse_callback(callback_url) if callback_url is not None else None
        except OAuthProblem as problem:
            raise UsageError(f"Invalid params: callback_url: {problem.message}") from None
        callback = callback or Callback(state=state or "", code=code, iss=iss, error=error)
        found = next((name for name, (_, login) in self._logins.items() if login.awaits(callback.state)), None)
        if found is None:
            raise UsageError("no login is waiting for this", hint="moltis mcp reauth NAME begins one")
        try:
            await self._logins[found][1].complete(callback)
        except OAuthProblem as problem:
            raise self._in_our_words(found, problem) from None
        return found

    async def forget(self, plan: ServerPlan, rest: Plan) -> None:
        """Revoke and delete the login of a server that was removed, unless one of the `rest` shares it."""
        if _shared(plan) in {_shared(server) for server in rest.servers}:
            return
        for gone in list(self._leaving.values()):
            await gone.wait()  # the last thing it does may be to save a new token
        login = self._login(plan)
        del self._logins[plan.name]
        await login.forget()

    async def log_out(self, plan: ServerPlan, of: Plan, *, forget_client: bool) -> list[str]:
        """Revoke and delete the login of a server, and give the names of all that have shared it.

        Raises:
            UsageError: it has none, by its entry in moltis.toml.
        """
        if _launch(plan).own_authorization:
            raise UsageError(
                f"server {plan.name!r} sends what moltis.toml says (headers.Authorization): there is no login to end",
                server=plan.name,
                hint=f"take it out of {entry_of(plan.name)} in moltis.toml",
            )
        sharing = [server for server in of.servers if _shared(server) == _shared(plan)]
        for gone in list(self._leaving.values()):
            await gone.wait()  # the last thing it does may be to save a new token
        for server in sharing:
            login = self._login(server)
            await login.forget(client_too=forget_client)
            fresh = self._make(server.name, _launch(server))
            self._logins[server.name] = (_launch(server), fresh)
            fresh.hold(f"logged out by request; moltis mcp reauth {server.name} logs in again")
        return [server.name for server in sharing]

    def auth(self, name: str) -> Auth:
        """Return a server's login; `NO_AUTH` itself where there is none."""
        auth, known = self._auths.get(name, NO_AUTH), self._logins.get(name)
        if known is None or not (auth.unavailable or auth.state == "authenticated"):
            return auth
        # When it ends, and when its renewal is tried next, change without a word.
        return replace(auth, next_try_at=known[1].next_try_at, ends_at=known[1].ends_at)

    def retain(self, plan: Plan) -> None:
        """End the logins of servers that are gone or are reached otherwise."""
        reached = {server.name: server.launch for server in plan.servers}
        for name, (launch, _) in list(self._logins.items()):
            if reached.get(name) != launch:
                self.rest(name)

    def served(self, name: str) -> None:
        """Take note that a server serves requests with the login that there is, or without one."""
        known = self._logins.get(name)
        if known is not None:
            known[1].unneeded()

    def rest(self, name: str) -> None:
        """End a server's login; what it has kept is found again when there is another."""
        known = self._logins.pop(name, None)
        if known is not None:
            self._auths.pop(name, None)
            self._leaving[known[1]] = anyio.Event()
            self._tasks.start_soon(self._leave, known[1])

    def _in_our_words(self, server: str, problem: OAuthProblem | StoreProblem) -> MoltisError:
        message = self._at.scrub(problem.message)
        if isinstance(problem, OAuthProblem) and problem.kind != "outage":
            hint = next(iter(mending.login_keys(message, server)), f"moltis why {server}")
            return LoginNeeded(message, server=server, hint=" ".join(hint.split()))
        hint = f"it is tried again by itself; moltis status {server} shows how it stands"
        return ServerNotReady(message, server=server, state=State.AWAITING_AUTH, hint=hint)

    def _tried(self, login: Login) -> None:
        self._trials.discard(login)
        self._leaving[login] = anyio.Event()
        self._tasks.start_soon(self._leave, login)

    async def _leave(self, login: Login) -> None:
        try:
            await login.close()
        finally:
            self._leaving.pop(login).set()

    async def aclose(self) -> None:
        """End all logins; a refresh under way has a moment to finish, for half of one would cost a login."""
        async with anyio.create_task_group() as closing:
            for login in [*self._trials, *(login for _, login in self._logins.values())]:
                closing.start_soon(login.close)
            for gone in self._leaving.values():
                closing.start_soon(gone.wait)

    def _known(self, plan: ServerPlan) -> Login | None:
        launch, login = self._logins.get(plan.name, (None, None))
        return login if launch == plan.launch else None

    def _login(self, plan: ServerPlan) -> Login:
        login = self._known(plan)
        if login is None:
            launch = _launch(plan)
            login = self._make(plan.name, launch)
            self.rest(plan.name)
            self._logins[plan.name] = (launch, login)
        return login

    def _make(self, name: str, launch: RemoteLaunch) -> Login:
        if isinstance(self._store, StoreProblem):
            raise self._in_our_words(name, self._store)
        means = Means(
            server=name,
            url=launch.url,
            config=msgspec.convert(dict(launch.oauth), ClientConfig),
            store=self._store,
            fetcher=Fetcher(launch.ca_file, proxies=launch.proxies),
            tasks=self._tasks,
            crowd=self._crowd,
            listen=loopback.listen,
            open_browser=self._open_browser,
            wall=time.time,
            roll=random.random,
            token=partial(secrets.token_urlsafe, 32),
            secrets=partial(self._at.learn, name),
            log=log,
        )
        return Login(means, self._heard, static_authorization=launch.own_authorization)

    async def _open_browser(self, url: str) -> bool:
        return await browser.open_browser(
            self._daemon().browser_command, url, children=self._at.warden, tasks=self._tasks, scrub=self._at.scrub
        )

    def _heard(self, login: Login, news: News) -> None:
        """Pass on what a login tells."""
        match news:
            case News.CHANGED:
                self._moved(login)
            case News.AUTHENTICATED:
                self._at.done(login.server, AuthDone(person=True))
            case News.RENEWED:
                self._at.done(login.server, AuthDone(person=False))

    def _moved(self, login: Login) -> None:
        name = login.server
        known = self._logins.get(name)
        if known is None or known[1] is not login:
            return  # it ended meanwhile, and another may be there by now
        before = self._auths.get(name, NO_AUTH)
        message, unavailable = login.message, login.unavailable
        shown = message or unavailable
        now = (login.state, login.auth_url, shown and self._at.scrub(shown))
        if now == (before.state, before.url, before.message):
            return
        alone = message is None and unavailable is not None
        auth = Auth(*now, stamp(datetime.now(UTC)), alone, login.locked_out, login.next_try_at)
        self._auths[name] = auth
        self._at.moved(name, auth)


class _OnTrial:
    """A login as a try may use it: what there is, and no person is asked."""

    def __init__(self, server: str, login: Login, *, may_log_in: bool) -> None:
        self._server = server
        self._login = login
        self._may_log_in = may_log_in

    async def authorization(self) -> str | None:
        return await self._login.authorization()

    async def refused(self, refusal: Refusal) -> bool:
        if not self._may_log_in:
            return False
        raise LoginNeeded("it wants a person to log in", server=self._server)


class _Trial(msgspec.Struct, frozen=True):
    """The transport of a try, with a login of its own that ends with it. `over`: called once, when it has."""

    transport: Transport
    tasks: TaskGroup
    over: Callable[[], None]

    async def open(self, receive: Receiver, notices: Notices) -> Connection:
        try:
            connection = await self.transport.open(receive, notices)
        except BaseException:
            self.over()
            raise
        self.tasks.start_soon(self._until_closed, connection)
        return connection

    async def _until_closed(self, connection: Connection) -> None:
        await connection.wait_closed()
        self.over()


def _launch(plan: ServerPlan) -> RemoteLaunch:
    if not isinstance(plan.launch, RemoteLaunch):
        raise ServerNotReady(plan.problem or "its entry is wrong", server=plan.name, state=State.INVALID)
    return plan.launch


def _shared(plan: ServerPlan) -> tuple[str, object] | None:
    """Return what servers have in common that share a login; None for one that has none."""
    if not isinstance(plan.launch, RemoteLaunch):
        return None
    return canonical_resource(plan.launch.url), dict(plan.launch.oauth).get("client_id")


def _store(at: Surroundings, *, encrypted: bool) -> TokenStore | StoreProblem:
    try:
        key = cipher.keyring_cipher() if encrypted else None
    except StoreProblem as problem:
        return problem
    return TokenStore(at.paths.oauth_dir, cipher=key, warn=lambda what: log.warning("token_store", problem=what))
