"""A recipe from YAML to a published version: the recipe, the pipeline of stages, building, and the dry run.

Not here: what a stage does. Start with `recipe.py`, then `build.py`.
"""
