"""The data pipeline, from URL-caption pairs to a published dataset. A plain library, for flows and notebooks alike.

Does not belong here: Prefect, models that generate pictures, the terminal. ARCHITECTURE.md lists the folders in the
order of their imports; start with `lake` (tables), then `engine` (how stages run), then `build` (all stages together).
"""
