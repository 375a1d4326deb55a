"""Questions about pictures: the answers of each kind of model against a plain loop, and a whole evaluation."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    BertConfig,
    BertModel,
    BlipForQuestionAnswering,
    BlipProcessor,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    ViltForQuestionAnswering,
    ViltProcessor,
)

from data.lake.lake import Lake
from data.pictures.prepare import decode
from imagen.config.evaluation import EvaluateSettings
from imagen.errors import SuiteError, WeightsNotUsable
from imagen.evaluate.evaluation import Evaluation, evaluate, plan_evaluation
from imagen.metrics.answers import MAX_ANSWER_TOKENS, SHORT_ANSWER_PROMPT, load_answerer, normalize_answer
from imagen.metrics.suites import Check
from imagen.metrics.vqa import Vqa, vqa_accuracy, vqa_score
from tests.engines import EngineKilledAfterOneShard, InProcessEngine
from tests.imagen.metrics.answerers import LABELS, make_blip, make_llava, make_vilt

CHECKS = (Check("is there a red circle ?"), Check("how many shapes are there ?", "two"), Check("what colour ?", "red"))
Figures = dict[tuple[str, str], tuple[float, float, float, int]]


@pytest.fixture(scope="module")
def vilt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_vilt(tmp_path_factory.mktemp("vilt"))


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty prompts, of which each fourth has no check."""
    rows = []
    for number, colour in enumerate(("red", "green", "blue", "black") * 5):
        kind = ("circle", "square", "star", "ring", "cross")[number // 4]
        checks = [{"question": f"is there a {kind} ?"}, {"question": "what colour ?", "answer": "blue"}]
        category = "asked" if number % 4 else "not asked"
        rows.append({"prompt": f"a {colour} {kind}", "category": category, "checks": checks if number % 4 else []})
    file = tmp_path_factory.mktemp("suite") / "few.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def pictures(count: int) -> list[Image.Image]:
    rng = np.random.default_rng(3)
    return [Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)) for _ in range(count)]


def test_a_model_that_chooses_an_answer_agrees_with_a_plain_loop(vilt: Path) -> None:
    model, processor = ViltForQuestionAnswering.from_pretrained(vilt).eval(), ViltProcessor.from_pretrained(vilt)
    distinct = set()
    for picture in pictures(6):
        answers = load_answerer(str(vilt), "cpu").answers(picture, CHECKS)
        assert answers == load_answerer(str(vilt), "cpu").answers(picture, CHECKS)  # to the last digit
        for check, label, (answer, probability) in zip(CHECKS, ("yes", "2", "red"), answers, strict=True):
            with torch.no_grad():
                logits = model(**processor(picture, check.question, return_tensors="pt")).logits[0]
            assert answer == LABELS[int(logits.argmax())]
            assert probability == pytest.approx(float(torch.sigmoid(logits[LABELS.index(label)])), abs=1e-5)
            distinct.add(answer)
    assert len(distinct) > 1


def test_a_model_that_writes_from_an_encoded_question_agrees_with_a_plain_loop(tmp_path: Path) -> None:
    folder = make_blip(tmp_path / "blip")
    model, processor = BlipForQuestionAnswering.from_pretrained(folder).eval(), BlipProcessor.from_pretrained(folder)
    distinct = set()
    for picture in pictures(4):
        answers = load_answerer(str(folder), "cpu").answers(picture, CHECKS)
        for check, words, (answer, probability) in zip(CHECKS, (["yes"], ["two", "2"], ["red"]), answers, strict=True):
            inputs = processor(picture, check.question, return_tensors="pt")
            with torch.no_grad():
                features = model.vision_model(inputs.pixel_values).last_hidden_state
                question = model.text_encoder(inputs.input_ids, encoder_hidden_states=features).last_hidden_state

                def after(tokens: list[int], question: torch.Tensor = question) -> torch.Tensor:
                    ids = torch.tensor([[model.decoder_start_token_id, *tokens]])
                    logits: torch.Tensor = model.text_decoder(ids, encoder_hidden_states=question).logits
                    return logits[0, -1].softmax(0)

                expected = sum(float(after([])[processor.tokenizer.convert_tokens_to_ids(word)]) for word in words)
                written = greedy(after, end=3)
            assert probability == pytest.approx(expected, abs=1e-5)
            assert answer == processor.tokenizer.decode(written, skip_special_tokens=True).strip()
            distinct.add(answer)
    assert len(distinct) > 1


