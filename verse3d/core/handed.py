"""A large value that is handed on once, so that whoever passed it on does not keep it in memory."""

from typing import Generic, TypeVar

T = TypeVar("T")


class Handed(Generic[T]):
    """Holds a value until it is taken.

    A record that waits in a queue, and each function that it passes through, would hold its image until the last of
    them returns. So the record holds this, and who needs the image takes it out of all of their hands.

    Args:
        value: what is handed on.

    Example:
        >>> scan = Handed([1, 2, 3])
        >>> scan.take()
        [1, 2, 3]
    """

    def __init__(self, value: T) -> None:
        self._values = [value]

    def take(self) -> T:
        """The value, once.

        Raises:
            ValueError: it was taken before.
        """
        if not self._values:
            raise ValueError("this was handed on before")
        return self._values.pop()
