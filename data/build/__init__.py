"""From a recipe in YAML to a published version: recipe, pipeline of stages, build, dry run.

Not here: what each stage does (data/fetch, data/scorers, data/select, ...). Start with `recipe.py`, then `build.py`.
"""
