"""Pictures at addresses, where a provider takes none: fetched here, from where it is safe, and within bounds."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import socket
import ssl
import string
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from slmclient import AsyncPhiClient, Image, Message
from slmclient.drivers import images
from slmclient.drivers.base import DriverInfo
from slmclient.errors import (
    APIConnectionError,
    APITimeoutError,
    BadRequestError,
    ConfigurationError,
    InternalServerError,
    SLMError,
    UnsupportedFeatureError,
)
from slmclient.hosts import is_public, may_be_public
from slmclient.media import ImageLimits, SentImage
from slmclient.testing import FaultServer, ScriptedDriver
from slmclient.testing.fault_server import Cut, Seen, Silence, Step, head, whole
from slmclient.testing.hooks import RED
from slmclient.testing.mode import MODES
from test_client import FACES, Face, both
from test_pump import CERTIFICATE, PRIVATE_KEY, SOON, Peer, Server, serving, tunnel_to

KEY = "the-key-of-the-test-0123456789"
BLUE = RED[:-1] + b"\x83"  # another file; nobody looks at its checksum
PICTURE = whole(200, RED, "image/png")
OLLAMA = {
    "model": "m",
    "message": {"role": "assistant", "content": "Red."},
    "done": True,
    "done_reason": "stop",
    "prompt_eval_count": 1,
    "eval_count": 1,
}


def words(text: str) -> list[str]:
    return text.split()


class TakesNoAddresses(ScriptedDriver):
    """Answers by script, and takes pictures only themselves."""

    info: ClassVar[DriverInfo] = replace(ScriptedDriver.info, images=ImageLimits(urls=False))


class TakesTwo(ScriptedDriver):
    info: ClassVar[DriverInfo] = replace(ScriptedDriver.info, images=ImageLimits(urls=False, count=2))


class Asked:
    """A client whose driver takes no addresses, and what that driver was sent."""

    def __init__(self, face: Face, *scripts: Any, kind: type[ScriptedDriver] = TakesNoAddresses, **options: Any):
        self.driver = kind(*(scripts or ["Red."] * 5))
        self.client = face.kind(driver=self.driver, **{"allow_private_urls": True, "max_retries": 0, **options})
        self._face = face

    async def chat(self, *pictures: Any, **options: Any) -> Any:
        return await self._face.done(self.client.chat("What is it?", images=list(pictures), **options))

    async def refused(self, picture: Any, error: type[SLMError] = BadRequestError, **options: Any) -> SLMError:
        """Ask, and return the error; the driver was not asked then."""
        with pytest.raises(error) as caught:
            await self.chat(picture, **options)
        assert self.driver.requests == []
        return caught.value

    @property
    def sent(self) -> list[bytes]:
        """The pictures that the last call gave the driver, all of its turns."""
        return [image.content for message in self.driver.requests[-1].messages for image in message.images]


def by_path(**answers: Step) -> FaultServer:
    """Return a server that has another answer at each path; ``_`` in a name stands for ``.``"""

    def answer(seen: Seen) -> bytes:
        step = answers[seen.path.partition("?")[0].strip("/").replace(".", "_")]
        return step(seen) if callable(step) else step  # type: ignore[operator, return-value]

    return FaultServer(answer)


def moved(target: str, status: int = 302) -> bytes:
    return whole(status, b"", "text/html", Location=target)


# --- fetched


@both
@pytest.mark.parametrize("streamed", [False, True], ids=["chat", "stream"])
async def test_a_provider_that_takes_no_addresses_gets_the_picture_itself(face: Face, streamed: bool) -> None:
    """Ollama, by its own wire."""
    with FaultServer(PICTURE) as pictures, FaultServer(whole(200, OLLAMA)) as ollama:
        options: dict[str, Any] = {"base_url": ollama.url, "api_key": KEY, "headers": {"X-Team": "the-team-4711"}}
        client = face.kind("ollama", "m", allow_private_urls=True, env_file=False, **options)
        picture = Image(f"{pictures.url}/a.png?sig=1")
        async with face.opened(client):
            if streamed:
                async with face.opened(client.stream("What is it?", images=[picture])) as stream:
                    assert await face.text(stream) == "Red."
                reply = stream.reply
            else:
                reply = await face.done(client.chat("What is it?", images=[picture]))
        body = json.loads(ollama.seen[0].body)
        assert body["messages"][0]["images"] == [base64.b64encode(RED).decode()]
        assert KEY in ollama.seen[0].headers["authorization"]
        (sent,) = reply.images
        assert (sent.number, sent.changes, sent.format, sent.bytes) == (1, ("fetched",), "image/png", len(RED))
        assert sent.original_bytes == len(RED)
        (seen,) = pictures.seen
        assert (seen.method, seen.path, seen.body) == ("GET", "/a.png?sig=1", b"")
        assert set(seen.headers) <= {"host", "accept", "accept-encoding", "user-agent", "connection"}
        assert seen.headers["accept-encoding"] == "identity"
        assert KEY not in str(seen.headers)
        assert "4711" not in str(seen.headers)


@both
async def test_a_picture_is_fetched_once_however_often_it_is_sent(face: Face) -> None:
    """In a later turn it goes along again; and one that came is not fetched anew when the provider's answer fails."""
    with FaultServer(PICTURE) as server:
        asked = Asked(face, "Red.", "Yes.", InternalServerError("Busy."), "No.", max_retries=1)
        talk = asked.client.conversation()
        picture = Image(f"{server.url}/a.png")
        assert len((await face.done(talk.send("What is it?", images=[picture]))).images) == 1
        reply = await face.done(talk.send("Really?"))
        assert [sent.changes for sent in reply.images] == [("fetched",)]
        assert asked.sent == [RED]
        assert len(server.seen) == 1
        assert talk.messages[0].images[0].url == f"{server.url}/a.png", "an address stays one in what is saved"
        assert (await face.done(talk.send("Sure?"))).text == "No."
        assert len(asked.driver.requests) == 4
        assert len(server.seen) == 1


