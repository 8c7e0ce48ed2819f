"""What a scripted model says to the standard tests of LangChain: text, and tool calls where tools are offered."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace

from orchestrator.engine import Finished, GenerateRequest, GenerationEvent, Prompt
from orchestrator.reply_form import ToolCall
from orchestrator.testing import Reply, ScriptedEngine
from orchestrator.testing.scripts import last_user_message

JOKE = {"setup": "Why was the cat on the computer?", "punchline": "To keep an eye on the mouse."}
_CALLS = {
    "magic_function_no_args()": ("magic_function_no_args", {}),
    "magic_function(3)": ("magic_function", {"input": 3}),
    "generate a Pirate greeting": ("greeting_generator", {"answer_style": "pirate"}),
    "weather in San Francisco": ("get_weather", {"location": "San Francisco, CA"}),
    "What is 3 + 4": ("my_adder_tool", {"a": 3, "b": 4}),
    "你好啊集团": ("unicode_customer", {"customer_name": "你好啊集团", "description": "technology"}),
    "こんにちは株式会社": ("unicode_customer", {"customer_name": "こんにちは株式会社", "description": "a company"}),
    "Hello!": ("magic_function", {"input": 1}),
}


def script(prompt: Prompt, seed: int) -> Reply:
    """The reply to the last message; a tool's result ends the calls."""
    asked = last_user_message(prompt)
    if prompt.messages[-1].role == "tool":
        return Reply(text=f"The tool says: {prompt.messages[-1].content}")
    if "joke about cats" in asked:
        return Reply(text=json.dumps(JOKE), tool_calls=(ToolCall("call_joke", "Joke", json.dumps(JOKE)),))
    for words, (name, arguments) in _CALLS.items():
        if words in asked:
            call = ToolCall(f"call_{name}", name, json.dumps(arguments, ensure_ascii=False))
            return Reply(text="Hello." if words == "Hello!" else "", tool_calls=(call,))
    return Reply(text="Hello. This is a reply of several words, so that it can be streamed in pieces.")


class ObedientEngine(ScriptedEngine):
    """Says what `script` says, and calls the tool that must be called."""

    def __init__(self) -> None:
        super().__init__(script)

    async def generate(self, request: GenerateRequest) -> AsyncIterator[GenerationEvent]:
        async for event in super().generate(request):
            if isinstance(event, Finished) and event.tool_calls and request.tools is not None:
                names = [function["name"] for function in request.tools.functions]
                if request.tools.choice in names:
                    calls = tuple(replace(call, name=request.tools.choice) for call in event.tool_calls)
                    event = replace(event, tool_calls=calls)
            yield event
