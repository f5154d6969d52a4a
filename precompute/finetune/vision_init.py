"""Start InstructBLIP's image tower from a pretrained ViT that was published as an ONNX file.

A DINOv2-type ViT differs from :class:`InstructBlipVisionModel` in three ways, each of which has an
exact translation: separate query, key and value matrices (stacked into one), LayerScale (folded
into the projection before it), and position embeddings of a larger grid (resized once). Reading
the file needs the ``onnx`` package; it is never run, and nothing here is needed at inference.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import MissingDependencyError, SourceError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import InstructBlipVisionConfig

_PREFIX = "backbone."


def load_vision_tower(
    path: Path, *, layers: int, image_size: int
) -> tuple[InstructBlipVisionConfig, dict[str, torch.Tensor]]:
    """Read the first ``layers`` blocks of a DINOv2-type ViT into InstructBLIP's own names.

    Args:
        path: ONNX export of a model whose ViT is called ``backbone``.
        layers: Blocks to keep, from the input on.
        image_size: Side in pixels that the tower will see; a multiple of the patch size.

    Returns:
        The configuration, and float32 tensors for ``InstructBlipVisionModel.load_state_dict``.
        With all the blocks kept the final layer norm is the file's own; with fewer it is the
        identity, to be trained.

    Raises:
        MissingDependencyError: ``onnx`` is not installed.
        SourceError: The file holds no such ViT, or fewer blocks than asked for.
    """
    import torch
    from transformers import InstructBlipVisionConfig

    weights = _named_weights(path)
    if f"{_PREFIX}encoder.layer.{layers - 1}.norm1.weight" not in weights:
        raise SourceError(f"{path.name} does not hold a ViT of {layers} or more blocks.")
    patch = weights[f"{_PREFIX}embeddings.patch_embeddings.projection.weight"]
    width, patch_size = patch.shape[0], patch.shape[-1]
    fc1 = weights[f"{_PREFIX}encoder.layer.0.mlp.fc1.bias"]
    config = InstructBlipVisionConfig(
        hidden_size=width,
        intermediate_size=len(fc1),
        num_hidden_layers=layers,
        num_attention_heads=width // 64,  # heads of 64 in every published ViT of this family
        image_size=image_size,
        patch_size=patch_size,
        hidden_act="gelu",
        layer_norm_eps=1e-6,
        initializer_range=0.02,
    )
    state = {
        "embeddings.class_embedding": weights[f"{_PREFIX}embeddings.cls_token"],
        "embeddings.patch_embedding.weight": patch,
        "embeddings.patch_embedding.bias": weights[
            f"{_PREFIX}embeddings.patch_embeddings.projection.bias"
        ],
        "embeddings.position_embedding": _positions(weights, image_size // patch_size),
    }
    for layer in range(layers):
        state |= _block(weights, layer)
    complete = f"{_PREFIX}encoder.layer.{layers}.norm1.weight" not in weights
    ones, zeros = torch.ones(width).numpy(), torch.zeros(width).numpy()
    state["post_layernorm.weight"] = weights[f"{_PREFIX}layernorm.weight"] if complete else ones
    state["post_layernorm.bias"] = weights[f"{_PREFIX}layernorm.bias"] if complete else zeros
    return config, {name: torch.tensor(value) for name, value in state.items()}


def _named_weights(path: Path) -> dict[str, np.ndarray]:
    """Return the file's parameters; a matrix takes the name of the bias that is added after it."""
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError as error:
        raise MissingDependencyError("onnx", "Starting from an ONNX file") from error
    if not path.is_file():
        raise SourceError(f"{path} is not a file.")
    graph: Any = onnx.load(str(path)).graph
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    matrix_of_output = {
        node.output[0]: node.input[1]
        for node in graph.node
        if node.op_type == "MatMul" and node.input[1] in weights
    }
    for node in graph.node:
        if node.op_type != "Add":
            continue
        biases = [name for name in node.input if name.endswith(".bias") and name in weights]
        products = [matrix_of_output[name] for name in node.input if name in matrix_of_output]
        if len(biases) == 1 and len(products) == 1:
            weights[biases[0].removesuffix("bias") + "weight"] = weights[products[0]].T
    # The exporter splits the position embedding in two constants without a name of their own.
    for name, value in list(weights.items()):
        if value.ndim == 3 and name.startswith("onnx::"):
            weights["positions.class" if value.shape[1] == 1 else "positions.grid"] = value
    return weights


def _positions(weights: dict[str, np.ndarray], side: int) -> np.ndarray:
    """Resize the square grid of position embeddings to ``side`` x ``side``, class token first."""
    import torch

    grid = torch.tensor(weights["positions.grid"])
    old = round(grid.shape[1] ** 0.5)
    square = grid.reshape(1, old, old, -1).permute(0, 3, 1, 2)
    resized = torch.nn.functional.interpolate(
        square, size=(side, side), mode="bicubic", align_corners=False
    )
    flat = resized.permute(0, 2, 3, 1).reshape(1, side * side, -1)
    return torch.cat([torch.tensor(weights["positions.class"]), flat], dim=1).numpy()


def _block(weights: dict[str, np.ndarray], layer: int) -> dict[str, np.ndarray]:
    """Translate one transformer block, LayerScale folded into the projection it scales."""
    import numpy as np

    old = f"{_PREFIX}encoder.layer.{layer}."
    new = f"encoder.layers.{layer}."
    attention = f"{old}attention.attention."
    parts = ("query", "key", "value")
    scale_attention = weights[f"{old}layer_scale1.lambda1"]
    scale_mlp = weights[f"{old}layer_scale2.lambda1"]
    dense, fc2 = f"{old}attention.output.dense.", f"{old}mlp.fc2."
    return {
        f"{new}layer_norm1.weight": weights[f"{old}norm1.weight"],
        f"{new}layer_norm1.bias": weights[f"{old}norm1.bias"],
        f"{new}self_attn.qkv.weight": np.concatenate(
            [weights[f"{attention}{part}.weight"] for part in parts]
        ),
        f"{new}self_attn.qkv.bias": np.concatenate(
            [weights[f"{attention}{part}.bias"] for part in parts]
        ),
        f"{new}self_attn.projection.weight": weights[f"{dense}weight"] * scale_attention[:, None],
        f"{new}self_attn.projection.bias": weights[f"{dense}bias"] * scale_attention,
        f"{new}layer_norm2.weight": weights[f"{old}norm2.weight"],
        f"{new}layer_norm2.bias": weights[f"{old}norm2.bias"],
        f"{new}mlp.fc1.weight": weights[f"{old}mlp.fc1.weight"],
        f"{new}mlp.fc1.bias": weights[f"{old}mlp.fc1.bias"],
        f"{new}mlp.fc2.weight": weights[f"{fc2}weight"] * scale_mlp[:, None],
        f"{new}mlp.fc2.bias": weights[f"{fc2}bias"] * scale_mlp,
    }
