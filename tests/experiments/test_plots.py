"""Pictures: the same segment keeps its colour, the same figure its bytes, and the live plot its place."""

import json
import types
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from matplotlib.figure import Figure

from ldmseg_lib.experiments import plots
from ldmseg_lib.pipeline import segment_colors
from tests.experiments.figure_checks import problems

ID_MAPS = npst.arrays(np.int64, npst.array_shapes(min_dims=2, max_dims=2, max_side=6), elements=st.integers(0, 5))


def drawn(ids: np.ndarray, image: np.ndarray, **settings) -> np.ndarray:
    """The RGB array that show_panoptic puts on the axes."""
    ax = Figure().subplots()
    plots.show_panoptic(ax, image, ids, **settings)
    return np.asarray(ax.images[0].get_array())


def test_colours_depend_on_the_id_alone_and_neighbours_differ() -> None:
    colors = [segment_colors.segment_color(i) for i in range(256)]
    assert colors == [segment_colors.segment_color(i) for i in range(256)]
    assert all(0 <= channel <= 1 for color in colors for channel in color)
    near = np.array(colors[:61])
    distances = np.abs(near[:, None] - near[None]).sum(-1) + 10 * np.eye(61)
    assert distances.min() > 0.02  # void, the palette and four shades of it are all different
    first = np.array(colors[1:13])
    assert (np.abs(first[:, None] - first[None]).sum(-1) + 10 * np.eye(12)).min() > 0.3


@given(ID_MAPS, st.permutations(range(1, 6)))
def test_matched_ids_undo_any_renumbering(ids: np.ndarray, names: list[int]) -> None:
    renumbered = np.array([0, *names])[ids]
    assert np.array_equal(segment_colors.matched_ids(renumbered, ids), ids)


@given(ID_MAPS, st.randoms())
def test_matched_ids_keep_the_partition(ids: np.ndarray, random) -> None:
    other = np.array([[random.randint(0, 3) for _ in row] for row in ids])
    pairs = set(zip(ids.ravel().tolist(), segment_colors.matched_ids(ids, other).ravel().tolist()))
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})
    assert all((a == 0) == (b == 0) for a, b in pairs)


def test_matched_ids_prefer_the_larger_overlap() -> None:
    reference = np.array([[1, 1, 1, 2, 2, 2]])
    assert segment_colors.matched_ids(np.array([[7, 7, 9, 9, 9, 9]]), reference).tolist() == [[1, 1, 2, 2, 2, 2]]
    assert segment_colors.matched_ids(np.array([[7, 8, 8, 0, 9, 9]]), reference).tolist() == [[3, 1, 1, 0, 2, 2]]


def test_ranked_ids_count_by_falling_area() -> None:
    ids = np.array([[0, 70000, 5, 5], [0, 70000, 5, 8]])
    assert segment_colors.ranked_ids(ids).tolist() == [[0, 2, 1, 1], [0, 2, 1, 3]]


def test_void_shows_the_bare_image_and_a_segment_its_colour() -> None:
    image = np.full((300, 300, 3), 100, dtype=np.uint8)
    ids = np.zeros((300, 300), dtype=np.int64)
    ids[100:200, 100:200] = 3
    pixels = drawn(ids, image)
    assert pixels[10, 10] == pytest.approx(100 / 255)
    assert pixels[150, 150] == pytest.approx(0.6 * np.array(segment_colors.segment_color(3)) + 0.4 * 100 / 255)
    assert pixels[100, 150] == pytest.approx(0.97)  # the outline
    assert drawn(ids, image, alpha=1.0)[10, 10] == pytest.approx(segment_colors.segment_color(0))


def test_images_of_either_kind_give_the_same_picture() -> None:
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    ids = np.eye(8, dtype=np.int64)
    assert drawn(ids, image) == pytest.approx(drawn(ids, image / np.float32(255)), abs=1e-6)


def test_a_label_stands_inside_its_segment() -> None:
    ids = np.zeros((20, 20), dtype=np.int64)
    ids[2:18, 2:18] = 4
    ids[4:16, 4:16] = 0  # a ring, whose centre is not its own
    ax = Figure().subplots()
    plots.show_panoptic(ax, np.zeros((20, 20, 3)), ids, labels={4: "ring", 5: "absent"})
    (text,) = ax.texts
    x, y = text.get_position()
    assert text.get_text() == "ring" and ids[y, x] == 4


def test_a_contact_sheet_colours_a_segment_alike_across_its_row() -> None:
    image = np.zeros((64, 64, 3), dtype=np.uint8)
    truth = np.zeros((64, 64), dtype=np.int64)
    truth[:, 32:], truth[:, :32] = 70000, 3
    predicted = np.where(truth == 3, 9, 1)
    figure = plots.contact_sheet(
        [(image, truth, predicted), (image, predicted, truth)],
        ["image", "ground truth", "arg max"],
        labels=[[{3: "left"}, {9: "left"}], [None, None]],
    )
    axes = figure.axes
    assert len(axes) == 6 and [ax.get_title() for ax in axes[:3]] == ["image", "ground truth", "arg max"]
    first, second = (np.asarray(ax.images[0].get_array()) for ax in axes[1:3])
    assert np.array_equal(first, second)
    assert [ax.texts[0].get_text() for ax in axes[1:3]] == ["left", "left"]


def test_a_row_of_a_contact_sheet_is_as_high_as_its_image() -> None:
    rows = [(np.zeros((h, 40, 3), np.uint8), np.ones((h, 40), np.int64)) for h in (40, 20, 80)]
    figure = plots.contact_sheet(rows, ["image", "segments"], side=2.0)
    assert figure.get_size_inches() == pytest.approx((4.0, 2.0 + 1.0 + 4.0 + 0.25))
    assert figure.axes[0].get_gridspec().get_height_ratios() == [1.0, 0.5, 2.0]


