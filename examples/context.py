"""How long a prompt is, and a chat that goes on when its oldest turns no longer fit: offline, on the local model."""

from slmclient import PhiClient
from slmclient.errors import ContextLengthExceededError


def main() -> None:
    # A context of 256 tokens, so that it is full after a few turns; the model would take 8,192.
    with PhiClient(options={"n_ctx": 256}) as client:
        prompt = "Name three colours."
        print(f"{prompt!r}: {client.count_tokens(prompt, system='Be brief.').tokens} tokens")

        try:
            client.chat("word " * 300)
        except ContextLengthExceededError as error:
            print(f"too long: {error.tokens} tokens of {error.context}")

        talk = client.conversation(
            system="Answer in a few words.", temperature=0, max_tokens=24, on_overflow="truncate_oldest"
        )
        for number in range(1, 13):
            reply = talk.send(f"Question {number}: name an animal that lives in the sea.")
            left_out = f", {len(reply.truncated)} messages left out" if reply.truncated else ""
            print(f"turn {number}: {reply.usage.input_tokens} tokens read{left_out}")
        print(f"the conversation itself has all {len(talk.messages)} messages")


if __name__ == "__main__":
    main()
