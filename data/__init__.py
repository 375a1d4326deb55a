"""The data pipeline, from URL-caption pairs to a published dataset. It is a plain library for flows and notebooks.

Does not belong here: Prefect, models that generate pictures, terminal output. ARCHITECTURE.md lists the folders in the
order of their imports. Start with `lake` (tables), then `engine` (how stages run), then `build` (all stages together).
"""
