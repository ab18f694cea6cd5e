"""Large pictures at NVIDIA's hosted service, uploaded beside the call: against a gateway and a storage on loopback.

The storage speaks TLS, as a signed address demands. That the gateway is on loopback is the tests' only pretence: the
driver is told that this host is NVIDIA's, and where its Cloud Functions are.
"""

from __future__ import annotations

import io
import json
import logging
import re
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import numpy
import pytest
from PIL import Image as Pillow

from slmclient import Image, Message
from slmclient.chat import ChatRequest
from slmclient.drivers import nvidia
from slmclient.drivers.base import DriverConfig, DriverInfo
from slmclient.drivers.nvidia import NvidiaDriver, assets
from slmclient.drivers.secret import Secret
from slmclient.errors import (
    APIConnectionError,
    APITimeoutError,
    AuthenticationError,
    BadRequestError,
    ConfigurationError,
    InternalServerError,
    ModelRetiredError,
    RateLimitError,
    ResponseFormatError,
    SLMError,
    StreamInterruptedError,
    UnsupportedFeatureError,
)
from slmclient.testing.fault_server import Seen, head, whole
from test_client import Face, both
from test_keys_do_not_leak import Held, Records, where
from test_pump import CERTIFICATE, PRIVATE_KEY

KEY, TEAM = "nvapi-0123456789", "the-team-0123456789"
SIGNATURE = Held("5igned0123456789abcdef")
TICKET = "99999999-1111-2222-3333-444455556666"
ANSWER = {
    "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "A photo."}, "finish_reason": "stop"}],
}
FRAME = {"choices": [{"index": 0, "delta": {"content": "A photo."}, "finish_reason": "stop"}]}
STREAM = head() + f"data: {json.dumps(FRAME)}\n\ndata: [DONE]\n\n".encode()
REFERENCES = ("nvcf-input-asset-references", "nvcf-function-asset-ids")
Answering = Callable[[Seen], bytes]


# --- the cloud on loopback


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        cloud = cast("_Listener", self.server).cloud
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.close_connection = True
        self.wfile.write(cloud.answered(Seen(self.command, self.path, headers, body)))

    do_GET = do_POST = do_PUT = do_DELETE = answer

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    cloud: Cloud

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: some clients hang up."""


class Cloud:
    """NVIDIA's gateway and its Cloud Functions (http), and the storage that they sign addresses of (https)."""

    def __init__(self, tls: ssl.SSLContext) -> None:
        self.seen: list[Seen] = []
        self.kinds: list[str] = []
        """What the requests were: create, put, chat, poll, delete."""
        self.over = threading.Event()
        self.answers: dict[str, list[bytes | Answering]] = {}
        """By kind: what is answered, in order; the last one again and again. What is not here goes well."""
        gateway, storage = (_Listener(("127.0.0.1", 0), _Handler) for _ in range(2))
        storage.socket = tls.wrap_socket(storage.socket, server_side=True, do_handshake_on_connect=False)
        self.url = f"http://127.0.0.1:{gateway.server_port}"
        self.storage = f"https://127.0.0.1:{storage.server_port}"
        self.listeners = gateway, storage
        for listener in self.listeners:
            listener.cloud = self
            threading.Thread(target=listener.serve_forever, args=(0.005,), daemon=True).start()

    def answered(self, seen: Seen) -> bytes:
        kinds = {"POST": "create" if seen.path.endswith("/assets") else "chat", "GET": "poll"}
        kind = kinds.get(seen.method, seen.method.lower())
        self.seen.append(seen)
        self.kinds.append(kind)
        steps = self.answers.get(kind, [])
        step = steps.pop(0) if len(steps) > 1 else steps[0] if steps else getattr(self, kind)
        return step if isinstance(step, bytes) else cast("Answering", step)(seen)

    def of(self, kind: str) -> list[Seen]:
        """Return the requests of that kind."""
        return [seen for seen, each in zip(self.seen, self.kinds, strict=True) if each == kind]

    def identity(self, number: int) -> str:
        """Return the id of the asset that was created as the so manieth, counted from 1."""
        return f"0a1b2c3d-0000-0000-0000-{number:012}"

    def created(self, **changed: Any) -> dict[str, Any]:
        """Return what an asset's creation is answered with."""
        identity = self.identity(self.kinds.count("create"))
        signed = f"{self.storage}/bucket/{identity}?X-Amz-Expires=3600&X-Amz-Signature={SIGNATURE.value}"
        described = {"contentType": "image/jpeg", "description": "slmclient"}
        return {"assetId": identity, "uploadUrl": signed, **described, **changed}

    # what is answered where nothing else was said

    def create(self, seen: Seen) -> bytes:
        return whole(200, self.created())

    def put(self, seen: Seen) -> bytes:
        return whole(200, b"")

    def chat(self, seen: Seen) -> bytes:
        return STREAM if json.loads(seen.body).get("stream") else whole(200, ANSWER)

    def poll(self, seen: Seen) -> bytes:
        return whole(200, ANSWER)

    def delete(self, seen: Seen) -> bytes:
        return whole(204, b"")

    # what goes wrong

    def silent(self, seen: Seen) -> bytes:
        """Answer nothing until the test is over."""
        self.over.wait(20)
        return b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        for listener in self.listeners:
            listener.shutdown()
            listener.server_close()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The storage's certificate, as a bundle that trusts it."""
    folder = tmp_path_factory.mktemp("tls")
    (folder / "key.pem").write_text(PRIVATE_KEY)
    (folder / "bundle.pem").write_text(CERTIFICATE)
    return folder / "bundle.pem"


