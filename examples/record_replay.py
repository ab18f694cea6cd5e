"""Ask a real model once, keep its answer, and get it again without the model, a network or a key."""

import sys
from pathlib import Path

from slmclient import PhiClient
from slmclient.testing import recording, replaying


def capital(country: str) -> str:
    """What your program does: it knows nothing of cassettes."""
    with PhiClient() as client:
        return client.chat(f"What is the capital of {country}?", temperature=0, max_tokens=40).text


def main() -> None:
    path = Path(sys.argv[1] if len(sys.argv) > 1 else "capital.json")
    if not path.exists():
        with recording(path) as cassette:
            print(capital("Japan"))
        print(f"(recorded: {len(cassette.calls)} call in {path.name})", file=sys.stderr)
    else:
        with replaying(path) as cassette:
            print(capital("Japan"))
        print(f"(replayed from {path.name}; {len(cassette.unused)} calls were not asked for)", file=sys.stderr)


if __name__ == "__main__":
    main()
