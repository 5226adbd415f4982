"""The pipelines: one package each.

Its ``nodes.py`` adapts the catalog to the rooms, its ``pipeline.py`` connects the nodes.
A package exports ``create_pipeline()``; its nodes have names; every ``params:`` input is annotated
with a :class:`diffground.config.Config`, which Kedro builds before the run starts. What a
node does is imported in its function, its types too where they need torch or matplotlib: every
`kedro` command imports all of these modules, and Kedro resolves the annotations of nodes.

Which parts a named pipeline is made of is said in :mod:`diffground.pipeline_registry`.
"""
