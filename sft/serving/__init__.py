"""A tuned model, and its base, for many callers at once; OpenAI's chat API in front of them, and a page to try it."""
