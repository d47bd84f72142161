"""What is said about a comparison: never more than the cases allow."""

import math

import numpy as np
import pytest
from rich.console import Console

from tests.scans import tiny_config
from verse3d.cli.score_tables import print_comparison
from verse3d.evaluation.case_values import METRICS
from verse3d.evaluation.comparison import Comparison, ContestantScores
from verse3d.evaluation.fairness import Contestant, Member
from verse3d.evaluation.paired_tests import paired_difference
from verse3d.evaluation.verdict import verdicts
from verse3d.report.compare_figure import compare_figure
from verse3d.report.compare_text import csv_text, json_dict, markdown
from verse3d.report.figures import figure_array
from verse3d.training.trained import TrainedModel


def comparison(**columns) -> Comparison:
    """``name={metric: values of the cases}``; metrics that are not given are 1 everywhere."""
    standings = []
    count = len(next(iter(next(iter(columns.values())).values())))
    cases = tuple(f"case{number}" for number in range(count))
    for name, given in columns.items():
        values = {
            case: {metric: float(given.get(metric, [1.0] * count)[number]) for metric in METRICS}
            for number, case in enumerate(cases)
        }
        model = TrainedModel(f"/models/{name}/best.pt", tiny_config(), 1000, 3)
        undefined = {metric: sum(math.isnan(value[metric]) for value in values.values()) for metric in METRICS}
        spread = dict.fromkeys(METRICS, math.nan)
        standings.append(
            ContestantScores(Contestant(name, (Member(name, model),)), values, undefined, spread, ("cpu",))
        )
    first, *others = standings
    pairs = {
        other.contestant.name: {
            metric: paired_difference(first.column(metric), other.column(metric)) for metric in METRICS
        }
        for other in others
    }
    return Comparison(cases, tuple(standings), pairs, (), (), ())


def said(**columns):
    (verdict,) = verdicts(comparison(**columns))
    return verdict.headline, {detail.split(":")[0]: detail for detail in verdict.details}


def test_one_case_is_an_example():
    headline, details = said(a={"dice": [0.8], "hd95_mm": [4.0]}, b={"dice": [0.9], "hd95_mm": [4.5]})
    assert headline.startswith("b against a: n = 1: an example, no estimate. ")
    assert "b is ahead in volume Dice" in headline and "a is ahead in HD95 mm" in headline
    assert "is better" not in headline
    assert details["volume Dice"] == "volume Dice: b is ahead by 0.100 in the one case."
    assert details["HD95 mm"] == "HD95 mm: a is ahead by 0.50 in the one case."
    assert details["ASSD mm"] == "ASSD mm: equal on average."


@pytest.mark.parametrize("count", [2, 5])
def test_fewer_than_six_cases_are_too_few_for_any_claim(count):
    headline, details = said(a={"dice": [0.8] * count}, b={"dice": [0.7] * count})
    assert f"n = {count}: too few cases for any claim" in headline and "is better" not in headline
    assert details["volume Dice"] == f"volume Dice: a is ahead by 0.100 on average and in {count} of {count} cases."


def test_six_cases_that_agree_are_enough():
    hd95_mm = [3.0, 4.0, 5.0, 6.0, 7.0, 8.0]
    headline, details = said(
        a={"dice": [0.8, 0.81, 0.82, 0.83, 0.84, 0.85], "hd95_mm": hd95_mm},
        b={"dice": [0.7, 0.72, 0.74, 0.76, 0.78, 0.80], "hd95_mm": [value - 1 for value in hd95_mm]},
    )
    assert headline.startswith("b against a: n = 6. a is better in volume Dice; b is better in HD95 mm; equal is")
    assert details["volume Dice"].startswith(
        "volume Dice: a is ahead by 0.075 on average and in 6 of 6 cases; b minus a: 95 % interval -0.0"
    )
    assert details["volume Dice"].endswith("p = 0.031.")
    assert details["HD95 mm"].endswith("95 % interval -1.00 to -1.00, p = 0.031.")


def test_cases_that_disagree_show_no_difference():
    headline, details = said(a={"dice": [0.8] * 8}, b={"dice": [0.9, 0.7, 0.9, 0.7, 0.9, 0.7, 0.9, 0.75]})
    assert "no difference is shown in volume Dice" in headline
    assert "in 4 of 8 cases" in details["volume Dice"] and details["volume Dice"].endswith("no difference is shown.")


@pytest.mark.slow  # seconds, and what is like it runs quickly
def test_a_mean_that_an_outlier_turned_round_is_no_win():
    # b is a little better in 19 cases and much worse in one, so that mean and ranks disagree.
    first, second = [0.8] * 20, [0.81 + number / 1e4 for number in range(19)] + [0.1]
    headline, details = said(a={"dice": first}, b={"dice": second})
    assert paired_difference(first, second).p < 0.05
    assert "no difference is shown in volume Dice" in headline
    assert "a is ahead by 0.025 on average and in 1 of 20 cases" in details["volume Dice"]
    assert details["volume Dice"].endswith("p < 0.001: the mean and most of the cases disagree.")