def test_a_model_for_conversations_agrees_with_a_plain_loop(tmp_path: Path) -> None:
    folder = make_llava(tmp_path / "llava")
    model = LlavaForConditionalGeneration.from_pretrained(folder).eval()
    processor = LlavaProcessor.from_pretrained(folder)
    spellings = ([["yes"], ["Yes"]], [["two"], ["2"]], [["dark", "red"], ["Dark", "red"]])
    checks = (*CHECKS[:2], Check("what colour ?", "dark red"))
    distinct = set()
    for picture in pictures(4):
        answers = load_answerer(str(folder), "cpu").answers(picture, checks)
        for check, words, (answer, probability) in zip(checks, spellings, answers, strict=True):
            inputs = processor(picture, f"<image> {check.question} {SHORT_ANSWER_PROMPT} Answer :", return_tensors="pt")

            def after(tokens: list[int], inputs: Any = inputs) -> torch.Tensor:
                ids = torch.cat([inputs.input_ids, torch.tensor([tokens], dtype=torch.long)], 1)
                logits: torch.Tensor = model(input_ids=ids, pixel_values=inputs.pixel_values).logits
                return logits[0, -1].softmax(0)

            with torch.no_grad():
                expected = 0.0
                for spelling in words:
                    ids = [processor.tokenizer.convert_tokens_to_ids(word) for word in spelling]
                    expected += float(np.prod([float(after(ids[:at])[token]) for at, token in enumerate(ids)]))
                written = greedy(after, end=3)
            assert probability == pytest.approx(expected, abs=1e-5)
            assert answer == processor.tokenizer.decode(written, skip_special_tokens=True).strip()
            distinct.add(answer)
    assert len(distinct) > 1


def greedy(after: Callable[[list[int]], torch.Tensor], end: int) -> list[int]:
    written: list[int] = []
    while len(written) < MAX_ANSWER_TOKENS and written[-1:] != [end]:
        written.append(int(after(written).argmax()))
    return written


def test_same_words_are_the_same_answer() -> None:
    assert normalize_answer("Two.") == normalize_answer("2")
    assert normalize_answer("A red car") == normalize_answer("red car")
    assert normalize_answer("yes") != normalize_answer("no")
    assert vqa_accuracy(["Yes", "3"], [Check("?"), Check("?", "two")]) == 0.5
    assert vqa_score([0.5, 1.0]) == 0.75
    assert np.isnan([vqa_accuracy([], []), vqa_score([]), vqa_accuracy(None, CHECKS), vqa_score(None)]).all()


def test_a_table_of_answers_is_named_by_the_models_weights(vilt: Path, tmp_path: Path) -> None:
    shutil.copytree(vilt, tmp_path / "elsewhere")
    assert Vqa(model=str(tmp_path / "elsewhere")).id == Vqa(model=str(vilt), device="cpu").id
    assert Vqa(model=str(make_vilt(tmp_path / "other", ("no", "yes")))).id != Vqa(model=str(vilt)).id


def settings_of(suite: Path, model: Path) -> EvaluateSettings:
    return EvaluateSettings(suite=str(suite), vqa=Vqa(model=str(model)))


def of(lake: Lake, suite: Path, model: Path) -> Evaluation:
    return plan_evaluation(lake, "little/1", settings_of(suite, model))


def figures_of(rows: list[dict[str, Any]]) -> Figures:
    return {(row["metric"], row["slice"]): (row["value"], row["low"], row["high"], row["n"]) for row in rows}


def stored(evaluation: Evaluation) -> list[dict[str, Any]]:
    vqa = evaluation.settings.vqa
    assert vqa is not None
    rows: list[dict[str, Any]] = evaluation.picture_lake.table(vqa.table).dataset().to_table().sort_by("id").to_pylist()
    return rows


def test_an_evaluation_says_what_its_pictures_answer(one_model: Lake, suite: Path, vilt: Path) -> None:
    evaluation = of(one_model, suite, vilt)
    rows = figures_of(evaluate(evaluation, InProcessEngine()))
    assert {part for metric, part in rows if metric == "vqa_score"} == {"all", "asked"}
    assert rows["vqa_score", "all"] == rows["vqa_score", "asked"]
    assert rows["right", "all"][3] == 20
    model, processor = ViltForQuestionAnswering.from_pretrained(vilt).eval(), ViltProcessor.from_pretrained(vilt)
    images = evaluation.picture_lake.table("images").dataset().to_table(columns=["id", "image"]).to_pylist()
    prompts = {
        pair["id"]: pair["caption"] for pair in evaluation.picture_lake.table("pairs").dataset().to_table().to_pylist()
    }
    scores, rights = [], []
    for row in images:
        _, colour, kind = prompts[row["id"]].split()
        if colour == "red":
            continue
        probabilities, right = [], []
        for question, answer in ((f"is there a {kind} ?", "yes"), ("what colour ?", "blue")):
            with torch.no_grad():
                logits = model(**processor(decode(row["image"]), question, return_tensors="pt")).logits[0]
            probabilities.append(float(torch.sigmoid(logits[LABELS.index(answer)])))
            right.append(LABELS[int(logits.argmax())] == answer)
        scores.append(np.mean(probabilities))
        rights.append(np.mean(right))
    value, low, high, n = rows["vqa_score", "all"]
    assert (n, low < value < high) == (15, True)
    assert value == pytest.approx(np.mean(scores), abs=1e-5)
    assert rows["vqa_right", "all"][0] == pytest.approx(np.mean(rights))


