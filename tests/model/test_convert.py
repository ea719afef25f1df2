from __future__ import annotations

import json
from typing import Any

import pytest
from tokenizers import Tokenizer, models

from base.errors import UserError
from model.config import ModelConfig
from tests.helpers.late import RUNNING

if RUNNING:
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer, GPTNeoXConfig, GPTNeoXForCausalLM

    from model.convert import export_hf, import_hf
    from model.generate import generate
    from model.neox import NeoX


VOCAB = 300


def randomised(config: ModelConfig, dtype: torch.dtype | None = None) -> NeoX:
    model = NeoX(config, VOCAB, end_of_document_id=0)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2, generator=generator)
    return model.to(dtype=dtype)


def config(**changes) -> ModelConfig:
    return ModelConfig(**{"hidden_size": 64, "num_layers": 2, "num_heads": 4, **changes})


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "float32"),
        ({"tie_embeddings": True, "rotary_fraction": 0.5}, "float16"),
        ({"attention_bias": False, "parallel_residual": False, "activation": "gelu_tanh"}, "bfloat16"),
        ({"attention_reset": True, "rotary_base": 5000.0, "intermediate_size": 96}, "float32"),
        ({"layer_norm_epsilon": 0.5, "max_sequence_length": 32, "activation": "gelu_tanh"}, "float32"),
        ({"rotary_fraction": 1.0, "attention_bias": False}, "float32"),
    ],
)
def test_there_and_back_is_bit_for_bit_and_transformers_gives_the_same_logits(tmp_path, changes, name):
    dtype = getattr(torch, name)
    settings = config(**changes)
    model = randomised(settings, dtype)
    export_hf(model.state_dict(), settings, VOCAB, str(tmp_path / "hf"))
    read, vocab_size, state = import_hf(str(tmp_path / "hf"))
    assert (read, vocab_size) == (settings, VOCAB)
    assert list(state) and set(state) == set(model.state_dict())
    for name, value in model.state_dict().items():
        assert state[name].dtype == dtype and torch.equal(state[name], value)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype=dtype).eval()
    assert theirs.config.vocab_size == 384
    written = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert written["torch_dtype"] == str(dtype).removeprefix("torch.")
    assert written["max_position_embeddings"] == settings.max_sequence_length
    names = load_file(tmp_path / "hf" / "model.safetensors")
    assert ("embed_out.weight" in names) == (not settings.tie_embeddings)
    ids = torch.randint(1, VOCAB, (2, 30))
    with torch.no_grad():
        torch.testing.assert_close(
            model(ids), theirs(ids).logits, atol=1e-5, rtol=1e-5 if dtype == torch.float32 else 0.05
        )


def test_transformers_generates_the_same_greedily(tmp_path):
    settings = config()
    model = randomised(settings)
    with torch.no_grad():
        model.embed_out.weight[VOCAB:] = 0  # transformers would generate padding tokens too
    tokenizer = Tokenizer(
        models.WordLevel({f"w{i}": i for i in range(1, VOCAB)} | {"<|endoftext|>": 0}, "w1")
    )
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    export_hf(model.state_dict(), settings, VOCAB, f"{tmp_path}/hf", f"{tmp_path}/tokenizer.json")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "hf").eval()
    loaded = AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert loaded.eos_token == "<|endoftext|>" and loaded.eos_token_id == theirs.config.eos_token_id == 0
    assert theirs.config.bos_token_id == theirs.generation_config.bos_token_id == 0
    assert theirs.generation_config.eos_token_id == 0 and loaded.model_max_length == 256
    prompt = [5, 17, 200, 3]
    expected = theirs.generate(
        torch.tensor([prompt]), max_new_tokens=20, do_sample=False, attention_mask=torch.ones(1, 4).long()
    )[0, 4:].tolist()
    assert [*generate(model, [prompt], 20, end_id=0)[0], 0][: len(expected)] == expected


def test_what_transformers_saved_is_read(tmp_path):
    theirs = GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=VOCAB,
            hidden_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=128,
            rotary_pct=0.5,
            rotary_emb_base=500,
            use_parallel_residual=False,
            max_position_embeddings=64,
        )
    ).eval()
    theirs.save_pretrained(tmp_path)
    settings, vocab_size, state = import_hf(str(tmp_path))
    assert (settings.rotary_fraction, settings.rotary_base, settings.parallel_residual) == (0.5, 500, False)
    model = NeoX(settings, vocab_size, seed=None)
    model.load_state_dict(state)
    ids = torch.randint(1, VOCAB, (1, 20))
    with torch.no_grad():
        torch.testing.assert_close(model(ids), theirs(ids).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_act": "gelu_new"},
        {"hidden_act": "gelu_fast"},
        {"hidden_act": "gelu_pytorch_tanh"},
        {"layer_norm_eps": 0.5},
        {"attention_bias": False},
        {"tie_word_embeddings": True},
        {"use_parallel_residual": True, "rotary_pct": 1.0},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 300.0, "partial_rotary_factor": 0.5}},
    ],
    ids=str,
)
def test_every_setting_of_what_transformers_saved_is_read(tmp_path, changes):
    usual = {"hidden_act": "gelu", "use_parallel_residual": False, "intermediate_size": 96}
    theirs = GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=VOCAB,
            hidden_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=64,
            **{**usual, **changes},
        )
    ).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.2, generator=generator)
    theirs.save_pretrained(tmp_path)
    settings, vocab_size, state = import_hf(str(tmp_path))
    assert (settings.max_sequence_length, vocab_size) == (64, VOCAB)
    model = NeoX(settings, vocab_size, seed=None)
    model.load_state_dict(state)
    ids = torch.randint(1, VOCAB, (1, 20))
    with torch.no_grad():
        torch.testing.assert_close(model(ids), theirs(ids).logits, atol=2e-5, rtol=1e-5)


