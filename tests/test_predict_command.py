"""`python -m fer_lib.predict`: its output, the problems that it reports, and its exit status."""

import csv
import io
import json
import os
import runpy
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import cache
from math import inf
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from conftest import until
from forked import CONTEXT, ended
from PIL import Image, ImageColor, ImageDraw

from fer_lib.checkpoints import save_weights
from fer_lib.data.drawing import draw
from fer_lib.data.pictures import NO_PICTURE, read_picture
from fer_lib.files import InputError
from fer_lib.labels import EMOTIONS
from fer_lib.models import create_model
from fer_lib.predict import Face
from fer_lib.predict import __main__ as command
from fer_lib.predict.description import describe
from fer_lib.predict.faces import Box
from fer_lib.predict.inputs import Shot, Source, batches, find_sources, progress, shots
from fer_lib.predict.outputs import (
    COLUMNS,
    SURE,
    UNSURE,
    Seen,
    annotate,
    check_copies,
    draw_faces,
    line,
    write_table,
)
from fer_lib.recipes import recipe


@pytest.fixture(scope="module")
def weights(tmp_path_factory, fitted):
    config = recipe("baseline_cnn", "ours", "sample")
    path = tmp_path_factory.mktemp("weights") / "best.safetensors"
    model = fitted(create_model(config.model, **config.options))
    save_weights(path, model.state_dict(), config, EMOTIONS)
    return path


@pytest.fixture
def run(weights, capsys):
    """A function that runs the command and returns its status, stdout and stderr."""

    def run(*arguments):
        options = ["--model", str(weights), "--detector", "haar"]
        try:
            status = command.main([*options, *map(str, arguments)])
        except SystemExit as stop:
            status = stop.code
        return status, *capsys.readouterr()

    return run


@cache
def drawn_face() -> np.ndarray:
    return draw(np.array([0]), 1, size=200, rough=0)[0, 0, :, :, None]


def canvas(x: int = 200) -> np.ndarray:
    """Return a picture, (320, 480, 3) uint8, with a drawn face at x that the cascade finds."""
    picture = np.full((320, 480, 3), 128, np.uint8)
    picture[60:260, x : x + 200] = drawn_face()
    return picture


@pytest.fixture
def folder(tmp_path):
    """Two pictures with a face, one without, a truncated one, and text files, one named .jpg."""
    folder = tmp_path / "pictures"
    (folder / "below").mkdir(parents=True)
    Image.fromarray(canvas()).save(folder / "face.png")
    Image.fromarray(canvas(20)[..., 0]).save(folder / "below" / "grey.jpg", quality=95)
    Image.new("RGB", (300, 200), "white").save(folder / "empty.png")
    (folder / "cut.jpg").write_bytes((folder / "below" / "grey.jpg").read_bytes()[:9000])
    (folder / "text.jpg").write_text("this is no picture")
    (folder / "notes.txt").write_text("nor is this")
    return folder


