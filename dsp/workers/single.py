"""A job that one process at a time may do: others of its name stand by, and one of them takes over."""

from dsp.kernel import logging
from dsp.store.leader import Leadership
from dsp.workers.runner import Job


class Single:
    """Does the job's steps while this process leads. When it begins to, the job reads back what others have left."""

    def __init__(self, job: Job, leadership: Leadership) -> None:
        self._job = job
        self._leadership = leadership
        self._leads = False
        self._opened = False

    async def open(self) -> None:
        """Open nothing yet: who leads now may still change what the job would read."""

    async def close(self) -> None:
        """Close the job, then let another process lead."""
        try:
            if self._opened:
                await self._job.close()
        finally:
            self._leadership.give_up()

    async def step(self) -> bool:
        """Do one step of the job, or none while another process leads."""
        led, self._leads = self._leads, False
        if not self._leadership.held():
            return False
        if not led:
            self._opened = True
            await self._job.open()
            logging.get(__name__).info("leads")
        self._leads = True
        return await self._job.step()
