"""DriverContract: what every driver promises, as a pytest class to subclass.

    from slmclient.testing import DriverContract

    class TestMyDriver(DriverContract):
        def make_driver(self):
            return MyDriver(...)

Each promise is a test, named and described by what it promises; those that call the driver run plain and by asyncio.
What a subclass can say besides is in `slmclient.testing.hooks`.
"""

from __future__ import annotations

from slmclient.testing.answers import AnswerPromises
from slmclient.testing.endings import EndingPromises
from slmclient.testing.features import FeaturePromises


class DriverContract(AnswerPromises, EndingPromises, FeaturePromises):
    """Every promise of a driver. A subclass writes `make_driver`, and sets attributes where its driver is peculiar."""