def test_a_contact_sheet_takes_depth_and_marks_what_is_unknown() -> None:
    depth = np.array([[0.0, 2.0], [1.0, np.nan]], dtype=np.float32)
    ids = np.ones((2, 2), dtype=np.int64)
    figure = plots.contact_sheet([(np.zeros((2, 2, 3)), ids, depth)], ["image", "segments", "inverse depth"])
    shown = figure.axes[2].images[0]
    colors = shown.to_rgba(shown.get_array())
    assert colors[1, 1, :3] == pytest.approx(segment_colors.segment_color(0))
    assert colors[0, 0, :3].sum() < colors[1, 0, :3].sum() < colors[0, 1, :3].sum()


def test_statistics_count_every_image_and_segment_once() -> None:
    counted = {"segments_per_image": [2, 3, 3], "area_shares": [0.01, 0.2, 0.5, 1.0, 0.03, 0.04, 0.05, 0.06]}
    figure = plots.segment_statistics(counted | {"classes": {"ball": 5, "floor": 3, "never": 0}})
    left, middle, right = figure.axes
    assert sum(bar.get_height() for bar in left.patches) == 3
    assert sum(bar.get_height() for bar in middle.patches) == 8
    assert [bar.get_width() for bar in right.patches] == [0, 3, 5]
    plots.segment_statistics({"segments_per_image": [], "area_shares": [], "classes": {}})


def test_saved_twice_a_figure_has_the_same_bytes(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        figure = plots.loss_curve([{"step": s, "loss": 1 / s} for s in range(1, 50)])
        assert [file.suffix for file in plots.save_figure(figure, tmp_path / folder, "loss")] == [".png", ".pdf"]
    for suffix in ("png", "pdf"):
        bytes_ = (tmp_path / "a" / f"loss.{suffix}").read_bytes()
        assert bytes_ == (tmp_path / "b" / f"loss.{suffix}").read_bytes() and len(bytes_) > 1000
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["loss.pdf", "loss.png"]


def test_no_figure_stays_behind_in_pyplot() -> None:
    from matplotlib import pyplot

    before = pyplot.get_fignums()
    plots.loss_curve([{"step": 1, "loss": 1.0}])
    assert pyplot.get_fignums() == before


def test_the_loss_curve_reads_a_metrics_file_with_a_torn_last_line(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text("".join(json.dumps({"step": s, "loss": 2.0, "dice": 0.5}) + "\n" for s in range(40)) + '{"step": 4')
    figure = plots.loss_curve(file, values=("loss", "dice"))
    raw, smooth, *_ = figure.axes[0].lines
    assert len(raw.get_xdata()) == 40 and smooth.get_ydata() == pytest.approx([2.0] * 40)
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["loss", "dice"]


class Screen:
    """Stands in for a notebook: counts what is shown and what is replaced."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        import IPython
        import IPython.display

        self.shown: list[bytes] = []
        self.replaced: list[bytes] = []
        monkeypatch.setattr(IPython, "get_ipython", lambda: types.SimpleNamespace(kernel=object()))
        monkeypatch.setattr(IPython.display, "display", self._display)

    def _display(self, picture, display_id: bool = False):
        self.shown.append(picture.data)
        return types.SimpleNamespace(update=lambda picture: self.replaced.append(picture.data))


def test_the_live_plot_keeps_to_one_display_and_its_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen(monkeypatch)
    now = [100.0]
    monkeypatch.setattr(plots.time, "monotonic", lambda: now[0])
    plot = plots.LossPlot(every=5.0)
    for step in range(1, 12):
        plot({"step": step, "loss": 1.0 / step})
        now[0] += 1.0
    assert len(screen.shown) == 1 and len(screen.replaced) == 2  # at 0, 5 and 10 seconds
    plot.draw()
    assert len(screen.replaced) == 3 and screen.replaced[-1] != screen.shown[0]
    assert all(picture.startswith(b"\x89PNG") for picture in [*screen.shown, *screen.replaced])


def test_the_live_plot_of_a_resumed_training_shows_its_past_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Screen(monkeypatch)
    file = tmp_path / "metrics.jsonl"
    file.write_text("".join(json.dumps({"step": s, "loss": 1.0}) + "\n" for s in (10, 20, 30)))
    plot = plots.LossPlot(file)
    plot({"step": 30, "loss": 0.5})
    assert [line["step"] for line in plot._lines] == [10, 20, 30] and plot._lines[-1]["loss"] == 0.5


def test_outside_a_notebook_nothing_is_drawn(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    plot = plots.LossPlot(tmp_path / "missing.jsonl", every=0.0)
    plot({"step": 1, "loss": 1.0})
    plot.draw()
    plots.show(plots.loss_curve([{"step": 1, "loss": 1.0}]))
    assert capsys.readouterr().out == ""


def test_the_check_of_figures_finds_what_is_wrong() -> None:
    figure, (ax,) = plots.panels(1, (3, 2))
    plots.curve(ax, [1, 2, 3], [1, 2, 30], label="line")
    ax.set(ylim=(0, 10), xlabel="x")
    ax.text(1, 1, "one")
    ax.text(1, 1, "two")
    ax.legend(loc="lower left")
    found = " ".join(problems(figure))
    assert all(part in found for part in ("lie outside", "y axis has no label", "'one' lies on 'two'", "legend covers"))
