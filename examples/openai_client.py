"""Hand in an openai client that you have configured: its address, key, proxies and tracing apply, its retries do not.

    OPENAI_BASE_URL=http://localhost:8000/v1 OPENAI_API_KEY=… python examples/openai_client.py phi-4-mini

docs/sdk-clients.md shows the same with a managed identity on Azure.
"""

import sys

import openai

from slmclient import OpenAIClientDriver, PhiClient


def main() -> None:
    model = sys.argv[1] if len(sys.argv) > 1 else None  # None: the first one that the server lists
    sdk = openai.OpenAI(default_headers={"X-Team": "examples"})
    with PhiClient(driver=OpenAIClientDriver(sdk, model)) as client:
        with client.stream("What is the capital of Japan?", temperature=0, max_tokens=50) as stream:
            for text in stream:
                print(text, end="", flush=True)
        print(f"\n({stream.reply.model}, {stream.reply.usage.output_tokens} tokens)")
    print(f"{len(list(sdk.models.list()))} model; the SDK client is still open")
    sdk.close()


if __name__ == "__main__":
    main()
