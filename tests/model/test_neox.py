from __future__ import annotations

import os
from typing import Any, cast

import pytest

from model.config import ModelConfig
from tests.helpers.late import RUNNING
from tests.helpers.values import known

if RUNNING:
    import torch
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    from model.layers import rotary_tables
    from model.loss import IGNORE
    from model.neox import NeoX, weight_decay_groups


VOCAB = 300


def config(**changes) -> ModelConfig:
    return ModelConfig(
        **{"hidden_size": 64, "num_layers": 3, "num_heads": 4, "max_sequence_length": 64, **changes}
    )


def randomised(model: NeoX, std: float = 0.2) -> NeoX:
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=std, generator=generator)
    return model


def tokens(batch: int, length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, VOCAB, (batch, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("fraction", [0.25, 0.5, 1.0])
@pytest.mark.parametrize(
    ("parallel", "bias", "tied", "activation"),
    [(True, True, False, "gelu"), (False, True, True, "gelu_tanh"), (True, False, False, "gelu")],
)
@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_parameters_and_logits_equal_hugging_face(fraction, parallel, bias, tied, activation, name):
    dtype = getattr(torch, name)
    settings = config(
        rotary_fraction=fraction,
        parallel_residual=parallel,
        attention_bias=bias,
        tie_embeddings=tied,
        activation=activation,
    )
    model = randomised(NeoX(settings, VOCAB)).to(dtype)
    theirs = GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=384,
            hidden_size=64,
            num_hidden_layers=3,
            num_attention_heads=4,
            intermediate_size=256,
            rotary_pct=fraction,
            use_parallel_residual=parallel,
            attention_bias=bias,
            tie_word_embeddings=tied,
            max_position_embeddings=64,
            hidden_act="gelu" if activation == "gelu" else "gelu_pytorch_tanh",
        )
    ).to(dtype)
    state = model.state_dict()
    head = {"lm_head.weight": state.pop("embed_out.weight")}
    theirs.load_state_dict({f"gpt_neox.{name}": value for name, value in state.items()} | head)
    ours_count = sum(parameter.numel() for parameter in model.parameters())
    assert ours_count == sum(parameter.numel() for parameter in theirs.parameters())
    ids = tokens(2, 50)
    with torch.no_grad():
        ours, expected = model(ids), theirs(ids).logits
    assert ours.shape == (2, 50, 384)
    assert ours.dtype == dtype
    assert (ours - expected).abs().max() < (1e-5 if dtype == torch.float32 else 0.05)


def test_loss_equals_cross_entropy_of_the_logits_and_gradients_agree():
    model = randomised(NeoX(config(), VOCAB, loss_chunk=17))
    ids = tokens(2, 41)
    loss = model.loss(ids)
    loss.backward()
    gradients = {name: known(parameter.grad).clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    logits = model(ids[:, :-1])[..., :VOCAB]
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
    expected.backward()
    assert abs(loss.item() - expected.item()) < 1e-5
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, atol=1e-5, rtol=1e-4)


def test_losses_of_every_token_average_to_the_mean_loss():
    model = randomised(NeoX(config(), VOCAB))
    ids = tokens(2, 30)
    targets = ids[:, 1:].clone()
    targets[0, 3:9] = IGNORE
    losses = model(ids[:, :-1], targets, reduction="none")
    assert losses.shape == targets.shape and losses.dtype == torch.float32
    assert (losses[0, 3:9] == 0).all()
    mean = losses.sum() / (targets != IGNORE).sum()
    torch.testing.assert_close(mean, model(ids[:, :-1], targets).detach())


@pytest.mark.parametrize("reset", [False, True])
def test_activation_checkpointing_changes_no_gradient(reset):
    settings = config(attention_reset=reset)
    models = [
        randomised(NeoX(settings, VOCAB, end_of_document_id=5, activation_checkpointing=checkpointing))
        for checkpointing in (False, True)
    ]
    for model in models:
        model.loss(tokens(2, 33)).backward()
    for plain, recomputed in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(known(plain.grad), known(recomputed.grad))


def test_attention_reset_hides_earlier_documents_and_nothing_else():
    end = 7
    model = randomised(NeoX(config(attention_reset=True), VOCAB, end_of_document_id=end))
    plain = NeoX(config(), VOCAB)
    plain.load_state_dict(model.state_dict())
    ids = tokens(1, 40)
    ids[ids == end] = 8
    with torch.no_grad():
        torch.testing.assert_close(model(ids), plain(ids), atol=1e-5, rtol=1e-5)
        ids[0, 19] = end
        changed = ids.clone()
        changed[0, :19] = 9
        first, second = model(ids), model(changed)
        torch.testing.assert_close(first[:, 20:], second[:, 20:], atol=1e-6, rtol=1e-6)
        assert not torch.allclose(first[:, 19], second[:, 19])  # the end itself still sees its document
        assert not torch.allclose(plain(ids)[:, 20:], plain(changed)[:, 20:])


@pytest.mark.parametrize("reset", [False, True])
def test_cached_hidden_states_equal_uncached_ones_for_rows_of_different_length(reset):
    model = randomised(NeoX(config(attention_reset=reset), VOCAB, end_of_document_id=7))
    ids = tokens(2, 20)
    ids[0, 4] = ids[1, 13] = ids[0, 16] = 7
    lengths = torch.tensor([12, 9])
    with torch.no_grad():
        expected = model.hidden_states(ids)
        cache = model.new_cache(2, 20)
        model.hidden_states(ids[:, :12], torch.arange(12).expand(2, -1), cache)
        for step in range(8):
            at = (lengths + step).unsqueeze(1)
            hidden = model.hidden_states(ids.gather(1, at), at, cache)
            wanted = expected.gather(1, at.unsqueeze(2).expand(-1, -1, 64))
            torch.testing.assert_close(hidden, wanted, atol=2e-5, rtol=1e-5)


