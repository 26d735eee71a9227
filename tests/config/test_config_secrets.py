"""What counts as a secret: in arguments, which nothing declares to be one, and in variables, most of which are none."""

from __future__ import annotations

import json

import pytest

from moltis.config.credentials import in_words
from moltis.config.load import Loaded, loads

ENVIRON = {"HOME": "/home/me", "HTTPS_PROXY": "http://proxy.example.com:3128", "PAT_URL": "https://u:sesame-in@h/"}


def server(keys: str) -> Loaded:
    return loads(f"[env]\nK = 'value-of-k'\n[mcp.servers.x]\n{keys}\n", {}, ENVIRON)


LITERAL = [
    ("npx", ["-y", "@stripe/mcp", "--api-key=rk_test_0123456789abcdef0123"], 2, "rk_test_0123456789abcdef0123"),
    ("npx", ["@supabase/mcp", "--access-token", "sbp_0123456789abcdef0123"], 2, "sbp_0123456789abcdef0123"),
    ("npx", ["server-postgres", "postgresql://u:secretpass@h/db"], 1, "secretpass"),
    ("npx", ["x", "--apiKey", "hunter22"], 2, "hunter22"),
    ("npx", ["x", "--password=123456"], 1, "123456"),
    ("docker", ["run", "-e", "GITHUB_PERSONAL_ACCESS_TOKEN=hunter22", "img"], 2, "hunter22"),
    ("docker", ["run", "--env=GITHUB_TOKEN=hunter22", "img"], 1, "hunter22"),
    ("npx", ["mcp-remote", "https://h/", "--header", "Authorization: Bearer hunter22"], 3, "hunter22"),
    ("npx", ["mcp-remote", "https://h/", "--header=X-Api-Key: hunter22"], 2, "hunter22"),
    ("npx", ["mcp-remote", "https://h/mcp?api_key=hunter22"], 1, "hunter22"),
    ("npx", ["mcp-remote", "https://ghp_0123456789abcdef0123@h/"], 1, "ghp_0123456789abcdef0123"),
    ("sh", ["-c", "exec server --token hunter22 --port 80"], 1, "hunter22"),
    ("sh", ["-c", "API_KEY='hunter22' exec server"], 1, "hunter22"),
    ("server", ["ghp_0123456789abcdef0123"], 0, "ghp_0123456789abcdef0123"),
    ("server --token=hunter22", [], None, "hunter22"),
]


@pytest.mark.parametrize(("command", "args", "index", "secret"), LITERAL)
def test_a_secret_written_into_args_is_warned_of_and_hidden(
    command: str, args: list[str], index: int | None, secret: str
) -> None:
    loaded = server(f"command = {json.dumps(command)}\nargs = {json.dumps(args)}")
    place = "command" if index is None else f"args[{index}]"
    told = [p for p in loaded.problems if p.key == f"mcp.servers.x.{place}" and "every user" in p.message]
    assert [(p.severity, p.fails_check) for p in told] == [("warning", False)]
    assert secret in loaded.plan.secrets
    plan = loaded.plan.servers[0]
    assert plan.problem is None
    assert secret not in f"{loaded.problems}{plan.shown}"


@pytest.mark.parametrize(
    "args",
    [
        '["-y", "@modelcontextprotocol/server-filesystem", "/srv/data"]',
        '["--token-file", "/run/secrets/token"]',
        '["--token=/run/secrets/token"]',
        '["--max-tokens", "4096", "--max-tokens=4096"]',
        '["--auth", "oauth", "--auth-mode=browser", "--auth-timeout", "60"]',
        '["--author", "me-and-others"]',
        '["--token-env", "GITHUB_TOKEN", "--token", "GITHUB_TOKEN"]',
        '["run", "-i", "--rm", "-e", "GITHUB_TOKEN", "ghcr.io/github/github-mcp-server"]',
        '["--key", "./server.key", "--cert", "server.pem"]',
        '["https://mcp.example.com/mcp?profile=everyone", "ssh://git@example.com/repo"]',
        '["--header", "Accept: text/plain"]',
        '["--token-url", "https://auth.example.com/token"]',
        '["--secret-name=everyone", "--password-store", "basic"]',
    ],
)
def test_arguments_without_a_secret_are_neither_warned_of_nor_hidden(args: str) -> None:
    loaded = server(f'command = "server"\nargs = {args}')
    assert loaded.problems == ()
    assert loaded.plan.secrets == {"value-of-k"}


