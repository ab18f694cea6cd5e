"""Ask whichever provider the environment names, and stream the answer. No line here changes between providers.

    python examples/ask.py "What is the capital of Japan?"                   # the embedded model
    SLM_PROVIDER=azure SLM_BASE_URL=… SLM_API_KEY=… python examples/ask.py   # Azure; the question as above

docs/providers.md has the variables of every provider.
"""

import sys

from slmclient import PhiClient, SLMError


def main() -> int:
    question = " ".join(sys.argv[1:]) or "What is the capital of Japan?"
    try:
        with PhiClient() as client, client.stream(question, temperature=0, max_tokens=200) as stream:
            for text in stream:
                print(text, end="", flush=True)
        print()
    except SLMError as error:  # says what happened and what to do
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    reply = stream.reply
    print(f"({reply.provider}, {reply.model}, {reply.usage.output_tokens} tokens)", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
