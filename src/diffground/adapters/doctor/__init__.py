"""``diffground doctor``: what a machine or a folder has, what is wrong with it, and what to do.

:mod:`.machine` looks at packages, accelerators, disk and the run log; :mod:`.project` at the models
and datasets that the catalog names; :mod:`.folders` at a single folder, whatever it is. All of them
give :class:`.findings.Finding`.
"""