@pytest.fixture
def cloud(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(bundle, bundle.with_name("key.pem"))
    with Cloud(tls) as running:
        monkeypatch.setattr(assets, "ASSETS_URL", f"{running.url}/v2/nvcf/assets")
        monkeypatch.setattr(nvidia, "STATUS_URL", running.url + "/v2/nvcf/pexec/status/{ticket}")
        yield running


class Hosted(NvidiaDriver):
    """The driver at NVIDIA's own service, which here is on loopback."""

    info: ClassVar[DriverInfo] = replace(NvidiaDriver.info, vendor_hosts=("127.0.0.1",))


def driver_at(cloud: Cloud, bundle: Path | None, kind: type[NvidiaDriver] = Hosted, **options: Any) -> NvidiaDriver:
    config = DriverConfig(
        "nvidia",
        "m",
        base_url=f"{cloud.url}/v1",
        api_key=Secret(KEY),
        headers={"X-Team": Secret(TEAM)},
        verify=str(bundle) if bundle else True,
        options={"large_images": "upload", **options},
    )
    return kind(config)


def client_at(face: Face, cloud: Cloud, bundle: Path | None, max_retries: int = 0, **options: Any) -> Any:
    return face.kind(driver=driver_at(cloud, bundle, **options), max_retries=max_retries)


@cache
def photo(seed: int = 0, file_format: str = "JPEG", size: int = 400) -> bytes:
    """Return a picture's file that is too large to go inside a call."""
    noise = numpy.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype="uint8")
    out = io.BytesIO()
    Pillow.fromarray(noise).save(out, file_format, **({} if file_format == "PNG" else {"quality": 95}))
    assert len(out.getvalue()) > 150_000
    return out.getvalue()


def small() -> bytes:
    out = io.BytesIO()
    Pillow.new("RGB", (32, 32), "red").save(out, "PNG")
    return out.getvalue()


def sent_images(seen: Seen) -> list[Any]:
    """Return the picture parts of a chat call."""
    messages = json.loads(seen.body)["messages"]
    parts = [part for message in messages if isinstance(message["content"], list) for part in message["content"]]
    return [part["image_url"] for part in parts if part["type"] == "image_url"]


# --- what goes over the wire


