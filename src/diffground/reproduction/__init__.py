"""All papers on one page: every table and figure of theirs, filled or named with the reason.

``contents/`` lists them, a file a paper (:mod:`~diffground.reproduction.contents`); what was
measured is laid beside what the papers print (:mod:`~diffground.reproduction.gather`) and becomes a
page that needs nothing else (:mod:`~diffground.reproduction.page`).
"""
