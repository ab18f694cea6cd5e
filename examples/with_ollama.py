"""Ask a model of an Ollama server, and have the server fetch it where it is not there yet.

    python examples/with_ollama.py                      # phi-4-mini, at OLLAMA_HOST or on this machine
    python examples/with_ollama.py phi-3.5-mini

docs/providers/ollama.md has the rest.
"""

import sys

from slmclient import PhiClient, SLMError
from slmclient.drivers.base import DriverConfig
from slmclient.drivers.ollama import OllamaDriver
from slmclient.errors import ModelNotFoundError
from slmclient.given import Given
from slmclient.settings import resolve


def pull(model: str) -> None:
    config: DriverConfig = resolve(Given(provider="ollama", model=model)).driver  # as the environment says
    driver = OllamaDriver(config)
    seen = ""

    def tell(doing: str, done: int, total: int | None) -> None:
        nonlocal seen
        if doing != seen:
            print(f"{doing}{f' ({total:,} bytes)' if total else ''}", file=sys.stderr)
        seen = doing

    try:
        driver.pull(model, tell)
    finally:
        driver.close()


def main() -> int:
    model = sys.argv[1] if len(sys.argv) > 1 else "phi-4-mini"
    question = "What is the capital of Japan?"
    try:
        with PhiClient("ollama", model, options={"keep_alive": "10m"}) as client:
            try:
                reply = client.chat(question, temperature=0)
            except ModelNotFoundError:
                pull(model)
                reply = client.chat(question, temperature=0)
    except SLMError as error:  # no server there: it says how to start one
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    print(reply.text)
    print(f"({reply.provider}, {reply.model}, {reply.usage.output_tokens} tokens)", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
