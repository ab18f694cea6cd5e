"""A model that calls a function of this program: it says what it wants to call, you may look, and only then it runs."""

import sys

from slmclient import PhiClient, ToolCall, tool
from slmclient.errors import ToolRoundsError

FORECAST = {"Oslo": "4 degrees and rain", "Rome": "21 degrees and sun", "Nairobi": "25 degrees and clouds"}


@tool
def weather(city: str) -> str:
    """Tell the weather of a town.

    Args:
        city: The town, such as Oslo.
    """
    if city not in FORECAST:
        raise LookupError(f"there is no forecast for {city}, only for {', '.join(FORECAST)}")  # the model is told
    return f"{FORECAST[city]} in {city}"


def look_first(call: ToolCall) -> bool:
    """Let only this one function run; ask the user here where a call could do harm."""
    print(f"The model asks for {call.name} of {call.arguments['city']}.")
    return call.name == "weather"


def main() -> None:
    question = " ".join(sys.argv[1:]) or "What is the weather in Oslo?"
    with PhiClient() as client:
        try:
            talk = client.run_tools(
                question,
                tools=[weather],
                tool_choice="required",  # a model as small as the embedded one seldom calls by itself
                on_tool_call=look_first,
                max_rounds=1,
                temperature=0,
                max_tokens=80,
            )
        except ToolRoundsError as error:  # it would call on and on: what came out so far is here
            talk = error.conversation
    for message in talk.messages:
        if message.role == "tool":
            print(f"The function says: {message.text}")
    print(f"The model says: {talk.reply.text or '(it calls again)'}")


if __name__ == "__main__":
    main()
