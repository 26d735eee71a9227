"""A language model that calls tools as told, behind the APIs of OpenAI (both), Anthropic and Gemini, on 127.0.0.1.

Agent hosts are pointed at it instead of a real model. It asks for one tool after the other, each when the result of the
one before is in the request, and says then that it is done. What it answers follows from the request alone, so a host
that repeats one gets the same again.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import urlsplit

MODEL = "stand-in"
Json = dict[str, Any]


class Tool(NamedTuple):
    """A tool as a host offers it. `group`: the namespace that OpenAI's Responses have it in, if any."""

    name: str
    group: str = ""


@dataclass(frozen=True)
class Asked:
    """A request of a model, whichever API it came by. `results`: what the tools gave that were called so far."""

    tools: tuple[Tool, ...]
    results: tuple[str, ...]


@dataclass(frozen=True)
class Call:
    """A call of a tool. `number` counts from 0."""

    tool: Tool
    arguments: Mapping[str, Any]
    number: int = 0

    @property
    def id(self) -> str:
        return f"call_{self.number}"


def is_called(offered: str, tool: str) -> bool:
    """Whether what a host offers is this tool: hosts put words before a name, and replace characters in it."""
    return re.sub(r"\W", "_", offered).endswith(re.sub(r"\W", "_", tool))


def _text(found: Any) -> str:
    return found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)


# -- Chat Completions


def read_chat(body: Json) -> Asked:
    tools = tuple(Tool(tool["function"]["name"]) for tool in body.get("tools") or () if "function" in tool)
    return Asked(tools, tuple(_text(each["content"]) for each in body["messages"] if each["role"] == "tool"))


def write_chat(body: Json, reply: Call | str) -> Iterator[tuple[str, Json]]:
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    frame = {"id": "chat_1", "created": int(time.time()), "model": body.get("model", MODEL)}
    message: Json = {"role": "assistant", "content": reply if isinstance(reply, str) else None}
    reason = "stop"
    if isinstance(reply, Call):
        function = {"name": reply.tool.name, "arguments": json.dumps(reply.arguments)}
        message["tool_calls"] = [{"index": 0, "id": reply.id, "type": "function", "function": function}]
        reason = "tool_calls"
    if not body.get("stream"):
        choice = {"index": 0, "message": message, "finish_reason": reason}
        yield "", {**frame, "object": "chat.completion", "choices": [choice], "usage": usage}
        return
    for delta, finish in ((message, None), ({}, reason)):
        choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
        yield "", {**frame, "object": "chat.completion.chunk", "choices": choices}
    yield "", {**frame, "object": "chat.completion.chunk", "choices": [], "usage": usage}


# -- Responses


def read_responses(body: Json) -> Asked:
    tools: list[Tool] = []
    for tool in body.get("tools") or ():
        if tool["type"] == "function":
            tools.append(Tool(tool["name"]))
        elif tool["type"] == "namespace":
            tools += [Tool(each["name"], tool["name"]) for each in tool["tools"]]
    items = body["input"] if isinstance(body["input"], list) else []
    return Asked(
        tuple(tools), tuple(_text(item["output"]) for item in items if item.get("type") == "function_call_output")
    )


def write_responses(body: Json, reply: Call | str) -> Iterator[tuple[str, Json]]:
    usage = {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}
    usage |= {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}
    frame: Json = {"id": "resp_1", "object": "response", "created_at": int(time.time()), "model": MODEL}
    frame |= {"error": None, "incomplete_details": None, "instructions": None, "metadata": {}, "tools": []}
    frame |= {"parallel_tool_calls": True, "tool_choice": "auto", "temperature": 1, "top_p": 1}
    if isinstance(reply, Call):
        item: Json = {"type": "function_call", "id": f"fc_{reply.number}", "call_id": reply.id, "status": "completed"}
        item |= {"name": reply.tool.name, "arguments": json.dumps(reply.arguments)}
        item |= {"namespace": reply.tool.group} if reply.tool.group else {}
    else:
        part = {"type": "output_text", "text": reply, "annotations": []}
        item = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [part]}
    done = {**frame, "status": "completed", "output": [item], "usage": usage}
    if not body.get("stream"):
        yield "", done
        return
    events: list[Json] = [
        {"type": "response.created", "response": {**frame, "status": "in_progress", "output": []}},
        {"type": "response.output_item.added", "item": {**item, "status": "in_progress"}},
    ]
    if isinstance(reply, Call):
        about = {"item_id": item["id"]}
        events += [
            {"type": "response.function_call_arguments.delta", "delta": item["arguments"], **about},
            {"type": "response.function_call_arguments.done", "arguments": item["arguments"], **about},
        ]
    else:
        about = {"item_id": item["id"], "content_index": 0}
        events += [
            {"type": "response.content_part.added", "part": {**part, "text": ""}, **about},
            {"type": "response.output_text.delta", "delta": reply, **about},
            {"type": "response.output_text.done", "text": reply, **about},
            {"type": "response.content_part.done", "part": part, **about},
        ]
    events += [{"type": "response.output_item.done", "item": item}, {"type": "response.completed", "response": done}]
    for number, event in enumerate(events):
        yield event["type"], {"output_index": 0, "sequence_number": number, **event}


# -- Anthropic


def read_messages(body: Json) -> Asked:
    blocks = [block for each in body["messages"] if isinstance(each["content"], list) for block in each["content"]]
    results = tuple(_text(block.get("content", "")) for block in blocks if block["type"] == "tool_result")
    return Asked(tuple(Tool(tool["name"]) for tool in body.get("tools") or ()), results)


