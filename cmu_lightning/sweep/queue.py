"""Which run is next."""

from collections.abc import Iterator, Sequence
from contextlib import suppress

from filelock import FileLock, Timeout

from cmu_lightning.sweep.points import Point
from cmu_lightning.sweep.proposals import Proposals


class Queue:
    """Points that are to be done, in order, of which other processes on the same runs folder do some.

    Args:
        points: Not known to be finished.
        searches: Propose more, once there is nothing else to do.
    """

    def __init__(self, points: list[Point], searches: Sequence[Proposals] = ()) -> None:
        self.waiting = list(points)
        self.searches = list(searches)
        self.claims: dict[str, FileLock] = {}
        self.origins: dict[str, set[str]] = {"started": set(), "there": set()}

    @property
    def open(self) -> bool:
        """Whether there is anything left to hand out."""
        return bool(self.waiting or self.searches)

    def add(self, point: Point) -> None:
        """Put a run at the front."""
        self.waiting.insert(0, point)

    def next(self) -> Point | None:
        """The next run that no other process works on, taken out."""
        for point in self._in_order():
            if self._claim(point):
                self.waiting.remove(point)
                self.origins["started"].add(point.origin)
                return point
        return self._propose()

    def _propose(self) -> Point | None:
        """A new point of a search; searches that have come to their end are left out from then on."""
        while self.searches:
            point = self.searches[0].next()
            if point is None:
                self.searches.pop(0)
            elif self._claim(point):
                return point
        return None

    def _in_order(self) -> Iterator[Point]:
        """Points whose original another run is training just now come last, for they would wait for it."""
        busy = self.origins["started"] - self.origins["there"]
        later = []
        for point in list(self.waiting):
            if point.origin in busy:
                later.append(point)
            else:
                yield point
        yield from later

    def _claim(self, point: Point) -> bool:
        """Be the only one to work on a run; a claim dies with its holder."""
        path = point.file("claims", "lock")
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        with suppress(Timeout):
            lock.acquire(timeout=0)
            self.claims[point.key] = lock
            return True
        return False

    def give_back(self, point: Point, finished: bool) -> None:
        """A run is no longer worked on."""
        self.claims.pop(point.key).release()
        if finished:
            self.origins["there"].add(point.origin)
        else:
            self.origins["started"].discard(point.origin)
