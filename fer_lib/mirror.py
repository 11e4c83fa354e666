"""Read a camera's frames one after the other, and keep the expression steady enough to show.

A model reads every frame on its own, so its first choice flickers between expressions that are
about equally likely. `Follower` steadies it over time for one of several faces, and `Mirror` turns
frames into what a page shows.
"""

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from PIL import Image

from fer_lib.cards import SECONDS
from fer_lib.labels import EMOJI
from fer_lib.predict import Face, Predictor
from fer_lib.predict.faces import shared
from fer_lib.predict.outputs import draw_faces

SAME = 0.3  # overlap above which the faces of two frames are the same person's
STALE = 2.0  # seconds without a new frame after which a view is old
FADE = 0.4  # seconds in which the weight of a frame falls to 1/e
LEAD = 0.1  # how much more probable another expression must be before it is shown
FORGET = 1.0  # seconds without a face after which the next face starts anew


class Follower:
    """Smooths what is read in one of several faces, and holds an expression until another leads.

    At first the largest face is followed, then the one that overlaps the last one most. Another
    person's face starts anew.

    Probabilities are smoothed exponentially, regardless of how many frames follow, so that a slow
    machine shows the same as a fast one: 63 % of a sudden change is visible after `FADE` seconds.
    Another expression takes its place once it leads by `LEAD`. An expression that is sure remains
    so until its probability has fallen below `threshold` by more than half of `LEAD`.

    Args:
        threshold: smoothed probability that makes an expression sure, 0 to 1.

    Attributes:
        probabilities: smoothed, by class, summing to 1; empty before the first face.
        expression: the expression that is held; None before the first face.
        sure: whether its probability reaches `threshold`, or did and has fallen little since.
        history: (time, probabilities) of the last `cards.SECONDS`, oldest first.
        last: the followed face when it was last seen; None before that and once it is forgotten.
    """

    def __init__(self, *, threshold: float = 0.0):
        self.threshold = threshold
        self.history: deque[tuple[float, dict[str, float]]] = deque()
        self.clear()

    def clear(self) -> None:
        """Return to the state before the first face, except that the history is kept."""
        self.probabilities: dict[str, float] = {}
        self.expression: str | None = None
        self.sure = False
        self.last: Face | None = None
        self.seen = -math.inf  # time of the last face
        self.missing = False  # whether a later frame had no face

    def take(self, found: list[Face], now: float) -> Face | None:
        """Take in the faces of one frame, and return the followed one; None if there are none.

        Args:
            now: time in seconds, by any clock that never goes back.
        """
        face = follow(self.last, found)
        if face and self.last and overlap(self.last, face) <= SAME:
            self.clear()
        self.update(face and face.probabilities, now)
        if face:
            self.last = face
        return face

    def update(self, probabilities: dict[str, float] | None, now: float) -> None:
        """Take in what a model reads in the followed face at time `now`.

        Args:
            probabilities: by class, the same classes at every call; None if there is no face.
        """
        while self.history and self.history[0][0] < now - SECONDS:
            self.history.popleft()
        self.missing = self.missing or probabilities is None
        if self.missing and now - self.seen > FORGET:
            self.clear()
        if probabilities is None:
            return
        old = self.probabilities or probabilities
        new = 1 - math.exp(-(now - self.seen) / FADE)
        self.probabilities = {
            name: (1 - new) * old[name] + new * value for name, value in probabilities.items()
        }
        self.seen, self.missing = now, False
        self.history.append((now, self.probabilities))
        self.hold()

    def hold(self) -> None:
        """Change `expression` and `sure` only if the probabilities have changed clearly enough."""
        first = max(self.probabilities, key=self.probabilities.get)
        held = self.probabilities.get(self.expression, -math.inf)
        if self.probabilities[first] >= held + LEAD:
            self.expression, self.sure = first, False
        slack = LEAD / 2 if self.sure else 0
        self.sure = self.probabilities[self.expression] >= self.threshold - slack


