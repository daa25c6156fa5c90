"""One life of connections after another: what appends and subscriptions have in common.

Nothing is repaired within a life. Whatever is lost ends it, with all of its connections, and after a pause the next one
begins from what is known.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

from sequencer.client.values import StoreSettings
from sequencer.pulsar.client import NO_AUTH, ClientSettings, PulsarClient, token_auth
from sequencer.pulsar.errors import EndpointClosed, PulsarError

PAUSE_FIRST_S = 0.05
PAUSE_MOST_S = 2.0
"""Between two lives: the first pause, doubled each time up to the longest, and shortened by chance."""

GOOD_LIFE_S = 5.0
"""After a life of such a length the pauses begin anew."""

CLIENT_SETTINGS = ClientSettings(
    request_timeout_s=10.0, connect_timeout_s=5.0, keep_alive_s=3.0, silent_limit_s=10.0, retry_for_s=5.0
)
"""Shorter than elsewhere: somebody waits, and beginning anew costs little."""

logger = logging.getLogger(__name__)


def pulsar_client(settings: StoreSettings) -> PulsarClient:
    """A client of the binary protocol for one life.

    Raises:
        ValueError: the service URL is not one.
    """
    auth = token_auth(settings.token) if settings.token else NO_AUTH
    return PulsarClient(settings.service_url, auth=auth, settings=CLIENT_SETTINGS)


class Lives:
    """Runs one life after another in a task of its own, until it is closed or a life ends by itself.

    Attributes:
        failure: what ended the last life, or prevented the next one; None while all is well.
    """

    def __init__(
        self, what: str, one_life: Callable[[], Awaitable[None]], ended: Callable[[], None] = lambda: None
    ) -> None:
        """Nothing happens before `start`.

        Args:
            what: names it in the log.
            one_life: has to call `begun` once it is up.
            ended: called when there will be no further life.
        """
        self.failure: BaseException | None = None
        self._what = what
        self._one_life = one_life
        self._begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._begun_at_s = 0.0
        self._task: asyncio.Task[None] | None = None
        self._on_end = ended
        self._ended = asyncio.Event()
        self._closing = False

    async def start(self) -> None:
        """Return when the first life has begun. May be called again, to wait for the same.

        Raises:
            PulsarError: the first life came to nothing. There will be none after it.
        """
        if self._task is None:
            self._task = asyncio.create_task(self._live())
            self._task.add_done_callback(self._has_ended)
        await asyncio.shield(self._begun)

    def begun(self) -> None:
        """The life is up."""
        self.failure = None
        self._begun_at_s = asyncio.get_running_loop().time()
        if not self._begun.done():
            self._begun.set_result(None)

    @property
    def running(self) -> bool:
        """Whether there is, or will be, a life."""
        return self._task is not None and not self._task.done()

    async def close(self) -> None:
        """End it."""
        self._closing = True
        if self._task is not None:
            self._task.cancel()
            await self._ended.wait()

    async def _live(self) -> None:
        loop = asyncio.get_running_loop()
        pause_s = PAUSE_FIRST_S
        while True:
            self._begun_at_s = loop.time()
            try:
                await self._one_life()
                return
            except* (PulsarError, OSError) as lost:
                self.failure = _first(lost)
            if self._closing:
                # A task group that is failing at that moment swallows the cancellation (before Python 3.13).
                raise asyncio.CancelledError
            if not self._begun.done():
                assert self.failure is not None
                raise self.failure
            # A takeover or a restart of a broker passes by itself; what goes on and on, somebody has to look at.
            level = logging.WARNING if pause_s == PAUSE_MOST_S else logging.INFO
            logger.log(level, "%s: connecting anew: %s", self._what, self.failure)
            if loop.time() - self._begun_at_s > GOOD_LIFE_S:
                pause_s = PAUSE_FIRST_S
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
            pause_s = min(2 * pause_s, PAUSE_MOST_S)

    def _has_ended(self, task: asyncio.Task[None]) -> None:
        failure: BaseException | None = EndpointClosed(f"{self._what}: closed")
        if not task.cancelled():
            failure = task.exception()
            if failure is not None and not isinstance(failure, PulsarError | OSError):
                logger.error("%s: failed", self._what, exc_info=failure)
        self.failure = failure
        if not self._begun.done():
            self._begun.set_exception(failure or EndpointClosed(f"{self._what}: ended"))
            self._begun.exception()  # whoever waits in `start` gets it; perhaps nobody does
        # Whoever waits for something of it hears before whoever closes it goes on, and cancels what still waits.
        self._on_end()
        self._ended.set()


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first failure: those after it are usually its consequences."""
    failure: BaseException = group
    while isinstance(failure, BaseExceptionGroup):
        failure = failure.exceptions[0]
    return failure
