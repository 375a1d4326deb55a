"""Builds a published dataset version from a recipe in YAML: recipe, pipeline of stages, build, dry run.

Not here: what each stage does (data/fetch, data/scorers, data/select, ...). Start with `recipe.py`, then `build.py`.
"""