def test_what_the_model_cannot_do_is_refused_and_what_it_does_not_need_left_out(tmp_path):
    model = randomised(config())
    export_hf(model.state_dict(), model.config, VOCAB, str(tmp_path))
    path = tmp_path / "config.json"
    content = json.loads(path.read_text())
    foreign = {name: value for name, value in content.items() if name != "piledriver"}
    cases: list[tuple[dict[str, Any], str]] = [
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "uses linear rotary embeddings"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "uses yarn rotary embeddings"),
        ({"hidden_act": "relu"}, "uses the activation relu; supported are gelu"),
    ]
    for changes, message in cases:
        path.write_text(json.dumps({**foreign, **changes}))
        with pytest.raises(UserError, match=message):
            import_hf(str(tmp_path))
    path.write_text(json.dumps(content))
    tensors = load_file(tmp_path / "model.safetensors")
    old = {
        "gpt_neox.layers.0.attention.bias": torch.ones(4),
        "gpt_neox.layers.1.attention.masked_bias": torch.ones(1),
    }
    save_file(
        {**tensors, **old, "gpt_neox.layers.0.attention.rotary_emb.inv_freq": torch.ones(8)},
        tmp_path / "model.safetensors",
    )
    assert set(import_hf(str(tmp_path))[2]) == set(model.state_dict())
    save_file({**tensors, "gpt_neox.extra": torch.ones(4)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"the model has no extra, here \(4,\)"):
        import_hf(str(tmp_path))


def test_an_export_replaces_the_one_before_whatever_its_files(tmp_path):
    first, second = randomised(config()), NeoX(config(), VOCAB, seed=9)
    folder = str(tmp_path / "hf")
    export_hf(first.state_dict(), first.config, VOCAB, folder, shard_bytes=200_000)
    index = json.loads((tmp_path / "hf" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in first.state_dict().values())
    export_hf(second.state_dict(), second.config, VOCAB, folder)
    assert [path.name for path in (tmp_path / "hf").glob("model*")] == ["model.safetensors"]
    state = import_hf(folder)[2]
    assert all(torch.equal(state[name], value) for name, value in second.state_dict().items())


def test_large_models_are_sharded(tmp_path):
    model = randomised(config())
    folder = tmp_path / "hf"
    export_hf(model.state_dict(), model.config, VOCAB, str(folder))
    export_hf(model.state_dict(), model.config, VOCAB, str(folder), shard_bytes=200_000)
    names = sorted(path.name for path in folder.glob("*.safetensors"))
    assert len(names) > 2 and names[0] == f"model-00001-of-{len(names):05d}.safetensors"
    assert all(path.stat().st_size < 210_000 for path in folder.glob("*.safetensors"))
    _, _, state = import_hf(str(folder))
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    AutoModelForCausalLM.from_pretrained(folder)


def test_memory_file_system(tmp_path):
    model = randomised(config())
    export_hf(model.state_dict(), model.config, VOCAB, "memory://export/hf")
    _, _, state = import_hf("memory://export/hf")
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())


def test_a_tensor_that_does_not_fit_is_named_with_both_shapes(tmp_path):
    model = randomised(config())
    state = dict(model.state_dict())
    with pytest.raises(UserError, match=r"embed_in.weight is \(384, 64\), the model needs \(512, 64\)"):
        export_hf(state, model.config, 512, str(tmp_path / "a"))
    assert not (tmp_path / "a").exists()
    removed = {name: value for name, value in state.items() if name != "layers.1.mlp.dense_4h_to_h.bias"}
    with pytest.raises(
        UserError, match=r"no layers.1.mlp.dense_4h_to_h.bias, which the model needs as \(64,\)"
    ):
        export_hf(removed, model.config, VOCAB, str(tmp_path / "a"))
    folder = tmp_path / "b"
    export_hf(state, model.config, VOCAB, str(folder))
    tensors = load_file(folder / "model.safetensors")
    tensors["gpt_neox.layers.0.attention.dense.weight"] = torch.zeros(64, 32)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(
        UserError, match=r"layers.0.attention.dense.weight is \(64, 32\), the model needs \(64, 64\)"
    ):
        import_hf(str(folder))


def test_folders_that_are_no_such_checkpoint_are_refused(tmp_path):
    with pytest.raises(UserError, match="no config.json"):
        import_hf(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(UserError, match="llama checkpoint"):
        import_hf(str(tmp_path))
    model = randomised(config())
    export_hf(model.state_dict(), model.config, VOCAB, str(tmp_path))
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UserError, match="neither"):
        import_hf(str(tmp_path))
