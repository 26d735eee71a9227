"""The prompts, and the tools that ask the client something, that the conformance suite's server scenarios name."""

from __future__ import annotations

import json

import mcp_types as types
from fixture_calls import (
    ELICITATION,
    PNG,
    SAMPLING,
    Call,
    Question,
    elicit,
    embedded,
    prompt,
    sample,
    shown,
    taking,
    text,
    tool,
)

NAME = elicit("What is your name?", name={"type": "string"})
CONFIRM = elicit("Please confirm", ok={"type": "boolean"})


def roots() -> types.ListRootsRequest:
    return types.ListRootsRequest(params=types.RequestParams())


def said(answer: types.CreateMessageResult) -> str:
    return answer.content.text if isinstance(answer.content, types.TextContent) else ""


def name_of(answer: types.ElicitResult) -> str:
    return str((answer.content or {}).get("name", answer.action))


@tool("Ask the client's model.", taking(("prompt",), prompt="string"))
async def test_sampling(call: Call) -> types.CallToolResult:
    answers = await call.ask(sampled=sample(call.arguments["prompt"]))
    return text(f"LLM response: {said(answers['sampled'])}")


@tool("Ask the user.", taking(("message",), message="string"))
async def test_elicitation(call: Call) -> types.CallToolResult:
    question = elicit(
        call.arguments["message"],
        username={"type": "string", "description": "User's response"},
        email={"type": "string", "description": "User's email address"},
    )
    answers = await call.ask(asked=question)
    return text(f"User response: {shown(answers['asked'])}")


