"""On every engine: clients on one model file load it once; warming up is what a first call would have waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine_models import EngineModels
from slmclient import AsyncPhiClient, PhiClient
from slmclient.drivers import registry
from slmclient.drivers.base import DriverConfig

MODELS = {  # of the tests, small ones; "" is the embedded file
    "llamacpp": "",
    "onnx": "tiny_phi3_onnx",
    "transformers": "tiny_phi3",
    "openvino": "smollm2_openvino",
    "mlx": "tiny_phi3",
}
every = pytest.mark.parametrize("engine", MODELS)
SHORT: dict[str, Any] = {"temperature": 0, "max_tokens": 2}


class Opened:
    """Counts how often an engine opens a model, and how many tokens were asked of it, while a test runs."""

    def __init__(self, engine: str, path: Path, patch: pytest.MonkeyPatch) -> None:
        self.path = str(path)
        self.times = 0
        self.answers: list[str] = []
        kind: Any = type(registry.new_driver(DriverConfig(engine, self.path)))
        own_open, own_generate = kind.engine_class.open, kind.engine_class.generate

        def counted(this: Any, path: Path, wanted: Callable[[], bool]) -> None:
            self.times += 1
            own_open(this, path, wanted)

        def written_down(this: Any, request: Any, emit: Any) -> None:
            self.answers.append(request.messages[-1].text)
            own_generate(this, request, emit)

        patch.setattr(kind.engine_class, "open", counted)
        patch.setattr(kind.engine_class, "generate", written_down)


@pytest.fixture
def opened(engine: str, engine_models: EngineModels, weights: Path, monkeypatch: pytest.MonkeyPatch) -> Opened:
    name = MODELS[engine]
    return Opened(engine, engine_models(name) if name else weights, monkeypatch)


@every
def test_two_clients_on_one_file_load_it_once(engine: str, opened: Opened) -> None:
    with PhiClient(engine, opened.path) as one, PhiClient(engine, opened.path) as other:
        assert one.chat("Hi", **SHORT).usage.output_tokens > 0
        assert other.chat("Hi", **SHORT).usage.output_tokens > 0
        assert opened.times == 1
        one.close()
        other.chat("Hi", **SHORT)
        assert opened.times == 1, "the second still had it"


@every
def test_a_sync_and_an_async_client_share_it_by_whatever_path(engine: str, opened: Opened, tmp_path: Path) -> None:
    link = tmp_path / Path(opened.path).name
    link.symlink_to(opened.path)

    async def main() -> None:
        async with AsyncPhiClient(engine, opened.path) as other:
            await other.chat("Hi", **SHORT)

    with PhiClient(engine, str(link)) as one:
        one.chat("Hi", **SHORT)
        asyncio.run(main())
    assert opened.times == 1


@every
def test_warming_up_loads_and_has_a_token_written_and_the_next_call_loads_nothing(engine: str, opened: Opened) -> None:
    with PhiClient(engine, opened.path) as client:
        client.warm_up()
        assert (opened.times, len(opened.answers)) == (1, 1)
        client.chat("What is new?", **SHORT)
        assert (opened.times, opened.answers[1:]) == (1, ["What is new?"])
        with PhiClient(engine, opened.path) as other:
            other.warm_up()
        assert opened.times == 1


@every
def test_warming_up_does_the_same_for_asyncio(engine: str, opened: Opened) -> None:
    async def main() -> None:
        async with AsyncPhiClient(engine, opened.path) as client:
            await asyncio.gather(client.warm_up(), client.warm_up())
            assert opened.times == 1
            await client.chat("What is new?", **SHORT)
        assert (opened.times, opened.answers[2:]) == (1, ["What is new?"])

    asyncio.run(main())
