"""A dataset in twenty lines of YAML, from sources to embeddings; values only, checked with line and field."""

import hashlib
import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from data.clip import Clip, ClipSettings
from data.download import DownloadSettings
from data.encoder import EncoderSettings
from data.errors import RecipeError
from data.select import FACTS, Criterion
from data.sources import Source

SHIPPED = Path(__file__).parent / "recipes"


class Recipe(BaseModel):
    """What the owner of a dataset writes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(description="the dataset's name")
    sources: tuple[Source, ...] = Field(min_length=1)
    download: DownloadSettings = DownloadSettings()
    scores: dict[str, ClipSettings] = Field(
        default_factory=dict, description="name: scorer; gives the fact <name>_score"
    )
    select: tuple[dict[str, Criterion], ...] = Field((), description="what is kept, in order: fact: {min, max}")
    embed: dict[str, EncoderSettings] = Field(
        default_factory=dict, description="name: encoder; gives the columns <name>_embedding and <name>_length"
    )
    shard_rows: int = Field(1000, ge=1, description="rows of the unit of work")

    @field_validator("name")
    @classmethod
    def _speakable(cls, name: str) -> str:
        if not re.fullmatch(r"[a-z][a-z0-9_-]*", name):
            raise ValueError("a dataset's name has lower-case letters, digits, - and _, and begins with a letter")
        return name

    @field_validator("scores")
    @classmethod
    def _sql_names(cls, scores: dict[str, ClipSettings]) -> dict[str, ClipSettings]:
        for name in scores:
            if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name in ("pairs", "images", "fetches", "last"):
                raise ValueError(f"{name!r} can't name a score: lower-case letters, digits and _, and no table's name")
        return scores

    @field_validator("embed")
    @classmethod
    def _column_names(cls, embed: dict[str, EncoderSettings]) -> dict[str, EncoderSettings]:
        for name in embed:
            if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
                raise ValueError(f"{name!r} can't name an encoder: lower-case letters, digits and _")
        return embed

    @model_validator(mode="after")
    def _facts_are_known(self) -> "Recipe":
        known = [*FACTS, *(f"{name}_{column}" for name in self.scores for column in Clip.columns.names)]
        for criterion in self.select:
            for fact in criterion:
                if fact not in known:
                    raise ValueError(f"select asks for {fact!r}, which nothing measures; there are {', '.join(known)}")
        return self

    @property
    def hash(self) -> str:
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    @property
    def criteria(self) -> tuple[tuple[str, Criterion], ...]:
        return tuple(item for criterion in self.select for item in criterion.items())

    def under(self, folder: Path) -> "Recipe":
        """The same recipe with its relative sources looked up from a folder."""
        return self.model_copy(update={"sources": tuple(source.under(folder) for source in self.sources)})


def load_recipe(name: str, sources: tuple[str, ...] = ()) -> Recipe:
    """A recipe by file, or a shipped one by name; `sources` take the place of its own.

    Relative paths are looked up from the recipe's folder; those of a shipped recipe from the current one.
    """
    path, folder = Path(name), Path(name).parent
    if path.suffix not in (".yaml", ".yml"):
        path, folder = SHIPPED / f"{name}.yaml", Path()
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RecipeError(
            f"recipe {name} does not exist. Give a .yaml file or one of: {', '.join(shipped())}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"recipe {name} can't be read: {error}") from None
    recipe = parse_recipe(text, name, folder)
    if sources:
        columns = recipe.sources[0].columns
        return recipe.model_copy(update={"sources": tuple(Source(path=path, columns=columns) for path in sources)})
    return recipe


def parse_recipe(text: str, name: str, folder: Path = Path()) -> Recipe:
    try:
        values = yaml.safe_load(text)
        nodes = yaml.compose(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"{name} is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise RecipeError(f"{name} is no recipe: it must be a mapping with name and sources")
    try:
        return Recipe.model_validate(_rooted(values, folder)).under(folder)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the recipe"
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            message = "there is no such field"
        raise RecipeError(f"{name}, line {_line_of(nodes, first['loc'])}: {place}: {message}") from None


def shipped() -> list[str]:
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def _rooted(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Models that lie beside the recipe are made findable before the settings look for them."""
    for part in (values.get("scores"), values.get("embed")):
        for settings in part.values() if isinstance(part, dict) else ():
            for field in ("model", "pretrained"):
                if isinstance(settings, dict) and isinstance(settings.get(field), str):
                    beside = folder / settings[field]
                    settings[field] = str(beside.resolve()) if beside.exists() else settings[field]
    return values


def _line_of(node: yaml.Node | None, place: tuple[int | str, ...]) -> int:
    """The line, from 1, of the innermost part of a place that the text really has."""
    line = 1
    for part in place:
        if isinstance(node, yaml.MappingNode):
            found = next(((key, value) for key, value in node.value if key.value == str(part)), None)
            if found is None:
                break
            line, node = found[0].start_mark.line + 1, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
    return line