@both
async def test_a_large_picture_is_uploaded_named_in_the_call_and_deleted_after_it(
    face: Face, cloud: Cloud, bundle: Path
) -> None:
    reply = await face.done(client_at(face, cloud, bundle).chat("What is it?", images=[Image(photo(), detail="low")]))
    assert reply.text == "A photo."
    assert reply.images == (), "it went whole"
    assert cloud.kinds == ["create", "put", "chat", "delete"]
    create, put, chat, delete = cloud.seen
    assert (create.method, create.path) == ("POST", "/v2/nvcf/assets")
    assert json.loads(create.body) == {"contentType": "image/jpeg", "description": "slmclient"}
    assert create.headers["content-type"] == "application/json"
    assert put.path == f"/bucket/{cloud.identity(1)}?X-Amz-Expires=3600&X-Amz-Signature={SIGNATURE.value}"
    assert put.body == photo()
    assert put.headers["content-type"] == "image/jpeg"
    assert put.headers["x-amz-meta-nvcf-asset-description"] == "slmclient"
    assert put.headers["content-length"] == str(len(photo())), "the storage takes nothing in chunks"
    assert sent_images(chat) == [{"url": f"data:image/jpeg;asset_id,{cloud.identity(1)}", "detail": "low"}]
    assert [chat.headers[name] for name in REFERENCES] == [cloud.identity(1)] * 2
    assert (delete.method, delete.path) == ("DELETE", f"/v2/nvcf/assets/{cloud.identity(1)}")
    for seen in (create, chat, delete):
        assert (seen.headers["authorization"], seen.headers["x-team"]) == (f"Bearer {KEY}", TEAM)


@both
async def test_the_storage_gets_no_key_and_no_header_but_its_own(face: Face, cloud: Cloud, bundle: Path) -> None:
    await face.done(client_at(face, cloud, bundle).chat("What is it?", images=[photo()]))
    (put,) = cloud.of("put")
    assert set(put.headers) == {
        "host",
        "content-type",
        "content-length",
        "x-amz-meta-nvcf-asset-description",
        "accept-encoding",
        "user-agent",
    }
    assert not any(secret in str(put) for secret in (KEY, TEAM))


@both
async def test_several_are_named_in_their_order_and_small_ones_stay_inside(
    face: Face, cloud: Cloud, bundle: Path
) -> None:
    prompt = [
        Message.user("First", Image(photo(1)), Image(small())),
        Message.assistant("Yes."),
        Message.user("Second", Image(photo(2, "PNG"))),
    ]
    await face.done(client_at(face, cloud, bundle).chat(prompt))
    assert cloud.kinds == ["create", "put", "create", "put", "chat", "delete", "delete"]
    assert [put.body for put in cloud.of("put")] == [photo(1), photo(2, "PNG")]
    assert [put.headers["content-type"] for put in cloud.of("put")] == ["image/jpeg", "image/png"]
    first, second = cloud.identity(1), cloud.identity(2)
    (chat,) = cloud.of("chat")
    assert [image["url"] for image in sent_images(chat)] == [
        f"data:image/jpeg;asset_id,{first}",
        Image(small()).url,
        f"data:image/png;asset_id,{second}",
    ]
    assert [chat.headers[name] for name in REFERENCES] == [f"{first},{second}"] * 2
    assert [seen.path.rpartition("/")[2] for seen in cloud.of("delete")] == [first, second]


@both
async def test_small_pictures_alone_are_uploaded_nowhere(face: Face, cloud: Cloud, bundle: Path) -> None:
    await face.done(client_at(face, cloud, bundle).chat("What is it?", images=[small()]))
    assert cloud.kinds == ["chat"]
    assert not set(REFERENCES) & set(cloud.seen[0].headers)


