"""Look at everything a stream brings, then stop another one from a second thread."""

import threading
import time

from slmclient import PhiClient
from slmclient.chat import Finish, Start, TextDelta, Usage


def show_events(client: PhiClient) -> None:
    with client.stream("What is the capital of Japan?", temperature=0) as stream:
        for event in stream.events():
            match event:
                case Start(provider=provider, model=model):
                    print(f"[{provider} answers with {model}]")
                case TextDelta(text=text):
                    print(text, end="", flush=True)
                case Finish(reason=reason):
                    print(f"\n[finished: {reason}]")
                case Usage():
                    print(f"[{event.input_tokens} tokens read, {event.output_tokens} written]")
                case _:  # reasoning, tool calls, notes
                    pass


def stop_from_another_thread(client: PhiClient) -> None:
    started = time.monotonic()
    with client.stream("Write a long story about a fox.", max_tokens=1000) as stream:
        threading.Timer(1.5, stream.cancel).start()
        for text in stream:
            print(text, end="", flush=True)
    reply = stream.reply
    print(f"\n[{reply.finish_reason} after {time.monotonic() - started:.1f} s; {len(reply.text)} characters had come]")


def main() -> None:
    with PhiClient() as client:
        show_events(client)
        stop_from_another_thread(client)


if __name__ == "__main__":
    main()
