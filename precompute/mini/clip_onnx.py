"""A CLIP image tower that was published as an ONNX file: its weights, and what it says.

Such a tower is a teacher only: nothing here is needed once a checkpoint is trained.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import MissingDependencyError, SourceError

if TYPE_CHECKING:
    import numpy as np
    import torch

_EMBEDDINGS = "vision_model.embeddings."

_TRACED = 4
"""Steps between an 8-bit product and the sum with its bias: two casts and two scales at most."""


def read_weights(path: Path) -> dict[str, np.ndarray]:
    """Read the tower's parameters under the names of ``CLIPVisionModelWithProjection``.

    An exporter keeps the names of biases but not of matrices: a matrix takes the name of the bias
    that is added to its product. Matrices in 8 bits are multiplied out to float32.

    Args:
        path: ONNX export, in floats or with dynamically quantised matrices.

    Raises:
        MissingDependencyError: ``onnx`` is not installed.
        SourceError: The file does not hold such a tower.
    """
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError as error:
        raise MissingDependencyError("onnx", "Starting from an ONNX file") from error
    if not path.is_file():
        raise SourceError(f"{path} is not a file.")
    graph: Any = onnx.load(str(path)).graph
    raw = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    producer = {output: node for node in graph.node for output in node.output}
    weights = {name: value for name, value in raw.items() if name.startswith("vision_model.")}
    unnamed = {name for name in raw if _is_matrix(name, raw)}
    for node in graph.node:
        biases = [name for name in node.input if name in weights and name.endswith(".bias")]
        if node.op_type != "Add" or len(biases) != 1:
            continue
        for name in set(node.input) - set(biases):
            if matrix := _matrix_behind(name, producer, raw):
                weights[biases[0].removesuffix("bias") + "weight"] = _values(matrix, raw)
                unnamed.discard(matrix)
    if "vision_model.post_layernorm.weight" not in weights or len(unnamed) != 1:
        raise SourceError(f"{path.name} does not hold a CLIP image tower.")
    weights["visual_projection.weight"] = _values(unnamed.pop(), raw)
    return weights


def _is_matrix(name: str, raw: dict[str, np.ndarray]) -> bool:
    return raw[name].ndim == 2 and not name.startswith("vision_model.")


def _matrix_behind(name: str, producer: dict[str, Any], raw: dict[str, np.ndarray]) -> str | None:
    """Follow casts and scales back to the matrix of a product."""
    for _ in range(_TRACED):
        node = producer.get(name)
        if node is None:
            return None
        if node.op_type in ("MatMul", "MatMulInteger"):
            return node.input[1] if node.input[1] in raw else None
        if node.op_type not in ("Cast", "Mul"):
            return None
        name = node.input[0]
    return None


def _values(name: str, raw: dict[str, np.ndarray]) -> np.ndarray:
    """Return a matrix as (outputs, inputs), float32."""
    import numpy as np

    matrix = raw[name].astype(np.float32)
    base = name.removesuffix("_quantized")
    if base != name:
        matrix = (matrix - raw[f"{base}_zero_point"]) * raw[f"{base}_scale"]
    return np.ascontiguousarray(matrix.T)


def outputs(
    path: Path, batches: Iterable[torch.Tensor], device: str = "cpu"
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Run the tower on batches of pixels, in floats.

    Not by a runtime in 8 bits: on processors without instructions for that, its sums overflow and
    the answers are noise.

    Args:
        path: ONNX export; see :func:`read_weights`.
        batches: float32 (n, 3, size, size) each, normalised as CLIP's authors do.
        device: A torch device.

    Yields:
        float32 (n, dim), not normalised, and float32 (n, tokens, width), before the last layer
        norm, class token first.
    """
    import torch
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    weights = {name: torch.tensor(value) for name, value in read_weights(path).items()}
    width, _, _, patch_size = weights[f"{_EMBEDDINGS}patch_embedding.weight"].shape
    tokens = len(weights[f"{_EMBEDDINGS}position_embedding.weight"])
    biases = [weights[name] for name in weights if name.endswith("mlp.fc1.bias")]
    config = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=len(biases[0]),
        num_hidden_layers=len(biases),
        num_attention_heads=width // 64,
        image_size=round((tokens - 1) ** 0.5) * patch_size,
        patch_size=patch_size,
        projection_dim=len(weights["visual_projection.weight"]),
        hidden_act="quick_gelu",
    )
    model = CLIPVisionModelWithProjection(config).eval().to(device)
    model.load_state_dict(weights, strict=False)
    for pixels in batches:
        with torch.inference_mode():
            answer = model(pixels.to(device))
        yield answer.image_embeds.cpu().numpy(), answer.last_hidden_state.cpu().numpy()
