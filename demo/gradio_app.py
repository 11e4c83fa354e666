"""A page to try models on: the expressions in a picture or the camera, and what the model looks at.

    make demo            or, if the extra `demo` is installed:
    python demo/gradio_app.py

The environment variable GRADIO_SERVER_PORT sets another port.
"""

import os
import time
from functools import cache, lru_cache
from tempfile import TemporaryDirectory

import gradio as gr
import numpy as np
import torch
from gradio.data_classes import ImageData
from PIL import Image

from fer_lib import cards, explain, plots
from fer_lib.data.drawing import draw
from fer_lib.data.pictures import read_picture
from fer_lib.files import InputError, end_as_interrupted
from fer_lib.mirror import Follower
from fer_lib.predict import Face, Predictor
from fer_lib.predict.at_hand import model_at_hand, models_at_hand
from fer_lib.predict.faces import Detector, make_detector
from fer_lib.predict.outputs import draw_faces

FRAME_SECONDS = 0.2  # between two frames of the camera
SHOWN = 4  # faces of one picture that get a card and a map, the largest first
SIDE = 360  # pixels, height of a picture on the page
MAPS = {"show_label": True, "container": True}
SHOW = {"interactive": False, "buttons": ["fullscreen"]}  # leaves out Gradio's button that uploads
FONT = ["system-ui", "sans-serif"]  # a theme's own fonts would be fetched from Google
TITLE = "# Facial expressions\nGive a picture, take one, or let the camera run."
DRAWN = "Drawn faces: sample data (they show no person)"
CHOOSE = "Choose a picture, or one of the drawn faces."
MAP = "What the model looks at"
NO_MAP = "A map needs the torch model: choose a run, or the default model."
KEEP = 60  # seconds that a picture's file stays before it is deleted
KEPT = (
    "A picture that you give stays in a temporary folder for about a minute, as does its copy with "
    "the faces marked, and in memory while the page is open; camera frames are never in a file."
)
ONE = {"concurrency_id": "model", "concurrency_limit": 1}  # a map puts a hook on the shared model


@lru_cache(maxsize=4)
def load(name: str) -> Predictor:
    """Load one of the models at hand; if it cannot be loaded, an error on the page says why."""
    try:
        return model_at_hand(name, detector())
    except InputError as error:
        raise gr.Error(str(error)) from error


@cache
def detector() -> Detector:
    """Make the face detector of all models, before the page is served."""
    return make_detector()


def drawn_faces() -> list[Image.Image]:
    """Draw a clean face for each expression."""
    return [Image.fromarray(one[0]) for one in draw(np.arange(7), 5, rough=0.3, size=360)]


def map_of(predictor: Predictor, faces: list[Face]) -> str:
    """Return HTML with faces as the model was given them, under maps of what it looks at.

    Of an ONNX file, whose inside cannot be seen, it says why there are no maps.
    """
    if not faces:
        return ""
    if predictor.model is None:
        return NO_MAP
    crops = np.array([face.crop for face in faces])
    _, maps = explain.maps(predictor.model, predictor.prepare(torch.from_numpy(crops)))
    heated = [plots.heated(*pair) for pair in zip(crops, maps.cpu().numpy(), strict=True)]
    return cards.picture(np.hstack(heated), MAP)


def path_of(sent: ImageData | None) -> str | None:
    """Return the path of a picture as it was sent, for `opened`.

    If the file is not a picture, Gradio's own reader would show only the word "Error".
    """
    return sent.path if sent else None


def opened(path: str | None) -> Image.Image | None:
    """Read a picture, which then outlives its file; if it is none, show a warning, return None."""
    try:
        return read_picture(path) if path else None
    except InputError as error:
        gr.Warning(str(error))
        return None


def read(picture: Image.Image | None, name: str) -> tuple[str, Image.Image | None, str]:
    """Predict the expressions in a still picture.

    Returns:
        HTML with the cards, the picture with its faces marked, and HTML with the maps.
    """
    if picture is None:
        return cards.waiting(CHOOSE), None, ""
    predictor = load(name)
    found = predictor(picture)
    html = "".join(
        cards.card(face.expression, sure=face.sure, note=cards.number_of(number, len(found)))
        + cards.bars(face.probabilities)
        for number, face in enumerate(found[:SHOWN], 1)
    )
    if len(found) > SHOWN:
        html += cards.remark(f"The {SHOWN} largest of {len(found)} faces; the picture shows all.")
    marked = draw_faces(picture, found)
    return html or cards.card(None), marked, map_of(predictor, found[:SHOWN])


