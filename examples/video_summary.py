"""The Phi-3.5-vision lesson: summarize a film from 21 of its frames.

    pip install "slmclient[video]"
    SLM_PROVIDER=onnx SLM_MODEL=phi-3.5-vision python examples/video_summary.py film.mp4   # a model that sees

Without a film it makes one, of three seconds: red, then green, then blue.
"""

import sys
import tempfile
from pathlib import Path

from slmclient import PhiClient, SLMError
from slmclient.media.video import Video


def make_film(path: Path) -> Path:
    import av
    from PIL import Image

    with av.open(str(path), "w") as film:
        stream = film.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        for colour in ("red", "lime", "blue"):
            for _ in range(10):
                film.mux(stream.encode(av.VideoFrame.from_image(Image.new("RGB", (320, 240), colour))))
        film.mux(stream.encode())
    return path


def summarize(path: Path) -> None:
    frames = Video(path, frames=21)
    with PhiClient() as client:
        reply = client.chat("Summarize the video.", images=frames, temperature=0, max_tokens=200)
    print(reply.text)
    first, *_, last = frames.times
    print(f"({reply.provider}, {reply.model}, {len(frames)} frames from {first:.1f} to {last:.1f} s)", file=sys.stderr)


def main() -> int:
    try:
        if len(sys.argv) > 1:
            summarize(Path(sys.argv[1]))
        else:
            with tempfile.TemporaryDirectory() as folder:
                summarize(make_film(Path(folder) / "colours.mp4"))
    except SLMError as error:  # no film, a model that sees no pictures, …: it says what to do
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
