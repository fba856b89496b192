"""The judge on an Ollama server (github.com/ollama/ollama, docs/api.md)."""

from typing import Any, ClassVar

from tqdm import tqdm

from sft.errors import InputError
from sft.judge.client import NoReplyError
from sft.judge.judge import Judge, Messages, Reply, Request, count_of, text_of


class Ollama(Judge):
    path = "/api/chat"
    remedies: ClassVar = {404: "bring the model (back) by `ollama pull`, or add judge.pull=true"}

    SERVE = "start one with `ollama serve`, or give its address, such as judge.url=http://localhost:11434"
    KEEP_ALIVE = "10m"  # the model stays in memory for so long after a request
    USUAL, UNTOLD = (
        4096,
        8192,
    )  # tokens of context: Ollama's default; of a model of which it does not say: Llama 3's
    TEMPLATE = 64  # tokens kept for what the model's chat template adds

    def look(self) -> dict[str, Any]:
        if ":" not in self.model.rpartition("/")[2]:
            self.model += ":latest"
        version = self._get("/api/version", lambda body: str(body["version"]))
        if self.model not in self._models() and self.config.pull:
            self._pull()
        models = self._models()
        if self.model not in models:
            there, name = ", ".join(sorted(models)) or "none", self.model.removesuffix(":latest")
            raise InputError(
                f"judge.model: {self.model} is not on {self.client.url} (there: {there}); get it by `ollama pull "
                f"{name}`, or add judge.pull=true"
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
                f"judge.url: no Ollama server at {self.client.url} ({error}); {self.SERVE}"
            ) from error

    def _models(self) -> dict[str, str]:
        """The digests of the models that are there, by name."""
        digests: dict[str, str] = self._get(
            "/api/tags",
            lambda body: {model["name"]: str(model["digest"]) for model in body["models"] or []},
        )
        return digests

    def _pull(self) -> None:
        parts: dict[
            str, tuple[int, int]
        ] = {}  # of each layer, the bytes that are here and those there will be
        try:
            with tqdm(desc=f"pulling {self.model}", unit="B", unit_scale=True) as bar:
                for line in self.client.lines("/api/pull", {"model": self.model, "stream": True}):
                    if line.get("digest"):
                        parts[line["digest"]] = (
                            count_of(line.get("completed")) or 0,
                            count_of(line.get("total")) or 0,
                        )
                        bar.n, bar.total = (
                            sum(numbers) for numbers in zip(*parts.values(), strict=True)
                        )
                        bar.refresh()
        except NoReplyError as error:
            raise InputError(
                f"judge.pull: {self.client.url} cannot pull {self.model} ({error}); is this its name on ollama.com?"
            ) from error

    def _context(self) -> int:
        """The tokens that the model can hold."""

        def read(body: Any) -> int:
            lengths = [
                value
                for key, value in body["model_info"].items()
                if key.endswith(".context_length")
            ]
            return int(lengths[0])

        try:
            return self.client.call("POST", "/api/show", {"model": self.model}, read, retries=0)
        except NoReplyError:  # an old server, which does not say
            return self.UNTOLD

    def request(self, messages: Messages, schema: dict[str, Any] | None) -> Request:
        num_ctx = self.USUAL
        while num_ctx < self._tokens(
            messages
        ):  # in few steps, since Ollama loads the model anew at each
            num_ctx *= 2
        return {
            "model": self.model,
            "messages": messages,
            "stream": False,
            "think": False,
            "keep_alive": self.KEEP_ALIVE,
            "options": self.options() | {"num_ctx": min(num_ctx, self.context)},
        } | ({"format": schema} if schema and self.config.schema else {})

    def has_schema(self, request: Request) -> bool:
        return "format" in request

    def body(self, request: Request, form: str) -> Request:
        body = request | {"options": request["options"] | {"num_predict": self.config.max_tokens}}
        if form == "json_object":  # versions before 0.5 know only this one
            body["format"] = "json"
        elif form == "none":
            body.pop("format", None)
        return body

    def _tokens(self, messages: Messages) -> int:
        """No less than prompt and reply take with any tokenizer: no token is shorter than a byte."""
        return (
            sum(len(message["content"].encode()) for message in messages)
            + self.TEMPLATE
            + self.config.max_tokens
        )

    def size(self, request: Request) -> int:
        return int(request["options"]["num_ctx"])

    def ask(self, request: Request) -> Reply:
        """Ollama itself would cut the beginning of a prompt that is too long, and not say so."""
        need, num_ctx = self._tokens(request["messages"]), self.size(request)
        if need > num_ctx:
            raise NoReplyError(
                f"not asked: {need} tokens may be needed, and the judge can hold {num_ctx}",
                "refused",
            )
        reply = super().ask(request)
        if (reply.prompt_tokens or 0) > num_ctx - self.config.max_tokens:
            raise NoReplyError(
                f"the prompt may have been cut: {reply.prompt_tokens} tokens of {num_ctx}",
                "refused",
            )
        return reply

    def read(self, body: Any) -> Reply:
        return Reply(
            text_of(body["message"]["content"]),
            False,
            text_of(body.get("done_reason")) or None,
            count_of(body.get("prompt_eval_count")),
            count_of(body.get("eval_count")),
        )
