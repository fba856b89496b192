"""How is a result shown? The page, its charts, and the model card.

Read `report.py` first.
"""
