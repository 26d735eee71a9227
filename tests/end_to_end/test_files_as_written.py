"""A moltis.toml as people write it, and a daemon behind a proxy: what runs, what does not, and what is said of it."""

from __future__ import annotations

import re

from harness import Daemon, wait_until


def test_what_somebody_switched_off_in_other_words_does_not_run_and_the_log_says_what_to_write(daemon: Daemon) -> None:
    off = {**daemon.evil(events="off.events"), "disabled": True}
    on = daemon.evil(env={"X_DIR": "~/data"})
    daemon.write({"off": off, "on": on, "spaced": {"command": "npx -y pkg"}})
    daemon.start().wait_for("on", "ready")
    assert daemon.status("off")["state"] == "disabled"
    assert not (daemon.folder / "off.events").exists()
    assert f'"X_DIR": "{daemon.folder}/data"' in daemon.text("on", "dump")
    problems = {r["fields"]["key"]: r["fields"]["problem"] for r in daemon.records("moltis.config")}
    assert "write enabled = false" in problems["mcp.servers.off.disabled"]
    assert 'write command = "npx"' in problems["mcp.servers.spaced.command"]
    wait_until("it failed", lambda: daemon.status("spaced")["state"] in ("backoff", "cooldown"))
    assert 'write command = "npx" and args = ["-y", …]' in daemon.cli("why", "spaced").stdout
    assert daemon.cli("mcp", "enable", "off").returncode == 0
    daemon.wait_for("off", "ready")


def test_a_secret_in_args_is_hidden_in_what_its_server_prints(daemon: Daemon) -> None:
    shell = daemon.real("sh", "-c", 'echo "refused: $1" >&2; exit 3', "x", "--api-key=hunter2222")
    daemon.write({"s": shell})
    daemon.start()
    wait_until("it failed", lambda: daemon.status("s")["last_error"] is not None)
    shown = daemon.cli("why", "s").stdout + daemon.cli("logs", "-n", "200").stdout + daemon.cli("status", "s").stdout
    assert "refused: --api-key=[REDACTED]" in shown
    assert "hunter2222" not in shown
    assert "hunter2222" not in daemon.log_text()


def test_a_server_that_lacks_the_daemons_proxy_is_told_how_to_get_it_and_gets_it(daemon: Daemon) -> None:
    of_this_machine = re.compile(r"PROXY|CERT|CA_|CAINFO|_TLS|INDEX|REGISTRY", re.IGNORECASE)
    daemon.env = {name: value for name, value in daemon.env.items() if not of_this_machine.search(name)}
    daemon.env |= {"HTTPS_PROXY": "http://127.0.0.1:9", "NODE_EXTRA_CA_CERTS": "/nowhere/ca.pem"}
    without = daemon.real("sh", "-c", "echo npm error code EAI_AGAIN >&2; exit 1")
    daemon.write({"with": daemon.evil(env_pass=["HTTPS_PROXY"]), "without": without})
    daemon.start().wait_for("with", "ready")
    told = daemon.text("with", "dump")
    assert '"HTTPS_PROXY": "http://127.0.0.1:9"' in told
    assert "NODE_EXTRA_CA_CERTS" not in told
    wait_until("it failed", lambda: daemon.status("without")["state"] in ("backoff", "cooldown"))
    assert daemon.status("without")["env_withheld"] == ["HTTPS_PROXY", "NODE_EXTRA_CA_CERTS"]
    assert 'env_pass = ["HTTPS_PROXY"] in [mcp.servers.without]' in daemon.cli("why", "without").stdout
    assert 'env_pass = ["HTTPS_PROXY"] in [mcp.servers.without]' in daemon.cli("doctor").stdout