@both
async def test_what_failed_for_the_moment_is_tried_again(face: Face) -> None:
    """By the client's own retries, one picture of the two that are wanted is there already."""
    tries = iter([whole(503, b"", Retry_After="0"), PICTURE])
    with by_path(a=PICTURE, b=lambda _: next(tries)) as server:
        asked = Asked(face, max_retries=1)
        reply = await asked.chat(f"{server.url}/a", f"{server.url}/b")
        assert [attempt.error for attempt in reply.attempts] == ["APIConnectionError", None]
        assert [seen.path for seen in server.seen] == ["/a", "/b", "/b"]
        assert asked.sent == [RED, RED]


@both
async def test_pictures_of_all_turns_are_fetched_and_counted_in_order(face: Face) -> None:
    with by_path(a=PICTURE, b=whole(200, BLUE, "image/png"), c=whole(404, b"")) as server:
        asked = Asked(face)
        turns = [
            Message.user("What is it?", Image(f"{server.url}/a"), Image(RED)),
            Message.assistant("Red."),
            Message.user("And this?", Image(f"{server.url}/b")),
        ]
        reply = await face.done(asked.client.chat(turns))
        assert asked.sent == [RED, RED, BLUE]
        assert [(sent.number, sent.changes) for sent in reply.images] == [(1, ("fetched",)), (3, ("fetched",))]
        turns[2] = Message.user("And this?", Image(f"{server.url}/c"))
        with pytest.raises(BadRequestError, match=r"^image 3: 127\.0\.0\.1 answered 404"):
            await face.done(asked.client.chat(turns))


@both
async def test_too_many_pictures_are_refused_before_one_is_fetched(face: Face) -> None:
    """Servers count them by message: three in two turns are not too many."""
    with FaultServer(PICTURE) as server:
        asked = Asked(face, kind=TakesTwo)
        with pytest.raises(UnsupportedFeatureError, match="takes 2 images in a message here, not 3"):
            await asked.chat(*[f"{server.url}/a.png"] * 3)
        assert server.seen == []
        one, two = Message.user("?", Image(f"{server.url}/a")), Message.user("?", Image(RED), Image(RED))
        await face.done(asked.client.chat([one, Message.assistant("Red."), two]))
        assert len(asked.sent) == 3


@both
async def test_no_cookie_of_a_picture_goes_anywhere(face: Face) -> None:
    with FaultServer(whole(200, RED, "image/png", Set_Cookie="id=4711; Path=/")) as server:
        asked = Asked(face)
        await asked.chat(f"{server.url}/a", f"{server.url}/b")
        await asked.chat(f"{server.url}/c")
        assert len(server.seen) == 3
        assert not any("cookie" in seen.headers for seen in server.seen)


@both
async def test_name_and_password_in_an_address_go_nowhere(face: Face) -> None:
    with FaultServer(PICTURE) as server:
        asked = Asked(face)
        await asked.chat(server.url.replace("//", "//me:secret@") + "/a")
        assert "authorization" not in server.seen[0].headers


@both
async def test_no_connection_to_a_pictures_server_is_kept_after_the_call(face: Face) -> None:
    """Also where the driver was handed in and is closed by somebody else; within a call they share one."""

    def serve(peer: Peer) -> None:
        while peer.request():
            peer.send(PICTURE.replace(b"Connection: close\r\n", b""))

    with serving(serve) as server:
        asked = Asked(face)
        await asked.chat(f"{server.url}/a", f"{server.url}/b")
        (peer,) = server.peers
        assert len(peer.requests) == 2
        assert peer.ended.wait(SOON)


@both
async def test_a_picture_whose_provider_takes_addresses_is_not_fetched(face: Face) -> None:
    """Nor judged: whose network it is in is the provider's to see."""
    client = face.client("Red.", allow_private_urls=False)
    reply = await face.done(client.chat("?", images=["http://127.0.0.1:9/a.png", "https://u:p@x.invalid/"]))
    assert reply.images == ()


# --- refused by what the address says

PRIVATE_HOSTS = words(
    """
    localhost LOCALHOST localhost. x.localhost 127.0.0.1 127.0.0.1. 127.1 2130706433 0x7f000001 0x7f00000a
    0177.0.0.1 0x7f.0.0.1 127.0.0.0x1 0 0.0.0.0 [::1] [::] [0:0:0:0:0:0:0:1] [::ffff:127.0.0.1] [::ffff:7f00:1]
    [::127.0.0.1] 10.0.0.1 10.255.255.255 10.0.0.1. 192.168.1.1 3232235777 172.16.0.1 172.31.255.255
    169.254.169.254 0xa9fea9fe [fe80::1] [fe80::1%lo] [fe80::1%25lo] [fec0::1] [fc00::1] [fd12:3456::1]
    [::ffff:10.0.0.1] [::ffff:0:10.0.0.1] [64:ff9b::7f00:1] [64:ff9b::10.0.0.1] [64:ff9b:1::a00:1]
    [2002:7f00:1::] [2001:db8::1] [2001:0:1:2:3:4:5:6] 100.64.0.1 100.127.255.255 224.0.0.1 239.255.255.250
    [ff02::1] [ff0e::1] 255.255.255.255 240.0.0.1 192.0.2.1 198.18.0.1 192.0.0.8 127。0。0。1 127．0．0．1 10｡0｡0｡1
    intranet web1 printer.local metadata.google.internal router.home.arpa %31%32%37.0.0.1 local%68ost
    """
)