def test_a_killed_evaluation_asks_only_missing_questions(
    one_model: Lake, suite: Path, vilt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(one_model.url, tmp_path / "copied")
    uninterrupted = of(one_model, suite, vilt)
    expected = figures_of(evaluate(uninterrupted, InProcessEngine()))
    monkeypatch.setattr("imagen.evaluate.evaluation.ASK_ROWS", 6)
    shards, kills = 0, 0

    def count(plan: Any) -> None:
        nonlocal shards
        shards += len(plan.shards) if plan.stage.name == "ask" else 0

    while True:
        killed = of(Lake.open(str(tmp_path / "copied")), suite, vilt)
        try:
            again = evaluate(killed, EngineKilledAfterOneShard(), on_plan=count)
        except KeyboardInterrupt:
            kills += 1
        else:
            break
    assert kills >= 4
    assert shards == 4 + 4 + 3 + 2 + 1  # the first time none was done
    assert figures_of(again) == expected
    assert stored(killed) == stored(uninterrupted)


def test_questions_that_can_not_be_asked_are_one_sentence(
    one_model: Lake, suite: Path, vilt: Path, tmp_path: Path
) -> None:
    (tmp_path / "plain.txt").write_text("a red circle\n")
    with pytest.raises(
        SuiteError, match=r"plain has no checks, so there is nothing to ask about its pictures.* or leave vqa out"
    ):
        evaluate(of(one_model, tmp_path / "plain.txt", vilt), InProcessEngine())
    (tmp_path / "empty.jsonl").write_text('{"prompt": "a cat", "checks": [{"question": "what ?", "answer": " "}]}\n')
    with pytest.raises(SuiteError, match=r"empty asks 'what \?' and expects no answer"):
        evaluate(of(one_model, tmp_path / "empty.jsonl", vilt), InProcessEngine())
    with pytest.raises(WeightsNotUsable, match=r"nowhere is not a folder here, and can't be downloaded from the hub"):
        evaluate(of(one_model, suite, Path("nowhere")), InProcessEngine())
    with pytest.raises(
        WeightsNotUsable, match=r"is not a model: .* Give a model of transformers that answers questions"
    ):
        evaluate(of(one_model, suite, tmp_path), InProcessEngine())
    BertModel(BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1)).save_pretrained(tmp_path / "bert")
    with pytest.raises(WeightsNotUsable, match=r"is a BertModel, which answers no questions about pictures\. Give"):
        evaluate(of(one_model, suite, tmp_path / "bert"), InProcessEngine())
    few = make_vilt(tmp_path / "few", ("no", "yes"))
    with pytest.raises(
        WeightsNotUsable, match=r"chooses among 2 answers, and 'blue' is not among them, which 'what colour .' expects"
    ):
        evaluate(of(one_model, suite, few), InProcessEngine())
    assert not (tmp_path / "lake" / "evaluations").exists() or not list((tmp_path / "lake").glob("*/*/images"))


def test_a_model_without_a_head_or_eyes_is_refused(vilt: Path, tmp_path: Path) -> None:
    headless, blind = tmp_path / "headless", tmp_path / "blind"
    shutil.copytree(vilt, headless)
    ViltForQuestionAnswering.from_pretrained(vilt).vilt.save_pretrained(headless)
    config = json.loads((headless / "config.json").read_text()) | {"architectures": ["ViltForQuestionAnswering"]}
    (headless / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsNotUsable, match=r"headless lacks the weights of classifier"):
        load_answerer(str(headless), "cpu")
    shutil.copytree(vilt, blind)
    for name in ("preprocessor_config.json", "processor_config.json"):
        (blind / name).unlink(missing_ok=True)
    with pytest.raises(WeightsNotUsable, match=r"blind .*"):
        load_answerer(str(blind), "cpu")
