"""Composite operators written out in elementary ones, for rules that act on the elementary.

Normalisation by statistics of the picture and attention multiply things that both change. Each function here runs one
such call again as means, products, powers and softmax; the numbers are the same but for rounding.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def written_out(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """The call's result by elementary operators; None for a call that is not known here."""
    found = _KNOWN.get(getattr(function, "__name__", ""))
    return None if found is None else found(*args, **kwargs)


def _normalised(h: Tensor, dims: tuple[int, ...], eps: float, *, centred: bool = True) -> Tensor:
    d = h - h.mean(dims, keepdim=True) if centred else h
    return d * torch.rsqrt((d * d).mean(dims, keepdim=True) + eps)


def _scaled(h: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    h = h if weight is None else h * weight
    return h if bias is None else h + bias


def _of_channels(t: Tensor | None, ndim: int) -> Tensor | None:
    return None if t is None else t.view(1, -1, *[1] * (ndim - 2))


def _layer_norm(
    input: Tensor,
    normalized_shape: tuple[int, ...],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Tensor:
    return _scaled(_normalised(input, tuple(range(-len(normalized_shape), 0)), eps), weight, bias)


def _rms_norm(
    input: Tensor, normalized_shape: tuple[int, ...], weight: Tensor | None = None, eps: float | None = None
) -> Tensor:
    eps = torch.finfo(input.dtype).eps if eps is None else eps
    dims = tuple(range(-len(normalized_shape), 0))
    return _scaled(_normalised(input, dims, eps, centred=False), weight, None)


def _group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Tensor:
    h = _normalised(input.reshape(len(input), num_groups, -1), (-1,), eps).reshape(input.shape)
    return _scaled(h, _of_channels(weight, h.ndim), _of_channels(bias, h.ndim))


def _instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    if not use_input_stats:
        return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    h = _normalised(input, tuple(range(2, input.ndim)), eps)
    return _scaled(h, _of_channels(weight, h.ndim), _of_channels(bias, h.ndim))


def _local_response_norm(
    input: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Tensor:
    squares = (input * input).unsqueeze(1)
    neighbours = F.pad(squares, (0, 0) * (input.ndim - 2) + (size // 2, (size - 1) // 2))
    ones = torch.ones(1, 1, size, *[1] * (input.ndim - 2), dtype=input.dtype, device=input.device) / size
    if input.ndim == 4:
        mean = F.conv3d(neighbours, ones).squeeze(1)
    else:
        mean = F.conv2d(neighbours, ones).squeeze(1)
    return input * torch.pow(mean * alpha + k, -beta)


def _unit_length(
    input: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: Tensor | None = None
) -> Any:
    if p != 2:
        return F.normalize(input, p, dim, eps)
    return input * torch.rsqrt((input * input).sum(dim, keepdim=True) + eps**2)


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    if enable_gqa:  # neighbouring queries share a key and a value
        key, value = (_shared(t, query.shape[-3] // t.shape[-3]) for t in (key, value))
    scores = torch.matmul(query * (scale or 1 / math.sqrt(query.shape[-1])), key.transpose(-2, -1))
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None:
        scores = scores + _additive(attn_mask, scores, hidden=False)
    return torch.matmul(F.softmax(scores, dim=-1), value)


def _shared(t: Tensor, times: int) -> Tensor:
    """(..., heads, length, width) with every head `times` times in a row."""
    return t.unsqueeze(-3).expand(*t.shape[:-2], times, *t.shape[-2:]).flatten(-4, -3)


def _additive(mask: Tensor, like: Tensor, *, hidden: bool) -> Tensor:
    """A mask to be added: 0, and minus infinity where a boolean mask equals `hidden`."""
    if mask.dtype != torch.bool:
        return mask
    none = torch.zeros(mask.shape, dtype=like.dtype, device=like.device)
    return none.masked_fill_(mask == hidden, -math.inf)


def _multi_head(*args: Any, **kwargs: Any) -> Any:
    given = inspect.signature(F.multi_head_attention_forward).bind(*args, **kwargs)
    given.apply_defaults()
    a = given.arguments
    unusual = ("bias_k", "bias_v", "static_k", "static_v")
    if any(a[name] is not None for name in unusual) or a["add_zero_attn"] or a["query"].ndim != 3:
        return None
    heads, width = a["num_heads"], a["query"].shape[-1]
    weights = (
        (a["q_proj_weight"], a["k_proj_weight"], a["v_proj_weight"])
        if a["use_separate_proj_weight"]
        else a["in_proj_weight"].chunk(3)
    )
    biases = (None,) * 3 if a["in_proj_bias"] is None else a["in_proj_bias"].chunk(3)
    parts = []
    for name, weight, bias in zip(("query", "key", "value"), weights, biases, strict=True):
        h = F.linear(a[name], weight, bias)  # (length, batch, width)
        parts.append(h.reshape(h.shape[0], h.shape[1], heads, -1).permute(1, 2, 0, 3))
    q, k, v = parts
    scores = torch.matmul(
        q / math.sqrt(width // heads), k.transpose(-2, -1)
    )  # (batch, heads, length, length)
    if a["attn_mask"] is not None:
        mask = _additive(a["attn_mask"], scores, hidden=True)
        scores = scores + (mask if mask.ndim == 2 else mask.view(len(scores), heads, *mask.shape[-2:]))
    if a["key_padding_mask"] is not None:
        scores = scores + _additive(a["key_padding_mask"], scores, hidden=True)[:, None, None, :]
    p = F.softmax(scores, dim=-1)
    h = torch.matmul(p, v).permute(2, 0, 1, 3).reshape(*a["query"].shape[:2], width)
    out = F.linear(h, a["out_proj_weight"], a["out_proj_bias"])
    if not a["need_weights"]:
        return out, None
    return out, p.mean(1) if a["average_attn_weights"] else p


_KNOWN: Mapping[str, Callable[..., Any]] = {
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "group_norm": _group_norm,
    "instance_norm": _instance_norm,
    "local_response_norm": _local_response_norm,
    "normalize": _unit_length,
    "scaled_dot_product_attention": _attention,
    "multi_head_attention_forward": _multi_head,
}
