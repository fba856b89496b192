"""The judge on an Ollama server (github.com/ollama/ollama, docs/api.md)."""

from typing import Any, ClassVar

from sft.bars import Bar
from sft.errors import InputError
from sft.judge.client import NoReplyError
from sft.judge.judge import (
    PROBABILITIES,
    Judge,
    Messages,
    Reply,
    Request,
    count_of,
    first_token,
    text_of,
)

# The model stays in memory for so long after a request.
KEEP_ALIVE = "10m"

# Tokens of context: Ollama's default, and Llama 3's for a model whose context is not known.
USUAL = 4096
UNKNOWN = 8192

# Tokens left for what the model's chat template adds.
TEMPLATE = 64


class Ollama(Judge):
    """A model on an Ollama server. `context` is the number of tokens that it may use."""

    path = "/api/chat"
    json_key = "format"
    remedies: ClassVar = {404: "get the model with `ollama pull`, or add judge.pull=true"}

    def inspect(self) -> dict[str, Any]:
        if ":" not in self.model.rpartition("/")[2]:
            self.model += ":latest"
        version = self._get("/api/version", lambda body: str(body["version"]))

        if self.model not in self._models() and self.config.pull:
            self._pull()
        models = self._models()
        if self.model not in models:
            found = ", ".join(sorted(models)) or "none"
            raise InputError(
                f"judge.model: {self.model} is not on {self.client.url} (there: {found}); get it "
                f"by `ollama pull {self.model.removesuffix(':latest')}`, or add judge.pull=true"
            )

        context = self._context()
        self.context = min(context, self.config.context or context)
        return {
            "model": self.model,
            "digest": models[self.model],
            "version": version,
            "context": self.context,
        }

    def _get(self, path: str, read: Any) -> Any:
        try:
            return self.client.call("GET", path, None, read, retries=0)
        except NoReplyError as error:
            raise InputError(
                f"judge.url: no Ollama server at {self.client.url} ({error}); start one with "
                "`ollama serve`, or give its address, such as judge.url=http://localhost:11434"
            ) from error

    def _models(self) -> dict[str, str]:
        """Return the digests of the server's models, by name."""

        def read(body: Any) -> dict[str, str]:
            return {model["name"]: str(model["digest"]) for model in body["models"] or []}

        digests: dict[str, str] = self._get("/api/tags", read)
        return digests

    def _pull(self) -> None:
        """Have the server download the model, with a progress bar."""
        # Bytes of each layer, by its digest: those that have come, and all.
        layers: dict[str, tuple[int, int]] = {}
        try:
            with Bar(desc=f"pulling {self.model}", unit="B", unit_scale=True) as bar:
                for line in self.client.lines("/api/pull", {"model": self.model, "stream": True}):
                    if line.get("digest"):
                        completed = count_of(line.get("completed")) or 0
                        total = count_of(line.get("total")) or 0
                        layers[line["digest"]] = (completed, total)
                        bar.n = sum(completed for completed, _ in layers.values())
                        bar.total = sum(total for _, total in layers.values())
                        bar.refresh()
        except NoReplyError as error:
            raise InputError(
                f"judge.pull: {self.client.url} cannot pull {self.model} ({error}); is this its "
                "name on ollama.com?"
            ) from error

    def _context(self) -> int:
        """Return how many tokens the model can hold."""

        def read(body: Any) -> int:
            for key, value in body["model_info"].items():
                if key.endswith(".context_length"):
                    return int(value)
            raise LookupError("context_length")

        try:
            return self.client.call("POST", "/api/show", {"model": self.model}, read, retries=0)
        except NoReplyError:  # an old server, which does not say
            return UNKNOWN

    def request(
        self, messages: Messages, schema: dict[str, Any] | None, one_word: bool = False
    ) -> Request:
        # The context grows in few steps, because Ollama loads the model again at each.
        num_ctx = USUAL
        while num_ctx < self._tokens(messages):
            num_ctx *= 2

        request: Request = {
            "model": self.model,
            "messages": messages,
            "stream": False,
            "think": False,
            "keep_alive": KEEP_ALIVE,
            "options": self.options() | {"num_ctx": min(num_ctx, self.context)},
        }
        if schema and self.config.schema:
            request["format"] = schema
        if one_word:
            request |= PROBABILITIES  # which versions before 0.12.11 do not know
        return request

    def body(self, request: Request, form: str) -> Request:
        options = request["options"] | {"num_predict": self.limit(form)}
        body = self.in_form(request, form) | {"options": options}
        if form == "json_object":  # the only form that versions before 0.5 know
            body["format"] = "json"
        return body

    def _tokens(self, messages: Messages) -> int:
        """Return no less than prompt and reply take with any tokenizer.

        No token is shorter than a byte.
        """
        prompt = sum(len(message["content"].encode()) for message in messages)
        return prompt + TEMPLATE + self.config.max_tokens

    def size(self, request: Request) -> int:
        return int(request["options"]["num_ctx"])

    def ask(self, request: Request) -> Reply:
        """Return the judge's reply; a prompt that may be too long is refused.

        Ollama itself cuts the beginning of such a prompt, without a word.
        """
        need = self._tokens(request["messages"])
        num_ctx = self.size(request)
        if need > num_ctx:
            reason = f"not asked: {need} tokens may be needed, and the judge can hold {num_ctx}"
            raise NoReplyError(reason, "refused")

        reply = super().ask(request)
        if (reply.prompt_tokens or 0) > num_ctx - self.config.max_tokens:
            reason = f"the prompt may have been cut: {reply.prompt_tokens} tokens of {num_ctx}"
            raise NoReplyError(reason, "refused")
        return reply

    def read(self, body: Any) -> Reply:
        return Reply(
            text=text_of(body["message"]["content"]),
            refused=False,
            done_reason=text_of(body.get("done_reason")) or None,
            prompt_tokens=count_of(body.get("prompt_eval_count")),
            reply_tokens=count_of(body.get("eval_count")),
            first=first_token(body.get("logprobs")),
        )
