"""GPT-2: embeddings, attention, MLP, block, the model, and its loss.

References: Radford et al., "Language Models are Unsupervised Multitask Learners" (2019), for the
architecture, and Vaswani et al., "Attention Is All You Need" (2017), for attention. Modules have
the names of the released checkpoints.

Shapes: B rows, T positions, N real (unpadded) tokens, C = n_embd channels, nh heads of hs = C / nh
channels, V words.

Nothing is computed on padding. Between the layers there are no rows, just a stream of N tokens,
(N, C); attention alone needs to know which tokens form a row. What makes this file fast on a
device is in `sft/gpt2/fast/`: each `fast.` below replaces the plain code beside it by an equal one.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sft.gpt2 import fast
from sft.gpt2.gpt_config import GPTConfig as GPTConfig
from sft.gpt2.padding import Padding

# Attention while decoding: queries, keys and values (N, 3, nh, hs) to attended values (N, nh, hs).
Attend = Callable[[Tensor], Tensor]


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:  # (N, in) -> (N, out)
    """Return x W^T + b."""
    if fast.few_tokens(x):
        return fast.linear_of_few(x, weight, bias)
    return F.linear(x, weight, bias)


class Linear(nn.Linear):
    """A linear layer, computed by `linear`."""

    # Another form of the weight, which has replaced it (`frozen.py`).
    frozen: fast.Frozen | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.frozen is not None:
            return self.frozen(x, self.bias)
        return linear(x, self.weight, self.bias)


def attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, dropout: float = 0.0
) -> Tensor:
    """Return softmax(Q K^T / sqrt(hs) + mask) V, scaled dot-product attention (Vaswani, 3.2.1).

    Args:
        q: (B, nh, T, hs)
        k, v: (B, nh, S, hs)
        mask: 0 where a query may see a key, -inf where it may not; (T, S), or (B * nh, T, S) for
            each row and head. None: causal, with S = T.

    Returns:
        (B, nh, T, hs)
    """
    if mask is None and fast.fused_attention_pays(q):
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True)

    # The causal mask: a token sees itself and those before it. Padding is on the right, so it comes
    # after every real token of its row, and needs no mask of its own.
    if mask is None:
        T = q.shape[2]
        mask = q.new_full((T, T), -torch.inf).triu(1)

    # Rows and heads are one dimension of a batched product. `baddbmm` multiplies, scales and masks
    # in one pass over memory: mask + alpha * Q K^T.
    hs = q.shape[3]
    Q = q.flatten(0, 1)  # (B * nh, T, hs)
    K = k.flatten(0, 1)  # (B * nh, S, hs)
    V = v.flatten(0, 1)  # (B * nh, S, hs)
    scores = torch.baddbmm(mask, Q, K.transpose(1, 2), alpha=hs**-0.5)  # (B * nh, T, S)
    weights = F.dropout(scores.softmax(-1), dropout)
    return (weights @ V).view_as(q)


class Attention(nn.Module):
    """Causal multi-head self-attention, with one matrix for queries, keys and values."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.heads = (3, config.n_head, config.n_embd // config.n_head)
        self.c_attn = Linear(config.n_embd, 3 * config.n_embd)
        self.c_proj = Linear(config.n_embd, config.n_embd)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, rows: Padding | Attend) -> Tensor:  # (N, C) -> (N, C)
        qkv = self.c_attn(x).view(-1, *self.heads)  # (N, 3, nh, hs)
        if isinstance(rows, Padding):
            q, k, v = rows.split_heads(qkv)  # each (B, nh, T, hs)
            y = attention(q, k, v, dropout=self.dropout.p if self.training else 0.0)
            y = rows.merge_heads(y)  # (N, nh, hs)
        else:
            # While decoding, new tokens also see the keys and values that `kv_cache.py` holds.
            y = rows(qkv)
        return self.dropout(self.c_proj(y.flatten(1)))  # type: ignore[no-any-return]


