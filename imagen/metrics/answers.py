"""How a model of `transformers` answers questions about a picture, and how probable it finds an answer.

One that chooses among answers (ViLT) has a probability of each by itself, as it was trained. One that writes (BLIP,
LLaVA) gives the answer that is likeliest word by word; another's probability is that of its words, in any spelling.
One picture at a time, so that no answer depends on what else was asked.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import product
from typing import TYPE_CHECKING, Any, Protocol

from PIL import Image

from imagen.errors import WeightsNotUsable
from imagen.metrics.hub_models import TEXT_TOO, folder_of
from imagen.metrics.suites import COUNTED, Check

if TYPE_CHECKING:
    from torch import Tensor

WORDS = 8  # tokens that an answer may have
SHORTLY = "Answer the question using a single word or phrase."  # as the writing ones are asked in their training
ARTICLES = ("a", "an", "the")
NUMBERS = {word: str(number) for number, word in enumerate(COUNTED, start=1)}
NEEDED = "Give a model of transformers that answers questions about pictures, such as dandelin/vilt-b32-finetuned-vqa"

Answer = tuple[str, float]  # the one that is given, and the probability of the expected one


class Answering(Protocol):
    def answers(self, picture: Image.Image, checks: Sequence[Check]) -> list[Answer]: ...


class Choosing:
    """Has a list of answers."""

    def __init__(self, model: Any, processor: Any) -> None:
        self.model, self.processor = model, processor
        self.names = [str(model.config.id2label[place]) for place in range(model.config.num_labels)]
        self.plain = [plain(name) for name in self.names]

    def answers(self, picture: Image.Image, checks: Sequence[Check]) -> list[Answer]:
        import torch

        questions = [check.question for check in checks]
        asked = self.processor(
            [picture] * len(checks), questions, padding=True, truncation=True, return_tensors="pt"
        ).to(self.model.device, self.model.dtype)
        with torch.inference_mode(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # ViLT shuffles a picture's patches, and the order of a sum is its last digits
            shares = self.model(**asked).logits.float().sigmoid().cpu()
        return [
            (self.names[int(of.argmax())], self._probability(of, check))
            for of, check in zip(shares, checks, strict=True)
        ]

    def _probability(self, shares: "Tensor", check: Check) -> float:
        expected = plain(check.answer)
        return max(float(share) for share, name in zip(shares, self.plain, strict=True) if name == expected)


class Writing:
    """Has a language."""

    def __init__(self, model: Any, processor: Any) -> None:
        self.model, self.processor = model, processor
        self.tokenize = processor.tokenizer

    def answers(self, picture: Image.Image, checks: Sequence[Check]) -> list[Answer]:
        import torch

        with torch.inference_mode():
            return [self._answer(self._asked(picture, check.question), check.answer) for check in checks]

    def _asked(self, picture: Image.Image, question: str) -> Any:
        if self.processor.chat_template:
            said = [{"type": "image", "image": picture}, {"type": "text", "text": f"{question} {SHORTLY}"}]
            asked = self.processor.apply_chat_template(
                [{"role": "user", "content": said}],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
            )
        else:
            only = "QuestionAnswering" in type(self.model).__name__
            text = question if only else f"Question: {question} Answer:"
            asked = self.processor(images=picture, text=text, return_tensors="pt")
        return asked.to(self.model.device, self.model.dtype)

    def _answer(self, asked: Any, expected: str) -> Answer:
        import torch

        written, steps = self._write(asked)
        total = 0.0
        for tokens in self._spellings(expected):
            known = len(tokens) <= len(steps) and tokens[:-1] == written[: len(tokens) - 1]
            along = steps if known else self._write(asked, tokens)[1]
            total += float(torch.stack([step[token] for step, token in zip(along, tokens, strict=False)]).sum().exp())
        return self.tokenize.decode(written, skip_special_tokens=True).strip(), min(1.0, total)

    def _spellings(self, answer: str) -> list[list[int]]:
        """As tokens: small, with a capital, as a figure; where a word begins, or at the very beginning."""
        words = dict.fromkeys((answer, answer.lower(), answer.capitalize(), plain(answer)))
        texts = [before + word for before, word in product(("", " "), words)]
        spelt = [tuple(self.tokenize(text, add_special_tokens=False).input_ids) for text in texts]
        return [list(tokens) for tokens in dict.fromkeys(spelt) if self.tokenize.unk_token_id not in tokens]

    def _write(self, asked: Any, tokens: list[int] | None = None) -> "tuple[list[int], list[Tensor]]":
        """What it writes, or is made to, and before each token the log probabilities of all."""
        forced = iter(tokens or [])
        made = self.model.generate(
            **asked,
            max_new_tokens=len(tokens) if tokens else WORDS,
            do_sample=False,
            num_beams=1,
            return_dict_in_generate=True,
            output_logits=True,
            prefix_allowed_tokens_fn=(lambda _, before: [next(forced)]) if tokens else None,
        )
        steps = [step[0].float().log_softmax(0).cpu() for step in made.logits]
        return made.sequences[0, -len(steps) :].tolist(), steps


def plain(answer: str) -> str:
    """Without case, articles and punctuation, numbers as figures: what two say who say the same."""
    words = [word for word in re.findall(r"[\w']+", answer.lower()) if word not in ARTICLES]
    return " ".join(NUMBERS.get(word, word) for word in words)


def knows(name: str, checks: Sequence[Check]) -> None:
    """Whether a model answers questions, and has these answers; told by its configuration alone."""
    kind, config = _kind(name)
    if kind.can_generate():
        return
    names = {plain(str(label)) for label in config.id2label.values()}
    if missing := next((check for check in checks if plain(check.answer) not in names), None):
        raise WeightsNotUsable(
            f"{name} chooses among {len(names):,} answers, and {missing.answer!r} is none of them, which is expected "
            f"of {missing.question!r}: correct the suite, or give a model that writes its answers"
        )


@lru_cache(maxsize=1)
def answering(name: str, device: str) -> Answering:
    from transformers import AutoProcessor
    from transformers.utils import logging

    kind, _ = _kind(name)
    logging.disable_progress_bar()
    folder = folder_of(name, TEXT_TOO)
    try:
        processor = AutoProcessor.from_pretrained(folder)
        model, info = kind.from_pretrained(folder, output_loading_info=True)
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise WeightsNotUsable(f"{name} can't be loaded: {str(error).splitlines()[0]}. {NEEDED}") from error
    if info["missing_keys"]:
        raise WeightsNotUsable(f"{name} has no weights of {sorted(info['missing_keys'])[0]}. {NEEDED}")
    if not hasattr(processor, "image_processor"):
        raise WeightsNotUsable(f"{name} does not say how it looks at a picture (preprocessor_config.json). {NEEDED}")
    model = model.to(device).eval()
    return Writing(model, processor) if kind.can_generate() else Choosing(model, processor)


@lru_cache(maxsize=1)
def _kind(name: str) -> tuple[Any, Any]:
    """The class of a model, and its configuration."""
    import transformers
    from transformers.models.auto import modeling_auto

    folder = folder_of(name, TEXT_TOO)
    try:
        config = transformers.AutoConfig.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        raise WeightsNotUsable(f"{name} is no model: {str(error).splitlines()[0]}. {NEEDED}") from error
    known = {
        *modeling_auto.MODEL_FOR_VISUAL_QUESTION_ANSWERING_MAPPING_NAMES.values(),
        *modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.values(),
    }
    kind = next(iter(config.architectures or []), config.model_type)
    if kind not in known:
        raise WeightsNotUsable(f"{name} is a {kind}, which answers no questions about pictures. {NEEDED}")
    return getattr(transformers, kind), config
