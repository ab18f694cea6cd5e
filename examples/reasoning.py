"""Show what a model thinks apart from what it answers, and say when it did not get to the end of its thoughts.

python examples/reasoning.py            # the embedded model, which does not think: it tells no thoughts
SLM_PROVIDER=ollama SLM_MODEL=phi-4-mini-reasoning python examples/reasoning.py
"""

import sys

from slmclient import PhiClient, Reply
from slmclient.chat import ReasoningDelta, TextDelta


def ask(client: PhiClient, question: str, max_tokens: int) -> Reply:
    thinking = False
    with client.stream(question, max_tokens=max_tokens, timeout=300) as stream:
        for event in stream.events():
            match event:
                case ReasoningDelta(text=text):
                    print("" if thinking else "[thinks] ", text, sep="", end="", flush=True)
                    thinking = True
                case TextDelta(text=text):
                    print("\n[answers] " if thinking else "", text, sep="", end="", flush=True)
                    thinking = False
                case _:
                    pass
    print()
    return stream.reply


def main() -> None:
    question = " ".join(sys.argv[1:]) or "Is 17 a prime number? Answer in one sentence."
    with PhiClient() as client:
        reply = ask(client, question, max_tokens=4000)
    if reply.reasoning is None:
        print(f"[{reply.model} told no thoughts]")
    elif reply.finish_reason == "length":
        print(f"[{reply.model} was cut off: raise max_tokens]")
    else:
        print(f"[{reply.model} thought {len(reply.reasoning)} characters and answered {len(reply.text)}]")


if __name__ == "__main__":
    main()
