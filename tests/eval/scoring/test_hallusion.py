"""HallusionBench: questions, repeated questions and figures, against counting by hand."""

import random

from sightline.eval.scoring.hallusion import COUNTS, HALLUSION_PARSERS, set_counts


def a_set(generator, figures=3, questions=4, category="VS"):
    """Every question about every figure; figure 0 is none where the category is VS."""
    return [
        {
            "label": generator.choice(["yes", "no"]),
            "output": generator.choice(["Yes", "No", "yes, it is", "Both yes and no", "perhaps"]),
            "gold": {
                "figure": str(figure),
                "question": str(question),
                "figure_size": questions,
                "question_size": figures,
                "drawn": not (category == "VS" and figure == 0),
            },
        }
        for figure in range(figures)
        for question in range(questions)
    ]


def naive(records, parse):
    """All three figures by loops over ids."""
    right = {(r["gold"]["figure"], r["gold"]["question"]): parse(r["output"]) == r["label"] for r in records}
    figures = sorted({figure for figure, _ in right})
    questions = sorted({question for _, question in right})
    drawn = {r["gold"]["figure"]: r["gold"]["drawn"] for r in records}
    by_question = [all(right[figure, question] for figure in figures) for question in questions]
    by_figure = [all(right[figure, question] for question in questions) for figure in figures if drawn[figure]]
    return [sum(right.values()), len(right), sum(by_question), len(by_question), sum(by_figure), len(by_figure)]


def vlm(answer):
    words = answer.lower().replace(",", "").split()
    return "yes" if "yes" in words and "no" not in words else "no" if "no" in words and "yes" not in words else None


def test_counts_equal_loops():
    generator = random.Random(3)
    for category in ("VD", "VS"):
        for _ in range(30):
            records = a_set(generator, generator.randint(1, 3), generator.randint(1, 3), category)
            parser = HALLUSION_PARSERS["vlmevalkit"]
            assert set_counts(records, parser) == naive(records, vlm)
            told = set_counts(records, HALLUSION_PARSERS["contains_yes"])
            assert told == naive(records, lambda answer: "yes" if "yes" in answer.lower() else "no")


def test_what_lacks_an_answer_counts_in_neither():
    records = a_set(random.Random(0), 2, 2, "VD")
    for record in records:
        record["output"] = record["label"]
    assert dict(zip(COUNTS, set_counts(records, HALLUSION_PARSERS["strict"]), strict=True)) == {
        "right": 4, "n": 4, "questions_right": 2, "questions": 2, "figures_right": 2, "figures": 2,
    }  # fmt: skip
    held = set_counts(records[1:], HALLUSION_PARSERS["strict"])
    assert held == [3, 3, 1, 1, 1, 1]