def write_messages(body: Json, reply: Call | str) -> Iterator[tuple[str, Json]]:
    if isinstance(reply, Call):
        block: Json = {"type": "tool_use", "id": reply.id, "name": reply.tool.name}
        empty, whole = {"input": {}}, {"input": dict(reply.arguments)}
        delta = {"type": "input_json_delta", "partial_json": json.dumps(reply.arguments)}
        reason = "tool_use"
    else:
        block, empty, whole = {"type": "text"}, {"text": ""}, {"text": reply}
        delta, reason = {"type": "text_delta", "text": reply}, "end_turn"
    usage = {"input_tokens": 1, "output_tokens": 1}
    frame = {"id": "msg_1", "type": "message", "role": "assistant", "model": body.get("model", MODEL)}
    ended = {"stop_reason": reason, "stop_sequence": None}
    if not body.get("stream"):
        yield "", {**frame, **ended, "content": [{**block, **whole}], "usage": usage}
        return
    begun = {**frame, "stop_reason": None, "stop_sequence": None, "content": [], "usage": usage}
    events = (
        {"type": "message_start", "message": begun},
        {"type": "content_block_start", "index": 0, "content_block": {**block, **empty}},
        {"type": "content_block_delta", "index": 0, "delta": delta},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": ended, "usage": usage},
        {"type": "message_stop"},
    )
    for event in events:
        yield str(event["type"]), event


# -- Gemini


def read_gemini(body: Json) -> Asked:
    groups = body.get("tools") or ()
    tools = tuple(Tool(each["name"]) for group in groups for each in group.get("functionDeclarations", ()))
    parts = [part for content in body["contents"] for part in content.get("parts", ())]
    return Asked(tools, tuple(_text(part["functionResponse"]) for part in parts if "functionResponse" in part))


def write_gemini(body: Json, reply: Call | str) -> Iterator[tuple[str, Json]]:
    part: Json = {"text": reply}
    if isinstance(reply, Call):
        part = {"functionCall": {"id": reply.id, "name": reply.tool.name, "args": dict(reply.arguments)}}
    candidate = {"content": {"role": "model", "parts": [part]}, "finishReason": "STOP", "index": 0}
    usage = {"promptTokenCount": 1, "candidatesTokenCount": 1, "totalTokenCount": 2}
    yield "", {"candidates": [candidate], "usageMetadata": usage, "modelVersion": MODEL}


Writer = Callable[[Json, "Call | str"], Iterator[tuple[str, Json]]]
APIS: Mapping[str, tuple[Callable[[Json], Asked], Writer]] = {
    "/chat/completions": (read_chat, write_chat),
    "/responses": (read_responses, write_responses),
    "/messages": (read_messages, write_messages),
    ":generateContent": (read_gemini, write_gemini),
    ":streamGenerateContent": (read_gemini, write_gemini),
}
ASIDE: Mapping[str, Json] = {
    "/messages/count_tokens": {"input_tokens": 1},
    ":countTokens": {"totalTokens": 1},
    "/models": {"object": "list", "data": [{"id": MODEL, "object": "model", "created": 1, "owned_by": "me"}]},
}


@dataclass
class StandInModel:
    """The model, served while it is entered.

    calls: which tools of the server it calls, with what; the first that the host does not offer is the end. before: is
    called once before each call, with its number. done: what it says at last. offered: the tools of the host's longest
    list. results: what they gave. strangers: what was asked of it that it does not serve.
    """

    calls: Sequence[tuple[str, Mapping[str, Any]]]
    before: Callable[[int], None]
    done: str
    offered: tuple[Tool, ...] = ()
    results: tuple[str, ...] = ()
    strangers: list[str] = field(default_factory=list)
    _reached: int = 0
    _one: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> StandInModel:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Served", (_Served,), {"of": self}))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def note(self, asked: Asked) -> None:
        """Keep what a host was seen to have."""
        self.offered = max(self.offered, asked.tools, key=len)
        self.results = max(self.results, asked.results, key=len)

    def reply(self, asked: Asked) -> Call | str:
        """Return what the model says to this; requests without tools are for titles and the like."""
        if not asked.tools:
            return "ok"
        with self._one:
            self.note(asked)
            number = len(asked.results)
            if number >= len(self.calls):
                return self.done
            name, arguments = self.calls[number]
            found = [tool for tool in asked.tools if is_called(tool.name, name)]
            if not found:
                return self.done if number else f"there is no {name}"
            if number >= self._reached:
                self._reached = number + 1
                self.before(number)
        return Call(found[0], arguments, number)


class _Served(BaseHTTPRequestHandler):
    of: StandInModel
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer({})

    def do_POST(self) -> None:
        self._answer(json.loads(self.rfile.read(int(self.headers.get("content-length", 0))) or b"{}"))

    def _answer(self, body: Json) -> None:
        where = urlsplit(self.path)
        for end, aside in ASIDE.items():
            if where.path.endswith(end):
                return self._send("application/json", json.dumps(aside))
        api = next((end for end in APIS if where.path.endswith(end)), None)
        if api is None:
            self.of.strangers.append(f"{self.command} {where.path}")
            return self._send("application/json", '{"error": {"message": "not served here"}}', 404)
        read, write = APIS[api]
        messages = list(write(body, self.of.reply(read(body))))
        if not body.get("stream") and "alt=sse" not in where.query:
            ((_, message),) = messages
            return self._send("application/json", json.dumps(message))
        events = [f"event: {name}\n" * bool(name) + f"data: {json.dumps(data)}\n\n" for name, data in messages]
        last = "data: [DONE]\n\n" if api == "/chat/completions" else ""
        return self._send("text/event-stream", "".join(events) + last)

    def _send(self, kind: str, text: str, status: int = 200) -> None:
        data = text.encode()
        try:
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        except OSError:  # the host has gone
            self.close_connection = True
