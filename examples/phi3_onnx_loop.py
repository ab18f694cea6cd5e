"""The generation loop of the Phi-3 lessons on ONNX Runtime GenAI, working again.

The lessons of 2024 wrote it like this, and onnxruntime-genai has none of the marked lines any more:

    model = og.Model(folder)
    tokenizer = og.Tokenizer(model)
    params = og.GeneratorParams(model)
    params.set_search_options(max_length=200, top_p=0.9, temperature=0.7)
    params.input_ids = tokenizer.encode("<|user|>…<|end|><|assistant|>")     # gone
    generator = og.Generator(model, params)
    while not generator.is_done():
        generator.compute_logits()                                            # gone
        generator.generate_next_token()

Here the folder, the chat template, the loop and the end of the answer are the library's business:

    pip install "slmclient[onnx]"
    SLM_MODEL=path/to/Phi-3-mini-4k-instruct-onnx python examples/phi3_onnx_loop.py

The folder may be the one above those for the processor, CUDA and DirectML.
"""

import sys

from slmclient import PhiClient, SLMError

WAYS = {
    "the likeliest words": {"temperature": 0},
    "drawn from the likely ones": {"temperature": 0.7, "top_p": 0.9, "top_k": 40, "seed": 7},
    "without repeating itself": {"temperature": 0, "repetition_penalty": 1.2},
    "the best of four beams": {"extra": {"num_beams": 4, "length_penalty": 1.0, "early_stopping": True}},
}


def main() -> int:
    question = " ".join(sys.argv[1:]) or "What is the capital of Japan?"
    try:
        with PhiClient("onnx") as client:
            for name, options in WAYS.items():
                print(f"{name}: ", end="", flush=True)
                for text in client.stream(question, max_tokens=60, **options):
                    print(text, end="", flush=True)
                print()
        # What is given as options holds for every call of the client.
        with PhiClient("onnx", options={"num_beams": 2, "search_options": {"no_repeat_ngram_size": 3}}) as client:
            print("beams for every call:", client.chat(question, max_tokens=60).text)
    except SLMError as error:  # says what happened and what to do
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
