"""Tests of the mirror: smoothing over time, following one face, and frames in and out."""

import math

import numpy as np
import pytest

from fer_lib.mirror import Follower, Mirror, follow
from fer_lib.predict import Face
from fer_lib.predict.faces import Box

HAPPY, SAD = {"happy": 0.9, "sad": 0.1}, {"happy": 0.1, "sad": 0.9}


def face(x: int, side: int = 100, happy: float = 0.9) -> Face:
    p = {"happy": happy, "sad": 1 - happy}
    expression = max(p, key=p.get)
    crop = np.zeros((1, 48, 48), np.uint8)
    return Face(Box(x, 0, side, side), p, expression, "", True, None, crop)


def after(follower: Follower, frames: list, every: float = 0.1, start: float = 0.0) -> Follower:
    for i, p in enumerate(frames):
        follower.update(p, start + i * every)
    return follower


@pytest.mark.parametrize("every", [0.01, 0.05, 0.2])
def test_smoothing_has_the_same_time_constant_at_any_frame_rate(every):
    follower = Follower()
    follower.update(HAPPY, 0.0)
    after(follower, [SAD] * round(0.4 / every), every, start=every)
    assert follower.probabilities["sad"] == pytest.approx(0.9 - 0.8 / math.e)
    assert sum(follower.probabilities.values()) == pytest.approx(1)


def test_the_first_face_is_shown_at_once():
    follower = after(Follower(), [HAPPY])
    assert follower.expression == "happy"
    assert follower.probabilities == HAPPY


def test_a_flicker_between_frames_is_shown_as_one_expression():
    near = [{"happy": 0.52, "sad": 0.48}, {"happy": 0.46, "sad": 0.54}]
    follower, shown = Follower(), []
    for i in range(100):
        follower.update(near[i % 2], 0.05 * i)
        shown.append(follower.expression)
    assert set(shown) == {"happy"}
    first = [max(p, key=p.get) for p in near]
    assert first == ["happy", "sad"]  # unsmoothed, it would change with every frame


def test_another_expression_is_shown_once_it_leads_clearly():
    follower = after(Follower(), [HAPPY])
    after(follower, [{"happy": 0.46, "sad": 0.54}] * 50, start=0.1)
    assert follower.expression == "happy"
    after(follower, [{"happy": 0.44, "sad": 0.56}] * 50, start=5.1)
    assert follower.expression == "sad"


def test_sure_is_held_within_its_slack_and_lost_beyond_it():
    follower = after(Follower(threshold=0.6), [{"happy": 0.58, "sad": 0.42}])
    assert not follower.sure
    sure = []
    for start, happy in ((0.1, 0.62), (4.1, 0.57), (8.1, 0.53), (12.1, 0.58)):
        after(follower, [{"happy": happy, "sad": 1 - happy}] * 40, start=start)
        sure.append(follower.sure)
    assert sure == [True, True, False, False]


def test_smoothing_restarts_after_a_long_absence():
    follower = after(Follower(), [HAPPY])
    follower.update(None, 0.8)
    assert follower.expression == "happy"  # a short absence does not count
    follower.update(None, 1.2)
    assert (follower.expression, follower.probabilities, follower.sure) == (None, {}, False)
    follower.update(SAD, 1.3)
    assert follower.probabilities == SAD


def test_slow_frames_do_not_restart_smoothing_unless_a_face_was_missed():
    follower = after(Follower(), [HAPPY])
    follower.update(SAD, 1.5)
    assert follower.probabilities["sad"] == pytest.approx(0.9 - 0.8 * math.exp(-1.5 / 0.4))
    follower.update(None, 2.0)
    follower.update(SAD, 3.0)  # it may be another person's
    assert follower.probabilities == SAD


def test_the_history_covers_as_many_seconds_as_the_band_on_a_page():
    follower = after(Follower(), [HAPPY] * 200, every=0.125)  # which adds up without rounding
    times = [moment for moment, _ in follower.history]
    assert (times[0], times[-1], len(times)) == (14.875, 24.875, 81)


