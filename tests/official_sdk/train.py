"""Trains, saves, goes on from the saved state, samples. Prints a line per step.

Everything it prints in `done` is a function of the seed: a run that is disturbed from outside must
print the same.
"""

import itertools
import sys

import sdk
from tinker import types

STEPS = 20
PATIENCE = 240

adam = types.AdamParams(learning_rate=3e-3)
client = sdk.service()
training = client.create_lora_training_client("tiny", rank=8, seed=7)
tokens = sum(len(text) - 1 for text in sdk.TEXTS)


def step(model):
    """One optimizer step; both requests are in flight at once, as the SDK's guide says."""
    forward_backward = model.forward_backward(sdk.batch(), "cross_entropy")
    optimized = model.optim_step(adam)
    output = forward_backward.result(timeout=PATIENCE)
    optimized.result(timeout=PATIENCE)
    assert len(output.loss_fn_outputs) == len(sdk.TEXTS), output
    return output.metrics["loss:sum"] / tokens


losses = []
for number in range(STEPS):
    losses.append(step(training))
    sdk.say("step", number=number, loss=losses[-1])
assert losses[-1] < 0.5 * losses[0], losses
assert all(later < earlier * 1.05 for earlier, later in itertools.pairwise(losses)), losses

# More datums than one request may have: the SDK splits them and posts the pieces out of order.
many = [sdk.datum(f"{number % 7}, again and again") for number in range(1500)]
scored = training.forward(many, "cross_entropy").result(timeout=PATIENCE).loss_fn_outputs
logprobs = [output["logprobs"].tolist() for output in scored]
assert len(logprobs) == len(many), len(logprobs)
assert all(row == logprobs[number % 7] for number, row in enumerate(logprobs))
assert logprobs[0] != logprobs[1], logprobs[:2]

# A new model from the saved state, optimizer included, goes on exactly as the old one.
path = training.save_state("after-training").result(timeout=PATIENCE).path
sdk.say("saved", path=path.rsplit("/", 2)[-2:])
resumed = client.create_training_client_from_state_with_optimizer(path)
assert resumed.get_info().model_id != training.get_info().model_id
going_on = [step(training) for _ in range(3)]
sdk.say("went_on", losses=going_on)
again = [step(resumed) for _ in range(3)]
sdk.say("went_on_again", losses=again)
assert again == going_on, (again, going_on)

# Weights without the optimizer's state are a different thing, but the same weights.
fresh = client.create_training_client_from_state(path)
scored = fresh.forward(sdk.batch(), "cross_entropy").result(timeout=PATIENCE)
assert abs(scored.metrics["loss:sum"] / tokens - going_on[0]) == 0.0, scored.metrics

# Sampling at temperature 0 is a function of the prompt.
greedy = types.SamplingParams(max_tokens=24, temperature=0.0)
prompt = types.ModelInput.from_ints(list(b"the snake "))
sampler = training.save_weights_and_get_sampling_client()
first = sampler.sample(prompt, 1, greedy).result(timeout=PATIENCE).sequences[0]
second = sampler.sample(prompt, 1, greedy).result(timeout=PATIENCE).sequences[0]
assert first.tokens == second.tokens, (first, second)
assert len(first.tokens) > 0, first
assert first.logprobs == second.logprobs, (first, second)
sdk.say("sampled", text=bytes(t for t in first.tokens if t < 256).decode(errors="replace"))

# A named save, opened from its path by another sampling client, holds the same weights.
named = training.save_weights_for_sampler("to-sample").result(timeout=PATIENCE).path
by_path = client.create_sampling_client(model_path=named)
third = by_path.sample(prompt, 1, greedy).result(timeout=PATIENCE).sequences[0]
assert third.tokens == first.tokens, (third, first)
several = by_path.sample(
    prompt, 3, types.SamplingParams(max_tokens=8, temperature=1.0, seed=3, stop=[])
).result(timeout=PATIENCE)
assert [len(sequence.tokens) for sequence in several.sequences] == [8, 8, 8], several
scores = by_path.compute_logprobs(prompt).result(timeout=PATIENCE)
assert scores[0] is None, scores
assert all(score < 0.0 for score in scores[1:]), scores

base = client.create_sampling_client(base_model="tiny")
untrained = base.sample(prompt, 1, greedy).result(timeout=PATIENCE).sequences[0]
sdk.say(
    "done",
    losses=losses,
    going_on=going_on,
    greedy=list(first.tokens),
    several=[list(sequence.tokens) for sequence in several.sequences],
    scores=scores[1:],
    untrained=list(untrained.tokens),
)
client.close("success")
sys.exit(0)
