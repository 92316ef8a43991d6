"""Makes the golden vectors of this directory with an independent implementation.

Not part of any set-up: run once, by hand, in an environment of its own, when the recipe changes.

    python3 -m venv /tmp/golden && /tmp/golden/bin/pip install torch transformers peft
    /tmp/golden/bin/python recipe.py

A small Qwen3 with an untied head and an adapter on every linear layer is made by transformers and
PEFT, computed in double precision, and written as they write it. Weights are rounded to bfloat16
first, so that the files are small and both sides start from equal numbers.
"""

import copy
import shutil
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import Qwen3Config, Qwen3ForCausalLM

HERE = Path(__file__).parent
TOKENS = 80  # more than one block of queries

torch.manual_seed(7)
config = Qwen3Config(
    vocab_size=264,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    max_position_embeddings=128,
    rope_theta=1_000_000.0,
    tie_word_embeddings=False,
    eos_token_id=256,
    bos_token_id=None,
)
model = Qwen3ForCausalLM(config)
with torch.no_grad():
    for name, p in model.named_parameters():
        if "norm" in name:
            p.copy_(1 + 0.3 * torch.randn_like(p))
        else:
            p.copy_(torch.randn_like(p) / p.shape[1] ** 0.5)
        p.copy_(p.to(torch.bfloat16).to(p.dtype))
# A copy: the cast would also round the rotary frequencies.
copy.deepcopy(model).to(torch.bfloat16).save_pretrained(HERE / "model", safe_serialization=True)

model = model.double()
targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head"]
lora = LoraConfig(r=4, lora_alpha=32, lora_dropout=0.0, target_modules=targets, bias="none")
model = get_peft_model(model, lora).double()
with torch.no_grad():
    for name, p in model.named_parameters():
        if "lora_" in name:
            p.copy_((0.1 * torch.randn_like(p)).float().double())
model.float().save_pretrained(HERE / "adapter", safe_serialization=True)
(HERE / "adapter" / "README.md").unlink(missing_ok=True)
model = model.double()

tokens = torch.randint(0, 264, (1, TOKENS))
target = torch.randint(0, 264, (1, TOKENS))
weights = torch.rand(1, TOKENS).float().double()
weights[0, :10] = 0.0


def logprobs():
    logits = model(tokens).logits
    return torch.log_softmax(logits, -1).gather(-1, target[..., None])[..., 0]


out = {"tokens": tokens[0].int(), "targets": target[0].int(), "weights": weights[0].float()}
scores = logprobs()
loss = -(scores * weights).sum()
loss.backward()
out["logprobs"] = scores[0].detach().float()
out["loss"] = loss.detach().reshape(1)
trained = {n.replace(".default", ""): p for n, p in model.named_parameters() if "lora_" in n}
for name, p in trained.items():
    out[f"gradient.{name}"] = p.grad.float()
optimizer = torch.optim.AdamW(
    trained.values(), lr=0.01, betas=(0.9, 0.95), eps=1e-12, weight_decay=0.1
)
optimizer.step()
optimizer.zero_grad()
loss = -(logprobs() * weights).sum()
loss.backward()
torch.nn.utils.clip_grad_norm_(trained.values(), 1.0)
optimizer.step()
out["loss_after_one"] = loss.detach().reshape(1)
out["logprobs_after_two"] = logprobs()[0].detach().float()
save_file({k: v.contiguous() for k, v in out.items()}, HERE / "golden.safetensors")
for junk in ["generation_config.json"]:
    (HERE / "model" / junk).unlink(missing_ok=True)
shutil.rmtree(HERE / "__pycache__", ignore_errors=True)
print("loss", out["loss"].item(), "after one step", out["loss_after_one"].item())