def test_a_face_is_followed_even_if_another_is_larger():
    one, other = face(0), face(400, 150)
    assert follow(None, [other, one]) is other
    moved = face(10)
    assert follow(one, [other, moved]) is moved
    assert follow(one, [other]) is other
    assert follow(one, []) is None


def test_smoothing_restarts_for_another_person_but_not_for_the_same_one():
    follower = Follower()
    follower.take([face(0)], 0.0)
    follower.take([], 0.1)  # missed once
    follower.take([face(10, happy=0.1)], 0.2)
    assert 0.1 < follower.probabilities["happy"] < 0.9
    follower.take([face(400, happy=0.1)], 0.3)
    assert follower.probabilities["happy"] == pytest.approx(0.1)
    assert follower.expression == "sad"
    follower.take([], 5.0)
    large, near = face(0, 200), face(400)
    assert follower.take([large, near], 5.1) is large  # the person followed before is forgotten


class StandIn:
    """A predictor that finds a face in each bright half of a frame."""

    threshold = 0.5
    classes = ("happy", "sad")

    def __call__(self, frame):
        bright = [side for side in (0, 1) if frame[:, side * 320 : (side + 1) * 320].mean() > 50]
        return [face(320 * side, happy=0.9 - 0.8 * side) for side in bright]


@pytest.fixture
def mirror():
    ticks = iter(np.arange(0, 100, 0.05))
    return Mirror(StandIn(), clock=lambda: float(next(ticks)))


def frame(left: int, right: int) -> np.ndarray:
    return np.repeat(np.repeat(np.uint8([[[left], [right]]]), 480, 0), 320, 1).repeat(3, 2)


def test_a_frame_is_returned_mirrored_with_its_face_marked(mirror):
    given = frame(0, 200)  # the face is on the left in the mirror
    shown = mirror.look(given)
    assert shown.shape == given.shape
    assert shown.dtype == np.uint8
    assert (shown[200:, 120:300] == 200).all()
    assert (shown[:, 330:] == 0).all()
    assert len(np.unique(shown[:102, :102].reshape(-1, 3), axis=0)) > 1  # the box
    assert (given == frame(0, 200)).all()
    assert (mirror.view.expression, mirror.view.faces) == ("happy", 1)


def test_faces_of_a_camera_have_no_numbers(mirror, monkeypatch):
    """The largest face is number 1, so numbers would jump between people."""
    options = []
    draw = lambda picture, faces, **given: options.append(given) or picture
    monkeypatch.setattr("fer_lib.mirror.draw_faces", draw)
    mirror.look(frame(200, 200))
    assert options == [{"numbered": False}]


def test_the_view_has_speed_and_history_and_forgets_a_face_that_left(mirror):
    for _ in range(30):
        mirror.look(frame(0, 200))
    assert mirror.view.rate == pytest.approx(10)  # two ticks of 50 ms a frame
    assert mirror.view.latency == pytest.approx(50)
    assert mirror.view.history[-1][0] == pytest.approx(-0.05)
    for _ in range(30):
        mirror.look(frame(0, 0))
    assert mirror.view.expression is None
    assert not mirror.view.probabilities


def test_another_model_starts_with_an_empty_history(mirror):
    mirror.look(frame(0, 200))
    mirror.use(StandIn())
    mirror.look(frame(200, 0))
    assert mirror.view.expression == "sad"
    assert len(mirror.view.history) == 1


def test_a_view_is_stale_after_two_seconds_without_a_frame():
    now = [0.0]
    mirror = Mirror(StandIn(), clock=lambda: now[0])
    assert mirror.stale
    mirror.look(frame(0, 200))
    now[0] = 1.9
    assert not mirror.stale
    now[0] = 2.1
    assert mirror.stale


def test_slow_frames_have_a_rate_and_are_not_stale_before_the_next_is_due():
    now = [0.0]

    def tick():
        now[0] += 1.25  # twice a frame
        return now[0]

    mirror = Mirror(StandIn(), clock=tick)
    for _ in range(3):
        mirror.look(frame(0, 200))
    assert mirror.view.rate == pytest.approx(1 / 2.5)
    now[0] += 2.4
    assert not mirror.stale
    now[0] += 2
    assert mirror.stale