def test_the_line_between_small_and_large_is_at_180000_characters_of_base64() -> None:
    begin = b"\x89PNG\r\n\x1a\n"
    for size, large in ((134_999, False), (135_000, False), (135_001, True)):  # 3 bytes are 4 characters
        assert assets.is_large(Image(begin + b"." * (size - len(begin)))) is large


@both
async def test_a_format_that_is_not_taken_is_converted_before_it_is_uploaded(
    face: Face, cloud: Cloud, bundle: Path
) -> None:
    picture = photo(file_format="WEBP", size=800)
    reply = await face.done(client_at(face, cloud, bundle).chat("What is it?", images=[picture]))
    (put,) = cloud.of("put")
    assert (
        Pillow.open(io.BytesIO(put.body)).format
        == {"image/png": "PNG", "image/jpeg": "JPEG"}[put.headers["content-type"]]
    )
    (sent,) = reply.images
    assert (sent.format, sent.bytes) == (put.headers["content-type"], len(put.body))


@both
async def test_without_the_option_it_is_scaled_down_and_goes_inside(face: Face, cloud: Cloud, bundle: Path) -> None:
    await face.done(client_at(face, cloud, bundle, large_images="scale").chat("What is it?", images=[photo()]))
    assert cloud.kinds == ["chat"]
    (image,) = sent_images(cloud.seen[0])
    assert image["url"].startswith("data:image/jpeg;base64,")
    assert len(image["url"].partition(",")[2]) <= 180_000


@both
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("large", [False, True])
async def test_the_older_addresses_take_pictures_as_tags_in_the_text(
    face: Face, cloud: Cloud, bundle: Path, stream: bool, large: bool
) -> None:
    """One address for each model, which is all of the address; its text parts are joined."""
    path = "/v1/vlm/microsoft/phi-3-vision-128k-instruct"
    config = replace(driver_at(cloud, bundle).config, model=None, base_url=cloud.url + path)
    client = face.kind(driver=Hosted(config), max_retries=0)
    prompt = [Message.system("Be brief."), Message.user("What is it?", Image(photo() if large else small()))]
    if stream:
        assert await face.text(client.stream(prompt, max_tokens=5)) == "A photo."
    else:
        assert (await face.done(client.chat(prompt, max_tokens=5))).text == "A photo."
    (chat,) = cloud.of("chat")
    source = f"data:image/jpeg;asset_id,{cloud.identity(1)}" if large else Image(small()).url
    assert chat.path == path
    assert json.loads(chat.body) == {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": f'What is it? <img src="{source}" />'},
        ],
        "max_tokens": 5,
        **({"stream": True} if stream else {}),
    }
    assert [chat.headers.get(name) for name in REFERENCES] == [cloud.identity(1) if large else None] * 2
    assert client.model == "microsoft/phi-3-vision-128k-instruct"


@both
async def test_an_older_address_is_for_its_model_and_for_text_and_pictures(
    face: Face, cloud: Cloud, bundle: Path
) -> None:
    config = replace(driver_at(cloud, bundle).config, model=None, base_url=f"{cloud.url}/v1/vlm/microsoft/phi-3-vision")
    driver = Hosted(config)
    client = face.kind(driver=driver, max_retries=0)
    with pytest.raises(ConfigurationError, match="for microsoft/phi-3-vision alone, not for phi-4-mini"):
        await face.done(client.chat("Hi", model="phi-4-mini"))
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    strict = face.kind(driver=driver, max_retries=0, strict=True)  # any other says them in the prompt
    for options in ({"tools": [tool]}, {"response_format": {"type": "json_object"}}):
        with pytest.raises(UnsupportedFeatureError):
            await face.done(strict.chat("Hi", **options))
    assert cloud.seen == []
    assert driver.probe(5).models == ("microsoft/phi-3-vision",)


@both
async def test_pictures_of_other_roles_are_refused_before_any_is_fetched(
    face: Face, cloud: Cloud, bundle: Path
) -> None:
    prompt = [Message.assistant("Look.").model_copy(update={"content": (Image("https://no.example/a.png"),)})]
    with pytest.raises(UnsupportedFeatureError, match="user messages only"):
        await face.done(client_at(face, cloud, bundle).chat([Message.user("Hi"), *prompt, Message.user("And?")]))


