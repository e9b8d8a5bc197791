"""How many bytes of bodies one worker holds at a time."""

from collections import deque
from collections.abc import Callable

BODY_BYTES = 64_000_000


class Body:
    """The bytes held for one attempt, from the first received until the picture is made.

    `resume` is called when a body that was refused bytes may ask for them again.
    """

    def __init__(self, resume: Callable[[], None]):
        self.resume = resume
        self.size = 0


class Budget:
    """Grants bytes to bodies: at most max(`total`, `max_bytes`) in all, and always some body goes on.

    When what all may share is used up, one favoured body may grow on to its end (`max_bytes` at most);
    the others wait.
    """

    def __init__(self, max_bytes: int, total: int = BODY_BYTES):
        self._shared = max(0, total - max_bytes)
        self._favoured: Body | None = None
        self._waiting: deque[Body] = deque()
        self.used = 0

    def grant(self, body: Body, size: int) -> bool:
        """Count `size` more bytes for `body`; or refuse: it must wait until its `resume` is called."""
        if self.used + size > self._shared and body is not self._favoured:
            if self._favoured is not None:
                self._waiting.append(body)
                return False
            self._favoured = body
        self.used += size
        body.size += size
        return True

    def release(self, body: Body) -> None:
        """Forget a body whose bytes are gone or given up, and resume those that wait while there is room."""
        self.used -= body.size
        body.size = 0
        if body is self._favoured:
            self._favoured = None
        if body in self._waiting:
            self._waiting.remove(body)
        for _ in range(len(self._waiting)):
            if self._favoured is not None and self.used >= self._shared:
                break
            self._waiting.popleft().resume()
