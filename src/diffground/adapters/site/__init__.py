"""The documentation site (``make docs``): what of it is made of the project as it is now.

Written pages lie in ``catalog_docs/``. MkDocs calls ``catalog_docs/site/hooks.py``, which is thin
and adds what the modules here make: pages of the code, tables of the papers, and the files of the
repository that pages link to.
"""
