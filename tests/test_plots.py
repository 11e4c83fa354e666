"""Test that figures show the given data and their mark."""

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from fer_lib import plots
from fer_lib.data.faceset import FaceSet
from fer_lib.evaluate import abstention, calibration
from fer_lib.files import InputError
from fer_lib.labels import EMOTIONS
from fer_lib.models import MODULES
from fer_lib.plots.style import MODEL_STYLES, OTHER


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def marked(figure):
    """Draw a figure; return whether it has the mark "sample data"."""
    assert figure._repr_png_()
    return figure.get_supxlabel() == "sample data"


def test_overlays_draw_each_map_over_its_own_face(rng):
    images = rng.integers(0, 256, (5, 1, 48, 48), dtype=np.uint8)
    heat = rng.random((5, 6, 6))
    captions = [f"face {number}" for number in range(5)]
    figure = plots.overlays(images, heat, captions, mark="sample data", columns=3)
    assert marked(figure)
    axes = np.array(figure.axes).reshape(4, 3)  # faces, maps, faces, maps
    assert [axis.get_title() for axis in (*axes[0], *axes[2])] == [*captions, ""]
    for number in range(5):
        row, column = 2 * (number // 3), number % 3
        (plain,), (face, over) = axes[row, column].images, axes[row + 1, column].images
        for shown in (plain, face):
            np.testing.assert_array_equal(shown.get_array(), images[number, 0])
        np.testing.assert_array_equal(over.get_array(), heat[number])
        assert over.get_clim() == (heat[number].min(), heat[number].max())
        assert over.get_extent() == face.get_extent()
        assert 0 < over.get_alpha() < 1
    assert not axes[2, 2].images


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.filterwarnings("error::RuntimeWarning")  # from casting or resampling NaN
def test_reconstructions_leave_hidden_patches_empty(rng, channels):
    images = rng.random((4, channels, 8, 8))
    masked = images.copy()
    masked[:, :, :4] = np.nan
    figure = plots.reconstructions(images, masked, images[::-1], mark="sample data")
    assert marked(figure)
    axes = np.array(figure.axes).reshape(3, 4)
    for number in range(4):
        first, seen, last = (axis.images[0] for axis in axes[:, number])
        np.testing.assert_array_equal(
            first.get_array(), images[number].transpose(1, 2, 0).squeeze()
        )
        np.testing.assert_array_equal(
            last.get_array(), images[3 - number].transpose(1, 2, 0).squeeze()
        )
        np.testing.assert_array_equal(
            seen.get_alpha(), np.repeat([0.0, 1.0], 4)[:, None] * np.ones(8)
        )
        assert not np.ma.is_masked(seen.get_array())  # masked NaN would spread when resampled
    assert [axis.get_ylabel() for axis in axes[:, 0]][1] == "visible patches"


def test_routing_draws_a_line_for_each_expert_and_not_the_balance_loss(rng):
    load = rng.dirichlet([1, 1, 1], 5)
    metrics = pd.DataFrame(load, columns=["load_0", "load_1", "load_2"]).assign(
        epoch=range(1, 6), load_balance=0.01, routing_entropy=1.0, routing_entropy_image=0.5
    )
    figure = plots.routing(metrics, mark="sample data")
    assert marked(figure)
    left, right = figure.axes
    *lines, even = left.lines
    np.testing.assert_array_equal([line.get_ydata() for line in lines], load.T)
    np.testing.assert_allclose(even.get_ydata(), 1 / 3)
    assert [line.get_ydata()[0] for line in right.lines] == [1.0, 0.5, np.log(3)]


def test_row_shares_are_drawn_and_rows_of_nan_are_left_empty():
    table = pd.DataFrame({"expert 0": 0.75, "expert 1": 0.25}, index=EMOTIONS)
    table.loc["disgust"] = np.nan  # no image
    figure = plots.row_shares(table, table.index, table.columns, mark="sample data")
    assert marked(figure)
    shown = figure.axes[0].collections[0].get_array()
    np.testing.assert_array_equal(shown[3], [0.75, 0.25])
    assert shown.mask[:, 0].tolist() == [name == "disgust" for name in EMOTIONS]


def test_embedding_draws_the_points_and_anchors_of_each_class(rng):
    points, labels = rng.normal(size=(60, 2)), np.arange(60) % 6  # no image is neutral
    anchors = rng.normal(size=(7, 4, 2))
    figure = plots.embedding(points, labels, EMOTIONS, anchors, mark="sample data")
    assert marked(figure)
    (axis,) = figure.axes
    clouds, marks = axis.collections[0:14:2], axis.collections[1:14:2]
    for number, (cloud, mark) in enumerate(zip(clouds, marks, strict=True)):
        np.testing.assert_array_equal(cloud.get_offsets(), points[labels == number])
        np.testing.assert_array_equal(mark.get_offsets(), anchors[number])
        colour = plots.EMOTION_COLOURS[EMOTIONS[number]]
        for artist in (cloud, mark):
            np.testing.assert_allclose(artist.get_facecolor()[0, :3], colour)
        assert mark.get_sizes()[0] > 4 * cloud.get_sizes()[0]
    assert [text.get_text() for text in axis.texts] == list(EMOTIONS[:6])


def test_recovery_draws_a_point_for_each_rule_that_changed_something():
    points = {"majority": (0.6, 0.5), "soft": (0.4, 0.9), "idle": (0.0, None)}
    figure = plots.recovery(points, [(0.9, 0.3), (0.5, 0.8)], mark="sample data")
    assert marked(figure)
    curve, *drawn = figure.axes[0].lines
    np.testing.assert_allclose(curve.get_xydata(), [(0.9, 0.3), (0.5, 0.8)])
    assert [line.get_label() for line in drawn] == ["majority", "soft"]
    np.testing.assert_allclose([line.get_xydata()[0] for line in drawn], [(0.6, 0.5), (0.4, 0.9)])
    (majority,) = plots.recovery({"majority": (0.6, 0.5)}, [], mark="").axes[0].lines
    assert majority.get_label() == "majority"


def test_reliability_draws_each_diagram_above_its_histogram():
    confidence = np.array([0.05, 0.5, 0.52, 0.58, 1.0])
    correct = np.array([False, True, False, True, True])
    bins = calibration.reliability(confidence, correct, bins=10)
    figure = plots.reliability({"before": bins, "after": bins[1:]}, mark="sample data")
    assert marked(figure)
    before, after, below, _ = figure.axes
    assert [before.get_title(), after.get_title()] == ["before", "after"]
    diagonal, line = before.lines[:2]
    np.testing.assert_array_equal(*diagonal.get_data())
    drawn = [(0.05, 0), (0.5, 1), (0.55, 0.5), (1, 1)]
    np.testing.assert_allclose(line.get_xydata(), drawn)
    assert len(after.lines[1].get_xdata()) == 3
    assert [bar.get_x() for bar in below.patches] == [0, 0.4, 0.5, 0.9]
    np.testing.assert_allclose([bar.get_height() for bar in below.patches], [0.2, 0.2, 0.4, 0.2])


def test_coverage_draws_the_curve_and_the_reached_targets():
    confidence, correct = np.linspace(0.1, 1, 50), np.arange(50) > 20
    curve = abstention.coverage(confidence, correct)
    reached = {"target": 0.9, "threshold": 0.5, "coverage": 0.4, "n": 20}
    reached |= {"accuracy": 0.85, "low": 0.6, "high": 0.95}
    figure = plots.coverage(curve, [reached, {"target": 0.99, "threshold": None}], mark="")
    (axis,) = figure.axes
    np.testing.assert_allclose(axis.lines[0].get_xdata(), [row["coverage"] for row in curve])
    np.testing.assert_allclose(axis.lines[0].get_ydata(), [row["accuracy"] for row in curve])
    labels = axis.get_legend_handles_labels()[1]
    assert [label for label in labels if "wanted" in label] == ["90% wanted, 40% answered"]
    assert axis.get_ylim()[0] <= min(row["low"] for row in curve)


def test_by_agreement_draws_a_bar_for_each_group_with_its_number_of_images():
    groups = [
        {"from": a - 0.2, "to": a, "n": n, "accuracy": a / 2, "low": a / 2 - 0.1, "high": a}
        for a, n in ((0.4, 12), (1.0, 3400))
    ]
    figure = plots.by_agreement(groups, mark="sample data")
    assert marked(figure)
    (axis,) = figure.axes
    assert [bar.get_height() for bar in axis.patches] == [0.2, 0.5]
    names = [tick.get_text() for tick in axis.get_xticklabels()]
    assert names == ["20% to 40%\n12 images", "80% to 100%\n3,400 images"]


def test_views_draw_accuracy_and_cost():
    found = {
        name: {"passes": n, "milliseconds": ms, "accuracy": a, "low": a - 0.1, "high": a + 0.1}
        for name, n, ms, a in (("one", 1, 2.0, 0.6), ("ten_crop", 10, 20.0, 0.64))
    }
    figure = plots.views(found, mark="sample data")
    assert marked(figure)
    left, right = figure.axes
    np.testing.assert_allclose(left.lines[0].get_xydata(), [(0.6, 0), (0.64, 1)])
    assert [bar.get_width() for bar in right.patches] == [2.0, 20.0]
    assert [text.get_text() for text in right.texts] == ["1 pass", "10 passes"]


def test_intervals_draw_a_row_for_each_model_and_a_colour_for_each_set():
    values = [("one", "full", 0.6), ("one", "clean", 0.5), ("two", "full", 0.7)]
    table = pd.DataFrame(values, columns=["model", "set", "value"])
    table["low"], table["high"] = table["value"] - 0.1, table["value"] + 0.05
    figure = plots.intervals(table, mark="sample data")
    assert marked(figure)
    (axis,) = figure.axes
    assert [tick.get_text() for tick in axis.get_yticklabels()] == ["one", "two"]
    assert axis.yaxis_inverted()
    full, clean = axis.containers
    assert [full.get_label(), clean.get_label()] == ["full", "clean"]
    np.testing.assert_allclose(full[0].get_xydata(), [(0.6, -0.09), (0.7, 0.91)])
    np.testing.assert_allclose(clean[0].get_xydata(), [(0.5, 0.09)])
    assert full[0].get_color() != clean[0].get_color()
    ends = [segment[:, 0] for segment in full[2][0].get_segments()]
    np.testing.assert_allclose(ends, [(0.5, 0.65), (0.6, 0.75)])


def test_class_counts_draw_the_images_of_each_class_in_each_split():
    labels = np.array([0, 0, 3, 3, 3, 6])
    split = np.array(["train", "train", "train", "valid", "test", "test"])
    images = np.zeros((6, 1, 8, 8), np.uint8)
    ids = np.arange(6).astype(str)
    faces = FaceSet("noise", images, labels, split, ids, manifest={"mark": "sample data"})
    figure = plots.class_counts(faces)
    assert marked(figure)
    titles = [axis.get_title() for axis in figure.axes]
    assert titles == ["train (3)", "valid (1)", "test (2)"]
    for axis, part in zip(figure.axes, ("train", "valid", "test"), strict=True):
        names = [tick.get_text() for tick in axis.get_yticklabels()]
        drawn = {name: bar.get_width() for name, bar in zip(names, axis.patches, strict=True)}
        assert drawn == {
            name: (labels[split == part] == k).sum() for k, name in enumerate(EMOTIONS)
        }
        for name, bar in zip(names, axis.patches, strict=True):
            np.testing.assert_allclose(bar.get_facecolor()[:3], plots.EMOTION_COLOURS[name])


def test_class_shares_draw_a_bar_in_the_colour_of_each_class():
    shares = {"happy": 0.25, "sad": 0.5}
    figure = plots.class_shares(shares, mark="sample data", xlabel="a share")
    assert marked(figure)
    (axis,) = figure.axes
    assert axis.get_xlabel() == "a share"
    assert [tick.get_text() for tick in axis.get_yticklabels()] == list(shares)
    assert [text.get_text() for text in axis.texts] == ["25%", "50%"]
    for (name, share), bar in zip(shares.items(), axis.patches, strict=True):
        assert bar.get_width() == share
        np.testing.assert_allclose(bar.get_facecolor()[:3], plots.EMOTION_COLOURS[name])


def test_gates_are_drawn_in_one_panel_each_with_the_same_scale():
    maps = [np.full((4, 4), 0.2), np.full((2, 2), 0.9)]
    *panels, _ = plots.gates(maps, mark="sample data").axes
    assert [axis.get_title() for axis in panels] == ["stage 1", "stage 2"]
    for axis, gate in zip(panels, maps, strict=True):
        (image,) = axis.images
        assert image.get_clim() == (0, 1)
        np.testing.assert_array_equal(image.get_array(), gate)


def test_robustness_draws_a_panel_for_each_kind_and_a_line_for_each_model():
    levels = {"blur": (0, 1, 2), "resolution": (48, 24, 8), "brightness": (0, -50, 50, -100, 100)}
    curves = {
        kind: [
            {"severity": s, "unit": "pixels", "accuracy": a, "low": a - 0.05, "high": a + 0.05}
            for s, a in zip(severities, (0.7, 0.6, 0.5, 0.4, 0.3), strict=False)
        ]
        for kind, severities in levels.items()
    }
    few = {kind: curves[kind] for kind in list(curves)[:1]}
    some = plots.robustness({"one": few, "two": curves}, mark="")
    assert [len(axis.containers) for axis in some.axes] == [2] + [1] * (len(curves) - 1)
    assert [text.get_text() for text in some.legends[0].get_texts()] == ["one", "two"]
    figure = plots.robustness({"one": curves, "two": curves}, mark="sample data", guess=0.25)
    assert marked(figure)
    assert all(0.25 in np.ravel(line.get_ydata()) for a in figure.axes[:3] for line in a.lines[-1:])
    for axis, (kind, severities) in zip(figure.axes, levels.items(), strict=True):
        assert axis.get_title() == kind
        lines = [line for line in axis.lines if len(line.get_xdata()) == len(severities)]
        assert list(lines[0].get_xdata()) == sorted(severities)
        assert axis.xaxis_inverted() == (kind == "resolution")
        assert len(axis.containers) == 2
    assert dict(zip(*figure.axes[2].lines[0].get_data(), strict=True))[0] == 0.7


@pytest.mark.parametrize("votes", [True, False])
def test_answers_are_written_above_their_faces(rng, votes):
    images = rng.integers(0, 256, (5, 1, 8, 8), dtype=np.uint8)
    counts = rng.integers(0, 5, (5, 10)).astype(np.float32) if votes else None
    arrays = (np.zeros(5, int), np.full(5, "test"), np.arange(5).astype(str))
    faces = FaceSet("noise", images, *arrays, votes=counts)
    some = pd.DataFrame(
        {"row": [3, 1], "label": "sad", "predicted": ["sad", "fear"], "confidence": [0.914, 0.5]}
    )
    figure = plots.answers(faces, some, mark="sample data")
    assert marked(figure)
    for axis, row, caption in zip(figure.axes, (3, 1), ("sad, 91%", "fear, 50%"), strict=False):
        np.testing.assert_array_equal(axis.images[0].get_array(), images[row, 0])
        assert axis.get_title() == f"sad\n→ {caption}"
    if votes:
        widths = [bar.get_width() for bar in figure.axes[2].patches]
        np.testing.assert_array_equal(widths, counts[3])


def test_every_model_has_its_own_style_in_the_order_of_the_models():
    assert list(MODEL_STYLES) == list(MODULES)
    styles = [*MODEL_STYLES.values(), OTHER]
    for part in ("colour", "marker"):
        assert len({getattr(style, part) for style in styles}) == len(styles)
    assert len({str(style.dash) for style in MODEL_STYLES.values()}) == len(MODULES)
    assert plots.model_style("vit_cnn published s1") is MODEL_STYLES["vit_cnn"]
    assert plots.model_style("ensemble of 3") is OTHER


def test_colours_of_emotions_and_models_are_distinct():
    for colours in (
        plots.EMOTION_COLOURS.values(),
        [style.colour for style in MODEL_STYLES.values()],
    ):
        points = np.array([mpl.colors.to_rgb(colour) for colour in colours])
        apart = np.linalg.norm(points[:, None] - points, axis=-1) + np.eye(len(points))
        assert apart.min() > 0.15  # distance in the RGB cube of side 1
        assert (points @ [0.2126, 0.7152, 0.0722]).max() < 0.85  # none is too bright on white


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_a_saved_figure_has_the_same_bytes_each_time_and_no_date(tmp_path, suffix, monkeypatch):
    paths = [tmp_path / f"{name}.{suffix}" for name in ("first", "second")]
    for path, time in zip(paths, ("1000000000", "1100000000"), strict=True):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", time)  # from which matplotlib takes the date
        figure, axis = plots.new_figure(3, 2, mark="sample data")
        axis.plot([1, 2, 3], marker="o", label="a line")
        axis.fill_between([0, 1, 2], [1, 2, 3], hatch="//")
        axis.legend()
        plots.save(figure, path)
    first, second = (path.read_bytes() for path in paths)
    assert first == second
    assert not [word for word in (b"2001-", b"2004-", b"Matplotlib") if word in first]
    if suffix == "svg":
        assert b"<text" not in first  # text is written as outlines
        assert b"<path" in first


def test_an_unknown_format_is_refused(tmp_path):
    figure, _ = plots.new_figure(2, 2, mark="")
    with pytest.raises(InputError, match=r"figure\.jpg.*\.png, \.svg"):
        plots.save(figure, tmp_path / "figure.jpg")


def test_learning_curves_mark_the_kept_epoch():
    valid = {"valid_loss": [2.0, 1.5, 1.6], "valid_accuracy": [0.2, 0.5, 0.4]}
    train = {"train_loss": [2.0, 1.4, 1.0], "train_accuracy": [0.2, 0.5, 0.7]}
    table = pd.DataFrame({"epoch": [1, 2, 3], **valid, **train})
    both = plots.learning_curves(table, mark="sample data", title="a run")
    alone = plots.learning_curve(table.to_dict("records"), "loss", mark="sample data")
    assert marked(both)
    assert marked(alone)
    assert [axis.get_ylabel() for axis in both.axes] == ["loss", "accuracy"]
    (axis,) = alone.axes
    assert axis.lines[1].get_ydata().tolist() == valid["valid_loss"]
    assert axis.lines[2].get_xdata() == [2, 2]
    guessed = plots.learning_curves(table, mark="sample data", guess=0.25)
    assert [len(axis.lines) for axis in both.axes] == [3, 3]
    assert [len(axis.lines) for axis in guessed.axes] == [3, 4]
    assert guessed.axes[1].lines[3].get_ydata() == [0.25, 0.25]


def test_a_heated_face_is_brightest_where_the_map_is_largest():
    face = np.full((1, 48, 48), 100, np.uint8)
    heat = np.zeros((6, 6))
    heat[1, 4] = 3.0
    shown = plots.heated(face, heat)
    assert shown.shape == (240, 240, 3)
    assert shown.dtype == np.uint8
    row, column = np.unravel_index(shown.sum(2).argmax(), (240, 240))
    assert (row // 40, column // 40) == (1, 4)
    assert (plots.heated(face, np.ones((6, 6))) == plots.heated(face, np.zeros((6, 6)))).all()


def test_the_numbers_of_a_heat_map_are_white_only_on_dark_cells():
    shares = pd.DataFrame([[0.5, 0.66, 0.68], [1.0, 0.0, np.nan]], index=["one", "two"])
    figures = [
        plots.row_shares(100 * shares.iloc[:, :2], ["a", "b"], ["c", "d"], mark=""),
        plots.per_class(shares.T.to_dict(), mark=""),
        plots.confusion_matrix([[68, 32], [34, 66]], ["a", "b"], mark=""),
        plots.alike(pd.DataFrame([[1.0, 0.7], [0.7, 1.0]], list("ab")), mark="", title=""),
    ]
    colours = [[t.get_color() for t in figure.axes[0].texts] for figure in figures]
    dark, light = "0.15", "white"
    assert colours == [
        *([dark, dark, light, dark], [dark, dark, light, light, dark]),
        *([light, dark, dark, dark], [light]),
    ]