@dataclass(frozen=True)
class View:
    """What a page shows at one moment; it never changes, so that any thread may read it.

    Attributes:
        expression: as `Follower` holds it; None if it holds none.
        sure: as in `Follower`.
        probabilities: smoothed, by class; empty if none are held.
        history: (time, probabilities), oldest first; time in seconds from now, at most 0.
        faces: number of faces found in the last frame.
        rate: frames read per second, over the last two seconds or at least the last two frames;
            0 after the first frame.
        latency: milliseconds that the last frame took.
        time: when the last frame had been read, in seconds by the mirror's clock.
    """

    expression: str | None = None
    sure: bool = False
    probabilities: dict[str, float] = field(default_factory=dict)
    history: tuple[tuple[float, dict[str, float]], ...] = ()
    faces: int = 0
    rate: float = 0.0
    latency: float = 0.0
    time: float = -math.inf


class Mirror:
    """Turns the frames of one camera into mirrored frames with marked faces.

    One face is followed, as by `Follower`.

    Args:
        predictor: finds and reads the faces; `use` replaces it at any time.
        clock: returns the time in seconds; tests replace it.

    Attributes:
        view: what the page shows besides the last frame.
    """

    def __init__(self, predictor: Predictor, *, clock: Callable[[], float] = time.monotonic):
        self.clock = clock
        self.times: deque[float] = deque()
        self.view = View()
        self.use(predictor)

    def use(self, predictor: Predictor) -> None:
        """Read the next frames with another model, and forget all that was read so far."""
        # A single assignment, so that a frame that another thread is reading keeps the old pair.
        self.using = predictor, Follower(threshold=predictor.threshold)

    @property
    def stale(self) -> bool:
        """Whether no frame was read for `STALE` seconds, or three times `latency` if longer."""
        return self.clock() - self.view.time > max(STALE, 3 * self.view.latency / 1000)

    def look(self, frame: np.ndarray) -> np.ndarray:
        """Read one frame, (H, W, 3) uint8 RGB, and return it mirrored, with its faces marked."""
        predictor, follower = self.using
        start = self.clock()
        frame = np.ascontiguousarray(frame[:, ::-1])
        found = predictor(frame)
        followed = follower.take(found, start)
        now = self.clock()
        self.view = self.describe(follower, len(found), start, now)
        shown = [steady(face, follower) if face is followed else face for face in found]
        return np.asarray(draw_faces(Image.fromarray(frame), shown, numbered=False))

    def describe(self, follower: Follower, faces: int, start: float, now: float) -> View:
        """Return the `View` of this moment, at time `now`, of a frame begun at `start`."""
        self.times.append(now)
        while len(self.times) > 2 and self.times[0] < now - 2:
            self.times.popleft()
        span = self.times[-1] - self.times[0]
        return View(
            expression=follower.expression,
            sure=follower.sure,
            probabilities=follower.probabilities,
            history=tuple((moment - now, values) for moment, values in follower.history),
            faces=faces,
            rate=(len(self.times) - 1) / span if span else 0.0,
            latency=1000 * (now - start),
            time=now,
        )


def steady(face: Face, follower: Follower) -> Face:
    """Return a face with the smoothed probabilities and expression instead of the frame's own."""
    return replace(
        face,
        probabilities=follower.probabilities,
        expression=follower.expression,
        emoji=EMOJI[follower.expression],
        sure=follower.sure,
    )


def follow(before: Face | None, found: list[Face]) -> Face | None:
    """Return the face that overlaps `before` most, if by more than `SAME`, otherwise the largest.

    Returns None if there are no faces.
    """
    if before and found:
        nearest = max(found, key=lambda face: overlap(before, face))
        if overlap(before, nearest) > SAME:
            return nearest
    return max(found, key=lambda face: face.box.width * face.box.height, default=None)


def overlap(one: Face, other: Face) -> float:
    """Return the intersection over union of the boxes of two faces, 0 to 1."""
    common = shared(one.box, other.box)
    return common / (sum(box[2] * box[3] for box in (one.box, other.box)) - common)
