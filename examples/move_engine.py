"""One conversation, moved from one engine to another by the environment alone.

    SLM_PROVIDER=llamacpp SLM_MODEL=model.gguf python examples/move_engine.py talk.json "My name is Ada."
    SLM_PROVIDER=onnx SLM_MODEL=model-onnx/    python examples/move_engine.py talk.json "What is my name?"

Each run takes the conversation up where the last one left it, whoever answered then.
"""

import sys
from pathlib import Path

from slmclient import PhiClient, SLMError


def main() -> int:
    if len(sys.argv) != 3:
        print(f"usage: {sys.argv[0]} FILE QUESTION", file=sys.stderr)
        return 2
    file, question = Path(sys.argv[1]), sys.argv[2]
    try:
        with PhiClient() as client:
            if file.exists():
                talk = client.load_conversation(file, temperature=0, max_tokens=40)
            else:
                talk = client.conversation(system="Be brief.", temperature=0, max_tokens=40)
            reply = talk.send(question)
            talk.save(file)
    except SLMError as error:
        print(error, file=sys.stderr)
        return 1
    print(reply.text)
    print(f"({reply.provider}, {len(talk.messages)} messages)", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
