"""The student's network: inputs of the head function, gradients, and weights in the format of transformers."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tasks.errors import UserError
from tests.tiny_model import write_tiny_model
from tests.training.student.running import naive_gradient, sequences, update
from training.data.batches import TokenSequence
from training.losses.token_losses import TopKCrossEntropy
from training.student.adapters import AdapterSettings, adapted_layers, adapter_weights, lost_by_merging
from training.student.exported_files import write_adapter, write_checkpoint
from training.student.network import Network, load_network, named_weights, read_head, weight_metadata
from training.student.rank import loss_work

CPU = torch.device("cpu")


@contextlib.contextmanager
def whole(_: Sequence[torch.nn.Parameter]) -> Iterator[None]:
    yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("student") / "tiny")


def network(folder: Path, *, checkpointing: bool = False, lora: AdapterSettings | None = None) -> Network:
    return load_network(folder, dtype=torch.float32, checkpointing=checkpointing, lora=lora, seed=3)


def logits(model: Any, tokens: list[int]) -> torch.Tensor:
    """Return the logits [L, V] of a transformers model."""
    with torch.no_grad():
        return model(torch.tensor([tokens])).logits[0]


def reference(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def test_the_head_function_gets_the_hidden_states_that_predict_the_response(folder: Path) -> None:
    sequences = [
        TokenSequence(tokens=np.array([5, 6, 7, 8, 9], dtype=np.int32), prompt_length=2),
        TokenSequence(tokens=np.array([15, 16], dtype=np.int32), prompt_length=1),
    ]
    model = network(folder)
    found = model(model.attention.rows(sequences, CPU, pack=True), lambda hidden, weight: hidden @ weight.T)
    plain = reference(folder)
    expected = torch.cat([logits(plain, [5, 6, 7, 8, 9])[1:4], logits(plain, [15, 16])[:1]])
    torch.testing.assert_close(found.detach(), expected, rtol=1e-4, atol=1e-4)


def test_gradient_checkpointing_does_not_change_gradients(folder: Path) -> None:
    sequence = TokenSequence(tokens=np.arange(20, dtype=np.int32), prompt_length=4)
    gradients = []
    for checkpointing in (False, True):
        model = network(folder, checkpointing=checkpointing)
        batch = model.attention.rows([sequence], CPU, pack=True)
        model(batch, lambda hidden, weight: (hidden @ weight.T).logsumexp(-1).sum()).backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_tied_embeddings_are_yielded_once_under_the_embeddings_name(folder: Path) -> None:
    model = network(folder).model
    named = dict(named_weights(model, whole))
    assert "model.embed_tokens.weight" in named and "lm_head.weight" not in named
    plain = reference(folder)
    expected = {name: parameter for name, parameter in plain.named_parameters() if name != "lm_head.weight"}
    assert named.keys() == expected.keys()
    assert all(torch.equal(named[name], expected[name]) for name in named)
    assert weight_metadata(model) == [(name, tuple(tensor.shape)) for name, tensor in named.items()]


def test_transformers_loads_the_same_model_from_an_exported_folder(folder: Path, tmp_path: Path) -> None:
    model = network(folder)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01)
    weights = {name: tensor.clone() for name, tensor in named_weights(model.model, whole)}
    target = tmp_path / "export"
    target.mkdir()
    write_checkpoint(target, weights, source=folder, dtype="float32")
    back = reference(target)
    assert torch.equal(back.lm_head.weight, model.model.lm_head.weight)
    assert back.lm_head.weight.data_ptr() == back.model.embed_tokens.weight.data_ptr()
    assert all(torch.equal(back.state_dict()[name], tensor) for name, tensor in weights.items())
    assert json.loads((target / "config.json").read_text())["dtype"] == "float32"
    from transformers import AutoTokenizer

    message = [{"role": "user", "content": "Solve 1 plus 2"}]
    texts = [
        AutoTokenizer.from_pretrained(at).apply_chat_template(message, tokenize=False)
        for at in (folder, target)
    ]
    assert texts[0] == texts[1]


LORA = AdapterSettings(rank=4, alpha=8.0, targets=("q_proj", "v_proj", "down_proj"))


def test_an_adapter_is_merged_into_its_weight(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    model = network(folder, lora=LORA)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trained and all("lora_" in name for name in trained)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    named = {name: tensor.clone() for name, tensor in named_weights(model.model, whole)}
    plain = reference(folder)
    assert named.keys() == {name for name, _ in plain.named_parameters()} - {"lm_head.weight"}
    changed = {name for name in named if not torch.equal(named[name], plain.get_parameter(name))}
    assert changed == {name for name in named if any(target in name for target in LORA.targets)}
    write_checkpoint(tmp_path, named, source=folder, dtype="float32")
    tokens = list(range(30, 45))
    sequence = TokenSequence(tokens=np.array(tokens, dtype=np.int32), prompt_length=1)
    with torch.no_grad():
        adapted = model(
            model.attention.rows([sequence], CPU, pack=False), lambda hidden, weight: hidden @ weight.T
        )
    torch.testing.assert_close(adapted, logits(reference(tmp_path), tokens)[:-1], rtol=1e-3, atol=1e-3)
    assert weight_metadata(model.model) == [(name, tuple(tensor.shape)) for name, tensor in named.items()]


def bf16_with_small_adapters(folder: Path) -> Network:
    """Return the tiny model in bf16 with adapters whose difference is about as large as the rounding of bf16."""
    model = load_network(folder, dtype=torch.bfloat16, checkpointing=False, lora=LORA, seed=3)
    torch.manual_seed(4)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=3e-3)
    return model


def test_an_adapter_is_merged_in_float32_and_the_loss_by_rounding_is_measured(folder: Path) -> None:
    model = bf16_with_small_adapters(folder).model
    named = dict(named_weights(model, whole))
    lost, learned = [], []
    for name, layer in adapted_layers(model):
        base, a, b = (
            part.weight.detach().float().numpy()
            for part in (layer.base_layer, layer.lora_A["default"], layer.lora_B["default"])
        )
        exact = base.astype(np.float64) + 2.0 * b.astype(np.float64) @ a.astype(np.float64)  # alpha / rank
        rounded = named[f"{name}.weight"].double().numpy()
        assert (rounded == torch.from_numpy(exact).float().bfloat16().double().numpy()).mean() > 0.9999
        lost.append(((rounded - exact) ** 2).sum())
        learned.append(((exact - base) ** 2).sum())
    share = (sum(lost) / sum(learned)) ** 0.5
    assert 0.1 < share < 1.0 and lost_by_merging(model, whole) == pytest.approx(share, rel=1e-3)


def test_the_adapter_is_exported_as_peft_loads_it(folder: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    model = bf16_with_small_adapters(folder).model
    weights = {name: tensor.clone() for name, tensor in adapter_weights(model, whole)}
    write_adapter(tmp_path, weights, LORA, source=folder)
    loaded: Any = PeftModel.from_pretrained(reference(folder), str(tmp_path / "adapter"))
    base = loaded.merge_and_unload()
    for name, layer in adapted_layers(model):
        exact = layer.base_layer.weight.float() + 2.0 * (
            layer.lora_B["default"].weight.float() @ layer.lora_A["default"].weight.float()
        )
        torch.testing.assert_close(base.get_submodule(name).weight, exact, rtol=1e-5, atol=1e-6)
    assert str(folder.parent) not in (tmp_path / "adapter" / "adapter_config.json").read_text()


@pytest.mark.parametrize("dropout", [False, True])
def test_dropout_of_the_student_is_off_unless_asked_for(folder: Path, tmp_path: Path, dropout: bool) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"attention_dropout": 0.5}))
    model = load_network(copy, dtype=torch.float32, checkpointing=False, lora=None, seed=3, dropout=dropout)
    sequence = TokenSequence(tokens=np.arange(20, dtype=np.int32), prompt_length=4)
    batch = model.attention.rows([sequence], CPU, pack=True)
    found, again, plain = (
        one(batch, lambda hidden, weight: hidden @ weight.T) for one in (model, model, network(folder))
    )
    assert model.training and torch.equal(found, again) == torch.equal(found, plain) == (not dropout)


def test_a_new_adapter_is_seeded_and_does_not_change_the_model(folder: Path) -> None:
    pytest.importorskip("peft")
    first, second = (network(folder, lora=LORA) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    named = dict(named_weights(first.model, whole))
    plain = reference(folder)
    assert all(torch.equal(tensor, plain.get_parameter(name)) for name, tensor in named.items())


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no config\.json"):
        network(tmp_path)


@pytest.mark.parametrize("parts", [[list(range(8))], [[7], [0, 2], [], [1, 3, 4], [5, 6]]])
def test_packed_rows_and_the_chunked_head_give_the_gradient_of_plain_autograd(
    folder: Path, parts: list[list[int]]
) -> None:
    chosen = sequences(8)
    model = network(folder, checkpointing=True)
    for batch in update(chosen, parts):
        work = loss_work(batch, TopKCrossEntropy(), CPU, vocabulary=512, chunk=16)
        loss, noted = model(model.attention.rows(batch.sequences, CPU, pack=True), work)
        loss.backward()
        assert all(len(values) == len(batch.coefficients) for values in noted.values())
    expected = naive_gradient(folder, chosen)
    found = {name: model.model.get_parameter(name).grad for name in expected}
    gap = torch.cat([(found[name] - expected[name]).flatten() for name in expected]).norm()
    assert gap < 1e-5 * torch.cat([value.flatten() for value in expected.values()]).norm()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("parts", [1, 3])
def test_only_the_head_is_read_from_one_file_or_several(tmp_path: Path, tied: bool, parts: int) -> None:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, head_dim=8, tie_word_embeddings=tied,
    )  # fmt: skip
    torch.manual_seed(5)
    model: Any = Qwen3ForCausalLM(config)
    model.to(torch.bfloat16)
    model.save_pretrained(tmp_path, max_shard_size="50GB" if parts == 1 else "3KB")
    assert (tmp_path / "model.safetensors.index.json").is_file() == (parts > 1)
    assert torch.equal(read_head(tmp_path, 50), model.get_output_embeddings().weight[:50])


@pytest.mark.parametrize("parts", [1, 2])
def test_a_head_in_the_files_is_read_even_if_the_config_ties_it(tmp_path: Path, parts: int) -> None:
    from safetensors.torch import save_file

    head = torch.arange(8.0).reshape(4, 2).bfloat16()
    tensors = {"model.embed_tokens.weight": torch.zeros(4, 2), "lm_head.weight": head}
    (tmp_path / "config.json").write_text(json.dumps({"tie_word_embeddings": True}))
    files = ["model.safetensors"] * 2 if parts == 1 else ["a.safetensors", "b.safetensors"]
    for file in files:
        save_file(
            {name: tensors[name] for name, at in zip(tensors, files, strict=True) if at == file},
            tmp_path / file,
        )
    if parts == 2:
        index = {"weight_map": dict(zip(tensors, files, strict=True))}
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert torch.equal(read_head(tmp_path, 3), head[:3])


def test_a_missing_head_is_named(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    (tmp_path / "config.json").write_text(json.dumps({"tie_word_embeddings": False}))
    save_file({"model.embed_tokens.weight": torch.zeros(4, 2)}, tmp_path / "model.safetensors")
    with pytest.raises(
        UserError, match=r"head lm_head.weight cannot be read from .*: choose another teacher"
    ):
        read_head(tmp_path, 4)