def test_a_placeholder_in_args_is_warned_of_once() -> None:
    loaded = server('command = "x"\nargs = ["--api-key=$K", "--token", "${K}"]')
    assert [p.key for p in loaded.problems] == ["mcp.servers.x.args[0]", "mcp.servers.x.args[2]"]
    assert all("$K can be read" in p.message for p in loaded.problems)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AWS_REGION", "us-east-1"),
        ("JIRA_URL", "https://jira.example.com/rest/"),
        ("SSL_CERT_FILE", "/etc/ssl/certs/ca.pem"),
        ("GOOGLE_APPLICATION_CREDENTIALS_PATH", "/home/me/google.json"),
        ("TOKEN_FILE", "~/.secrets/token"),
        ("HTTPS_PROXY", "http://proxy.example.com:3128"),
        ("GRAFANA_HOST", "grafana.example.com"),
        ("MODEL", "some-large-model"),
    ],
)
def test_a_variable_that_says_where_or_how_is_not_hidden(name: str, value: str) -> None:
    assert value not in server(f'command = "x"\nenv = {{ {name} = "{value}" }}').plan.secrets


@pytest.mark.parametrize(
    ("name", "value", "secret"),
    [
        ("GITHUB_TOKEN", "hunter22", "hunter22"),
        ("TOKEN_FILE", "hunter22", "hunter22"),
        ("SOMETHING", "hunter22", "hunter22"),
        ("DATABASE_URL", "postgres://u:secretpass@h/db?sslmode=require", "secretpass"),
        ("JIRA_URL", "https://jira.example.com/?api_key=hunter22", "hunter22"),
        ("SLACK_WEBHOOK_URL", "https://example.com/T1/B2/x", "https://example.com/T1/B2/x"),
        ("NOTIFY_URL", "https://hooks.example.com/T1/B2/x", "https://hooks.example.com/T1/B2/x"),
        ("SERVICE_URL", "https://h/0123456789abcdef01234567/", "https://h/0123456789abcdef01234567/"),
        ("SSL_CERT_FILE", "ghp_0123456789abcdef0123", "ghp_0123456789abcdef0123"),
        ("HTTPS_PROXY", "http://me:secretpass@proxy:3128", "secretpass"),
    ],
)
def test_a_variable_whose_value_can_be_a_secret_is_hidden(name: str, value: str, secret: str) -> None:
    secrets = server(f'command = "x"\nenv = {{ {name} = "{value}" }}').plan.secrets
    assert {value, secret} <= secrets


def test_what_a_placeholder_fetches_from_the_environment_is_judged_by_its_name_and_value_too() -> None:
    loaded = server('command = "x"\nenv = { A = "${env:HTTPS_PROXY}", B_URL = "${env:PAT_URL}", C_URL = "$K" }')
    assert "value-of-k" in loaded.plan.secrets
    assert "https://u:sesame-in@h/" in loaded.plan.secrets
    assert "sesame-in" in loaded.plan.secrets


def test_a_secret_in_args_counts_where_the_file_is_open_to_others() -> None:
    text = '[mcp.servers.x]\ncommand = "x"\nargs = ["--api-key=hunter22"]\n'
    told = [p.key for p in loads(text, {}, ENVIRON, mode=0o644).problems if "chmod 600" in p.message]
    assert told == ["mcp.servers.x.args[0]"]


def test_finding_credentials_takes_no_longer_than_reading_the_words() -> None:
    words = ["--token=" * 20_000, "a:" * 60_000, "x://" * 30_000, "-a " * 40_000, "Bearer " * 17_000]
    words += ["a" * 120_000, "-eyJ" * 30_000, "token=" * 20_000, "https://h/?" + "a=b&" * 30_000, "-p" + " " * 120_000]
    assert len(list(in_words(words))) < 400_000
