"""How are many callers served at once? The engine, OpenAI's API and a page.

Read `engine.py` first. Then follow a request: `app.py` routes it, `guard.py` lets it in, `api.py`
checks it, `endpoints.py` makes its prompts, `sending.py` hands them to the engine, and
`responses.py` gives the answers their form.
"""
