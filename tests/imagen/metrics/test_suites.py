"""Suites of prompts: the built-in one, files in published forms, and what is wrong with a file."""

import json
from pathlib import Path

import pytest

from data.world.grammar import claim_of
from imagen.errors import SuiteError
from imagen.metrics.suites import Check, Prompt, Suite, load_suite


@pytest.fixture(scope="module")
def shapes_suite() -> Suite:
    return load_suite("shapes")


def test_the_suite_shapes_has_different_prompts_of_six_categories(shapes_suite: Suite) -> None:
    assert len(shapes_suite.prompts) == len({prompt.text for prompt in shapes_suite.prompts}) == 200
    assert shapes_suite.categories == {
        "one shape": 40,
        "size": 40,
        "two shapes": 30,
        "relation": 40,
        "three shapes": 20,
        "new together": 30,
    }


def test_the_worlds_checker_understands_every_prompt_of_shapes(shapes_suite: Suite) -> None:
    counts = {"two shapes": 2, "relation": 2, "new together": 2, "three shapes": 3}
    for prompt in shapes_suite.prompts:
        claim = claim_of(prompt.text)
        assert claim is not None
        assert len(claim.phrases) == counts.get(prompt.category, 1)
        assert (claim.relation is not None) == (prompt.category in ("relation", "new together"))
        colours = len({phrase.colour for phrase in claim.phrases})
        assert colours == (1 if prompt.category == "new together" else len(claim.phrases))


def test_a_suite_has_the_same_id_whenever_it_is_loaded(shapes_suite: Suite) -> None:
    assert load_suite("shapes").id == shapes_suite.id


PUBLISHED = {
    "drawbench.csv": (
        'Prompts,Category\nA red colored car.,Colors\n"One, two, three.",Counting\n',
        [
            Prompt("A red colored car.", "Colors"),
            Prompt("One, two, three.", "Counting"),
        ],
    ),
    "parti.tsv": (
        "Prompt\tCategory\tChallenge\tNote\nbond\tAbstract\tBasic\tBiology\n",
        [Prompt("bond", "Abstract", "Basic")],
    ),
    "plain.txt": ("a cat\n\na dog \n", [Prompt("a cat", "plain"), Prompt("a dog", "plain")]),
    "own.jsonl": (
        '{"prompt": "a cat", "category": "animals", "checks": [{"question": "Is there a cat?"}]}\n',
        [Prompt("a cat", "animals", checks=(Check("Is there a cat?"),))],
    ),
    "own.csv": (
        'prompt,checks\na cat,"[{""question"": ""How many?"", ""answer"": ""one""}]"\n',
        [Prompt("a cat", checks=(Check("How many?", "one"),))],
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_forms_are_read(name: str, tmp_path: Path) -> None:
    text, prompts = PUBLISHED[name]
    (tmp_path / name).write_text(text)
    suite = load_suite(str(tmp_path / name))
    assert list(suite.prompts) == prompts
    assert suite.name == name.split(".")[0]


def test_genevals_metadata_becomes_questions(tmp_path: Path) -> None:
    rows = [
        {"tag": "counting", "include": [{"class": "clock", "count": 4}], "prompt": "a photo of four clocks"},
        {
            "tag": "position",
            "include": [
                {"class": "dog", "count": 1},
                {"class": "bench", "count": 1, "position": ["left of", 0]},
            ],
            "prompt": "a photo of a bench left of a dog",
        },
        {"tag": "colors", "include": [{"class": "car", "count": 1, "color": "red"}], "prompt": "a photo of a red car"},
    ]
    file = tmp_path / "evaluation_metadata.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    counted, placed, coloured = load_suite(str(file)).prompts
    assert counted.category == "counting"
    assert counted.checks == (Check("How many clocks are in the picture?", "four"),)
    assert [check.question for check in placed.checks] == [
        "Is there a dog in the picture?",
        "Is there a bench in the picture?",
        "Is the bench left of the dog?",
    ]
    assert coloured.checks == (Check("Is there a red car in the picture?"),)


def test_a_folder_of_t2i_compbench_has_a_category_a_file(tmp_path: Path) -> None:
    for name in ("color_train", "color_val", "spatial_val"):
        (tmp_path / f"{name}.txt").write_text(f"{name} prompt\n")
    assert [prompt.category for prompt in load_suite(str(tmp_path)).prompts] == ["color", "color", "spatial"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "Prompts,Category\nok,A\nbroken\n", r"a\.csv, line 3 does not have as many fields as the header"),
        ("a.csv", 'Prompts,Category\n"ok,A\n', r"a\.csv, line 2 can't be read: unexpected end of data"),
        ("a.jsonl", '{"prompt": "ok"}\n{"prompt": \n', r"a\.jsonl, line 2 is not JSON"),
        ("a.jsonl", '["ok"]\n', r"a\.jsonl, line 1 is not a JSON object"),
        (
            "a.tsv",
            "Words\tCategory\nok\tA\n",
            r"line 2 has no prompt: a column `prompt` is expected, there are words, cat",
        ),
        ("a.jsonl", '{"prompt": "ok", "checks": ["?"]}\n', r"line 1: checks is a JSON list of objects with question"),
        (
            "a.jsonl",
            '{"prompt": "ok", "include": [{"count": 2}]}\n',
            r"line 1: include is a list of objects with class",
        ),
        ("a.txt", "\n", r"has no prompt"),
        ("a.xlsx", "", r"has an unknown format: its name must end in \.csv, \.tsv, \.jsonl, \.txt"),
    ],
)
def test_a_broken_suite_is_one_sentence(name: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(SuiteError, match=message):
        load_suite(str(tmp_path / name))


def test_a_suite_that_does_not_exist_is_named() -> None:
    with pytest.raises(SuiteError, match="suite drawbench is neither 'shapes' nor a file or folder of prompts here"):
        load_suite("drawbench")
