"""The pipelines: one package a paper, and those of the mini world and the mini models.

Its ``nodes.py`` adapts the catalog to the rooms, its ``pipeline.py`` connects the nodes.
A package exports ``create_pipeline(parts)``; its nodes have names; every ``params:`` input is
annotated with a :class:`diffground.config.Config`, which Kedro builds before the run starts. A node
gets what it needs and no more: what others made, and the folder that it fills (``<name>_folder``).
What it does is imported in its function, its types too where they need torch or matplotlib: every
`kedro` command imports all of these modules, and Kedro resolves the annotations of nodes.

Which parts a named pipeline is made of is said in :mod:`diffground.pipeline_registry`.
"""