def test_undefined_pairs_are_counted_and_may_leave_too_few():
    values = [math.nan, math.nan, 3.0, 3.0, 3.0, 3.0]
    headline, details = said(a={"hd95_mm": [4.0] * 6}, b={"hd95_mm": values})
    assert "b is ahead in HD95 mm" in headline
    assert details["HD95 mm"] == "HD95 mm: b is ahead by 1.00 on average and in 4 of 4 cases (2 undefined)."
    headline, details = said(a={"hd95_mm": [4.0] * 6}, b={"hd95_mm": [math.nan] * 6})
    assert "undefined is HD95 mm" in headline and details["HD95 mm"] == "HD95 mm: undefined in every pair."


def test_a_tiny_difference_is_not_rounded_away():
    _, details = said(a={"dice": [0.8]}, b={"dice": [0.80002]})
    assert details["volume Dice"] == "volume Dice: b is ahead by 2e-05 in the one case."


def test_three_runs_are_set_against_the_first():
    found = comparison(a={"dice": [0.5] * 6}, b={"dice": [0.6] * 6}, c={"dice": [0.4] * 6})
    second, third = verdicts(found)
    assert second.headline.startswith("b against a") and "b is better in volume Dice" in second.headline
    assert third.headline.startswith("c against a") and "a is better in volume Dice" in third.headline
    page = markdown(found)
    assert page.startswith("# a against b against c\n") and "## b minus a" in page and "## c minus a" in page
    assert csv_text(found).splitlines()[0] == "case,metric,a,b,c,b minus a,c minus a"


def test_the_page_is_a_well_formed_one_and_names_that_hold_bars_do_not_break_its_tables():
    page = markdown(comparison(**{"a|b": {"dice": [0.5, math.nan]}, "c": {"dice": [0.6, 0.7]}}))
    tables = [block for block in page.split("\n\n") if block.startswith("|")]
    assert len(tables) == 4
    for table in tables:
        columns = {line.replace("\\|", "").count("|") for line in table.splitlines()}
        assert len(columns) == 1, table
    assert "+0.100 |" in page and "1 (1 undefined)" in page
    assert csv_text(comparison(a={"dice": [math.nan]}, c={"dice": [0.6]})).splitlines()[1] == "case0,dice,,0.6,"


def test_the_terminal_shows_scores_and_verdict():
    console = Console(width=300, record=True, markup=False, emoji=False, highlight=False, quiet=False)
    with console.capture() as capture:
        print_comparison(console, comparison(a={"dice": [0.8, 0.9]}, b={"dice": [0.7, math.nan]}))
    shown = capture.get()
    assert "0.850 ± 0.071" in shown and "0.700 (1 undefined)" in shown and "too few cases" in shown


@pytest.mark.parametrize(
    "count", [1, 8, 9, pytest.param(2, marks=pytest.mark.slow), pytest.param(100, marks=pytest.mark.slow)]
)
def test_the_figure_has_a_line_per_case_and_the_truth_beside_the_consistency(count):
    random = np.random.default_rng(count)
    metrics = ("dice", "hd95_mm", "consistency", "consistency_of_truth")
    found = comparison(**{name: {metric: random.random(count) for metric in metrics} for name in ("3d", "2d")})
    figure = compare_figure(found)
    dice, hd95, consistency = figure.axes
    assert [len(axes.lines) for axes in figure.axes] == [count] * 3
    assert [label.get_text() for label in dice.get_xticklabels()] == ["3d", "2d"]
    assert [label.get_text() for label in consistency.get_xticklabels()] == ["3d", "2d", "truth"]
    drawn = [line.get_ydata()[1] for line in hd95.lines]
    assert drawn == found.standings[1].column("hd95_mm")
    assert len(dice.collections) == (2 if count > 1 else 0)  # a mean per contestant
    names = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    assert names == (list(found.cases) if count <= 8 else [])
    assert f"n = {count} case" in figure.get_supxlabel()
    assert figure_array(figure).std() > 0


def test_small_differences_look_small_in_the_figure():
    figure = compare_figure(comparison(a={"dice": [0.9], "hd95_mm": [3.0]}, b={"dice": [0.901], "hd95_mm": [3.1]}))
    spans = [axes.get_ylim()[1] - axes.get_ylim()[0] for axes in figure.axes]
    assert spans[:2] == pytest.approx([0.1, 2.0])
    assert all(axes.get_ylim()[0] < line.get_ydata().min() for axes in figure.axes for line in axes.lines)


def test_a_metric_that_is_undefined_everywhere_says_so_in_the_figure():
    nothing = {"hd95_mm": [math.nan] * 3}
    figure = compare_figure(comparison(a=nothing, b=nothing))
    assert [text.get_text() for text in figure.axes[1].texts] == ["undefined"]
    figure_array(figure)


def test_names_are_told_only_where_a_run_has_some():
    nothing = {"id_rate": [math.nan] * 2, "vertebra_dice": [math.nan] * 2}
    binary, mixed = comparison(a=nothing, b=nothing), comparison(a=nothing, b={"id_rate": [0.5, 1.0]})
    assert "Dice per vertebra" not in markdown(binary) + csv_text(binary)
    assert "id_rate" not in csv_text(binary) and "id_rate" not in json_dict(binary)["pairs"]["b"]
    page = markdown(mixed)
    assert "| vertebrae identified (VerSe) | undefined (2 undefined) | 0.750 ± 0.354 |" in page
    assert "case0,id_rate,,0.5," in csv_text(mixed)
    assert json_dict(mixed)["runs"][0]["values"]["case0"]["id_rate"] is None
