"""The lesson's vision notebook in a few lines: a picture of a chart, and Python code that draws it again.

    SLM_PROVIDER=onnx SLM_MODEL=phi-3.5-vision python examples/chart_to_code.py chart.png       # in this process
    SLM_PROVIDER=nvidia SLM_MODEL=MODEL python examples/chart_to_code.py chart.png              # hosted, with a key

The code is printed and never run: read it before you do. docs/images.md has the rest.
"""

import sys

from slmclient import Image, PhiClient, SLMError

QUESTION = "Write Python code that draws this chart with matplotlib, in one fenced block."


def main() -> int:
    if len(sys.argv) != 2:
        print("Name a picture: python examples/chart_to_code.py chart.png", file=sys.stderr)
        return 2
    try:
        with PhiClient() as client:
            picture = Image(sys.argv[1])  # a path or an address; too large a picture is made smaller
            reply = client.chat(QUESTION, images=[picture], temperature=0, max_tokens=1024)
    except SLMError as error:  # says what happened and what to do
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    for sent in reply.images:
        print(f"(image {sent.number}: {', '.join(sent.changes)})", file=sys.stderr)
    code = reply.code("python")
    if code is None:
        print(f"There is no Python code in the answer:\n{reply.text}", file=sys.stderr)
        return 1
    print(code, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