def test_rotary_tables_keep_float32_accuracy_at_far_positions_in_half_precision():
    positions = torch.arange(4000, 4096)
    exact = torch.outer(positions.double(), 10000.0 ** (-torch.arange(0, 32, 2).double() / 32)).cos()
    cosines, _ = rotary_tables(positions, 32, 10000.0, torch.float16)
    assert cosines.dtype == torch.float16
    assert (cosines.double() - exact).abs().max() < 1e-3
    model = NeoX(config(), VOCAB).half()
    assert not list(model.buffers())


def test_initialisation_follows_the_seed_and_the_published_scales():
    settings = config(hidden_size=256, num_layers=2)
    first, again, other = (NeoX(settings, VOCAB, seed=seed).state_dict() for seed in (1, 1, 2))
    for name, value in first.items():
        assert torch.equal(value, again[name])
    assert not torch.equal(first["embed_in.weight"], other["embed_in.weight"])
    inner, output = (2 / (5 * 256)) ** 0.5, 2 / (2 * 256**0.5)
    for name, std in {
        "embed_in.weight": inner,
        "embed_out.weight": inner,
        "layers.1.attention.query_key_value.weight": inner,
        "layers.1.mlp.dense_h_to_4h.weight": inner,
        "layers.1.attention.dense.weight": output,
        "layers.1.mlp.dense_4h_to_h.weight": output,
    }.items():
        assert abs(first[name].std().item() / std - 1) < 0.02, name
    assert (first["layers.0.input_layernorm.weight"] == 1).all()
    assert (first["layers.0.mlp.dense_h_to_4h.bias"] == 0).all()
    normal = NeoX(config(init_method="normal", output_init_method="normal"), VOCAB).state_dict()
    assert abs(normal["layers.0.attention.dense.weight"].std().item() / 0.02 - 1) < 0.05


def test_norms_and_biases_do_not_decay():
    model = NeoX(config(), VOCAB)
    decayed, others = (cast(dict[str, Any], group) for group in weight_decay_groups(model, 0.1))
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    assert all(parameter.dim() == 2 for parameter in decayed["params"])
    assert all(parameter.dim() == 1 for parameter in others["params"])
    assert len(decayed["params"]) + len(others["params"]) == len(list(model.parameters()))


def test_attention_reset_needs_the_end_of_document_id():
    with pytest.raises(ValueError, match="end-of-document"):
        NeoX(config(attention_reset=True), VOCAB)


def test_odd_rotary_size_is_refused():
    with pytest.raises(ValueError, match="even number"):
        config(hidden_size=40, num_heads=4, rotary_fraction=0.5)


def test_torch_compile_gives_the_same_loss():
    pytest.importorskip("torch._dynamo")
    model = randomised(NeoX(config(num_layers=1), VOCAB), std=0.05)
    compiled = torch.compile(model, backend="aot_eager")
    ids = tokens(2, 17)
    assert abs(compiled(ids[:, :-1], ids[:, 1:]).item() - model.loss(ids).item()) < 1e-5


def test_zero_3_with_checkpointing_trains_like_plain_pytorch(tmp_path):
    """Runs in a process of its own, because DeepSpeed changes global state."""
    import subprocess
    import sys

    environment = os.environ | {
        "MASTER_ADDR": "127.0.0.1",
        "RANK": "0",
        "WORLD_SIZE": "1",
        "LOCAL_RANK": "0",
        "DS_ACCELERATOR": "cpu",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.getcwd(),
        "RENDEZVOUS": f"file://{tmp_path}/rendezvous",
    }
    done = subprocess.run([sys.executable, "-c", ZERO_3], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "losses agree" in done.stdout


ZERO_3 = """
import os, torch, deepspeed, torch.distributed as dist
from model.config import ModelConfig
from model.neox import NeoX, weight_decay_groups
dist.init_process_group("gloo", init_method=os.environ["RENDEZVOUS"], rank=0, world_size=1)
deepspeed.init_distributed("gloo")
ids = torch.randint(0, 300, (4, 33), generator=torch.Generator().manual_seed(0))
for tied in (False, True):
    config = ModelConfig(hidden_size=64, num_layers=2, num_heads=4, tie_embeddings=tied)
    plain = NeoX(config, 300, seed=1, loss_chunk=50)
    optimizer = torch.optim.AdamW(weight_decay_groups(plain, 0.1), lr=1e-3, eps=1e-6)
    settings = {"train_micro_batch_size_per_gpu": 4, "zero_allow_untested_optimizer": True,
                "gradient_clipping": 1.0,
                "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0}}
    with deepspeed.zero.Init(config_dict_or_path=settings):
        model = NeoX(config, 300, seed=1, loss_chunk=50, activation_checkpointing=True)
    groups = weight_decay_groups(model, 0.1)
    assert [len(g["params"]) for g in groups] == [len(g["params"]) for g in optimizer.param_groups]
    engine, *_ = deepspeed.initialize(
        model=model, optimizer=torch.optim.AdamW(groups, lr=1e-3, eps=1e-6), config=settings)
    for step in range(4):
        loss = plain.loss(ids)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        sharded = engine(ids[:, :-1], ids[:, 1:])
        engine.backward(sharded)
        engine.step()
        assert abs(loss.item() - sharded.item()) < 1e-5, (step, loss.item(), sharded.item())
    with torch.no_grad():
        losses = engine(ids[:, :-1], ids[:, 1:], reduction="none")
    assert abs(losses.mean().item() - plain.loss(ids).item()) < 1e-5
print("losses agree")
"""