def watch(
    frame: Image.Image | None, name: str, state: tuple[str, Follower] | None
) -> tuple[str, str, tuple[str, Follower]]:
    """Predict the expression of the face that is followed in one frame of the camera.

    Args:
        state: name of the model, and the follower that steadies its answers; None at first.

    Returns:
        HTML with the card, HTML with the map, and the state for the next frame.
    """
    predictor = load(name)
    if state is None or state[0] != name:
        state = name, Follower(threshold=predictor.threshold)
    follower = state[1]
    found = predictor(frame) if frame else []
    face = follower.take(found, time.monotonic())
    html = cards.card(
        follower.expression, sure=follower.sure, note=cards.one_of(len(found))
    ) + cards.bars(follower.probabilities or dict.fromkeys(predictor.classes, 0.0))
    return html, map_of(predictor, [face] if face else []), state


def page() -> gr.Blocks:
    """Build the page, without serving it."""
    names = list(models_at_hand(detector()))
    deleted = {"delete_cache": (KEEP // 2, KEEP)}  # seconds between checks, least age in seconds
    with gr.Blocks(title="Facial expressions", analytics_enabled=False, **deleted) as blocks:
        gr.Markdown(TITLE)
        model = gr.Dropdown(names, value=names[0], label="Model")
        with gr.Tab("Picture"):
            with gr.Row():
                with gr.Column(scale=3):
                    picture = gr.Image(
                        type="filepath",
                        image_mode=None,  # unchanged: read_picture handles 16 bits, transparency
                        sources=["upload", "webcam"],
                        label="Picture",
                        height=SIDE,
                    )
                    picture.preprocess = path_of
                    gr.Examples(drawn_faces(), picture, label=DRAWN)
                with gr.Column(scale=2):
                    answer = gr.HTML(cards.waiting(CHOOSE))
            with gr.Row():
                marked = gr.Image(label="Faces", height=SIDE, **SHOW)
                maps = gr.HTML(label=MAP, **MAPS)
        with gr.Tab("Live camera"), gr.Row():
            with gr.Column(scale=3):
                camera = gr.Image(type="pil", sources=["webcam"], streaming=True, label="Camera")
            with gr.Column(scale=2):
                moment = gr.HTML(cards.waiting("Allow the camera, then choose Record."))
                live_map = gr.HTML(label=MAP, **MAPS)
        gr.Markdown(f"🔒 {cards.PRIVATE} {KEPT}\n\n{cards.LIMITS}")
        # A run may have ended since the page was built.
        blocks.load(lambda: gr.Dropdown(list(models_at_hand(detector()))), outputs=model)
        state, kept = gr.State(), gr.State()
        shown = {"inputs": [kept, model], "outputs": [answer, marked, maps]}
        given = picture.change(opened, picture, kept, show_progress="hidden")
        given.success(read, **shown, show_progress="hidden", **ONE)
        model.change(read, **shown, show_progress="hidden", **ONE)
        camera.stream(
            watch,
            [camera, model, state],
            [moment, live_map, state],
            stream_every=FRAME_SECONDS,
            time_limit=None,
            show_progress="hidden",
            **ONE,
        )
    return blocks


def ask_no_proxy() -> None:
    """Keep Gradio's own request to the page, with which it begins, away from a proxy."""
    known = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or "localhost"
    if known != "*":  # which covers all addresses only if it stands alone
        os.environ["no_proxy"] = os.environ["NO_PROXY"] = f"{known},127.0.0.1"


def main() -> None:
    """Serve the page until it is stopped, then remove the files that Gradio stored for it."""
    end_as_interrupted()
    with TemporaryDirectory() as folder:  # where Gradio puts pictures for the browser
        os.environ["GRADIO_TEMP_DIR"] = folder
        try:
            blocks = page()
        except InputError as error:  # such as a detector that is not there
            raise SystemExit(f"error: {error}") from None
        ask_no_proxy()
        try:
            blocks.launch(
                server_name="127.0.0.1",
                share=False,
                theme=gr.themes.Soft(font=FONT, font_mono=["monospace"]),
                head=cards.STYLE,
                footer_links=[],
            )
        except OSError as error:
            raise SystemExit(
                f"error: no port is free for the page ({str(error).partition('. ')[0]}): end the "
                "program that uses it, or set GRADIO_SERVER_PORT to another port"
            ) from None


if __name__ == "__main__":
    main()
