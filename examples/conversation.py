"""A conversation of two turns, saved to a file and taken up again by another client."""

import tempfile
from pathlib import Path

from slmclient import PhiClient


def main() -> None:
    file = Path(tempfile.mkdtemp()) / "capitals.json"

    with PhiClient() as client:
        talk = client.conversation(system="Answer in one short sentence.", temperature=0, max_tokens=60)
        print(talk.send("What is the capital of Japan?").text)
        with talk.stream("And of Kenya?") as stream:
            for text in stream:
                print(text, end="", flush=True)
        print()
        talk.save(file)

    with PhiClient() as client:
        talk = client.load_conversation(file, temperature=0, max_tokens=60)
        print(f"{len(talk.messages)} messages loaded; the last: {talk.messages[-1].text}")
        print(talk.send("What was my first question?").text)


if __name__ == "__main__":
    main()