@tool("Ask the user, with a default for everything.")
async def test_elicitation_sep1034_defaults(call: Call) -> types.CallToolResult:
    question = elicit(
        "Please review the defaults",
        required=False,
        name={"type": "string", "default": "John Doe"},
        age={"type": "integer", "default": 30},
        score={"type": "number", "default": 95.5},
        status={"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
        verified={"type": "boolean", "default": True},
    )
    answers = await call.ask(asked=question)
    return text(f"Elicitation completed: {shown(answers['asked'])}")


@tool("Ask the user to choose, in all ways there are.")
async def test_elicitation_sep1330_enums(call: Call) -> types.CallToolResult:
    options = ["option1", "option2", "option3"]
    first, second = {"const": "value1", "title": "First Option"}, {"const": "value2", "title": "Second Option"}
    question = elicit(
        "Please choose",
        required=False,
        untitledSingle={"type": "string", "enum": options},
        titledSingle={"type": "string", "oneOf": [first, second]},
        legacyEnum={"type": "string", "enum": ["opt1", "opt2"], "enumNames": ["Option One", "Option Two"]},
        untitledMulti={"type": "array", "items": {"type": "string", "enum": options}},
        titledMulti={"type": "array", "items": {"anyOf": [first, second]}},
    )
    answers = await call.ask(asked=question)
    return text(f"Elicitation completed: {shown(answers['asked'])}")


@tool("Be refused to a client that cannot sample.")
async def test_missing_capability(call: Call) -> types.CallToolResult:
    await call.ask(sampled=sample("Anything"))
    return text("sampled")


@tool("Report progress, then ask the user.")
async def test_streaming_elicitation(call: Call) -> types.CallToolResult:
    await call.ctx.session.report_progress(0, 1)
    answers = await call.ask(user_name=NAME)
    return text(f"Hello, {name_of(answers['user_name'])}!")


@tool("Ask for a name.")
async def test_input_required_result_elicitation(call: Call) -> types.CallToolResult:
    answers = await call.ask(user_name=NAME)
    return text(f"Hello, {name_of(answers['user_name'])}!")


@tool("Ask the model for a capital.")
async def test_input_required_result_sampling(call: Call) -> types.CallToolResult:
    answers = await call.ask(capital_question=sample("What is the capital of France?"))
    return text(said(answers["capital_question"]))


@tool("Ask for the roots.")
async def test_input_required_result_list_roots(call: Call) -> types.CallToolResult:
    answers = await call.ask(client_roots=roots())
    return text(json.dumps([str(root.uri) for root in answers["client_roots"].roots]))


@tool("Ask, with a state to give back.")
async def test_input_required_result_request_state(call: Call) -> types.CallToolResult:
    answers = await call.ask(keep=True, confirm=CONFIRM)
    return text(f"state-ok {shown(answers['confirm'])}")


@tool("Ask, with a state that must come back as it was.")
async def test_input_required_result_tampered_state(call: Call) -> types.CallToolResult:
    answers = await call.ask(keep=True, confirm=CONFIRM)
    return text(f"state-ok {shown(answers['confirm'])}")


@tool("Ask three things at once.")
async def test_input_required_result_multiple_inputs(call: Call) -> types.CallToolResult:
    answers = await call.ask(
        keep=True, user_name=NAME, greeting=sample("Generate a greeting", 50), client_roots=roots()
    )
    where = [str(root.uri) for root in answers["client_roots"].roots]
    return text(f"{said(answers['greeting'])} {name_of(answers['user_name'])} {json.dumps(where)}")


@tool("Ask two things, one after the other.")
async def test_input_required_result_multi_round(call: Call) -> types.CallToolResult:
    first = await call.ask(keep=True, step1=elicit("Step 1: What is your name?", name={"type": "string"}))
    color = elicit("Step 2: What is your favorite color?", color={"type": "string"})
    second = await call.ask(keep=True, step2=color)
    return text(f"{name_of(first['step1'])} likes {(second['step2'].content or {}).get('color')}")


@tool("Ask what the client can answer, and no more.")
async def test_input_required_result_capabilities(call: Call) -> types.CallToolResult:
    questions: dict[str, Question] = {}
    if call.has(ELICITATION):
        questions["user_name"] = NAME
    if call.has(SAMPLING):
        questions["greeting"] = sample("Generate a greeting")
    answers = await call.ask(keep=False, **questions)
    return text(f"answered: {', '.join(sorted(answers))}")


# -- prompts


def message(content: types.ContentBlock) -> types.PromptMessage:
    return types.PromptMessage(role="user", content=content)


@prompt("A prompt without arguments.")
async def test_simple_prompt(call: Call) -> types.GetPromptResult:
    content = types.TextContent(text="This is a simple prompt for testing.")
    return types.GetPromptResult(messages=[message(content)])


@prompt("A prompt with arguments.", "arg1", "arg2")
async def test_prompt_with_arguments(call: Call) -> types.GetPromptResult:
    one, two = call.arguments.get("arg1", ""), call.arguments.get("arg2", "")
    content = types.TextContent(text=f"Prompt with arguments: arg1='{one}', arg2='{two}'")
    return types.GetPromptResult(messages=[message(content)])


@prompt("A prompt that holds a resource.", "resourceUri")
async def test_prompt_with_embedded_resource(call: Call) -> types.GetPromptResult:
    resource = embedded(call.arguments["resourceUri"], "text/plain", "Embedded resource content for testing.")
    instruction = types.TextContent(text="Please process the embedded resource above.")
    return types.GetPromptResult(messages=[message(resource), message(instruction)])


@prompt("A prompt that holds an image.")
async def test_prompt_with_image(call: Call) -> types.GetPromptResult:
    image = types.ImageContent(data=PNG, mime_type="image/png")
    instruction = types.TextContent(text="Please analyze the image above.")
    return types.GetPromptResult(messages=[message(image), message(instruction)])


@prompt("A prompt that asks the user.")
async def test_input_required_result_prompt(call: Call) -> types.GetPromptResult:
    question = elicit("What context should the prompt use?", context={"type": "string"})
    answers = await call.ask(user_context=question)
    content = types.TextContent(text=f"Context: {(answers['user_context'].content or {}).get('context')}")
    return types.GetPromptResult(messages=[message(content)])


@prompt("Only there while the list is changed.")
async def test_extra_prompt(call: Call) -> types.GetPromptResult:
    return types.GetPromptResult(messages=[message(types.TextContent(text="extra"))])
