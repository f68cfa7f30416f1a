"""The report: one self-contained page, and a short one for a pull request.

``content`` is what it is made of, ``figures`` draws, ``prose`` puts numbers into sentences,
``render`` fills the templates.
"""
