"""The Llama shape, written for fast training on a processor, and its Hugging Face files.

Knows the architecture (RMS norm, rotary positions, SwiGLU, tied embeddings) and how its weights are
named in a `LlamaForCausalLM` checkpoint. Must not know the corpus, the optimiser or the schedule.
The numbers must agree with transformers' own model; `evaluate` runs the shipped files through that.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from deploy.pair.tokenizer import BEGIN, CONTEXT, END, PAD, SPECIAL_ID, VOCABULARY_SIZE

HEAD_DIM = 32  # the smallest head that vLLM's attention on processors takes
EPSILON = 1e-5
# The usual base: the slowest of the 16 pairs turns once in 35,000 tokens, far beyond the context.
ROPE_THETA = 10000.0
INITIAL_SPREAD = 0.02


@dataclass(frozen=True, slots=True)
class Shape:
    """What distinguishes one size from another."""

    hidden: int
    layers: int
    heads: int
    feed_forward: int


SHAPES = {
    "small": Shape(hidden=32, layers=3, heads=2, feed_forward=64),
    "large": Shape(hidden=128, layers=6, heads=4, feed_forward=256),
}


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    low, high = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-high, low), dim=-1) * sin


def rotations(length: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines for the first `length` positions."""
    frequency = ROPE_THETA ** (-torch.arange(0, HEAD_DIM, 2).float() / HEAD_DIM)
    angle = torch.outer(torch.arange(length).float(), frequency)
    angle = torch.cat((angle, angle), dim=-1)
    return angle.cos(), angle.sin()


class Layer(nn.Module):
    """One decoder layer; query, key and value (and gate and up) share one matrix for speed."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads = shape.heads
        width = shape.heads * HEAD_DIM
        self.before_attention = nn.Parameter(torch.ones(shape.hidden))
        self.qkv = nn.Linear(shape.hidden, 3 * width, bias=False)
        self.out = nn.Linear(width, shape.hidden, bias=False)
        self.before_mlp = nn.Parameter(torch.ones(shape.hidden))
        self.gate_up = nn.Linear(shape.hidden, 2 * shape.feed_forward, bias=False)
        self.down = nn.Linear(shape.feed_forward, shape.hidden, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Attention and feed-forward, each added to the stream."""
        batch, length, hidden = x.shape
        h = functional.rms_norm(x, (hidden,), self.before_attention, EPSILON)
        qkv = self.qkv(h).view(batch, length, 3, self.heads, HEAD_DIM).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        mixed = functional.scaled_dot_product_attention(
            _turned(q, cos, sin), _turned(k, cos, sin), v, is_causal=True
        )
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, -1))
        h = functional.rms_norm(x, (hidden,), self.before_mlp, EPSILON)
        gate, up = self.gate_up(h).chunk(2, dim=-1)
        return x + self.down(functional.silu(gate) * up)


class Llama(nn.Module):
    """Token ids in, logits out; the embedding is also the output matrix."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Parameter(torch.empty(VOCABULARY_SIZE, shape.hidden))
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.last_norm = nn.Parameter(torch.ones(shape.hidden))
        nn.init.normal_(self.embedding, std=INITIAL_SPREAD)
        for name, weight in self.named_parameters():
            if weight.ndim == 2 and "layers" in name:
                # Matrices that write into the stream start smaller the deeper the model is.
                writes = name.endswith(("out.weight", "down.weight"))
                spread = weight.shape[1] ** -0.5
                nn.init.normal_(
                    weight, std=spread / (2 * shape.layers) ** 0.5 if writes else spread
                )

    def forward(self, ids: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Logits for every position."""
        x = functional.embedding(ids, self.embedding)
        for layer in self.layers:
            x = layer(x, cos, sin)
        x = functional.rms_norm(x, (self.shape.hidden,), self.last_norm, EPSILON)
        return functional.linear(x, self.embedding)


def parameters(model: nn.Module) -> int:
    """All parameters, the (tied) embedding counted once."""
    return sum(weight.numel() for weight in model.parameters())


def _named(weights: dict[str, Tensor], shape: Shape) -> dict[str, Tensor]:
    """Our weights under the names of a LlamaForCausalLM checkpoint."""
    named = {
        "model.embed_tokens.weight": weights["embedding"],
        "model.norm.weight": weights["last_norm"],
    }
    for number in range(shape.layers):
        ours, theirs = f"layers.{number}.", f"model.layers.{number}."
        query, key, value = weights[ours + "qkv.weight"].chunk(3)
        gate, up = weights[ours + "gate_up.weight"].chunk(2)
        named |= {
            theirs + "input_layernorm.weight": weights[ours + "before_attention"],
            theirs + "self_attn.q_proj.weight": query,
            theirs + "self_attn.k_proj.weight": key,
            theirs + "self_attn.v_proj.weight": value,
            theirs + "self_attn.o_proj.weight": weights[ours + "out.weight"],
            theirs + "post_attention_layernorm.weight": weights[ours + "before_mlp"],
            theirs + "mlp.gate_proj.weight": gate,
            theirs + "mlp.up_proj.weight": up,
            theirs + "mlp.down_proj.weight": weights[ours + "down.weight"],
        }
    return named


def save_config(shape: Shape, folder: Path) -> None:
    """config.json and generation_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    ids = {f"{what}_token_id": SPECIAL_ID[name] for what, name in _ENDS.items()}
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": VOCABULARY_SIZE,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.feed_forward,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.heads,
        "head_dim": HEAD_DIM,
        "hidden_act": "silu",
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": EPSILON,
        "rope_theta": ROPE_THETA,
        "rope_parameters": {"rope_type": "default", "rope_theta": ROPE_THETA},
        "tie_word_embeddings": True,
        "attention_bias": False,
        "mlp_bias": False,
        "torch_dtype": "bfloat16",
        "dtype": "bfloat16",
        **ids,
    }
    generation = {**ids, "do_sample": False, "max_new_tokens": 320}
    for name, content in (("config.json", config), ("generation_config.json", generation)):
        (folder / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


_ENDS = {"bos": BEGIN, "eos": END, "pad": PAD}


def save_weights(
    weights: dict[str, Tensor], shape: Shape, folder: Path, dtype: torch.dtype
) -> None:
    """model.safetensors as transformers and vLLM read it."""
    named = {
        name: weight.detach().to(dtype).contiguous().clone()
        for name, weight in _named(weights, shape).items()
    }
    save_file(named, str(folder / "model.safetensors"), metadata={"format": "pt"})
