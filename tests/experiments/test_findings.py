"""Findings are computed: they agree where orders agree, and say so where they do not."""

from ldmseg_lib.experiments.findings import agreement_along, order_of_rows, saturation, scope

PAPER = {"bits": 89.9, "colors": 89.1, "positional": 88.2}


def test_the_same_order_agrees_whatever_the_level() -> None:
    text = order_of_rows("PQ", paper=PAPER, ours={"bits": 60.0, "positional": 40.0, "colors": 50.0})
    assert "the paper has bits (89.9) > colors (89.1) > positional (88.2)" in text
    assert "this run has bits (60.0) > colors (50.0) > positional (40.0)" in text
    assert "the order of the rows agrees (3 of 3 pairs)." in text


def test_another_order_does_not_agree_and_the_pairs_are_counted() -> None:
    text = order_of_rows("PQ", paper=PAPER, ours={"bits": 60.0, "positional": 55.0, "colors": 50.0})
    assert "does not agree (2 of 3 pairs)" in text
    assert "(0 of 3 pairs)" in order_of_rows("PQ", paper=PAPER, ours={"bits": 1.0, "positional": 3.0, "colors": 2.0})
    assert "(0 of 3 pairs)" in order_of_rows("PQ", paper=PAPER, ours=dict.fromkeys(PAPER, 5.0))


def test_equal_rows_are_not_ranked() -> None:
    ours = {"bits": 5.0, "colors": 5.0, "positional": 4.0}
    text = order_of_rows("PQ", paper=PAPER, ours=ours)
    assert "this run has bits (5.0) = colors (5.0) > positional (4.0)" in text and "2 of 3" in text


def test_rows_closer_than_their_spread_are_undecided() -> None:
    ours = {"bits": 60.0, "colors": 59.0, "positional": 40.0}
    text = order_of_rows("PQ", paper=PAPER, ours=ours, spread={"bits": 2.0, "colors": 0.5, "positional": 0.5})
    assert "undecided: bits and colors." in text
    assert "undecided" not in order_of_rows("PQ", paper=PAPER, ours=ours, spread=dict.fromkeys(PAPER, 0.1))


def test_rows_without_a_value_are_left_out() -> None:
    assert "1 of 1 pairs" in order_of_rows("PQ", paper=PAPER, ours={"bits": 2.0, "colors": None, "positional": 1.0})
    assert "fewer than two rows" in order_of_rows("PQ", paper=PAPER, ours={"bits": 2.0})


def test_pairs_that_the_paper_has_equal_are_no_evidence() -> None:
    text = agreement_along("PQ", paper={"1": 8.4, "2": 35.5, "3": 35.5}, ours={"1": 3.0, "2": 2.0, "3": 9.0})
    assert "does not agree everywhere: 1 of 2 pairs" in text
    assert "no two rows" in agreement_along("PQ", paper={"1": 5.0, "2": 5.0}, ours={"1": 5.0, "2": 4.0})


def test_saturation_is_the_least_number_of_steps_near_the_best() -> None:
    assert saturation({1: 0.2, 5: 0.46, 10: 0.48, 50: 0.5}) == 10
    assert saturation({1: 0.2, 5: 0.46, 10: 0.48, 50: 0.5}, share=0.9) == 5
    assert saturation({1: None}) is None and saturation({1: 0.0, 5: 0.0}) is None


def test_small_runs_say_what_they_cannot_show() -> None:
    assert "nothing else" in scope("smoke", 8)
    assert "not the paper's level" in scope("demo", 24) and "24 images" in scope("demo", 24)
    assert scope("paper", 5000) == ""
