"""The Emoji Mirror: the emoji of the expression that a camera sees, live in the browser.

    make mirror          or, if the extra `demo` is installed:
    python -m streamlit run demo/emoji_mirror.py

Frames go from the browser to this process over WebRTC, without a STUN or TURN server, because both
run on the same machine. The settings are in `.streamlit/config.toml` beside this file.
"""

import numpy as np
import streamlit as st
from aioice.ice import get_host_addresses
from av import VideoFrame
from PIL import Image
from streamlit_webrtc import VideoProcessorBase, webrtc_streamer

from fer_lib import cards
from fer_lib.data.drawing import draw
from fer_lib.data.pictures import SUFFIXES, read_picture
from fer_lib.files import InputError
from fer_lib.labels import EMOTIONS
from fer_lib.mirror import Mirror, View
from fer_lib.predict import Predictor
from fer_lib.predict.at_hand import model_at_hand, models_at_hand
from fer_lib.predict.faces import Detector, make_detector
from fer_lib.predict.outputs import draw_faces

LIVE, STILL = "Live camera", "Still picture"
NO_SERVER = {"iceServers": []}  # by default the library would ask a server of Google
CAMERA = {"video": {"width": {"ideal": 640}, "height": {"ideal": 480}}, "audio": False}
NO_ADDRESS = (
    "This machine has no network address except its own loopback, which WebRTC does not use: turn "
    "on Wi-Fi or plug in a cable (nothing is sent through it), or use a still picture."
)
LOOPBACK = ("127.0.0.1", "::1", "localhost")
KEPT = "Pictures are in its memory while the page shows them, and never in a file."
START = "Start the camera, allow it if the browser asks, and look into it."
STALE = "No new frame for some seconds: stop and start the camera."
STYLE = "<style>.stMainBlockContainer { padding-top: 2.5rem; }</style>"
REFRESH = 0.25  # seconds between updates of the page with what the camera's thread has found


class Processor(VideoProcessorBase):
    """Reads the newest frame in a separate thread; frames that arrive meanwhile are dropped.

    Attributes:
        error: why the last frame could not be read; None if it was read.
    """

    def __init__(self, mirror: Mirror):
        self.mirror = mirror
        self.error: Exception | None = None

    def recv(self, frame: VideoFrame) -> VideoFrame:
        try:
            seen = self.mirror.look(frame.to_ndarray(format="rgb24"))
        except Exception as error:  # it would end the thread without being shown
            self.error = error
            return frame
        self.error = None
        return VideoFrame.from_ndarray(seen, "rgb24")


@st.cache_resource(show_spinner="Looking for a face detector …")
def detector() -> Detector:
    """Make the face detector of all sessions and models, before the first frame is read."""
    return make_detector()


@st.cache_data(ttl=10)
def names() -> list[str]:
    """Return the names of the models at hand, looked up at most every ten seconds."""
    return list(models_at_hand(detector()))


@st.cache_resource(show_spinner="Loading the model …", max_entries=4)
def load(name: str) -> Predictor:
    """Load one of the models at hand."""
    return model_at_hand(name, detector())


@st.cache_data
def drawn_face(expression: str) -> Image.Image:
    """Draw a clean face of 360 by 360 pixels."""
    drawn = draw(np.array([EMOTIONS.index(expression)]), 5, rough=0.3, size=360)
    return Image.fromarray(drawn[0, 0])


def live(predictor: Predictor) -> None:
    """Show the camera's picture and, beside it, what the model reads in it."""
    left, right = st.columns([3, 2], gap="large")
    with left:
        if not get_host_addresses(use_ipv4=True, use_ipv6=True):
            st.warning(NO_ADDRESS)
        context = webrtc_streamer(
            key="mirror",
            video_processor_factory=lambda: Processor(Mirror(predictor)),
            rtc_configuration=NO_SERVER,
            media_stream_constraints=CAMERA,
            translations={"start": "Start the camera", "stop": "Stop"},
        )
    processor = context.video_processor
    if processor and processor.mirror.using[0] is not predictor:
        processor.mirror.use(predictor)
    with right:
        readings(processor)


@st.fragment(run_every=REFRESH)
def readings(processor: Processor | None) -> None:
    """Show emoji, probabilities, the last seconds and the speed, anew every `REFRESH` seconds."""
    if processor and processor.error:
        st.error(f"A frame could not be read: {processor.error!r}")
        return
    if processor is None or processor.mirror.view == View():
        st.html(cards.waiting(START))
        return
    mirror, view = processor.mirror, processor.mirror.view
    if mirror.stale:
        st.html(cards.waiting(STALE))
        return
    st.html(
        cards.card(view.expression, sure=view.sure, note=cards.one_of(view.faces))
        + cards.bars(view.probabilities or dict.fromkeys(mirror.using[0].classes, 0.0))
        + cards.band(view.history, gap=max(cards.GAP, 3 * view.latency / 1000))
    )
    st.caption(f"{view.rate:.1f} frames a second, {view.latency:.0f} ms each")


def still(predictor: Predictor) -> None:
    """Show a picture from a file, or a drawn face, and what the model reads in it."""
    left, right = st.columns([3, 2], gap="large")
    with left:
        file = st.file_uploader("A picture with faces", sorted(SUFFIXES))
        if file:
            st.caption("To choose a drawn face, remove the file with its ×.")
        drawn = None if file else st.pills("or a drawn face", EMOTIONS, default="happy")
    if not file and not drawn:
        return
    picture = read_picture(file.name, file.getvalue()) if file else drawn_face(drawn)
    found = predictor(picture)
    left.image(draw_faces(picture, found))
    mark = "" if file else "sample data"
    with right:
        if not found:
            st.html(cards.card(None))
        for number, face in enumerate(found, 1):
            note = mark or cards.number_of(number, len(found))
            card = cards.card(face.expression, sure=face.sure, note=note)
            st.html(card + cards.bars(face.probabilities))


def leak() -> str:
    """Return which setting makes the sentence about pictures untrue, and the remedy; "" if none."""
    if st.get_option("browser.gatherUsageStats"):
        return "Streamlit reports usage statistics: set browser.gatherUsageStats = false"
    if st.get_option("server.address") not in LOOPBACK:
        return "Other machines can reach this page: set server.address = 127.0.0.1"
    return ""


def foot(predictor: Predictor) -> None:
    """Show what happens to the pictures, and what the page cannot tell."""
    if problem := leak():
        st.warning(problem)
    else:
        st.success(f"{cards.PRIVATE} {KEPT}", icon=":material/lock:")
    st.info(cards.LIMITS, icon=":material/info:")
    st.caption(f"Model: {predictor.name}. Faces are found by {predictor.detector.name}.")


def main() -> None:
    st.set_page_config("Emoji Mirror", "😄", layout="wide")
    st.html(cards.STYLE + STYLE)
    st.title("Emoji Mirror")
    left, right = st.columns([3, 2], gap="large", vertical_alignment="bottom")
    mode = left.segmented_control("Picture", [LIVE, STILL], default=LIVE)
    try:
        name = right.selectbox("Model", names(), key="model")
        predictor = load(name)
    except InputError as error:
        st.error(str(error))
        return
    show = still if mode == STILL else live
    try:
        show(predictor)
    except InputError as error:
        st.error(str(error))
    foot(predictor)


if __name__ == "__main__":
    main()
