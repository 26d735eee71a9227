"""`moltis openapi preview`: tools, their cost, what is left out, and what cannot be read."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from cli_shell import Shell

DOCUMENT: dict[str, Any] = {
    "openapi": "3.1.0",
    "info": {"title": "Pets\x1b[31m", "version": "1"},
    "servers": [{"url": "https://pets.example/v1"}],
    "paths": {
        "/pets": {
            "get": {"operationId": "listPets", "tags": ["read"]},
            "post": {"operationId": "addPet", "requestBody": {"content": {"application/xml": {}}}},
            "head": {},
        },
        "/pets/{id}": {"delete": {"operationId": "dropPet"}},
    },
}


def test_it_shows_each_tool_with_its_cost_and_each_operation_that_is_none_with_the_reason(shell: Shell) -> None:
    (shell.home / "pets.json").write_text(json.dumps(DOCUMENT))
    done = shell.moltis("openapi", "preview", str(shell.home / "pets.json"))
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[0] == ["TOOL", "OPERATION", "TOKENS"]
    assert [line[:3] for line in lines[1:3]] == [["listPets", "GET", "/pets"], ["dropPet", "DELETE", "/pets/{id}"]]
    assert all(int(line[3]) > 20 for line in lines[1:3])
    assert "POST /pets  its body is application/xml" in done.stdout
    assert "HEAD /pets  the answer to HEAD has nothing" in done.stdout
    assert "at https://pets.example/v1: 2 tools, about" in done.stderr
    assert "2 left out" in done.stderr
    assert "\x1b" not in done.stdout + done.stderr


def test_json_has_all_of_it_and_patterns_choose(shell: Shell) -> None:
    (shell.home / "pets.json").write_text(json.dumps(DOCUMENT))
    words = ("--json", "--label", "p", "--include", "tag:read", "--include", "op:dropPet", "--exclude", "DELETE /*")
    said = json.loads(shell.moltis("openapi", "preview", str(shell.home / "pets.json"), *words).stdout)
    assert (said["title"], said["servers"]) == ("Pets\x1b[31m", ["https://pets.example/v1"])
    assert [(each["tool"], each["method"], each["path"]) for each in said["tools"]] == [("listPets", "GET", "/pets")]
    assert said["tokens"] == said["tools"][0]["tokens"]
    assert {each["operation"]: each["reason"] for each in said["left_out"]} == {
        "addPet": "include_tools has nothing that means it",
        "dropPet": "exclude_tools has 'DELETE /*'",
        None: "the answer to HEAD has nothing that a tool could pass on",
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"swagger": "2.0"}', "is Swagger 2.0; OpenAPI 3.0 or later is wanted"),
        ("<html>", "is HTML or XML, not an OpenAPI document"),
        (None, "cannot read"),
    ],
    ids=["swagger", "html", "missing"],
)
def test_what_is_no_document_is_said_with_exit_code_6(shell: Shell, text: str | None, words: str) -> None:
    if text is not None:
        (shell.home / "api.json").write_text(text)
    done = shell.moltis("openapi", "preview", str(shell.home / "api.json"))
    assert (done.returncode, done.stdout) == (6, "")
    assert words in done.stderr


class Site(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        found = self.path == "/openapi.json"
        body = json.dumps(DOCUMENT).encode() if found else b"no"
        self.send_response(200 if found else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def site() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_a_document_is_fetched_from_an_address(shell: Shell, site: str) -> None:
    done = shell.moltis("openapi", "preview", f"{site}/openapi.json", "--json")
    assert [each["tool"] for each in json.loads(done.stdout)["tools"]] == ["listPets", "dropPet"]
    done = shell.moltis("openapi", "preview", f"{site}/nothing?key=hunter22")
    assert (done.returncode, "HTTP 404" in done.stderr) == (6, True)
    assert "hunter22" not in done.stderr
