"""Tells a hung device from a busy one, and says so: in /health and with the stacks of all threads in the log."""

import asyncio
import faulthandler
import logging
import tempfile

from orca_jax.server.service import Service

logger = logging.getLogger(__name__)


async def watch(service: Service) -> None:
    """Run beside the server. An iteration that comes back after all makes the server healthy again."""
    limit = service.config.watchdog_timeout
    while True:
        await asyncio.sleep(min(1.0, limit / 4))
        hung = service.thread.busy_seconds() > limit
        if hung and not service.hung:
            logger.critical("an iteration has not come back for %g seconds; all stacks:\n%s", limit, stacks())
        elif service.hung and not hung:
            logger.warning("the iteration that was hung has come back")
        service.hung = hung


def stacks() -> str:
    """Where every thread of this process stands."""
    with tempfile.TemporaryFile() as file:  # faulthandler writes to a descriptor
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return file.read().decode(errors="replace")