def table(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_unreadable_pictures_are_reported_and_the_others_are_written(run, folder, tmp_path):
    status, printed, said = run(folder, "--out", tmp_path / "a.csv")
    assert (status, printed) == (1, "")
    rows = {row["path"]: row for row in table(tmp_path / "a.csv")}
    names = ["below/grey.jpg", "empty.png", "face.png"]
    assert list(rows) == [str(folder / name) for name in names]
    face = rows[str(folder / "face.png")]
    assert list(face) == [*COLUMNS, *EMOTIONS]
    assert face["face"] == "1"
    assert 180 < int(face["x"]) < 280
    assert sum(float(face[name]) for name in EMOTIONS) == pytest.approx(1, abs=1e-5)
    assert float(face[face["expression"]]) == float(face["probability"])
    assert set(list(rows[str(folder / "empty.png")].values())[1:]) == {""}
    assert "3 pictures read, 2 faces; 2 could not be read" in said
    assert f"{folder / 'cut.jpg'} cannot be read as a picture (image file is truncated" in said
    assert f"{folder / 'text.jpg'} cannot be read as a picture (its content is no picture)" in said
    assert f"no face was found in {folder / 'empty.png'}" in said
    assert "skipped 1 file in the folders: only those whose names end like pictures" in said
    assert "faces are found by Haar cascade" in said


def test_json_contains_the_predictions_and_the_problems(run, folder, tmp_path):
    assert run(folder, "--out", tmp_path / "a.json")[0] == 1
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["classes"] == list(EMOTIONS)
    assert found["threshold"] == 0.5
    assert [len(one["faces"]) for one in found["pictures"]] == [1, 0, 1]
    face = found["pictures"][0]["faces"][0]
    assert list(face["probabilities"]) == list(EMOTIONS)
    assert len(face["box"]) == 4
    assert [one["path"] for one in found["problems"]] == [
        str(folder / name) for name in ("cut.jpg", "text.jpg")
    ]


def test_a_table_has_each_face_of_a_frame_with_its_number_and_the_time(tmp_path):
    sure, unsure = {"happy": 0.75, "sad": 0.25}, {"happy": 0.4, "sad": 0.6}
    faces = [
        Face(Box(1, 2, 30, 40), sure, "happy", "😀", True, 0.9, np.zeros(1)),
        Face(Box(5, 6, 7, 8), unsure, "sad", "😢", False, None, np.zeros(1)),
    ]
    source = Source(Path("film.mp4"), Path("film.mp4"))
    seen = [Seen(Shot(source, frame=12, seconds=0.5), faces)]
    problems = [Shot(source, problem="damaged")]
    predictor = SimpleNamespace(name="a model", classes=("happy", "sad"), threshold=0.7)
    for suffix in (".csv", ".json"):
        write_table(tmp_path / f"a{suffix}", seen, problems, predictor)
    assert (tmp_path / "a.csv").read_text().splitlines() == [
        ",".join([*COLUMNS, "happy", "sad"]),
        "film.mp4,12,0.5,1,1,2,30,40,0.9,happy,0.75,1,0.75,0.25",
        "film.mp4,12,0.5,2,5,6,7,8,,sad,0.6,0,0.4,0.6",
    ]
    first = {"box": [1, 2, 30, 40], "confidence": 0.9, "expression": "happy", "emoji": "😀"}
    second = {"box": [5, 6, 7, 8], "confidence": None, "expression": "sad", "emoji": "😢"}
    both = [
        first | {"sure": True, "probabilities": sure},
        second | {"sure": False, "probabilities": unsure},
    ]
    assert json.loads((tmp_path / "a.json").read_text()) == {
        **{"model": "a model", "classes": ["happy", "sad"], "threshold": 0.7},
        "pictures": [{"path": "film.mp4", "frame": 12, "seconds": 0.5, "faces": both}],
        "problems": [{"path": "film.mp4", "reason": "damaged"}],
    }
    text = "film.mp4, frame 12: 😀 happy 75% at 1, 2; 😢 sad 60% (not sure) at 5, 6"
    assert line(seen[0]) == text


def test_the_threshold_is_null_in_json_if_no_answer_can_be_sure(run, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "fer_lib.predict.predictor.describe", lambda path: replace(describe(path), threshold=inf)
    )
    assert run(folder / "face.png", "--out", tmp_path / "a.json")[0] == 0
    found = json.loads((tmp_path / "a.json").read_text())
    assert found["threshold"] is None
    assert not found["pictures"][0]["faces"][0]["sure"]


@pytest.mark.parametrize(("threshold", "sure"), [(0.0, "1"), (inf, "0")])
def test_what_is_not_sure_is_marked(run, folder, tmp_path, monkeypatch, threshold, sure):
    known = lambda path: replace(describe(path), threshold=threshold)
    monkeypatch.setattr("fer_lib.predict.predictor.describe", known)
    assert run(folder / "face.png", "--out", tmp_path / "a.csv")[0] == 0
    assert table(tmp_path / "a.csv")[0]["sure"] == sure
    assert ("(not sure)" in run(folder / "face.png")[1]) == (sure == "0")


def test_without_out_the_faces_are_printed(run, folder):
    status, printed, _ = run(folder / "face.png", folder / "empty.png")
    assert status == 0
    first, second = printed.splitlines()
    assert first.startswith(f"{folder / 'face.png'}: ")
    assert "% " in first
    assert second == f"{folder / 'empty.png'}: no face"


def test_a_terminal_without_emoji_shows_a_question_mark(run, folder, monkeypatch):
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="cp1252", write_through=True)
    monkeypatch.setattr(sys, "stdout", terminal)
    assert run(folder / "face.png")[0] == 0
    printed = terminal.buffer.getvalue()
    assert printed.startswith(os.fsencode(folder / "face.png") + b": ? ")


def test_a_file_given_twice_is_read_once(run, folder, tmp_path):
    arguments = (folder / "**" / "*.png", folder / "face.png", "--out", tmp_path / "a.csv")
    assert run(*arguments)[0] == 0
    rows = table(tmp_path / "a.csv")
    assert [row["path"] for row in rows] == [str(folder / n) for n in ("empty.png", "face.png")]


def test_whole_skips_the_face_detection(run, folder, tmp_path):
    status, _, said = run(folder / "empty.png", "--whole", "--out", tmp_path / "a.csv")
    assert status == 0
    (row,) = table(tmp_path / "a.csv")
    assert [row[key] for key in ("face", "x", "y", "width", "height", "confidence")] == [
        *("1", "0", "0", "300", "200", "")
    ]
    assert "faces are found by" not in said


