"""Build the site: `python -m docs.site.build [FOLDER]`. Every warning is an error.

The sources are copied to build/pages in the layout that they have here, so that a link from one page to another is the
same in the site as in the repository; the API reference is added to them.
"""

import importlib
import shutil
import sys
from pathlib import Path

from docs.site import api, cli

ROOT = Path(__file__).parents[2]
SITE, SOURCES = ROOT / "build" / "site", ROOT / "build" / "pages"
GUIDES = ("datasets", "scorers", "models", "evaluation", "platform", "scale", "troubleshooting")
REFERENCE = ["docs/cli", "api/index"]
ABOUT = ("comparison", "decisions", "log")


def main(site: Path = SITE) -> int:
    """Write the command line reference and the sources, and run Sphinx on them; its exit code is ours."""
    cli.PAGE.write_text(cli.reference())
    write_sources(SOURCES)
    importlib.import_module("prefect.main")  # its models can't be made from within autodoc
    from sphinx.cmd.build import main as sphinx

    return sphinx(["-q", "-W", "--keep-going", "-c", str(Path(__file__).parent), str(SOURCES), str(site)])


def write_sources(folder: Path) -> None:
    """Lay out everything that the site is made from in `folder`, which is emptied first."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT / "docs", folder / "docs", ignore=shutil.ignore_patterns("site", "__pycache__"))
    for page in ROOT.glob("*.md"):
        shutil.copy(page, folder / page.name)
    (folder / "README.md").rename(folder / "index.md")
    with (folder / "index.md").open("a") as file:
        file.write(menus())
    for place, text in api.pages().items():
        (folder / place).parent.mkdir(exist_ok=True)
        (folder / place).write_text(text)


def menus() -> str:
    """The tables of contents that the site's menu is made from; they stand at the end of the README."""
    guides = [f"docs/{name}" for name in GUIDES]
    about = ["ARCHITECTURE", "CONTRIBUTING", *(f"docs/{name}" for name in ABOUT), "CHANGELOG"]
    return "\n".join(["", menu("Guides", guides), menu("Reference", REFERENCE), menu("About", about)])


def menu(caption: str, names: list[str]) -> str:
    lines = "\n".join(names)
    return f"```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{lines}\n```\n"


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))
