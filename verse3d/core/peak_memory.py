"""The largest resident memory of this process during some piece of work, without touching the kernel's own counter.

Linux can set that counter back, but then whoever asks the system about the finished process (``/usr/bin/time -v``, a
batch system) is told the peak of its last part only. So a thread looks every few milliseconds.
"""

import threading
import weakref
from types import TracebackType
from typing import Self

from verse3d.core.runtime import peak_rss_mb, rss_mb

_EVERY_SECONDS = 0.01


class Peak:
    """One measurement under way. It ends when nobody holds it any more."""

    def __init__(self) -> None:
        """Begin with what is held now."""
        self._counted_before_mb = peak_rss_mb()
        self._highest_mb = rss_mb()

    def see(self, held_mb: float) -> None:
        """Take note of what the process holds now."""
        self._highest_mb = max(self._highest_mb, held_mb)

    @property
    def mb(self) -> float:
        """The largest resident memory since the beginning, MB (10^6 bytes).

        If the peak of the whole process has grown meanwhile, it was reached here, and the kernel's figure is exact.
        Else it is the highest sample: a peak between two of them is missed. Where the system does not say what is held
        now (not Linux), it is the peak of the process.
        """
        self.see(rss_mb())
        counted_mb = peak_rss_mb()
        if counted_mb > self._counted_before_mb:
            return max(self._highest_mb, counted_mb)
        return self._highest_mb


class MemoryWatch:
    """A thread that looks at the resident memory for all peaks under way.

    Example:
        >>> with MemoryWatch() as watch:
        ...     peak = watch.peak()
        ...     block = bytearray(50_000_000)
        ...     peak.mb > 50
        True
    """

    def __init__(self, every_seconds: float = _EVERY_SECONDS) -> None:
        self._every_seconds = every_seconds
        self._peaks: weakref.WeakSet[Peak] = weakref.WeakSet()
        self._lock = threading.Lock()  # a set may not grow while it is walked over
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="memory", daemon=True)

    def peak(self) -> Peak:
        """Begin to measure; as many at once as wanted."""
        peak = Peak()
        with self._lock:
            self._peaks.add(peak)
        return peak

    def _look(self) -> None:
        while not self._over.wait(self._every_seconds):
            held_mb = rss_mb()
            with self._lock:
                for peak in self._peaks:
                    peak.see(held_mb)

    def __enter__(self) -> Self:
        """Start to look."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Look no more; peaks keep what was seen."""
        self._over.set()
        self._thread.join()
