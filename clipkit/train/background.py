"""Work that a thread does while training goes on."""

import threading
from collections.abc import Callable


class Background:
    """Does one thing at a time. What it raises is raised in the caller, once, where that looks or waits."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def start(self, work: Callable[[], None]) -> None:
        """Do `work` in a thread, once what was started before is done. The program does not end before."""
        self.wait()
        self._thread = threading.Thread(target=self._do, args=(work,), name="checkpoint")
        self._thread.start()

    def wait(self) -> None:
        """Wait until nothing is being done."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def look(self) -> None:
        """Raise what the work raised, if it is done by now."""
        if self._thread is None or not self._thread.is_alive():
            self.wait()

    def _do(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            self._error = error
