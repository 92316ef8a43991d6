"""Teaches `tiny` one sum through the official SDK, and asks for the answer.

Start a service with `snakehouse up`, then, in an environment that has `tinker` 0.38:

    TINKER_BASE_URL=http://127.0.0.1:8400 TINKER_API_KEY=tml-local python official_sdk.py
"""

import tinker
from tinker import types

client = tinker.ServiceClient()
training = client.create_lora_training_client(base_model="tiny", rank=8).result()

text = list(b"2 + 2 = 4")  # `tiny` reads bytes: a token is a byte
datum = types.Datum(
    model_input=types.ModelInput.from_ints(text[:-1]),
    loss_fn_inputs={"target_tokens": text[1:], "weights": [1.0] * (len(text) - 1)},
)
for _ in range(40):
    loss = training.forward_backward([datum], "cross_entropy")
    training.optim_step(types.AdamParams(learning_rate=1e-2)).result()
print("loss", loss.result().metrics["loss:sum"])

sampler = training.save_weights_and_get_sampling_client().result()
question = types.ModelInput.from_ints(list(b"2 + 2 = "))
greedy = types.SamplingParams(max_tokens=1, temperature=0.0)
answer = sampler.sample(question, num_samples=1, sampling_params=greedy).result()
print("answer", bytes(answer.sequences[0].tokens).decode())