@both
async def test_a_container_has_no_assets(face: Face, cloud: Cloud, bundle: Path) -> None:
    client = face.kind(driver=driver_at(cloud, bundle, NvidiaDriver), max_retries=0)
    await face.done(client.chat("What is it?", images=[photo()]))
    assert cloud.kinds == ["chat"]
    assert [image["url"] for image in sent_images(cloud.seen[0])] == [Image(photo()).url]


@both
async def test_a_stream_deletes_when_it_is_over(face: Face, cloud: Cloud, bundle: Path) -> None:
    async with face.opened(client_at(face, cloud, bundle).stream("What is it?", images=[photo()])) as stream:
        assert await face.text(stream) == "A photo."
    assert cloud.kinds == ["create", "put", "chat", "delete"]
    assert json.loads(cloud.of("chat")[0].body)["stream"] is True


@both
async def test_an_answer_that_is_not_ready_keeps_its_assets_until_it_is(face: Face, cloud: Cloud, bundle: Path) -> None:
    cloud.answers = {
        "chat": [whole(202, "", NVCF_REQID=TICKET)],
        "poll": [whole(202, "", NVCF_REQID=TICKET), whole(503, {}), whole(200, ANSWER)],
    }
    reply = await face.done(client_at(face, cloud, bundle).chat("What is it?", images=[photo()]))
    assert reply.text == "A photo."
    assert cloud.kinds == ["create", "put", "chat", "poll", "poll", "poll", "delete"]
    for poll in cloud.of("poll"):
        assert poll.path == f"/v2/nvcf/pexec/status/{TICKET}"
        assert poll.headers["authorization"] == f"Bearer {KEY}"
        assert not set(REFERENCES) & set(poll.headers), "a poll names its ticket alone"


# --- what goes wrong

CHAT_FAILURES: dict[str, tuple[bytes, type[SLMError]]] = {
    "an error": (whole(500, {"detail": "oops"}), InternalServerError),
    "a refusal": (whole(400, {"detail": "no"}), BadRequestError),
    "no answer": (b"", APIConnectionError),
    "a broken stream": (
        head() + b'data: {"choices": [{"index": 0, "delta": {"content": "A"}}]}\n\n',
        StreamInterruptedError,
    ),
    "an error in the stream": (head() + b'data: {"error": {"message": "oops"}}\n\n', InternalServerError),
}


@pytest.mark.parametrize("failure", CHAT_FAILURES)
@both
async def test_what_was_uploaded_is_deleted_after_a_call_that_fails(
    face: Face, cloud: Cloud, bundle: Path, failure: str
) -> None:
    answer, error = CHAT_FAILURES[failure]
    cloud.answers = {"chat": [answer]}
    with pytest.raises(error):
        async with face.opened(client_at(face, cloud, bundle).stream("What?", images=[photo(1), photo(2)])) as stream:
            await face.text(stream)
    assert cloud.kinds == ["create", "put", "create", "put", "chat", "delete", "delete"]
    assert {seen.path.rpartition("/")[2] for seen in cloud.of("delete")} == {cloud.identity(1), cloud.identity(2)}


CREATE_FAILURES: dict[str, tuple[bytes, type[SLMError]]] = {
    "401": (whole(401, {"detail": "Unauthorized"}), AuthenticationError),
    "429": (whole(429, {"title": "Too Many Requests"}), RateLimitError),
    "500": (whole(500, "oops", "text/plain"), InternalServerError),
    "a redirect": (whole(302, "", Location="https://elsewhere.invalid/"), SLMError),
    "no JSON": (whole(200, "<html>"), ResponseFormatError),
    "a list": (whole(200, []), ResponseFormatError),
    "null": (whole(200, None), ResponseFormatError),
    "nothing": (b"", APIConnectionError),
    "too much": (whole(200, b"[" * 33_000_000), ResponseFormatError),
}