@both
@pytest.mark.parametrize("host", PRIVATE_HOSTS)
async def test_nothing_is_asked_in_private_networks(face: Face, host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It shows without looking it up. With a proxy too, which reaches other machines than we do."""
    monkeypatch.setattr(socket, "getaddrinfo", never)
    for proxy in (None, "http://127.0.0.1:9"):
        client = face.kind("ollama", "m", proxy=proxy, base_url="http://127.0.0.1:9", env_file=False, max_retries=0)
        async with face.opened(client):
            with pytest.raises(BadRequestError, match=REFUSED):
                await face.done(client.chat("?", images=[f"https://{host}/a.png"]))


# The HTTP library reads no octal.
REFUSED = r"^image 1: (\S+ is of this machine or of a private network|its address is no http\(s\) URL)"


def never(*_: Any, **__: Any) -> Any:
    raise AssertionError("a name was looked up")


@both
async def test_private_addresses_are_said_to_be_possible(face: Face) -> None:
    asked = Asked(face, allow_private_urls=False)
    for url in ("https://10.0.0.1/", "http://example.com/a.png"):
        assert "allow_private_urls=True" in str(await asked.refused(url))


@both
async def test_plain_http_is_not_fetched_unless_that_was_said(face: Face) -> None:
    with FaultServer(PICTURE) as server:
        asked = Asked(face, allow_private_urls=False)
        error = await asked.refused(f"{server.url}/a.png")
        assert "plain http address (127.0.0.1) is not fetched: use https" in str(error)
        assert server.seen == []


# What two readers of a URL may read differently. The host that counts is the one that a request would go to.
TRICKS = words(
    """
    https://example.com@127.0.0.1/ https://example.com:443@127.0.0.1/ https://example.com\\@127.0.0.1/
    https://127.0.0.1#@example.com/ https://127.0.0.1?@example.com/ https://127.0.0.1/@example.com
    https://127.0.0.1:443#.example.com/ https://a@b@127.0.0.1/ https://[::1]#[2606:4700::1111]/
    https://127.0.0.1\\@example.com/ https://127.0.0.1\\.example.com/ https://example.com%40127.0.0.1/
    https://127.0.0.1%2f@example.com:x/ https://①②⑦.0.0.1/ https://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ/ https:///127.0.0.1/ https://@/
    https://:443/ https://[::1 https://::1/ https://[::1].example.com/ https://[127.0.0.1]/ https://[v1.x]/
    https://example.com:99999/ https://example.com:x/ https://example.com:-1/ https://exa]mple.com/
    https://ex℀mple.com/ https://\u202e127.0.0.1/ https://x..y/ https://.x.y/ https://*.x/
    """
)


@both
@pytest.mark.parametrize(
    "url",
    [*TRICKS, "https://exa mple.com/", "https://127.0.0.1\t/", "https://\r\n127.0.0.1/", "https:// 127.0.0.1/"],
)
async def test_no_trick_leads_into_a_private_network(face: Face, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused as it stands; or else it is just a public name, and that is who is asked."""
    looked_up: list[str] = []

    def look_up(host: Any, *_: Any, **__: Any) -> Any:
        looked_up.append(host if isinstance(host, str) else host.decode())
        raise socket.gaierror("no such name")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    asked = Asked(face, allow_private_urls=False)
    error = await asked.refused(url, SLMError)
    assert str(error).startswith("image 1: ")
    if not isinstance(error, BadRequestError):
        assert isinstance(error, APIConnectionError)
        assert looked_up == ["example.com"], "only what is a name with a harmless meaning gets so far"
    assert set(looked_up) <= {"example.com"}


@both
@pytest.mark.parametrize("url", ["ftp://example.com/a.png", "file:///etc/hostname", "gopher://127.0.0.1/", "https:/x"])
async def test_other_schemes_are_no_addresses_but_paths(face: Face, url: str) -> None:
    error = await Asked(face).refused(url)
    assert "cannot be read" in str(error)


# --- refused by where a name leads


def names(monkeypatch: pytest.MonkeyPatch, *answers: list[str], name: str = "pictures.example") -> list[str]:
    """Give a made-up name addresses: other ones each time it is looked up, the last ones from then on."""
    genuine, looked_up, left = socket.getaddrinfo, list[str](), list(answers)

    def look_up(host: Any, port: Any, *rest: Any, **options: Any) -> Any:
        if host not in (name, name.encode()):
            return genuine(host, port, *rest, **options)
        looked_up.append(name)
        found = left.pop(0) if len(left) > 1 else left[0]
        return [each for address in found for each in genuine(address, port, *rest, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return looked_up


@pytest.fixture
def tls(tmp_path: Path) -> ssl.SSLContext:
    (tmp_path / "bundle.pem").write_text(CERTIFICATE)
    (tmp_path / "key.pem").write_text(PRIVATE_KEY)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "bundle.pem", tmp_path / "key.pem")
    return context


class Listener:
    """Counts connections and what comes on them."""

    def __init__(self) -> None:
        self.received = b""
        self.ended = threading.Event()
        self.server = Server(self._serve)

    def _serve(self, peer: Peer) -> None:
        while piece := peer.connection.recv(65536):
            self.received += piece
        self.ended.set()

    @property
    def port(self) -> int:
        return self.server.port


@pytest.fixture
def listener() -> Iterator[Listener]:
    made = Listener()
    yield made
    made.server.close()


@both
@pytest.mark.parametrize("found", [["127.0.0.1"], ["::1"], ["10.0.0.1"], ["8.8.8.8", "127.0.0.1"], ["169.254.169.254"]])
async def test_a_name_inside_a_private_network_is_not_even_connected_to(
    face: Face, found: list[str], listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection alone tells which machine listens at which port. Nor is it told what the name means."""
    names(monkeypatch, found)
    asked = Asked(face, allow_private_urls=False, max_retries=2)
    error = await asked.refused(f"https://pictures.example:{listener.port}/a.png")
    assert str(error).startswith("image 1: pictures.example is of this machine or of a private network")
    assert not any(address in str(error) for address in found)
    assert listener.server.peers == []


@both
async def test_a_name_that_changes_its_meaning_is_sent_nothing(
    face: Face, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding: public when it is checked, this machine when it is connected to."""
    looked_up = names(monkeypatch, ["8.8.8.8"], ["127.0.0.1"])
    asked = Asked(face, allow_private_urls=False)
    error = await asked.refused(f"https://pictures.example:{listener.port}/a.png")
    assert "pictures.example is of this machine or of a private network" in str(error)
    assert len(looked_up) == 2
    assert listener.ended.wait(SOON), "the connection was closed"
    assert len(listener.server.peers) == 1
    assert listener.received == b"", "not even TLS was begun"


@both
async def test_a_name_that_turns_away_from_this_machine_is_refused_all_the_same(
    face: Face, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up = names(monkeypatch, ["127.0.0.1"], ["8.8.8.8"])
    await Asked(face, allow_private_urls=False).refused(f"https://pictures.example:{listener.port}/a.png")
    assert len(looked_up) == 1
    assert listener.server.peers == []


@both
async def test_a_name_inside_is_fetched_from_where_that_was_said(face: Face, monkeypatch: pytest.MonkeyPatch) -> None:
    names(monkeypatch, ["127.0.0.1"])
    with FaultServer(PICTURE) as server:
        asked = Asked(face)
        await asked.chat(server.url.replace("127.0.0.1", "pictures.example") + "/a.png")
        assert asked.sent == [RED]


@both
async def test_a_name_that_nobody_has_is_an_error_of_the_connection(
    face: Face, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    error = await Asked(face, allow_private_urls=False).refused("https://pictures.example/a.png", APIConnectionError)
    assert str(error).startswith("image 1: the image's server cannot be reached at pictures.example: ")
    assert "not known" in str(error)


# --- redirects


@both
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_followed(face: Face, status: int) -> None:
    """Five of them; relative ones too, and to another server."""
    with FaultServer(PICTURE) as elsewhere:
        steps = {
            "a": moved("b/../b?x=1", status),
            "b": moved("/c", status),
            "c": moved("//127.0.0.1:{port}/d", status),
            "d": moved("e", status),
            "e": moved(f"{elsewhere.url}/f.png", status),
        }
        with by_path(**{name: at_port(step) for name, step in steps.items()}) as server:  # type: ignore[arg-type]
            asked = Asked(face)
            reply = await asked.chat(f"{server.url}/a")
            assert asked.sent == [RED]
            assert [seen.path for seen in server.seen] == ["/a", "/b?x=1", "/c", "/d", "/e"]
            assert [seen.path for seen in elsewhere.seen] == ["/f.png"]
            assert "cookie" not in elsewhere.seen[0].headers
            assert "referer" not in elsewhere.seen[0].headers
            assert [sent.changes for sent in reply.images] == [("fetched",)]


def at_port(step: bytes) -> Callable[[Seen], bytes]:
    """Put the server's own port where a redirect leaves room for it."""
    return lambda seen: step.replace(b"{port}", seen.headers["host"].rpartition(":")[2].encode())


@both
async def test_redirects_without_end_end(face: Face) -> None:
    with FaultServer(moved("/again")) as server:
        error = await Asked(face).refused(f"{server.url}/a")
        assert "from one to the next without end" in str(error)
        assert len(server.seen) == 6


@both
@pytest.mark.parametrize(
    "target",
    [
        "file:///etc/hostname",
        "ftp://127.0.0.1/a.png",
        "data:image/png;base64,AAAA",
        "javascript:1",
        "https://",
        "//[::1",
        "https://x:99999/",
        "gopher://x/",
    ],
)
async def test_a_redirect_to_what_is_no_web_address_is_refused(face: Face, target: str) -> None:
    with FaultServer(moved(target)) as server:
        error = await Asked(face).refused(f"{server.url}/a")
        assert "is no http(s) URL that can be called" in str(error)
        assert len(server.seen) == 1


@both
async def test_a_redirect_without_a_target_is_an_answer_without_a_picture(face: Face) -> None:
    for answer in (whole(302, RED, "image/png"), whole(304, b""), whole(300, b"", Location="/b")):
        with FaultServer(answer) as server:
            assert "answered 30" in str(await Asked(face).refused(f"{server.url}/a"))


@both
async def test_a_line_break_in_a_redirect_becomes_no_header(face: Face) -> None:
    """The head ends where it says; what is no URL is refused."""
    with FaultServer(b"HTTP/1.1 302 X\r\nLocation: /b\rX-Evil: 1\r\nContent-Length: 0\r\n\r\n") as server:
        await Asked(face).refused(f"{server.url}/a", SLMError)
        assert len(server.seen) == 1
    with by_path(a=moved("/b%0d%0aX-Evil:%201"), **{"b%0d%0aX-Evil:%201": PICTURE}) as server:
        await Asked(face).chat(f"{server.url}/a")
        assert server.seen[1].path == "/b%0d%0aX-Evil:%201"
        assert "x-evil" not in server.seen[1].headers


class Tunnelled:
    """A picture's server with a certificate, behind a proxy: so that a public name has a server here."""

    def __init__(
        self,
        face: Face,
        paths: Mapping[str, bytes],
        tls: ssl.SSLContext,
        tmp_path: Path,
        environment: pytest.MonkeyPatch | None = None,
    ) -> None:
        def serve(peer: Peer) -> None:
            while peer.request():
                peer.send(paths[peer.requests[-1].split()[1].partition("?")[0]])

        self.server = Server(serve, tls)
        self.proxy = Server(tunnel_to(self.server))
        self.ollama = FaultServer(whole(200, OLLAMA))
        proxy, bundle = f"http://us:pw@127.0.0.1:{self.proxy.port}", str(tmp_path / "bundle.pem")
        options: dict[str, Any] = {"base_url": self.ollama.url, "api_key": KEY, "max_retries": 0, "env_file": False}
        if environment is None:
            options["proxy"] = proxy
        else:
            environment.setenv("HTTPS_PROXY", proxy)
        self.client = face.kind("ollama", "m", verify=bundle, **options)
        self._face = face

    async def chat(self, url: str) -> Any:
        try:
            return await self._face.done(self.client.chat("?", images=[url]))
        finally:
            await self._face.close(self.client)
            for each in (self.server, self.proxy, self.ollama):
                each.close()


@both
@pytest.mark.parametrize("where", ["keyword", "environment"])
async def test_a_proxy_is_used_and_learns_no_key(
    face: Face, tls: ssl.SSLContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """That of the environment too, although the provider, on loopback, is asked without one."""
    paths = {"/a.png": moved("https://model.invalid:444/b.png"), "/b.png": PICTURE}
    tunnelled = Tunnelled(face, paths, tls, tmp_path, monkeypatch if where == "environment" else None)
    reply = await tunnelled.chat("https://model.invalid/a.png?sig=4711")
    assert [sent.changes for sent in reply.images] == [("fetched",)]
    assert [request.split()[1] for request in tunnelled.proxy.requests] == ["model.invalid:443", "model.invalid:444"]
    assert json.loads(tunnelled.ollama.seen[0].body)["messages"][0]["images"]
    for seen in (*tunnelled.proxy.requests, *tunnelled.server.requests):
        assert KEY not in seen
    for seen in tunnelled.server.requests:
        assert "authorization" not in seen.lower(), "that is the proxy's"


@both
@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("http://model.invalid/b.png", "plain http address (model.invalid) is not fetched"),
        ("//localhost/b.png", "localhost is of this machine"),
        ("https://127.0.0.1/b.png", "127.0.0.1 is of this machine"),
        ("https://10.0.0.1/b.png", "10.0.0.1 is of this machine"),
        ("https://0x7f.1/b.png", "0x7f.1 is of this machine"),
        ("https://[::ffff:169.254.169.254]/", "::ffff:169.254.169.254 is of this machine"),
        ("https://127。0。0。1/".encode().decode("latin-1"), "is no http(s) URL"),  # bytes, as servers send them
    ],
)
async def test_a_redirect_leads_into_no_private_network(
    face: Face, target: str, said: str, tls: ssl.SSLContext, tmp_path: Path
) -> None:
    head_of_it = f"HTTP/1.1 302 X\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n".encode("latin-1")
    tunnelled = Tunnelled(face, {"/a.png": head_of_it, "/b.png": PICTURE}, tls, tmp_path)
    with pytest.raises(BadRequestError) as caught:
        await tunnelled.chat("https://model.invalid/a.png")
    assert said in str(caught.value) or "127.0.0.1 is of this machine" in str(caught.value)
    assert len(tunnelled.server.requests) == 1
    assert len(tunnelled.proxy.requests) == 1
    assert tunnelled.ollama.seen == []


@both
async def test_a_proxy_is_no_way_around_the_guard(
    face: Face, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loopback goes past proxies: what is found to be loopback only by the connection is refused there."""
    monkeypatch.setattr(images, "may_be_public", lambda host: True)
    options: dict[str, Any] = {"proxy": "http://127.0.0.1:9", "base_url": "http://127.0.0.1:9", "env_file": False}
    client = face.kind("ollama", "m", max_retries=0, **options)
    async with face.opened(client):
        with pytest.raises(BadRequestError, match="of this machine"):
            await face.done(client.chat("?", images=[f"https://127。0。0。1:{listener.port}/a.png"]))
    assert listener.server.peers == []


@both
async def test_the_picture_of_a_stranger_is_checked_though_the_provider_is_not(face: Face, tls: ssl.SSLContext) -> None:
    """``verify=False`` was said of the provider."""
    with serving(lambda peer: None, tls) as server, FaultServer(whole(200, OLLAMA)) as ollama:
        options: dict[str, Any] = {"base_url": ollama.url, "verify": False, "max_retries": 0, "env_file": False}
        client = face.kind("ollama", "m", allow_private_urls=True, **options)
        async with face.opened(client):
            with pytest.raises(APIConnectionError, match=r"(?i)certificate"):
                await face.done(client.chat("?", images=[f"https://127.0.0.1:{server.port}/a.png"]))


@both
async def test_a_picture_comes_over_tls(face: Face, tls: ssl.SSLContext, tmp_path: Path) -> None:
    def serve(peer: Peer) -> None:
        peer.request()
        peer.send(PICTURE)

    with serving(serve, tls) as server, FaultServer(whole(200, OLLAMA)) as ollama:
        options: dict[str, Any] = {"base_url": ollama.url, "verify": str(tmp_path / "bundle.pem"), "env_file": False}
        client = face.kind("ollama", "m", allow_private_urls=True, **options)
        async with face.opened(client):
            await face.done(client.chat("?", images=[f"https://127.0.0.1:{server.port}/a.png"]))
        assert json.loads(ollama.seen[0].body)["messages"][0]["images"]


# --- bounds


@both
async def test_a_picture_that_is_too_large_is_not_read(face: Face, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether its server says so beforehand, or never ends."""
    monkeypatch.setattr(images, "MAX_IMAGE_BYTES", 100_000)
    said = head(200, "image/png", Content_Length="100001") + RED
    with FaultServer(said, Silence()) as server:
        error = await Asked(face).refused(f"{server.url}/a")
        assert str(error) == "image 1: 127.0.0.1 has more than 100,000 bytes for it, which are not fetched."
        assert server.gone.wait(SOON)
    sent: list[int] = []

    def endless(_: Seen) -> bytes:
        sent.append(1)
        return RED + bytes(10_000)

    with FaultServer(head(200, "image/png"), *[endless] * 10_000) as server:
        await Asked(face).refused(f"{server.url}/a")
        assert server.gone.wait(SOON)
        assert len(sent) < 5_000, "a hundred megabytes in all; what the system holds of it is far less"
    largest = RED + bytes(100_000 - len(RED))
    with FaultServer(whole(200, largest, "image/png")) as server:
        asked = Asked(face)
        await asked.chat(f"{server.url}/a")
        assert asked.sent == [largest]


@both
async def test_what_a_header_says_of_the_length_is_not_believed(face: Face) -> None:
    for length in ("-1", "x", "9" * 30, "1, 2"):
        answer = head(200, "image/png", Content_Length=length) + RED
        with FaultServer(answer) as server:
            await Asked(face).refused(f"{server.url}/a", SLMError)


@both
async def test_a_packed_picture_is_unpacked_within_bounds(face: Face, monkeypatch: pytest.MonkeyPatch) -> None:
    """We ask for none; some servers pack all the same. A small file may unpack to any number of bytes."""
    with FaultServer(whole(200, gzip.compress(RED), "image/png", Content_Encoding="gzip")) as server:
        asked = Asked(face)
        await asked.chat(f"{server.url}/a")
        assert asked.sent == [RED]
    monkeypatch.setattr(images, "MAX_IMAGE_BYTES", 2_000_000)
    bomb = gzip.compress(gzip.compress(RED + bytes(300_000_000), 1))
    with FaultServer(whole(200, bomb, "image/png", Content_Encoding="gzip, gzip")) as server:
        assert "has more than 2,000,000 bytes" in str(await Asked(face).refused(f"{server.url}/a"))
    with FaultServer(whole(200, b"\x1f\x8b broken", "image/png", Content_Encoding="gzip")) as server:
        assert str(await Asked(face).refused(f"{server.url}/a", SLMError)).startswith("image 1: ")


@both
@pytest.mark.parametrize(
    ("answer", "error", "said"),
    [
        (whole(404, b""), BadRequestError, "127.0.0.1 answered 404"),
        (whole(403, RED, "image/png"), BadRequestError, "127.0.0.1 answered 403"),
        (whole(204, b""), BadRequestError, "127.0.0.1 answered 204"),
        (whole(500, b""), APIConnectionError, "127.0.0.1 answered 500"),
        (whole(429, b""), APIConnectionError, "127.0.0.1 answered 429"),
        (whole(200, "<html>Log in</html>", "text/html"), BadRequestError, "what 127.0.0.1 sent is no PNG, JPEG"),
        (whole(200, "<html>", "image/png"), BadRequestError, "what 127.0.0.1 sent is no PNG, JPEG"),
        (whole(200, b"", "image/png"), BadRequestError, "what 127.0.0.1 sent is no PNG, JPEG"),
        (b"hello, this is no web server\r\n\r\n", APIConnectionError, "does not answer in HTTP"),
        (b"", APIConnectionError, "127.0.0.1"),
        (head(200, "image/png", Content_Length="5000") + RED, APIConnectionError, "broke"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
async def test_what_is_no_picture_is_sent_to_nobody(
    face: Face, answer: bytes, error: type[SLMError], said: str
) -> None:
    with FaultServer(answer) as server:
        found = await Asked(face).refused(f"{server.url}/a.png", error)
        assert type(found) is error
        assert str(found).startswith("image 1: ")
        assert said in str(found)


@both
async def test_the_type_is_what_the_picture_shows(face: Face) -> None:
    with FaultServer(whole(200, RED, "text/plain")) as server:
        asked = Asked(face)
        await asked.chat(f"{server.url}/a.jpg")
        assert asked.driver.requests[0].messages[0].images[0].media_type == "image/png"


@both
@pytest.mark.parametrize(
    "steps",
    [
        [head(200, "image/png"), *[RED, Silence(0.1)] * 200],
        [b"HTTP/1.1 200 X\r\n", *[b"X: y\r\n", Silence(0.1)] * 200],
        [Silence(0.15), moved("/a")],
        [Silence()],
        [head(200, "image/png"), Silence()],
    ],
    ids=["body", "head", "redirects", "silence", "silence in it"],
)
async def test_a_picture_that_drips_is_not_waited_for(
    face: Face, steps: list[Step], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However its server spends the time: no single wait is longer than timeout=."""
    monkeypatch.setattr(images, "FETCH_SECONDS", 0.5)
    with FaultServer(*steps) as server:
        began = time.monotonic()
        error = await Asked(face, timeout=20.0, deadline=60.0).refused(f"{server.url}/a.png", APITimeoutError)
        assert time.monotonic() - began < 0.5 + SOON
        assert str(error).startswith("image 1: it did not come from 127.0.0.1 within 0.5 s")


@both
async def test_a_server_that_hangs_is_waited_for_as_long_as_was_said(face: Face) -> None:
    for steps in ([Silence()], [head(200, "image/png"), RED, Silence()]):
        with FaultServer(*steps) as server:  # type: ignore[arg-type]
            began = time.monotonic()
            error = await Asked(face).refused(f"{server.url}/a.png", APITimeoutError, timeout=0.3)
            assert time.monotonic() - began < 0.3 + SOON
            assert "was silent for timeout=0.3 s (127.0.0.1:" in str(error)
            assert server.gone.wait(SOON)


@both
async def test_the_calls_deadline_holds_while_a_picture_is_fetched(face: Face) -> None:
    for steps in ([Silence()], [head(200, "image/png"), *[RED, Silence(0.1)] * 200]):
        with FaultServer(*steps) as server:  # type: ignore[arg-type]
            began = time.monotonic()
            asked = Asked(face, max_retries=2)
            error = await asked.refused(f"{server.url}/a.png", APITimeoutError, deadline=0.4)
            assert time.monotonic() - began < 0.4 + SOON
            assert str(error) == "image 1: it had not come from 127.0.0.1 by the deadline. Raise deadline=."
            assert server.gone.wait(SOON)


@both
@pytest.mark.parametrize("steps", [[Silence()], [head(200, "image/png"), RED, Silence()]], ids=["before", "within"])
async def test_cancelling_ends_the_fetching(face: Face, steps: list[Step]) -> None:
    """From another thread; the reply is there at once, and the connection is closed."""
    with FaultServer(*steps) as server:
        asked = Asked(face)
        async with face.opened(asked.client.stream("?", images=[f"{server.url}/a.png"])) as stream:
            timer = threading.Timer(0.3, stream.cancel)
            timer.start()
            began = time.monotonic()
            assert await face.text(stream) == ""
            assert time.monotonic() - began < 0.3 + SOON
        assert stream.reply.finish_reason == "cancelled"
        assert server.gone.wait(SOON)
        assert asked.driver.requests == []


@both
async def test_what_is_cancelled_beforehand_is_not_fetched(face: Face) -> None:
    with FaultServer(PICTURE) as server:
        asked = Asked(face)
        async with face.opened(asked.client.stream("?", images=[f"{server.url}/a.png"])) as stream:
            stream.cancel()
            assert await face.text(stream) == ""
        assert stream.reply.finish_reason == "cancelled"
        assert server.seen == []


@both
async def test_a_call_that_is_cancelled_as_its_pictures_are_ready_ends_once(
    face: Face, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the moment between the last look at whether it is cancelled, and the provider."""
    with FaultServer(PICTURE) as server:
        asked = Asked(face)
        async with face.opened(asked.client.stream("?", images=[f"{server.url}/a.png"])) as stream:

            def last(**said: Any) -> SentImage:
                stream.cancel()
                return SentImage(**said)

            monkeypatch.setattr(images, "SentImage", last)
            kinds = [type(event).__name__ async for event in face.each(stream.events())]
        assert kinds.count("Finish") == 1
        assert set(kinds) <= {"Finish", "Note"}
        assert asked.driver.requests == []


def test_a_task_that_is_cancelled_is_free_at_once() -> None:
    async def scenario() -> None:
        with FaultServer(head(200, "image/png"), RED, Silence()) as server:
            client = AsyncPhiClient(driver=TakesNoAddresses("Red."), allow_private_urls=True)
            call = asyncio.create_task(client.chat("?", images=[f"{server.url}/a.png"]))
            assert await MODES["async"].until(lambda: bool(server.seen), SOON)
            await asyncio.sleep(0.1)
            call.cancel()
            began = time.monotonic()
            with pytest.raises(asyncio.CancelledError):
                await call
            assert time.monotonic() - began < SOON
            assert await asyncio.to_thread(server.gone.wait, SOON)

    FACES[1].run(scenario)


def test_asyncio_goes_on_while_pictures_are_fetched() -> None:
    """Two calls wait for each other's picture: neither holds up the loop."""

    async def scenario() -> None:
        both_there = threading.Barrier(2)

        def answer(_: Seen) -> bytes:
            both_there.wait(10)
            return PICTURE

        with FaultServer(answer) as server:
            client = AsyncPhiClient(driver=TakesNoAddresses("a", "b"), allow_private_urls=True)
            calls = [client.chat("?", images=[f"{server.url}/{name}"]) for name in "ab"]
            assert sorted([reply.text for reply in await asyncio.gather(*calls)]) == ["a", "b"]

    FACES[1].run(scenario)


@both
async def test_a_closed_client_fetches_nothing(face: Face) -> None:
    with FaultServer(PICTURE) as pictures, FaultServer(whole(200, OLLAMA)) as ollama:
        client = face.kind("ollama", "m", base_url=ollama.url, allow_private_urls=True, env_file=False)
        url = f"{pictures.url}/a.png"
        async with face.opened(client.stream("?", images=[url])) as stream:
            await face.close(client)
            with pytest.raises(ConfigurationError, match="closed"):
                await face.text(stream)
        with pytest.raises(ConfigurationError, match="closed"):
            await face.done(client.chat("?", images=[url]))
        assert pictures.seen == ollama.seen == []


# --- what errors say


@both
@pytest.mark.parametrize(
    "steps",
    [
        [whole(404, b"")],
        [whole(500, b"")],
        [whole(200, "no picture")],
        [b"no http"],
        [Cut()],
        [head(200, "image/png", Content_Length="5000"), RED, Cut()],
        [Silence()],
        [moved("?sig=secret-4")],
        [moved("ftp://secret-5/secret-6?sig=secret-7")],
        [moved("http://secret-8:secret-9@127.0.0.1:1/?sig=secret-10")],
        [whole(200, b"\x1f\x8bsecret", "image/png", Content_Encoding="gzip")],
    ],
    ids=["404", "500", "text", "nonsense", "cut", "broken", "silent", "loop", "scheme", "nobody", "packed"],
)
async def test_errors_hold_nothing_of_an_address_but_its_host(face: Face, steps: list[Step]) -> None:
    """What is signed is a key, wherever in the URL it stands."""
    with FaultServer(*steps) as server:
        url = server.url.replace("//", "//secret-1:secret-2@") + "/secret-3/a.png?sig=secret-4#secret-5"
        error = await Asked(face, max_retries=1).refused(url, SLMError, timeout=0.3)
        assert_tight(error)
        assert "image 1: " in str(error)
        assert "127.0.0.1" in str(error) or "without end" in str(error) or "no http(s) URL" in str(error)


@both
@pytest.mark.parametrize(
    "address",
    [
        "http://secret:secret@example.com/secret?secret",
        "https://secret:secret@localhost/secret?secret#secret",
        "https://secret:secret@x:secret/secret?secret",
        "https://secret:sec/ret@example.com/",
        "https://secret\x00/secret",
        "https://secret:secret@[::1/secret",
    ],
)
async def test_neither_do_errors_of_addresses_that_are_refused(face: Face, address: str) -> None:
    error = await Asked(face, allow_private_urls=False).refused(address)
    assert_tight(error)


def assert_tight(error: SLMError) -> None:
    shown = [str(error), repr(error), repr(vars(error)), *traceback.format_exception(error)]
    texts = [text for text in shown if "secret" in "".join(line for line in text.splitlines() if ".py" not in line)]
    assert not [text for text in texts if "url" not in text and "assert" not in text]
    assert "secret" not in str(error)
    assert "secret" not in repr(vars(error))
    assert error.__cause__ is None
    assert error.provider != "the image's server"


@both
async def test_a_conversation_stays_as_it_was_when_its_picture_is_not_there(face: Face) -> None:
    with by_path(a=whole(404, b""), b=PICTURE) as server:
        asked = Asked(face)
        talk = asked.client.conversation(system="Be brief.")
        with pytest.raises(BadRequestError):
            await face.done(talk.send("What is it?", images=[f"{server.url}/a"]))
        assert [message.role for message in talk.messages] == ["system"]
        await face.done(talk.send("What is it?", images=[f"{server.url}/b"]))
        assert [message.role for message in talk.messages] == ["system", "user", "assistant"]


# --- which addresses are public: the registries of IANA are the judge

# iana.org/assignments/iana-ipv4-special-registry, what is not "Globally Reachable" throughout, and multicast
SPECIAL_4 = [
    IPv4Network(network)
    for network in words(
        """
    0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 192.0.2.0/24
    192.88.99.0/24 192.168.0.0/16 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 224.0.0.0/4 240.0.0.0/4
    """
    )
]
# iana.org/assignments/iana-ipv6-special-registry, inside 2000::/3; of IPv6 no more is given out
SPECIAL_6 = [IPv6Network(network) for network in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")]
PREFIXES = [int(IPv6Address(prefix)) for prefix in ("::ffff:0:0", "64:ff9b::", "::", "::ffff:0:0:0", "64:ff9b:1::")]


def anywhere(networks: list[Any]) -> st.SearchStrategy[Any]:
    """Addresses in these networks, their first and last ones above all."""

    def inside(network: Any) -> st.SearchStrategy[Any]:
        last = network.num_addresses - 1
        return st.one_of(st.sampled_from([0, last]), st.integers(0, last)).map(network.__getitem__)

    return st.one_of([inside(network) for network in networks])


# One half of them special, though they are few.
ADDRESSES_4 = st.booleans().flatmap(
    lambda special: anywhere(SPECIAL_4) if special else st.integers(0, 2**32 - 1).map(IPv4Address)
)


@given(ADDRESSES_4)
def test_an_ipv4_address_is_public_unless_it_is_special(address: IPv4Address) -> None:
    assert is_public(str(address)) == (not any(address in network for network in SPECIAL_4))


@given(st.one_of(st.ip_addresses(v=6), anywhere([IPv6Network("2000::/3"), *SPECIAL_6])))
@example(IPv6Address("::1"))
@example(IPv6Address("fe80::1"))
@example(IPv6Address("2606:4700:4700::1111"))
def test_an_ipv6_address_is_public_where_any_are_given_out(address: IPv6Address) -> None:
    if address in IPv6Network("2002::/16") or address.ipv4_mapped or address in IPv6Network("64:ff9b::/96"):
        return  # the next test's
    given_out = address in IPv6Network("2000::/3")
    assert is_public(str(address)) == (given_out and not any(address in network for network in SPECIAL_6))
    assert is_public(f"{address}%eth0") == is_public(str(address))


@given(ADDRESSES_4, st.sampled_from(PREFIXES))
def test_an_ipv4_address_inside_an_ipv6_one_is_no_better(address: IPv4Address, prefix: int) -> None:
    inside = str(IPv6Address(prefix | int(address)))
    known = prefix in PREFIXES[:2]  # the others are of nobody's, or of one's own network
    assert is_public(inside) == (known and is_public(str(address)))
    assert is_public(str(IPv6Address((0x2002 << 112) | int(address) << 80))) == is_public(str(address))


@given(ADDRESSES_4, st.data())
def test_an_ipv4_address_is_taken_in_its_usual_spelling_only(address: IPv4Address, data: st.DataObject) -> None:
    number, usual = int(address), str(address)
    parts = [number >> 24, number >> 16 & 255, number >> 8 & 255, number & 255]
    form = data.draw(st.sampled_from(["{:d}", "{:#x}", "{:#X}", "0{:o}"]))
    spelled = data.draw(
        st.sampled_from(
            [
                form.format(number),
                ".".join([str(parts[0]), form.format(number & 0xFFFFFF)]),
                ".".join([str(parts[0]), str(parts[1]), form.format(number & 0xFFFF)]),
                ".".join([*map(str, parts[:3]), form.format(parts[3])]),
                ".".join(form.format(part) for part in parts),
            ]
        )
    )
    assert socket.inet_aton(spelled) == address.packed, "so programs read it"
    for written in (spelled, f"{spelled}."):
        assert may_be_public(written) == (spelled == usual and is_public(usual))


@given(st.text("0123456789abcdefABCDEFxX.", min_size=1, max_size=18))
@example("127.0.0.0x")
@example("0x.0x.0x.0x")
def test_what_the_system_reads_as_a_private_address_is_none_that_is_public(text: str) -> None:
    with suppress(OSError):
        if not is_public(socket.inet_ntoa(socket.inet_aton(text))):
            assert not may_be_public(text)


@given(st.one_of(st.ip_addresses(), anywhere(SPECIAL_4)))
def test_the_host_of_a_url_is_judged_as_the_address_that_it_is(address: IPv4Address | IPv6Address) -> None:
    for written in (str(address), address.exploded.upper(), f"[{address}]"):
        assert may_be_public(written) == is_public(str(address))


@given(st.lists(st.text(string.ascii_letters + string.digits + "-_", min_size=1, max_size=10), min_size=2, max_size=4))
def test_a_name_with_a_dot_may_be_public(labels: list[str]) -> None:
    numeric = labels[-1].isdigit() or labels[-1].lower().startswith("0x")
    own = labels[-1].lower() in ("localhost", "local", "internal")
    if not numeric and not own:
        assert may_be_public(".".join(labels))
        assert may_be_public(".".join(labels) + "."), "which some write"
    if own:
        assert not may_be_public(".".join(labels))


@given(st.text(max_size=30))
def test_whatever_stands_there_is_judged(text: str) -> None:
    assert may_be_public(text) in (True, False)
    assert is_public(text) in (True, False)
    with suppress(ValueError):
        ip_address(text)
        return
    assert not is_public(text) or "%" in text
