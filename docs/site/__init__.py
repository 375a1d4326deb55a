"""The site: what turns README.md, docs/ and the code into build/site. `make docs` runs it.

The pages themselves are the Markdown files above this folder. `cli.py` writes the command line reference from the
commands, `api.py` the pages of the API reference, `build.py` runs Sphinx with `conf.py`.
"""