@pytest.mark.parametrize("failure", CREATE_FAILURES)
@both
async def test_no_asset_no_call(face: Face, cloud: Cloud, bundle: Path, failure: str) -> None:
    answer, error = CREATE_FAILURES[failure]
    cloud.answers = {"create": [answer]}
    with pytest.raises(error):
        await face.done(client_at(face, cloud, bundle).chat("What is it?", images=[photo()]))
    assert cloud.kinds == ["create"]


@pytest.mark.parametrize(
    "changed",
    [
        {"assetId": None},
        {"assetId": ""},
        {"assetId": 5},
        {"assetId": "../../models"},
        {"assetId": "a,b"},
        {"assetId": "a\r\nX-More: b"},
        {"assetId": "x" * 101},
        {"uploadUrl": None},
        {"uploadUrl": ""},
        {"uploadUrl": []},
        {"uploadUrl": "{plain}/bucket/1?X-Amz-Signature=s"},
        {"uploadUrl": "ftp://127.0.0.1/bucket"},
        {"uploadUrl": "file:///etc/passwd"},
        {"uploadUrl": "https://"},
        {"uploadUrl": "https://[::1/bucket"},
        {"uploadUrl": "https://127.0.0.1:99999/bucket"},
        {"uploadUrl": "https://127.0.0.1/bucket\r\nX-More: b"},
    ],
    ids=str,
)
@both
async def test_an_asset_that_is_none_is_a_format_error(
    face: Face, cloud: Cloud, bundle: Path, changed: dict[str, Any]
) -> None:
    """Id and address come from the server, and become parts of requests. One over plain http gets no picture."""
    changed = {
        name: value.replace("{plain}", cloud.url) if name == "uploadUrl" and value else value
        for name, value in changed.items()
    }
    cloud.answers = {"create": [lambda seen: whole(200, cloud.created(**changed))]}
    with pytest.raises(ResponseFormatError, match="sent no asset to upload a picture to"):
        await face.done(client_at(face, cloud, bundle).chat("What is it?", images=[photo()]))
    assert cloud.kinds == ["create"]


PUT_FAILURES: dict[str, tuple[bytes, type[SLMError], int | None]] = {
    "403": (whole(403, "<Error><Code>SignatureDoesNotMatch</Code></Error>", "application/xml"), BadRequestError, 403),
    "413": (whole(413, ""), BadRequestError, 413),
    "a redirect": (whole(307, "", Location="https://elsewhere.invalid/"), BadRequestError, 307),
    "503": (whole(503, "<Error><Code>SlowDown</Code></Error>", "application/xml"), APIConnectionError, 503),
    "nothing": (b"", APIConnectionError, None),
}


@pytest.mark.parametrize("failure", PUT_FAILURES)
@both
async def test_an_upload_that_fails_ends_the_call_and_leaves_no_asset(
    face: Face, cloud: Cloud, bundle: Path, failure: str
) -> None:
    answer, error, status = PUT_FAILURES[failure]
    cloud.answers = {"put": [whole(200, ""), answer]}
    with pytest.raises(error) as caught:
        await face.done(client_at(face, cloud, bundle).chat("What is it?", images=[photo(1), photo(2)]))
    assert (caught.value.provider, caught.value.status_code) == ("nvidia", status)
    assert cloud.kinds == ["create", "put", "create", "put", "delete", "delete"]
    assert {seen.path.rpartition("/")[2] for seen in cloud.of("delete")} == {cloud.identity(1), cloud.identity(2)}


@both
async def test_a_storage_that_is_not_trusted_gets_no_picture(face: Face, cloud: Cloud, bundle: Path) -> None:
    with pytest.raises(APIConnectionError, match=r"(?i)certificate"):
        await face.done(client_at(face, cloud, None).chat("What is it?", images=[photo()]))
    assert cloud.kinds == ["create", "delete"]


