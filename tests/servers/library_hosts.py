"""An agent made with a library: `library_hosts.py LIBRARY PROMPT`. Prints what the model says at last.

It reaches moltis at MCP_URL with MCP_TOKEN, or, where these are not set, by the command `moltis connect`. The model is
where the library finds it: OPENAI_BASE_URL. Runs in an environment that has the library.
"""

import asyncio
import os
import sys

URL, TOKEN = os.environ.get("MCP_URL"), os.environ.get("MCP_TOKEN")
BEARER = {"Authorization": f"Bearer {TOKEN}"}
MODEL = "stand-in"


async def openai_agents(prompt: str) -> str:
    from agents import Agent, Runner
    from agents.mcp import MCPServerStdio, MCPServerStreamableHttp

    if URL:
        server = MCPServerStreamableHttp(params={"url": URL, "headers": BEARER}, client_session_timeout_seconds=30)
    else:
        server = MCPServerStdio(params={"command": "moltis", "args": ["connect"]}, client_session_timeout_seconds=30)
    async with server:
        agent = Agent(name="agent", instructions="", model=MODEL, mcp_servers=[server])
        return str((await Runner.run(agent, prompt)).final_output)


async def pydantic_ai(prompt: str) -> str:
    from fastmcp.client.transports import StdioTransport
    from pydantic_ai import Agent
    from pydantic_ai.mcp import MCPToolset

    where = URL or StdioTransport("moltis", ["connect"])
    toolset = MCPToolset(where, headers=BEARER if URL else None, init_timeout=60)  # 5 is too little on a busy machine
    async with toolset:
        return str((await Agent(f"openai-chat:{MODEL}", toolsets=[toolset]).run(prompt)).output)


async def langchain(prompt: str) -> str:
    from langchain.agents import create_agent
    from langchain_mcp_adapters.client import MultiServerMCPClient
    from langchain_mcp_adapters.tools import load_mcp_tools
    from langchain_openai import ChatOpenAI

    entry = {"transport": "stdio", "command": "moltis", "args": ["connect"]}
    if URL:
        entry = {"transport": "streamable_http", "url": URL, "headers": BEARER}
    async with MultiServerMCPClient({"moltis": entry}).session("moltis") as session:
        agent = create_agent(ChatOpenAI(model=MODEL), await load_mcp_tools(session))
        return str((await agent.ainvoke({"messages": [("user", prompt)]}))["messages"][-1].content)


if __name__ == "__main__":
    library, words = sys.argv[1:]
    chosen = {"openai-agents": openai_agents, "pydantic-ai": pydantic_ai, "langchain": langchain}[library]
    print(asyncio.run(chosen(words)))
