"""The pipelines: one package each.

Its ``nodes.py`` adapts the catalog to the rooms, its ``pipeline.py`` connects the nodes.
A package exports ``create_pipeline()``; its nodes have names; every ``params:`` input is annotated
with a :class:`diffground.config.Config`, which Kedro builds before the run starts. Libraries
that load models are best imported inside the node functions: every `kedro` command that lists
pipelines imports all of these modules.

Which parts a named pipeline is made of is said in :mod:`diffground.pipeline_registry`.
"""