@both
async def test_a_call_that_is_tried_again_uploads_anew(face: Face, cloud: Cloud, bundle: Path) -> None:
    cloud.answers = {"chat": [whole(503, {}, Retry_After="0"), cloud.chat]}
    reply = await face.done(client_at(face, cloud, bundle, 1).chat("What is it?", images=[photo()]))
    assert reply.text == "A photo."
    assert cloud.kinds == ["create", "put", "chat", "delete"] * 2
    assert [chat.headers[REFERENCES[0]] for chat in cloud.of("chat")] == [cloud.identity(1), cloud.identity(2)]


@both
async def test_an_upload_that_failed_for_the_moment_is_tried_again(face: Face, cloud: Cloud, bundle: Path) -> None:
    cloud.answers = {"put": [whole(503, ""), cloud.put]}
    reply = await face.done(client_at(face, cloud, bundle, 1).chat("What is it?", images=[photo()]))
    assert reply.text == "A photo."
    assert cloud.kinds == ["create", "put", "delete", "create", "put", "chat", "delete"]
    assert cloud.of("chat")[0].headers[REFERENCES[0]] == cloud.identity(2)


@pytest.mark.parametrize("answer", [whole(500, "oops"), whole(404, {}), b"", whole(302, "", Location="http://x/")])
@both
async def test_a_deletion_that_fails_is_nobodys_trouble(face: Face, cloud: Cloud, bundle: Path, answer: bytes) -> None:
    cloud.answers = {"delete": [answer]}
    reply = await face.done(client_at(face, cloud, bundle).chat("What is it?", images=[photo(1), photo(2)]))
    assert reply.text == "A photo."
    assert cloud.kinds.count("delete") == 2, "each is tried"


@both
async def test_deletions_that_hang_hold_up_an_answer_only_so_long(
    face: Face, cloud: Cloud, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assets, "DELETING", 0.5)
    cloud.answers = {"delete": [cloud.silent]}
    client = client_at(face, cloud, bundle)
    began = time.monotonic()
    reply = await face.done(client.chat("What is it?", images=[photo(number) for number in range(4)]))
    assert reply.text == "A photo."
    assert time.monotonic() - began < 1.9, "for all of them together"


@both
async def test_a_deadline_that_passes_with_the_deletion_does_not_take_the_answer_back(
    face: Face, cloud: Cloud, bundle: Path
) -> None:
    cloud.answers = {"delete": [cloud.silent]}
    reply = await face.done(client_at(face, cloud, bundle).chat("What is it?", images=[photo()], deadline=1.5))
    assert reply.text == "A photo."


@pytest.mark.parametrize("place", ["create", "put"])
@both
async def test_cancelling_ends_an_upload(face: Face, cloud: Cloud, bundle: Path, place: str) -> None:
    cloud.answers = {place: [cloud.silent]}
    async with face.opened(client_at(face, cloud, bundle).stream("What is it?", images=[photo()])) as stream:
        threading.Timer(0.3, stream.cancel).start()
        began = time.monotonic()
        assert await face.text(stream) == ""
        assert time.monotonic() - began < 1.5
    assert stream.reply.finish_reason == "cancelled"
    assert cloud.kinds[-1] == place, "nothing follows, the chat above all"


@pytest.mark.parametrize("place", ["create", "put"])
@both
async def test_a_deadline_ends_an_upload(face: Face, cloud: Cloud, bundle: Path, place: str) -> None:
    cloud.answers = {place: [cloud.silent]}
    began = time.monotonic()
    with pytest.raises(APITimeoutError, match="deadline"):
        await face.done(client_at(face, cloud, bundle).chat("What is it?", images=[photo()], deadline=0.6))
    assert time.monotonic() - began < 1.5
    assert "chat" not in cloud.kinds


