"""Models of `transformers` that answer questions about a picture, and the probability that they give an answer.

A classifier (ViLT) gives a probability for each answer on its list. A generator (BLIP, LLaVA) writes its answer by
greedy decoding. There, the probability of an expected answer is the probability of its tokens, summed over its
spellings. Pictures are processed one at a time, so that an answer does not depend on the rest of a batch.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import product
from typing import TYPE_CHECKING, Any, Protocol

from PIL import Image

from imagen.errors import WeightsNotUsable
from imagen.metrics.hub_models import FILES_WITH_TEXT, model_folder
from imagen.metrics.suites import NUMBER_WORDS, Check

if TYPE_CHECKING:
    from torch import Tensor

MAX_ANSWER_TOKENS = 8
SHORT_ANSWER_PROMPT = "Answer the question using a single word or phrase."  # as in LLaVA's training
ARTICLES = ("a", "an", "the")
DIGITS = {word: str(number) for number, word in enumerate(NUMBER_WORDS, start=1)}
MODEL_HINT = (
    "Give a model of transformers that answers questions about pictures, such as dandelin/vilt-b32-finetuned-vqa"
)

Answer = tuple[str, float]  # the model's answer, and the probability that it gives the expected answer


class Answerer(Protocol):
    """A loaded model that answers questions about pictures."""

    def answers(self, picture: Image.Image, checks: Sequence[Check]) -> list[Answer]:
        """Return an answer for each check of a picture, in their order."""
        ...


class ClassifyingAnswerer:
    """Answers with one label of the model's list, such as ViLT."""

    def __init__(self, model: Any, processor: Any) -> None:
        self.model, self.processor = model, processor
        self.labels = [str(model.config.id2label[index]) for index in range(model.config.num_labels)]
        self.normalized_labels = [normalize_answer(label) for label in self.labels]

    def answers(self, picture: Image.Image, checks: Sequence[Check]) -> list[Answer]:
        """Return the likeliest label for each check, and the probability of the expected label."""
        import torch

        questions = [check.question for check in checks]
        inputs = self.processor(
            [picture] * len(checks), questions, padding=True, truncation=True, return_tensors="pt"
        ).to(self.model.device, self.model.dtype)
        with torch.inference_mode(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # ViLT shuffles a picture's patches; the order of a sum changes its last digits
            probabilities = self.model(**inputs).logits.float().sigmoid().cpu()  # checks labels
        return [
            (self.labels[int(row.argmax())], self._expected_probability(row, check))
            for row, check in zip(probabilities, checks, strict=True)
        ]

    def _expected_probability(self, probabilities: "Tensor", check: Check) -> float:
        """Return the highest probability among the labels that mean the expected answer."""
        expected = normalize_answer(check.answer)
        pairs = zip(probabilities, self.normalized_labels, strict=True)
        return max(float(probability) for probability, label in pairs if label == expected)


class GeneratingAnswerer:
    """Writes its answer token by token, such as BLIP and LLaVA."""

    def __init__(self, model: Any, processor: Any) -> None:
        self.model, self.processor = model, processor
        self.tokenize = processor.tokenizer

    def answers(self, picture: Image.Image, checks: Sequence[Check]) -> list[Answer]:
        """Return the greedy answer to each check, and the probability of the expected answer in any spelling."""
        import torch

        with torch.inference_mode():
            return [self._answer(self._inputs(picture, check.question), check.answer) for check in checks]

    def _inputs(self, picture: Image.Image, question: str) -> Any:
        """Return the model's inputs.

        The text is made by the chat template, or is the bare question, or `Question: ... Answer:`.
        """
        if self.processor.chat_template:
            content = [
                {"type": "image", "image": picture},
                {"type": "text", "text": f"{question} {SHORT_ANSWER_PROMPT}"},
            ]
            inputs = self.processor.apply_chat_template(
                [{"role": "user", "content": content}],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
            )
        else:
            takes_bare_question = "QuestionAnswering" in type(self.model).__name__
            text = question if takes_bare_question else f"Question: {question} Answer:"
            inputs = self.processor(images=picture, text=text, return_tensors="pt")
        return inputs.to(self.model.device, self.model.dtype)

    def _answer(self, inputs: Any, expected: str) -> Answer:
        import torch

        answer_tokens, answer_steps = self._generate(inputs)
        probability = 0.0
        for tokens in self._spellings(expected):
            # where the spelling begins like the greedy answer, its log probabilities are known already
            begins_alike = len(tokens) <= len(answer_steps) and tokens[:-1] == answer_tokens[: len(tokens) - 1]
            steps = answer_steps if begins_alike else self._generate(inputs, tokens)[1]
            log_probabilities = torch.stack([step[token] for step, token in zip(steps, tokens, strict=False)])
            probability += float(log_probabilities.sum().exp())
        return self.tokenize.decode(answer_tokens, skip_special_tokens=True).strip(), min(1.0, probability)

    def _spellings(self, answer: str) -> list[list[int]]:
        """Return the token sequences of an answer, without repetitions.

        The spellings are the answer as written, in lower case, capitalized, and normalized, each with and without a
        space before it. Spellings that the tokenizer does not know are left out.
        """
        words = dict.fromkeys((answer, answer.lower(), answer.capitalize(), normalize_answer(answer)))
        texts = [space + word for space, word in product(("", " "), words)]
        sequences = [tuple(self.tokenize(text, add_special_tokens=False).input_ids) for text in texts]
        return [list(tokens) for tokens in dict.fromkeys(sequences) if self.tokenize.unk_token_id not in tokens]

    def _generate(self, inputs: Any, tokens: list[int] | None = None) -> "tuple[list[int], list[Tensor]]":
        """Decode greedily, or along the tokens if given.

        Returns:
            The tokens, and for each of them the log probabilities of the whole vocabulary before it.
        """
        forced = iter(tokens or [])
        output = self.model.generate(
            **inputs,
            max_new_tokens=len(tokens) if tokens else MAX_ANSWER_TOKENS,
            do_sample=False,
            num_beams=1,
            return_dict_in_generate=True,
            output_logits=True,
            prefix_allowed_tokens_fn=(lambda _, prefix: [next(forced)]) if tokens else None,
        )
        steps = [step[0].float().log_softmax(0).cpu() for step in output.logits]
        return output.sequences[0, -len(steps) :].tolist(), steps


def normalize_answer(answer: str) -> str:
    """Remove case, articles and punctuation from an answer, and write numbers as digits.

    Answers that mean the same become equal.

    Example:
        >>> normalize_answer("Two red cars.")
        '2 red cars'
    """
    words = [word for word in re.findall(r"[\w']+", answer.lower()) if word not in ARTICLES]
    return " ".join(DIGITS.get(word, word) for word in words)


def check_expected_answers(name: str, checks: Sequence[Check]) -> None:
    """Check that a model can answer questions and give the expected answers. Reads its configuration, not its weights.

    Args:
        name: a folder, or a name in the hub.

    Raises:
        WeightsNotUsable: the model answers no questions, or is a classifier that lacks one of the answers.
    """
    model_class, config = _model_class(name)
    if model_class.can_generate():
        return
    labels = {normalize_answer(str(label)) for label in config.id2label.values()}
    for check in checks:
        if normalize_answer(check.answer) not in labels:
            raise WeightsNotUsable(
                f"{name} chooses among {len(labels):,} answers, and {check.answer!r} is not among them, which "
                f"{check.question!r} expects: correct the suite, or give a model that writes its answers"
            )


@lru_cache(maxsize=1)
def load_answerer(name: str, device: str) -> Answerer:
    """Load a model that answers questions; the last one is cached.

    Args:
        name: a folder, or a name in the hub.
        device: where it runs, such as `cpu` or `cuda:0`.

    Raises:
        WeightsNotUsable: the model answers no questions about pictures, or its files are incomplete.
    """
    from transformers import AutoProcessor
    from transformers.utils import logging

    model_class, _ = _model_class(name)
    logging.disable_progress_bar()
    folder = model_folder(name, FILES_WITH_TEXT)
    try:
        processor = AutoProcessor.from_pretrained(folder)
        model, info = model_class.from_pretrained(folder, output_loading_info=True)
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise WeightsNotUsable(f"{name} can't be loaded: {str(error).splitlines()[0]}. {MODEL_HINT}") from error
    if info["missing_keys"]:
        raise WeightsNotUsable(f"{name} lacks the weights of {sorted(info['missing_keys'])[0]}. {MODEL_HINT}")
    if not hasattr(processor, "image_processor"):
        raise WeightsNotUsable(f"{name} has no image processor (preprocessor_config.json). {MODEL_HINT}")
    model = model.to(device).eval()
    return GeneratingAnswerer(model, processor) if model_class.can_generate() else ClassifyingAnswerer(model, processor)


@lru_cache(maxsize=1)
def _model_class(name: str) -> tuple[Any, Any]:
    """Return the class of a model, and its configuration."""
    import transformers
    from transformers.models.auto import modeling_auto

    folder = model_folder(name, FILES_WITH_TEXT)
    try:
        config = transformers.AutoConfig.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        raise WeightsNotUsable(f"{name} is not a model: {str(error).splitlines()[0]}. {MODEL_HINT}") from error
    supported = {
        *modeling_auto.MODEL_FOR_VISUAL_QUESTION_ANSWERING_MAPPING_NAMES.values(),
        *modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.values(),
    }
    class_name = config.architectures[0] if config.architectures else config.model_type
    if class_name not in supported:
        raise WeightsNotUsable(f"{name} is a {class_name}, which answers no questions about pictures. {MODEL_HINT}")
    return getattr(transformers, class_name), config
