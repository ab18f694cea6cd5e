"""The echo driver keeps the contract of every driver, plain and by asyncio."""

from slmclient_echo import EchoDriver

from slmclient.drivers.base import Driver, DriverConfig
from slmclient.testing import DriverContract


class TestEcho(DriverContract):
    long_prompt = "fox " * 1000  # 20 seconds, at this pause
    unknown_model = "echo-2"

    def make_driver(self) -> Driver:
        return EchoDriver(DriverConfig(provider="echo", options={"pause": 0.02}))
