"""A program that always has an answer: its provider's, or, where that one is gone or slow, the small model's in here.

    SLM_PROVIDER=nvidia NVIDIA_API_KEY=… python examples/fallbacks.py

Without a provider it asks GitHub Models, which was switched off, so that there is something to see.
"""

import os
import sys

from slmclient import CallEvent, PhiClient, RetryPolicy


def tell(event: CallEvent) -> None:
    if event.kind == "fallback":
        print(f"{event.provider} could not answer ({event.error}), asking {event.then}", file=sys.stderr)


def main() -> None:
    client = PhiClient(
        os.environ.get("SLM_PROVIDER", "github"),
        fallbacks=["local"],
        timeout=10,
        deadline=120,
        retry=RetryPolicy(max_retries=1, max_retry_wait=5),
        rate_limit="60/min, 4 concurrent",
        on_event=tell,
    )
    with client:
        for country in ("Japan", "Kenya"):
            reply = client.chat(f"What is the capital of {country}?", temperature=0, max_tokens=20)
            print(f"{reply.provider}: {reply.text}")


if __name__ == "__main__":
    main()
