"""How is a result shown? The page, its charts, and the model card.

Read `report.py` first: it writes `report.html` and `report.md` from the templates. `page.py` makes
the variables of the templates from the summaries, `charts.py` the pictures. `card.py` writes the
model card.
"""