class MLP(nn.Module):
    """Two linear layers around the tanh form of GELU (Hendrycks and Gimpel, 2016)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        width = config.n_inner or 4 * config.n_embd
        self.c_fc = Linear(config.n_embd, width)
        self.c_proj = Linear(width, config.n_embd)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:  # (N, C) -> (N, C)
        x = F.gelu(self.c_fc(x), approximate="tanh")
        return self.dropout(self.c_proj(x))  # type: ignore[no-any-return]


class Block(nn.Module):
    """One layer. LayerNorm comes first on each residual branch (GPT-2 paper, 2.3)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.attn = Attention(config)
        self.ln_2 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, rows: Padding | Attend) -> Tensor:  # (N, C) -> (N, C)
        x = x + self.attn(self.ln_1(x), rows)
        return x + self.mlp(self.ln_2(x))  # type: ignore[no-any-return]


class GPT(nn.Module):
    """The language model.

    The output head is the token embedding, transposed ("tied"; Press and Wolf, "Using the Output
    Embedding to Improve Language Models", 2016), or a matrix of its own, `lm_head`.

    With `activation_checkpointing`, training stores only the input of each layer. The backward pass
    computes the layer a second time: less memory, more time, the same numbers (Chen et al.,
    "Training Deep Nets with Sublinear Memory Cost", 2016).

    With `neftune` above 0, training adds uniform noise to the embeddings of tokens (Jain et al.,
    2310.05914). It reaches up to `neftune` divided by the root of the row's tokens times channels.
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.activation_checkpointing = False
        self.neftune = 0.0
        self.frozen_head: fast.Frozen | None = None  # see `frozen.py`
        self._pool = fast.BufferPool()
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)  # tokens
        self.wpe = nn.Embedding(config.n_positions, config.n_embd)  # positions
        self.drop = nn.Dropout(config.dropout)
        self.h = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        if not config.tie_word_embeddings:
            self.lm_head = Linear(config.n_embd, config.vocab_size, bias=False)
        self._init_weights()

    def _init_weights(self) -> None:
        """Draw random weights as in the GPT-2 paper, 2.3.

        Each layer adds two residual branches to the stream. Their last projections start smaller
        by the root of the number of branches, so that the sum does not grow with depth.
        """
        std = self.config.initializer_range
        branches = 2 * self.config.n_layer
        for name, parameter in self.named_parameters():
            if name.endswith("c_proj.weight"):
                nn.init.normal_(parameter, std=std / branches**0.5)
            elif parameter.dim() == 2:
                nn.init.normal_(parameter, std=std)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def compile_layers(self) -> None:
        """Compile each layer in place (`torch.compile`); the first batches take longer."""
        for block in self.h:
            block.compile(dynamic=True)

    def forward(self, input_ids: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return the logits of each next token.

        Args:
            input_ids: (B, T) token ids, padded on the right with any id.
            lengths: (B,) number of real tokens in each row; None: no padding.

        Returns:
            (B, T, V); zeros at the padding.
        """
        rows = self._rows(input_ids, lengths)
        x = self._features(self.wte(rows.ids), rows)
        logits = self.head(x)  # (N, V)
        return rows.pad(logits[: rows.count])

    def features(self, input_ids: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Return the final hidden states (N, C) of the real tokens, row after row.

        Args:
            input_ids, lengths: as in `forward`.

        Raises:
            ValueError: rows are longer than the context.
        """
        rows = self._rows(input_ids, lengths)
        return self._features(self.wte(rows.ids), rows)[: rows.count]

    def _rows(self, input_ids: Tensor, lengths: Tensor | None) -> Padding:
        T = input_ids.shape[1]
        if T > self.config.n_positions:
            raise ValueError(
                f"rows of {T} tokens do not fit the context of {self.config.n_positions}"
            )
        return Padding(input_ids, lengths)

    def _features(self, embeddings: Tensor, rows: Padding) -> Tensor:  # (N, C) -> (N, C)
        if self.neftune and self.training:
            most = self.neftune / (rows.sizes() * self.config.n_embd).sqrt()  # (N,)
            noise = torch.empty_like(embeddings).uniform_(-1, 1)
            embeddings = embeddings + noise * most.unsqueeze(1)
        return self.layers(embeddings, rows.positions(), [rows] * self.config.n_layer)

    def layers(
        self, embeddings: Tensor, positions: Tensor, rows: Sequence[Padding | Attend]
    ) -> Tensor:
        """Return the final hidden states, (N, C), of N tokens.

        Args:
            embeddings: (N, C)
            positions: (N,)
            rows: for each layer, which tokens see each other.
        """
        x = self.drop(embeddings + self.wpe(positions))
        for block, layer_rows in zip(self.h, rows, strict=True):
            if self.activation_checkpointing and self.training:
                x = checkpoint(block, x, layer_rows, use_reentrant=False)
            else:
                x = block(x, layer_rows)
        return self.ln_f(x)  # type: ignore[no-any-return]

    def head(self, x: Tensor) -> Tensor:  # (N, C) -> (N, V)
        """Return logits."""
        if not self.config.tie_word_embeddings:
            return self.lm_head(x)  # type: ignore[no-any-return]
        if self.frozen_head is not None:
            return self.frozen_head(x)
        return linear(x, self.wte.weight)

    def token_losses(
        self,
        input_ids: Tensor,
        labels: Tensor,
        lengths: Tensor | None = None,
        ignore_index: int = -100,
    ) -> Tensor:
        """Return the cross entropy of each supervised token, in nats, row after row.

        Args:
            input_ids, lengths: as in `forward`.
            labels: (B, T), the token that follows each position (already shifted), or
                `ignore_index`.

        Returns:
            (number of labels that are not `ignore_index`,), in fp32.
        """
        losses, _ = self.token_scores(input_ids, labels, lengths, ignore_index)
        return losses

    def token_scores(
        self,
        input_ids: Tensor,
        labels: Tensor,
        lengths: Tensor | None = None,
        ignore_index: int = -100,
    ) -> tuple[Tensor, Tensor]:
        """Return `token_losses`, and for each of them whether no token was likelier."""
        rows = self._rows(input_ids, lengths)
        head: Tensor | fast.Frozen
        if self.config.tie_word_embeddings:
            # Plain: wte(ids), wte.weight.
            embeddings, matrix = fast.embed_tied(self.wte.weight, rows.ids)
            head = self.frozen_head or matrix
        else:
            embeddings = self.wte(rows.ids)
            head = self.lm_head.frozen or self.lm_head.weight

        # The head runs at supervised positions alone: elsewhere no logits are needed. The stream
        # may end with tokens that fill it up to a multiple; whatever their labels are, they are no
        # targets. Their number is needed here, so the CPU waits for a GPU. It does so before the
        # layers, when there is little to wait for.
        targets = rows.unpad(labels)  # (N,)
        supervised = targets != ignore_index
        supervised[rows.count :] = False
        index = supervised.nonzero().squeeze(1)
        count = len(index)
        index = fast.fill_to_multiple(index)
        targets = targets[index]
        targets[count:] = 0  # a valid word, also where the first label is `ignore_index`

        x = self._features(embeddings, rows)  # (N, C)
        losses, hits = cross_entropies(x[index], head, targets, self._pool)
        return losses[:count], hits[:count]


def cross_entropies(
    x: Tensor, head: Tensor | fast.Frozen, targets: Tensor, pool: fast.BufferPool
) -> tuple[Tensor, Tensor]:
    """Return -log softmax(x W^T)[target] for each token, in nats and fp32.

    Args:
        x: (N, C) hidden states.
        head: (V, C), or its frozen form.
        targets: (N,)
        pool: the model's reused buffers.

    Returns:
        (N,), and whether no word is likelier than the target, (N,).
    """
    if isinstance(head, Tensor) and fast.overwrites_logits(x, head):
        return fast.cross_entropies(x, head, targets, pool)

    losses = []
    hits = []
    for tokens in fast.loss_slices(x):
        product = F.linear(x[tokens], head) if isinstance(head, Tensor) else head(x[tokens])
        logits = product.float()  # (n, V)
        losses.append(F.cross_entropy(logits, targets[tokens], reduction="none"))
        of_targets = logits.gather(1, targets[tokens, None]).squeeze(1)
        hits.append(of_targets == logits.amax(1))
    return torch.cat(losses), torch.cat(hits)
