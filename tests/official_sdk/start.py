"""A session and a model come about (the first lines of any program)."""

import sdk

client = sdk.service()
training = client.create_lora_training_client("tiny", rank=4)
info = training.get_info()
assert info.model_data.model_name == "tiny", info
assert info.model_id.endswith(":train:0"), info
served = client.get_server_capabilities().supported_models
assert any(model.model_name == "tiny" for model in served), served
sdk.say("done", model_id=info.model_id)
client.close("success")
