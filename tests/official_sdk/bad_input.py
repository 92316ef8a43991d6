"""Each bad input is one typed error, soon; and the client that sent it is as good as before."""

import math

import sdk
import tinker
from tinker import types

LIMIT = 10.0  # seconds until an error must be there
WAIT = 30.0  # the SDK's own timeout, which must never be what ends the call

client = sdk.service()
training = client.create_lora_training_client("tiny", rank=4, seed=1)
good = sdk.datum("as it should be")
length = len("as it should be") - 1


def expect(name, code, call):
    """`call` must fail with `code` in its message, with a hint, in time."""

    def run():
        try:
            result = call()
        except (tinker.RequestFailedError, tinker.APIStatusError) as error:
            return error
        raise AssertionError(f"{name}: no error but {result!r}")

    error = sdk.timed(LIMIT, run)
    text = str(error)
    assert code in text, f"{name}: {text}"
    assert "hint: " in text, f"{name}: {text}"
    sdk.say("refused", name=name, type=type(error).__name__, code=code)


def changed(**inputs):
    """The good datum with other loss inputs; `None` leaves one out."""
    fields = {**{k: v.tolist() for k, v in good.loss_fn_inputs.items()}, **inputs}
    return types.Datum(
        model_input=good.model_input,
        loss_fn_inputs={k: v for k, v in fields.items() if v is not None},
    )


def forward_backward(datum, loss="cross_entropy", config=None):
    return lambda: training.forward_backward([datum], loss, config).result(timeout=WAIT)


targets = good.loss_fn_inputs["target_tokens"].tolist()
weights = [1.0] * length
outside = types.Datum(
    model_input=types.ModelInput.from_ints([*[1] * (length - 1), 100_000]),
    loss_fn_inputs={"target_tokens": targets, "weights": weights},
)
negative = types.Datum(
    model_input=types.ModelInput.from_ints([-1] + [1] * (length - 1)),
    loss_fn_inputs={"target_tokens": targets, "weights": weights},
)
long = types.Datum(
    model_input=types.ModelInput.from_ints([1] * 1_000_000),
    loss_fn_inputs={"target_tokens": [1] * 1_000_000, "weights": [1.0] * 1_000_000},
)
many = 4_500_000  # 72 MB as protobuf
huge = types.Datum(
    model_input=types.ModelInput.from_ints([1] * many),
    loss_fn_inputs={"target_tokens": [1] * many, "weights": [1.0] * many},
)
empty = types.Datum(
    model_input=types.ModelInput.from_ints([]),
    loss_fn_inputs={"target_tokens": [], "weights": []},
)
image = types.Datum(
    model_input=types.ModelInput(
        chunks=[types.ImageChunk(data=b"png", format="png", expected_tokens=length)]
    ),
    loss_fn_inputs={"target_tokens": targets, "weights": weights},
)

expect(
    "unknown model",
    "unknown_base_model",
    lambda: client.create_lora_training_client("no-such-model", rank=4).get_info(),
)
expect(
    "rank",
    "out_of_range",
    lambda: client.create_lora_training_client("tiny", rank=100_000).get_info(),
)
expect("token outside the vocabulary", "token_out_of_range", forward_backward(outside))
expect("negative token", "token_out_of_range", forward_backward(negative))
expect(
    "target outside the vocabulary",
    "token_out_of_range",
    forward_backward(changed(target_tokens=[264] * length)),
)
expect("lengths", "length_mismatch", forward_backward(changed(weights=[1.0] * (length - 1))))
expect("lengths", "length_mismatch", forward_backward(changed(target_tokens=targets[1:])))
expect("NaN weight", "not_finite", forward_backward(changed(weights=[math.nan, *weights[1:]])))
expect("infinite weight", "not_finite", forward_backward(changed(weights=[math.inf, *weights[1:]])))
expect("unknown loss", "unknown_loss", forward_backward(good, "mean_squared_error"))
expect("loss of the hosted service", "unsupported_loss", forward_backward(good, "ppo"))
expect(
    "unknown setting",
    "unknown_loss_setting",
    forward_backward(good, "cross_entropy", {"temperature": 2.0}),
)
expect("missing targets", "missing_loss_input", forward_backward(changed(target_tokens=None)))
expect("missing weights", "missing_loss_input", forward_backward(changed(weights=None)))
expect(
    "unknown loss input",
    "unexpected_loss_input",
    forward_backward(changed(advantages=weights)),
)
expect("too long", "context_exceeded", forward_backward(long))
expect("too large", "body_too_large", forward_backward(huge))
expect("empty", "empty_input", forward_backward(empty))
expect("image", "unsupported_chunk", forward_backward(image))
expect(
    "negative learning rate",
    "out_of_range",
    lambda: training.optim_step(types.AdamParams(learning_rate=-1.0)).result(timeout=WAIT),
)
expect(
    "NaN learning rate",  # JSON has no word for it, so it arrives as nothing at all
    "malformed_body",
    lambda: training.optim_step(types.AdamParams(learning_rate=math.nan)).result(timeout=WAIT),
)
expect(
    "name of a checkpoint",
    "invalid_name",
    lambda: training.save_state("../../etc/passwd").result(timeout=WAIT),
)
model_id = training.get_info().model_id
missing = f"tinker://{model_id}/weights/never-saved"
expect(
    "unknown checkpoint",
    "unknown_checkpoint",
    lambda: client.create_training_client_from_state(missing).get_info(),
)
expect(
    "unknown checkpoint with optimizer",
    "unknown_checkpoint",
    lambda: client.create_training_client_from_state_with_optimizer(missing).get_info(),
)
expect(
    "path that leaves its directory",
    "invalid_path",
    lambda: client.create_training_client_from_state(f"tinker://{model_id}/weights/..").get_info(),
)
prompt = types.ModelInput.from_ints(list(b"x"))
expect(
    "sampling from nothing",
    "unknown_checkpoint",
    lambda: (
        client.create_sampling_client(model_path=f"tinker://{model_id}/sampler_weights/never-saved")
        .sample(prompt, 1, types.SamplingParams(max_tokens=1))
        .result(timeout=WAIT)
    ),
)
sampler = client.create_sampling_client(base_model="tiny")


def sample(tokens, **params):
    return lambda: sampler.sample(
        types.ModelInput.from_ints(tokens), 1, types.SamplingParams(max_tokens=1, **params)
    ).result(timeout=WAIT)


expect("prompt outside the vocabulary", "token_out_of_range", sample([100_000]))
expect("empty prompt", "empty_input", sample([]))
expect("temperature", "out_of_range", sample([1], temperature=-1.0))
expect("top_p", "out_of_range", sample([1], top_p=2.0))

# Nothing is lost: the same clients go on, and none of the failures counted as a step.
before = training.forward_backward([good], "cross_entropy").result(timeout=WAIT)
step = training.optim_step(types.AdamParams(learning_rate=1e-2)).result(timeout=WAIT)
assert step.metrics["step:max"] == 1.0, step
after = training.forward([good], "cross_entropy").result(timeout=WAIT)
assert after.metrics["loss:sum"] < before.metrics["loss:sum"], (before, after)
assert len(sample([1])().sequences) == 1
sdk.say("done")
client.close("success")