@pytest.fixture
def film(tmp_path):
    path = tmp_path / "film.avi"
    video = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (480, 320))
    for number in range(25):
        video.write(canvas(20 if number < 13 else 250))
    video.release()
    return path


def test_every_nth_frame_of_a_video_is_read(run, film, tmp_path):
    copies = tmp_path / "copies"
    arguments = (film, "--every", 12, "--out", tmp_path / "a.csv", "--annotate", copies)
    assert run(*arguments)[0] == 0
    rows = table(tmp_path / "a.csv")
    assert [(row["frame"], row["seconds"]) for row in rows] == [
        *(("0", "0.0"), ("12", "1.2"), ("24", "2.4"))
    ]
    run(film, "--out", tmp_path / "b.csv")
    assert [row["frame"] for row in table(tmp_path / "b.csv")] == ["0", "10", "20"]
    assert [int(row["x"]) // 200 for row in rows] == [0, 0, 1]
    names = [f"film.avi_{number:06d}.jpg" for number in (0, 12, 24)]
    assert sorted(path.name for path in copies.iterdir()) == names


def test_seconds_are_right_for_a_variable_frame_rate(tmp_path):
    path = tmp_path / "uneven.mp4"
    frames = "testsrc=rate=10:duration=2:size=64x64"
    uneven = "setpts='if(lt(N,10),N,10+(N-10)*3)/10/TB'"  # ten frames at 10 fps, then 3.3 fps
    command = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", frames, "-vf", uneven]
    if not shutil.which("ffmpeg"):
        pytest.skip("ffmpeg makes the video")
    if subprocess.run([*command, "-fps_mode", "vfr", str(path)]).returncode:
        pytest.skip("this ffmpeg is older than 5.1 and does not make the video")
    seen = list(shots(Source(path, path), 5))
    assert [(shot.frame, shot.seconds) for shot in seen] == [
        *((0, 0.0), (5, 0.5), (10, 1.0), (15, 2.5))
    ]


class Video:
    """A fake `cv2.VideoCapture` of 20 blue frames: no. 16 cannot be decoded, two are missing."""

    length = 18

    def __init__(self, *_):
        self.number = 0

    def isOpened(self):
        return True

    def get(self, what):
        return 20 if what == cv2.CAP_PROP_FRAME_COUNT else 100 * (self.number - 1)

    def grab(self):
        self.number += 1
        return self.number <= self.length

    def retrieve(self):
        return self.number != 16, np.full((8, 8, 3), (255, 0, 0), np.uint8)  # blue, green, red

    def release(self):
        pass


@pytest.mark.parametrize(
    ("suffix", "head"), [(".mp4", b"moov"), (".webm", b""), (".mp4", b"moov....mvex")]
)
def test_unreadable_and_missing_frames_are_reported(monkeypatch, tmp_path, suffix, head):
    monkeypatch.setattr(cv2, "VideoCapture", Video)
    path = tmp_path / f"film{suffix}"
    path.write_bytes(head)
    seen = list(shots(Source(path, path), 1))
    assert [shot.frame for shot in seen if shot.picture] == [*range(15), 16, 17]
    assert seen[0].picture.getpixel((0, 0)) == (0, 0, 255)
    problems = [shot.problem for shot in seen if shot.problem]
    assert problems[0] == f"{path}: frame 15 cannot be read"
    short = f"{path}: 18 of 20 frames could be read, the rest is damaged or trimmed"
    # In a .webm and a fragmented .mp4, the number 20 is only an estimate.
    assert problems[1:] == ([short] if head == b"moov" else [])


def test_a_video_is_cut_short_if_less_than_half_of_an_estimate_can_be_read(monkeypatch, tmp_path):
    monkeypatch.setattr(cv2, "VideoCapture", Video)
    monkeypatch.setattr(Video, "length", 9)
    path = tmp_path / "film.webm"
    path.touch()
    *frames, end = shots(Source(path, path), 1)
    assert len(frames) == 9
    assert end.problem == f"{path}: 9 of 20 frames could be read, the rest is damaged or trimmed"


def test_a_time_that_a_video_does_not_say_is_left_empty(monkeypatch, tmp_path):
    monkeypatch.setattr(cv2, "VideoCapture", Video)
    monkeypatch.setattr(Video, "get", lambda self, what: 0)
    path = tmp_path / "film.webm"
    path.touch()
    seen = list(shots(Source(path, path), 6))
    assert [(shot.frame, shot.seconds) for shot in seen] == [(0, 0.0), (6, None), (12, None)]


def test_a_batch_ends_at_its_number_of_pictures_or_of_pixels(monkeypatch):
    monkeypatch.setattr("fer_lib.predict.inputs.BATCH", 3)
    monkeypatch.setattr("fer_lib.predict.inputs.PIXELS", 350)
    source = Source(Path("a.png"), Path("a.png"))
    small, large = (Shot(source, Image.new("L", (side, side))) for side in (10, 20))
    lost = Shot(source, problem="damaged")
    found = list(batches(iter([small, small, small, small, large, small, lost, small, small])))
    assert found == [[small] * 3, [small, large], [small, lost, small], [small]]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems may refuse such names")
def test_a_video_whose_name_is_not_utf_8_is_reported(monkeypatch, tmp_path):
    monkeypatch.setattr(cv2, "VideoCapture", Video)  # the real one would end the process
    path = tmp_path / os.fsdecode(b"m\xe4dchen.mp4")
    path.write_bytes(b"moov")
    (shot,) = progress([Source(path, path)], 1)
    assert shot.problem.endswith("m\\udce4dchen.mp4' is not UTF-8: rename it")


def test_a_video_name_with_colons_is_not_taken_for_an_address(tmp_path, monkeypatch):
    path = Path("2024-01-01T10:30:00.mp4")
    video = cv2.VideoWriter(str(tmp_path / path), cv2.VideoWriter_fourcc(*"mp4v"), 10, (64, 64))
    for _ in range(3):
        video.write(np.zeros((64, 64, 3), np.uint8))
    video.release()
    monkeypatch.chdir(tmp_path)
    assert [shot.frame for shot in shots(Source(path, path), 1)] == [0, 1, 2]


def test_a_file_name_may_start_with_a_tilde(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("./~a.png").write_bytes(b"")
    for given in ("~a.png", "./~a.png", "*.png"):
        assert [source.path.name for source in find_sources([given])[0]] == ["~a.png"]


def test_an_empty_path_is_refused():
    with pytest.raises(InputError, match="an empty path names no picture"):
        find_sources([""])


def test_the_progress_of_a_single_video_counts_frames(film, monkeypatch):
    bars = []
    monkeypatch.setattr(
        "fer_lib.predict.inputs.tqdm", lambda some, **options: bars.append(options) or some
    )
    assert len(list(progress([Source(film, film)], 12))) == 3
    assert (bars[0]["total"], bars[0]["unit"]) == (3, "frame")


def test_a_broken_video_is_reported(run, film, folder, tmp_path):
    (tmp_path / "cut.avi").write_bytes(film.read_bytes()[:100])
    status, _, said = run(tmp_path / "cut.avi", folder / "face.png", "--out", tmp_path / "a.csv")
    assert status == 1
    assert "cut.avi cannot be read as a video" in said
    assert len(table(tmp_path / "a.csv")) == 1


def test_faces_are_numbered_as_in_the_table_if_there_are_several(monkeypatch):
    said = []
    draw = ImageDraw.ImageDraw.text
    note = lambda self, at, text, **given: said.append(text) or draw(self, at, text, **given)
    monkeypatch.setattr(ImageDraw.ImageDraw, "text", note)
    picture, sizes = Image.new("L", (300, 200)), (90, 60)
    faces = [
        Face(Box(9, 9, size, size), {"happy": 0.9}, "happy", "", True, None, np.zeros(1))
        for size in sizes
    ]
    draw_faces(picture, faces)
    draw_faces(picture, faces[:1])
    draw_faces(picture, faces, numbered=False)
    assert said == ["1 happy 90%", "2 happy 90%", "happy 90%", "happy 90%", "happy 90%"]


@pytest.mark.parametrize("box", [Box(9, 9, 200, 150), Box(0, 0, 300, 200)])
def test_the_lines_of_a_box_are_inside_it(box):
    face = Face(box, {"happy": 0.9}, "happy", "", True, None, np.zeros(1))
    drawn = np.asarray(draw_faces(Image.new("L", (300, 200)), [face])).any(2)
    right, bottom = box.x + box.width, box.y + box.height
    assert np.flatnonzero(drawn[100]).tolist() == [box.x, box.x + 1, right - 2, right - 1]
    beside_the_label = drawn[:, right - 20]
    assert np.flatnonzero(beside_the_label).tolist() == [box.y, box.y + 1, bottom - 2, bottom - 1]


@pytest.mark.parametrize(("sure", "colour"), [(True, SURE), (False, UNSURE)])
def test_the_colour_of_a_box_says_whether_the_answer_is_sure(sure, colour):
    face = Face(Box(9, 9, 200, 150), {"happy": 0.9}, "happy", "", sure, None, np.zeros(1))
    drawn = draw_faces(Image.new("L", (300, 200)), [face])
    assert drawn.getpixel((9, 100)) == ImageColor.getrgb(colour)


@pytest.mark.parametrize("box", [Box(0, 0, 300, 200), Box(270, 150, 30, 50), Box(280, 0, 20, 200)])
def test_the_label_of_a_face_at_the_edge_is_inside_the_picture(box):
    def letters(box):
        face = Face(box, {"happy": 0.9}, "happy", "", True, None, np.zeros(1))
        drawn = np.asarray(draw_faces(Image.new("L", (300, 200)), [face]))
        return (drawn == 255).all(2).sum()

    assert letters(box) == letters(Box(50, 100, 80, 50)) > 0


@pytest.mark.parametrize("colour", [SURE, UNSURE])
def test_white_text_on_the_colours_of_the_labels_can_be_read(colour):
    shares = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    light = [((share + 0.055) / 1.055) ** 2.4 for share in shares]  # as WCAG defines it
    assert 1.05 / (np.dot([0.2126, 0.7152, 0.0722], light) + 0.05) > 4.5


def test_pixels_are_not_kept_once_a_picture_is_done(run, folder, monkeypatch):
    works = []
    init = command.Work.__init__
    monkeypatch.setattr(
        command.Work, "__init__", lambda self, args: works.append(self) or init(self, args)
    )
    run(folder)
    (work,) = works
    faces = [face for seen in work.seen for face in seen.faces]
    assert len(faces) == 2
    assert not sum(face.crop.nbytes for face in faces)
    assert {seen.shot.picture for seen in work.seen} == {None}


def test_the_model_computes_on_the_device_that_is_asked_for(run, folder, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    status, _, said = run(folder / "face.png", "--device", "cuda")
    assert status == 2
    assert "finds no GPU for the device cuda" in said
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert run(folder / "face.png", "--device", "cpu")[0] == 0


def test_annotated_copies_keep_names_and_show_the_box(run, folder, tmp_path):
    copies = tmp_path / "copies"
    run(folder, "--annotate", copies, "--out", tmp_path / "a.csv")
    found = sorted(str(path.relative_to(copies)) for path in copies.rglob("*.*"))
    assert found == ["below/grey.jpg", "empty.png", "face.png"]
    before, after = (np.asarray(Image.open(f / "face.png")) for f in (folder, copies))
    assert before.shape == after.shape
    changed = np.argwhere((before != after).any(2))
    row = next(row for row in table(tmp_path / "a.csv") if row["path"].endswith("face.png"))
    bottom = int(row["y"]) + int(row["height"])
    assert abs(changed[:, 0].max() - bottom) <= 3
    assert abs(changed[:, 1].min() - int(row["x"])) <= 3
    np.testing.assert_array_equal(Image.open(copies / "empty.png"), np.full((200, 300, 3), 255))


@pytest.mark.parametrize("suffix", [".gif", ".pgm", ".ppm"])
def test_copies_are_written_in_every_kind_of_picture_that_a_folder_may_hold(
    run, folder, tmp_path, suffix
):
    picture = Image.open(folder / "below" / "grey.jpg")
    only = tmp_path / "only"
    only.mkdir()
    picture.save(only / f"face{suffix}")
    status, printed, _ = run(only, "--annotate", tmp_path / "copies")
    assert status == 0
    assert " at " in printed
    copy = Image.open(tmp_path / "copies" / f"face{suffix}").convert("L")
    changed = np.abs(np.asarray(copy, int) - np.asarray(picture, int)) > 40
    assert 50 < changed.sum() < changed.size / 4


def test_a_copy_that_cannot_be_written_is_reported_and_the_others_are_written(
    run, folder, tmp_path
):
    copies, face = tmp_path / "copies", folder / "face.png"
    long = shutil.copy(face, folder / f"{'é' * 120}.png")  # 244 of the 255 bytes allowed
    longer = shutil.copy(face, folder / ("b" * 254))  # too long when .png is added
    wide = folder / "wide.webp"  # WebP itself allows a side of 16,383 pixels
    Image.new("L", (17_000, 8)).save(wide, "png")
    arguments = (longer, wide, long, face, "--annotate", copies, "--out", tmp_path / "a.csv")
    status, _, said = run(*arguments)
    assert status == 1
    assert sorted(path.name for path in copies.iterdir()) == [face.name, long.name]
    assert "4 pictures read, 3 faces; 2 could not be read or copied:\n" in said
    assert "b.png could not be written (File name too long)" in said
    assert "wide.webp cannot be written (" in said
    assert len(table(tmp_path / "a.csv")) == 4


def test_an_unreadable_folder_is_reported_and_the_others_are_read(
    run, folder, tmp_path, monkeypatch
):
    (folder / "face").mkdir()  # has no annotated copy, which would also be face.png
    scandir, is_file = os.scandir, Path.is_file

    def guarded(path):
        if str(path) == str(folder / "face"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    def unsure(path):
        if path.parent.name == "below":
            raise PermissionError(13, "Permission denied", str(path))
        return is_file(path)

    monkeypatch.setattr(os, "scandir", guarded)
    monkeypatch.setattr(Path, "is_file", unsure)
    arguments = (folder, "--annotate", tmp_path / "copies", "--out", tmp_path / "a.csv")
    status, _, said = run(*arguments)
    assert status == 1
    assert f"{folder / 'face'} cannot be read (Permission denied)" in said
    assert len(table(tmp_path / "a.csv")) == 3


def test_links_to_nothing_are_reported_and_the_others_are_read(run, folder, tmp_path):
    for name, target in (("gone.png", "nowhere.png"), ("loop.jpg", "loop.jpg")):
        (folder / "below" / name).symlink_to(folder / "below" / target)
    status, printed, said = run(folder / "below", "--annotate", tmp_path / "copies")
    assert status == 1
    assert printed.startswith(f"{folder / 'below' / 'grey.jpg'}: ")
    assert "1 pictures read, 1 faces; 2 could not be read" in said
    assert f"{folder / 'below' / 'gone.png'} cannot be read (No such file" in said
    assert f"{folder / 'below' / 'loop.jpg'} cannot be read (Too many levels" in said


@pytest.mark.parametrize(
    ("mode", "space"),
    [*((mode, b"RGB ") for mode in ("RGB", "RGBA", "L")), ("L", b"GRAY"), ("CMYK", b"CMYK")],
)
def test_a_copy_has_the_profile_of_its_picture_only_if_that_is_one_of_rgb(tmp_path, mode, space):
    profile = bytes(16) + space + bytes(108)
    few = {"CMYK": (".jpg", ".tif"), "RGBA": (".png", ".webp")}
    for suffix in few.get(mode, (".jpg", ".tif", ".png", ".webp")):
        path = tmp_path / f"a{suffix}"
        Image.new(mode, (16, 16)).save(path, icc_profile=profile)
        shot = Shot(Source(path, Path(path.name)), read_picture(path))
        annotate(tmp_path / "copies", Seen(shot, []))
        copied = Image.open(tmp_path / "copies" / path.name).info.get("icc_profile")
        assert copied == (profile if space == b"RGB " else None)


def test_the_copy_of_a_file_without_a_picture_suffix_is_a_png(run, folder, tmp_path):
    (folder / "face.png").rename(folder / "upload.tmp")
    copies = tmp_path / "copies"
    arguments = (folder / "upload.tmp", "--annotate", copies, "--out", tmp_path / "a.csv")
    assert run(*arguments)[0] == 0
    (copy,) = copies.iterdir()
    assert copy.name == "upload.tmp.png"
    Image.open(copy).verify()
    copy.rename(folder / "upload.tmp.png")
    status, _, said = run(folder / "upload.tmp", folder / "upload.tmp.png", "--annotate", copies)
    assert status == 2
    assert "already" in said


def test_a_heic_picture_is_reported_with_a_remedy(run, folder):
    (folder / "below" / "IMG_1.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))
    status, _, said = run(folder / "below")
    assert status == 1
    assert (
        "IMG_1.HEIC cannot be read as a picture (it is in HEIC format: export it as JPEG)" in said
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give a picture"),
        (["{folder}", "--out", "a.txt"], ".csv or .json"),
        (["{folder}", "--out=~nobody-here/a.csv"], "begins with an unknown user"),
        (["{folder}", "--every", "0"], "--every is 1 or more"),
        (["{folder}/nothing.png"], "nothing.png does not exist"),
        (["{folder}/*.gif"], "nothing matches"),
        (["{folder}/only text"], "holds no picture"),
        (["{folder}", "--annotate", "{folder}"], "is an input itself: give another folder"),
        (["{folder}", "--annotate", "{folder}/face.png"], "is a file"),
        (
            ["{folder}/face.png", "{folder}/other/face.png", "--annotate", "c"],
            "face.png: give the folder that holds both in place of files or a pattern",
        ),
        (["--export", "model.pt"], "ends with .onnx"),
        (["{folder}", "--out", "{folder}/face.png/a.csv"], "cannot be written to"),
        (["{folder}", "--annotate", "{folder}/face.png/copies"], "cannot be written to"),
        (["--export", "{folder}/face.png/a.onnx"], "cannot be written to"),
        (["{folder}", "--out", "{folder}/a.json"], "is a folder"),
    ],
)
def test_invalid_options_are_refused_before_anything_is_written(
    run, folder, tmp_path, arguments, message
):
    (folder / "only text").mkdir()
    (folder / "only text" / "a.txt").touch()
    (folder / "a.json").mkdir()
    (folder / "other").mkdir()
    Image.fromarray(canvas()).save(folder / "other" / "face.png")
    before = sorted(tmp_path.rglob("*"))
    status, printed, said = run(*(one.format(folder=folder) for one in arguments))
    assert status == 2
    assert message in said
    assert not printed
    assert sorted(tmp_path.rglob("*")) == before


def test_copies_through_a_link_to_the_folder_of_the_pictures_are_refused(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(InputError, match="is an input itself: give another folder"):
        check_copies(tmp_path / "link", find_sources([str(folder / "face.png")])[0])


def test_a_copy_of_a_frame_in_place_of_a_picture_that_is_read_is_refused(tmp_path):
    (tmp_path / "copies").mkdir()
    for name in ("film.avi", "copies/film.avi_000000.jpg"):
        (tmp_path / name).touch()
    sources, _ = find_sources([str(tmp_path)])
    with pytest.raises(InputError, match=r"copy of .*film\.avi would be .* is an input itself"):
        check_copies(tmp_path / "copies", sources)


def test_a_table_of_problems_alone_is_written(tmp_path):
    out, path = tmp_path / "a.json", Path("a.png")
    predictor = SimpleNamespace(name="a model", classes=EMOTIONS, threshold=0.7)
    work = command.Work(SimpleNamespace(out=out, predictor=predictor))
    work.problems.append(Shot(Source(path, path), problem="damaged"))
    assert work.write() == 0
    assert json.loads(out.read_text())["problems"] == [{"path": "a.png", "reason": "damaged"}]


def test_the_summary_names_ten_pictures_without_a_face_and_counts_the_others():
    work = command.Work(SimpleNamespace(predictor=None, annotate=None))
    paths = [Path(f"{number}.png") for number in range(13)]
    work.seen = [Seen(Shot(Source(path, path)), []) for path in paths]
    head, *named, last = work.summary().splitlines()
    assert head == "13 pictures read, 0 faces"
    assert named == [f"  no face was found in {number}.png" for number in range(10)]
    assert last == "  nor in 3 others"


def test_a_tilde_in_an_output_is_the_home_folder(run, folder, tmp_path, monkeypatch):
    home, exported = tmp_path / "home", []
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr(command, "write_onnx", lambda path, _: exported.append(path))
    arguments = ("--out=~/a.csv", "--annotate=~/copies", "--export=~/a.onnx")
    assert run(folder / "face.png", *arguments)[0] == 0
    assert exported == [home / "a.onnx"]
    assert len(table(home / "a.csv")) == 1
    assert (home / "copies" / "face.png").exists()


def test_the_faces_are_printed_even_if_the_export_fails(run, folder, tmp_path, monkeypatch):
    def refuse(*_):
        raise InputError("no export today")

    monkeypatch.setattr(command, "write_onnx", refuse)
    status, printed, said = run(folder / "face.png", "--export", tmp_path / "a.onnx")
    assert status == 2
    assert printed.startswith(f"{folder / 'face.png'}: ")
    assert said.endswith("error: no export today\n")


def test_an_exported_model_gives_the_same_predictions(run, folder, tmp_path):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason="the export needs it: pip install -e '.[onnx]'")
    file, picture = tmp_path / "model.onnx", folder / "face.png"
    status, printed, said = run("--export", file)
    assert (status, printed) == (0, "")
    assert f"is in {file}" in said
    assert run(picture, "--out", tmp_path / "torch.csv")[0] == 0
    assert run(picture, "--out", tmp_path / "onnx.csv", "--model", file)[0] == 0
    (one,), (other,) = table(tmp_path / "torch.csv"), table(tmp_path / "onnx.csv")
    for name in EMOTIONS:
        assert float(one[name]) == pytest.approx(float(other[name]), abs=1e-4)
    assert one["x"] == other["x"]


def test_a_model_path_that_is_not_a_run_is_refused(folder, capsys):
    with pytest.raises(SystemExit):
        command.main([str(folder), "--model", str(folder)])
    assert "is not a run folder" in capsys.readouterr().err


def test_the_faces_are_printed_if_the_table_cannot_be_written(run, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "require_writable", lambda folder: None)
    (tmp_path / "file").touch()
    status, printed, said = run(folder / "face.png", "--out", tmp_path / "file" / "a.csv")
    assert status == 2
    assert "a.csv could not be written" in said
    assert printed.startswith(f"{folder / 'face.png'}: ")


@pytest.mark.parametrize("broken", ["annotate", "batches"])
def test_finished_predictions_are_written_after_an_unexpected_error(
    run, folder, tmp_path, monkeypatch, broken
):
    def one_then_fail(stream):
        yield [next(shot for shot in stream if shot.picture)]
        raise RuntimeError("something unforeseen")

    def fail(*_):
        raise RuntimeError("something unforeseen")

    monkeypatch.setattr(command, broken, one_then_fail if broken == "batches" else fail)
    with pytest.raises(RuntimeError, match="unforeseen"):
        run(folder / "*.png", "--out", tmp_path / "a.csv", "--annotate", tmp_path / "copies")
    assert len(table(tmp_path / "a.csv")) == (1 if broken == "batches" else 2)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems may refuse such names")
def test_a_path_that_is_not_utf_8_is_written_unchanged(run, folder, tmp_path):
    odd = folder / os.fsdecode(b"\xff.png")
    (folder / "face.png").rename(odd)
    assert run(odd, "--out", tmp_path / "a.csv")[0] == 0
    assert os.fsencode(odd) in (tmp_path / "a.csv").read_bytes()


def test_finished_predictions_are_written_after_ctrl_c(run, folder, tmp_path, monkeypatch):
    monkeypatch.setattr("fer_lib.predict.inputs.BATCH", 1)
    classify = command.Work.batch

    def stop_at_second(self, part):
        if self.seen:
            raise KeyboardInterrupt
        classify(self, part)

    monkeypatch.setattr(command.Work, "batch", stop_at_second)
    status, _, said = run(folder, "--out", tmp_path / "a.csv")
    assert status == 130
    assert len(table(tmp_path / "a.csv")) == 1
    assert "stopped" in said
    assert said.endswith(f"{tmp_path / 'a.csv'} holds only what was read before the stop\n")


@pytest.mark.parametrize(
    ("error", "expected"), [(KeyboardInterrupt, 130), (InputError("no memory"), 2)]
)
def test_a_stop_before_anything_was_read_leaves_an_earlier_table(
    run, folder, tmp_path, monkeypatch, error, expected
):
    out = tmp_path / "a.csv"
    out.write_text("of an earlier call")

    def stop(*_):
        raise error

    monkeypatch.setattr(command, "batches", stop)
    status, _, said = run(folder, "--out", out)
    assert status == expected
    assert out.read_text() == "of an earlier call"
    assert said.endswith(f"nothing was read, so {out} is not written\n")


def test_a_complete_table_is_written_without_a_remark_on_a_stop(run, folder, tmp_path):
    assert "before the stop" not in run(folder, "--out", tmp_path / "a.csv")[2]


def test_a_video_of_unknown_suffix_is_reported_with_a_remedy(run, film, folder):
    film.rename(film.with_suffix(".vid"))
    status, _, said = run(film.with_suffix(".vid"), folder / "text.jpg")
    assert status == 1
    hint = "; if it is a video, convert it to .mp4 or rename it to its true suffix\n"
    assert f"film.vid cannot be read as a picture ({NO_PICTURE}): replace it or delete it" in said
    assert said.count(hint) == 1


@pytest.mark.parametrize("suffix", [".wmv", ".3gp", ".MTS", ".m2ts", ".flv", ".ogv"])
def test_videos_of_cameras_and_older_programs_are_found_in_a_folder(film, tmp_path, suffix):
    film.rename(film.with_suffix(suffix))  # FFmpeg knows the format by the content
    ((source,), others) = find_sources([str(tmp_path)])
    assert others == 0
    assert len(list(shots(source, 12))) == 3


def test_a_film_of_the_suffix_of_typescript_is_read_only_if_it_is_given_itself(film, tmp_path):
    film = film.rename(film.with_suffix(".ts"))
    with pytest.raises(InputError, match="holds no picture and no video"):
        find_sources([str(tmp_path)])
    ((source,), _) = find_sources([str(film)])
    assert len(list(shots(source, 12))) == 3


def test_hidden_files_are_not_read(folder):
    (folder / ".ipynb_checkpoints").mkdir()
    for hidden in ("._face.png", ".ipynb_checkpoints/face.png"):
        (folder / hidden).write_bytes(b"of another system")
    found, others = find_sources([str(folder)])
    assert not any(part.startswith(".") for source in found for part in source.inside.parts)
    assert (len(found), others) == (5, 1)
    found, others = find_sources([str(folder), str(folder / "notes.txt")])
    assert (len(found), others) == (6, 0)  # what is given by its path is read, not skipped


def predict(words, errors):
    sys.argv = ["predict", *words]
    with open(errors, "w") as sys.stderr:
        runpy.run_module("fer_lib.predict", run_name="__main__")


def test_finished_predictions_are_written_after_sigterm(folder, weights, tmp_path):
    pictures = tmp_path / "many"
    pictures.mkdir()
    for name in range(400):
        shutil.copy(folder / "face.png", pictures / f"{name}.png")
    out, copies = tmp_path / "a.csv", tmp_path / "copies"
    words = [pictures, "--out", out, "--annotate", copies, "--model", weights, "--detector", "haar"]
    errors = tmp_path / "errors"
    process = CONTEXT.Process(target=predict, args=([*map(str, words)], errors))
    process.start()
    until(lambda: not process.is_alive() or any(copies.glob("*")), seconds=300)
    process.terminate()
    assert ended(process) == 130, errors.read_text()
    assert "stopped" in errors.read_text()
    assert 0 < len(table(out)) < 400
