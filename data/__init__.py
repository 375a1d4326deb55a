"""From pairs to a published dataset. A plain library: everything a flow does, a notebook can do with it.

Nothing here knows Prefect, models that generate, or a terminal. Folders are listed in ARCHITECTURE.md in the order of
imports; start with `lake` (tables), then `engine` (how stages run), then `build` (all stages together).
"""