@both
async def test_what_is_refused_is_refused_before_anything_is_uploaded(
    face: Face, cloud: Cloud, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def retired(self: Any, name: str | None, request: ChatRequest) -> None:
        raise ModelRetiredError(f"{name} is gone.")

    monkeypatch.setattr(Hosted, "refuse_retired", retired)
    with pytest.raises(ModelRetiredError):
        await face.done(client_at(face, cloud, bundle).chat("What is it?", images=[photo()]))
    assert cloud.kinds == []


def test_an_unknown_value_of_the_option_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="large_images is one of scale, upload, not 'assets'"):
        NvidiaDriver(DriverConfig("nvidia", options={"large_images": "assets"}))


# --- the signed address is a key


@pytest.fixture
def records() -> Iterator[Records]:
    """All loggers at DEBUG."""
    handler, logger = Records(), logging.getLogger()
    before = logger.level, logger.handlers[:]
    logger.handlers[:] = [handler]
    logger.setLevel(logging.DEBUG)
    yield handler
    logger.setLevel(before[0])
    logger.handlers[:] = before[1]


def echo(seen: Seen) -> bytes:
    """Send back what was asked, as storages do when a signature does not fit."""
    return whole(403, f"<Error><StringToSign>{seen.path}</StringToSign></Error>", "application/xml")


def moved(seen: Seen) -> bytes:
    return whole(307, f"<Error>{seen.path}</Error>", Location="https://127.0.0.1:1/bucket")


LEAKS: dict[str, Callable[[Cloud], dict[str, Any]]] = {
    "all goes well": lambda cloud: {},
    "the storage refuses": lambda cloud: {"put": [echo]},
    "the storage is elsewhere": lambda cloud: {"put": [moved]},
    "the storage hangs up": lambda cloud: {"put": [b""]},
    "the storage speaks no HTTP": lambda cloud: {"put": [lambda seen: f"{seen.path}\r\n\r\n".encode()]},
    "the storage hangs": lambda cloud: {"put": [cloud.silent]},
    "nobody listens": lambda cloud: {"create": [address("https://127.0.0.1:1")]},
    "a plain address": lambda cloud: {"create": [address("http://127.0.0.1:1")]},
    "an address of no host": lambda cloud: {"create": [address("https://[::1")]},
    "an address too long": lambda cloud: {"create": [address("https://127.0.0.1/" + "x" * 70_000)]},
    "an id that is none": lambda cloud: {"create": [lambda seen: whole(200, cloud.created(assetId="../x"))]},
    "another status": lambda cloud: {"create": [lambda seen: whole(201, cloud.created())]},
    "the call fails": lambda cloud: {"chat": [whole(500, {})]},
    "the deletion fails": lambda cloud: {"delete": [whole(500, {})]},
}


def address(begin: str) -> Answering:
    return lambda seen: whole(200, {"assetId": "a-1", "uploadUrl": f"{begin}/b?X-Amz-Signature={SIGNATURE.value}"})


@pytest.mark.parametrize("case", LEAKS)
@both
async def test_the_signed_address_is_seen_by_the_storage_alone(
    face: Face, cloud: Cloud, bundle: Path, records: Records, case: str
) -> None:
    cloud.answers = LEAKS[case](cloud)
    client = client_at(face, cloud, bundle)
    error, reply = None, None
    try:
        reply = await face.done(client.chat("What is it?", images=[photo()], timeout=0.8))
    except SLMError as failure:
        error = failure
    assert "create" in cloud.kinds
    # A frame of the pump may still hold the connection that led there: a debugger that looks inside sees its address.
    inside = re.compile(r"vars of \w+, (Async|Sync)Pump\.run: old")
    assert [place for place in where(SIGNATURE, error, client, records) if not inside.fullmatch(place)] == []
    assert not SIGNATURE.is_in(repr(reply) + (reply.model_dump_json() if reply else ""))
    assert all(SIGNATURE.is_in(seen.path) == (seen.method == "PUT") for seen in cloud.seen)
