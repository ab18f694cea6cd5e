"""The Phi-3.5 lesson's notebook as a script, on any engine: a question in Chinese, a system prompt, a seed.

    python examples/phi35_instruct.py                                                # the embedded model
    SLM_PROVIDER=onnx SLM_MODEL=phi-3.5-mini python examples/phi35_instruct.py       # ONNX Runtime GenAI
    SLM_PROVIDER=transformers SLM_MODEL=phi-3.5-mini python examples/phi35_instruct.py
    SLM_PROVIDER=ollama SLM_MODEL=phi-3.5-mini python examples/phi35_instruct.py

Phi-3.5 answers in Chinese; the embedded model, which is here for trying, knows English only.
"""

import sys

from slmclient import PhiClient, SLMError

SYSTEM = "You are my running coach. Answer in the language of the question."
QUESTION = "我是一名跑步新手,请问我应该怎样开始训练?"  # I am new to running: how should I begin to train?


def main() -> int:
    question = " ".join(sys.argv[1:]) or QUESTION
    try:
        with PhiClient() as client:
            ask = client.conversation(system=SYSTEM, temperature=0.7, top_p=0.95, seed=42, max_tokens=200)
            first = ask.send(question)
            print(first.text)
            again = client.chat(question, system=SYSTEM, temperature=0.7, top_p=0.95, seed=42, max_tokens=200)
    except SLMError as error:  # says what happened and what to do
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    print(f"({first.provider}, {first.model}, {first.usage.output_tokens} tokens)", file=sys.stderr)
    if "seed" not in first.dropped:
        print("the same seed, the same answer:", "yes" if again.text == first.text else "no", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
