"""A camera's frames read one after the other: an expression that is steady enough to show.

A model reads every frame by itself, so that its first choice flickers between two expressions that
are nearly as likely. `Smoother` steadies it in time, `Follower` does so for one of several faces,
and `Mirror` turns frames into what a page shows.
"""

import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from PIL import Image

from fer_lib.labels import EMOJI
from fer_lib.predict import Face, Predictor
from fer_lib.predict.outputs import draw_faces

SAME = 0.3  # overlap from which on faces of two frames are one person's
STALE = 2.0  # seconds without a new frame after which a view is old


class Smoother:
    """Exponential smoothing of probabilities, and an expression held until another clearly leads.

    The weight of an old frame falls to 1/e in `seconds`, however many frames come between: a slow
    machine shows the same as a fast one. Whether it is sure has the same slack as the expression.

    Args:
        threshold: the smoothed probability from which on an expression is sure, 0 to 1.
        seconds: time constant; after a sudden change 63 % of it is seen so much later.
        lead: how much more probable another expression must be before it is shown, 0 to 1.
        forget: seconds without a face after which the next one starts anew.
        keep: seconds of `history`.

    Attributes:
        probabilities: smoothed, by class, summing to 1; empty before the first face.
        expression: the one that is held; None before the first face.
        sure: whether it is at least as probable as `threshold`, or was and has lost little since.
        history: (time, probabilities) of the last seconds, oldest first.
    """

    def __init__(
        self,
        *,
        threshold: float = 0.0,
        seconds: float = 0.4,
        lead: float = 0.1,
        forget: float = 1.0,
        keep: float = 10.0,
    ):
        self.threshold, self.seconds, self.lead = threshold, seconds, lead
        self.forget, self.keep = forget, keep
        self.history: deque[tuple[float, dict[str, float]]] = deque()
        self.clear()

    def clear(self) -> None:
        """Hold nothing, as before the first face; the history stays."""
        self.probabilities: dict[str, float] = {}
        self.expression: str | None = None
        self.sure = False
        self.seen = -math.inf  # time of the last face
        self.missing = False  # in a frame since

    def update(self, probabilities: dict[str, float] | None, now: float) -> None:
        """Take in one frame: what a model reads in a face, or None where there is none.

        Args:
            probabilities: by class; the same classes at every call.
            now: seconds, of any clock that never goes back.
        """
        while self.history and self.history[0][0] < now - self.keep:
            self.history.popleft()
        self.missing = self.missing or probabilities is None
        if self.missing and now - self.seen > self.forget:
            self.clear()
        if probabilities is None:
            return
        old = self.probabilities or probabilities
        new = 1 - math.exp(-(now - self.seen) / self.seconds)
        self.probabilities = {
            name: (1 - new) * old[name] + new * value for name, value in probabilities.items()
        }
        self.seen, self.missing = now, False
        self.history.append((now, self.probabilities))
        self.hold()

    def hold(self) -> None:
        """Change the expression, and whether it is sure, only where the probabilities insist."""
        first = max(self.probabilities, key=self.probabilities.get)
        held = self.probabilities.get(self.expression, -math.inf)
        if self.probabilities[first] >= held + self.lead:
            self.expression, self.sure = first, False
        slack = self.lead / 2 if self.sure else 0
        self.sure = self.probabilities[self.expression] >= self.threshold - slack


class Follower(Smoother):
    """Smooths what is read in one of several faces, and starts anew when it is another person's.

    The largest face is followed at first, then the one that overlaps it most.

    Attributes:
        last: the face as it was seen last; None before the first, and once it is forgotten.
    """

    def clear(self) -> None:
        super().clear()
        self.last: Face | None = None

    def take(self, found: list[Face], now: float) -> Face | None:
        """Take in the faces of one frame; the one that is followed, None where there is none."""
        face = follow(self.last, found)
        if face and self.last and overlap(self.last, face) <= SAME:
            self.clear()
        self.update(face and face.probabilities, now)
        if face:
            self.last = face
        return face


@dataclass(frozen=True)
class View:
    """What a page shows of one moment; never changed, so that any thread may read it.

    Attributes:
        expression: of the face that is followed; None where there is none.
        probabilities: smoothed, by class; empty where no face is held.
        history: (seconds before now, at most 0, probabilities), oldest first.
        faces: how many were found in the last frame.
        rate: frames a second that were read, over the last two seconds, or the last two frames;
            0 after the first one.
        latency: milliseconds that the last frame took.
        time: when it was read, by the mirror's clock.
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
    """Frames of one camera in, mirrored frames with marked faces out, and `view` for the page.

    One face is followed, as by `Follower`.

    Args:
        predictor: finds and reads the faces; `use` changes it at any time.
        clock: seconds; for tests.
    """

    def __init__(self, predictor: Predictor, *, clock: Callable[[], float] = time.monotonic):
        self.clock = clock
        self.times: deque[float] = deque()
        self.view = View()
        self.use(predictor)

    def use(self, predictor: Predictor) -> None:
        """Read the next frames with another model; what was read so far is forgotten."""
        # One assignment: a frame under way in another thread keeps both of the old ones.
        self.using = predictor, Follower(threshold=predictor.threshold)

    @property
    def stale(self) -> bool:
        """Whether no frame was read for some seconds, or as long as three of them take."""
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
        return np.asarray(draw_faces(Image.fromarray(frame), shown))

    def describe(self, smoother: Smoother, faces: int, start: float, now: float) -> View:
        """The moment as a page shows it."""
        self.times.append(now)
        while len(self.times) > 2 and self.times[0] < now - 2:
            self.times.popleft()
        span = self.times[-1] - self.times[0]
        return View(
            expression=smoother.expression,
            sure=smoother.sure,
            probabilities=smoother.probabilities,
            history=tuple((moment - now, values) for moment, values in smoother.history),
            faces=faces,
            rate=(len(self.times) - 1) / span if span else 0.0,
            latency=1000 * (now - start),
            time=now,
        )


def steady(face: Face, smoother: Smoother) -> Face:
    """A face with what is held of it in place of what this one frame shows."""
    return replace(
        face,
        probabilities=smoother.probabilities,
        expression=smoother.expression,
        emoji=EMOJI[smoother.expression],
        sure=smoother.sure,
    )


def follow(before: Face | None, found: list[Face]) -> Face | None:
    """The face that overlaps the one before most, else the largest; None where there is none."""
    if not found:
        return None
    overlaps = [overlap(before, face) if before else 0.0 for face in found]
    if max(overlaps) > SAME:
        return found[overlaps.index(max(overlaps))]
    return max(found, key=lambda face: face.box[2] * face.box[3])


def overlap(one: Face, other: Face) -> float:
    """Intersection over union of two boxes, 0 to 1."""
    (x, y, w, h), (u, v, p, q) = one.box, other.box
    width = min(x + w, u + p) - max(x, u)
    height = min(y + h, v + q) - max(y, v)
    shared = max(width, 0) * max(height, 0)
    return shared / (w * h + p * q - shared)
