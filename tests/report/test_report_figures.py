"""Figures: one look per method, the numbers that were measured, and "not run" where there are none."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import pyplot as plt
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from dlskip.methods.names import TITLES
from dlskip.plotting import theme
from dlskip.report import (
    collect,
    figures,
    figures_ablations,
    figures_layers,
    figures_speed,
    style,
    training_figures,
)
from dlskip.report.figures_common import end_of, name_ends
from dlskip.report.stats import Condition
from dlskip.report.view import Point, View
from tests.helpers.report_world import parameters, write_world

pytestmark = pytest.mark.slow

MAKERS = [
    figures.headline_figure, figures.quality_vs_skip, figures_layers.per_method, figures_speed.pareto,
    figures_speed.speed, training_figures.training, training_figures.figure4, figures_layers.token_depth,
]  # fmt: skip
# How a dichromat's eye sees linear RGB (Machado, Oliveira and Fernandes 2009, severity 1).
VISION = {
    "all hues": np.eye(3),
    "deuteranopia": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "protanopia": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "tritanopia": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
}


@pytest.fixture(scope="module")
def view(tmp_path_factory: pytest.TempPathFactory) -> View:
    root, params = tmp_path_factory.mktemp("world"), parameters(seeds=[0, 1])
    write_world(root, params, n=16)
    return View(collect.collect(params, root), "smollm2")


@pytest.fixture(scope="module")
def nothing(tmp_path_factory: pytest.TempPathFactory) -> View:
    return View(collect.collect(parameters(), tmp_path_factory.mktemp("empty")), "smollm2")


@pytest.fixture(autouse=True)
def _small():
    with style.style():
        yield
    plt.close("all")


def contrast(one: str, other: str) -> float:
    """Contrast of two colours as WCAG defines it: 1 to 21."""
    rgb = np.array([to_rgb(one), to_rgb(other)])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    dark, light = sorted(linear @ [0.2126, 0.7152, 0.0722])
    return float((light + 0.05) / (dark + 0.05))


def lab(colour: str, matrix: object) -> np.ndarray:
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.asarray(matrix) @ linear, 0, 1)
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ seen
    f = np.cbrt(xyz / [0.9505, 1, 1.089])
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_every_method_has_a_look_of_its_own():
    looks = [style.look(method) for method in TITLES]
    for part in ("color", "marker", "linestyle"):
        assert len({str(look[part]) for look in looks}) >= len(TITLES) - (part == "linestyle")
    for colour in [look["color"] for look in looks] + [style.INK, style.MUTED, style.SECOND]:
        assert contrast(colour, theme.PAPER) >= 4.5
        assert contrast(theme.DARK[colour], theme.DARK[theme.PAPER]) >= 4.5


@pytest.mark.parametrize("vision", VISION)
def test_colours_stay_apart_for_every_eye(vision):
    seen = {method: lab(style.look(method)["color"], VISION[vision]) for method in TITLES}
    gaps = {pair: float(np.linalg.norm(seen[pair[0]] - seen[pair[1]])) for pair in itertools.combinations(TITLES, 2)}
    assert min(gaps.values()) >= 10, min(gaps, key=lambda pair: gaps[pair])
    assert min(gap for pair, gap in gaps.items() if "ours" in pair) >= 15


def test_an_unknown_method_always_looks_the_same():
    assert style.look("no_mixer") == style.look("no_mixer")
    assert style.look("no_mixer")["color"] not in {style.look(m)["color"] for m in TITLES}


def shown(figure: Figure) -> str:
    return "\n".join(t.get_text() for axes in figure.axes for t in axes.texts)


@pytest.mark.parametrize("maker", MAKERS, ids=lambda maker: maker.__name__)
def test_panels_without_data_say_so(nothing, maker):
    figure = maker(nothing).figure
    panels = [axes for axes in figure.axes if axes.axison]
    assert panels
    for axes in panels:
        assert any("not run" in text.get_text() for text in axes.texts), axes.get_title(loc="left")
        assert axes.get_title(loc="left")


def test_prices_stand_beside_thresholds(tmp_path):
    params = parameters()
    params.ablations.variants["no_mixer"].set["model"] = {"prices": [0.3, 2.0]}
    write_world(tmp_path, params)
    view = View(collect.collect(params, tmp_path), "smollm2")
    assert view.priced == ["no_mixer"]
    figure = figures_ablations.prices(view).figure
    words = shown(figure).split("\n")
    assert [axes.get_title(loc="left")[:4] for axes in figure.axes] == ["Mean", "Mean"]
    assert {f"{s.number:g}" for s in (*view.thresholds, *view.settings("no_mixer"))} <= set(words)


@pytest.mark.parametrize("maker", MAKERS, ids=lambda maker: maker.__name__)
def test_panels_with_data_have_titles_and_units(view, maker):
    figure = maker(view).figure
    for axes in figure.axes:
        if axes.axison and axes.get_label() != "<colorbar>":
            assert axes.get_title(loc="left") and "not run" not in shown(figure)
            assert axes.get_xlabel() or figure.get_supxlabel()
    assert view.backbone in figure.get_supxlabel() or maker is figures_layers.token_depth


def lines(axes: object) -> dict[str, np.ndarray]:
    """Drawn data by colour."""
    return {line.get_color(): np.column_stack(line.get_data()) for line in axes.lines}  # type: ignore[attr-defined]


def test_lines_are_the_points_of_the_view(view):
    figure = figures.quality_vs_skip(view).figure
    by_title = {axes.get_title(loc="left"): axes for axes in figure.axes}
    found = lines(by_title["Entailment"])
    for method in view.skipping:
        points = view.points(method, ["entailment"])
        drawn = found[style.look(method)["color"]]
        assert drawn == pytest.approx(np.array([(p.skipped, p.quality) for p in points]))
    for method in view.unskipped:  # a level across
        (level,) = view.points(method, ["entailment"])
        assert found[style.look(method)["color"]][:, 1] == pytest.approx([level.quality] * 2)


def bands(figure: Figure) -> list[PolyCollection]:
    return [c for axes in figure.axes for c in axes.collections if isinstance(c, PolyCollection)]


def test_bands_where_more_than_one_seed_ran(view, tmp_path):
    assert bands(figures.quality_vs_skip(view).figure)
    params = parameters()
    write_world(tmp_path, params, n=12)
    alone = View(collect.collect(params, tmp_path), "smollm2")
    figure = figures.quality_vs_skip(alone).figure
    assert not bands(figure)
    assert "1 seed" in figure.get_supxlabel() and "2 seeds" in figures.quality_vs_skip(view).figure.get_supxlabel()


def test_speed_is_drawn_as_it_was_timed(view):
    figure = figures_speed.speed(view).figure
    axes = next(a for a in figure.axes if a.get_title(loc="left") == "Decoding, bs=8")
    for method in view.baselines:
        runs = [Condition(method, share, "8") for share in view.settings(method)]
        wanted = [(view.speed(r, "skip_decode"), view.speed(r, "speedup_decode")) for r in runs]
        assert lines(axes)[style.look(method)["color"]] == pytest.approx(np.array(wanted))


def test_figure4_compares_with_the_ablation_that_switches_sampling_off(view):
    name = training_figures.without_sampling(view)
    assert name is not None
    assert view.found.params.ablations.variants[name].set["rl"]["sampling"]["enabled"] is False
    assert name in training_figures.figure4(view).figure.get_supxlabel()


coordinates = st.floats(0.1, 10, allow_nan=False)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(coordinates, coordinates), min_size=1, max_size=12))
def test_the_front_is_what_nothing_beats(pairs):
    points = [figures_speed.Measured(Condition("m", str(i), "1"), x, y) for i, (x, y) in enumerate(pairs)]
    best = figures_speed.front(points)
    assert best
    for point in points:
        beaten = any(o.x >= point.x and o.y >= point.y and (o.x, o.y) != (point.x, point.y) for o in points)
        assert beaten != ((point.x, point.y) in {(b.x, b.y) for b in best})
    assert [b.x for b in best] == sorted(b.x for b in best)
    assert [b.y for b in best] == sorted((b.y for b in best), reverse=True)


def test_a_speed_stands_only_beside_the_quality_of_a_like_share(view):
    for group in view.groups:
        points, left_out = figures_speed.measured(view, group, "16")
        for point in points:
            judged = (
                point.condition if point.condition.method == "ours" else point.condition._replace(batch="per_sample")
            )
            share = view.share(judged, group.tasks)
            assert abs(view.speed(point.condition, f"skip_{group.phase}") - share) <= figures_speed.APART
        # the world's Skip-decode skips less in translations than while it is timed
        assert ("skip_decode" in left_out) == (group.name == "translation")


def test_nothing_is_extrapolated():
    run = Condition("m", "s", "b")
    points = [Point(run, 0, 90, 0), Point(run, 40, 70, 0)]
    assert end_of(points, 10) == (10, pytest.approx(85))
    assert end_of(points, 41) == (40, 70)


@settings(deadline=None, max_examples=50)
@given(st.dictionaries(st.sampled_from(list(TITLES)), st.floats(0, 100), min_size=1))
def test_names_at_the_ends_do_not_overlap(heights):
    figure, axes = plt.subplots(figsize=(6, 4))
    axes.set(xlim=(0, 50), ylim=(0, 100))
    name_ends(axes, {method: (50.0, y) for method, y in heights.items()})
    placed = sorted(text.xy[1] for text in axes.texts)
    assert len(placed) == len(heights)
    assert all(b - a >= 5.4 for a, b in itertools.pairwise(placed)) and placed[-1] <= 100
    plt.close(figure)


def test_equal_data_give_equal_bytes(view):
    assert theme.svg(figures_speed.pareto(view).figure) == theme.svg(figures_speed.pareto(view).figure)


def test_what_was_not_recorded_is_not_called_not_run(view, tmp_path):
    """Old results hold the layers of the prompt's decision alone."""
    params = parameters(methods=["vanilla", "ours"])
    write_world(tmp_path, params, n=12)
    old = View(collect.collect(params, tmp_path), "smollm2")
    old.layers = old.layers[old.layers["phase"] == "prompt"]
    counts = [len([a for a in figures_layers.per_method(v).figure.axes if a.axison]) for v in (view, old)]
    assert counts == [4, 3]  # with the scale of colours
    assert "not run" not in shown(figures_layers.per_method(old).figure)
