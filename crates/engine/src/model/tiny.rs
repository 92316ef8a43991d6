//! Small models with random weights, made on the machine from a seed.

use std::path::Path;

use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Map, Value, json};

use super::{Linear, ModelConfig};
use crate::EngineError;
use crate::checkpoint::{NewDirectory, bytes_of};

/// The seed of the `tiny` that `snakehouse` serves.
pub const TINY_SEED: u64 = 0;

/// Token ids below this are bytes.
const BYTES: u32 = 256;

/// The tokens after the bytes; the first ends a text.
const SPECIALS: [&str; 8] = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|reserved_0|>",
    "<|reserved_1|>",
    "<|reserved_2|>",
    "<|reserved_3|>",
    "<|reserved_4|>",
];

/// The shape of `tiny`: a byte-level Qwen3 of about 430 thousand weights and 2,048 tokens.
pub fn tiny_config() -> ModelConfig {
    ModelConfig {
        vocab_size: BYTES as usize + SPECIALS.len(),
        hidden: 128,
        ffn: 384,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        head: 32,
        context: 2048,
        rope_theta: 10_000.0,
        eps: 1e-6,
        tied: true,
        eos: vec![BYTES],
    }
}

/// `tiny` with a vocabulary of 1,024, the 525-thousand-weight shape that speeds are stated for.
pub fn bench_config() -> ModelConfig {
    ModelConfig { vocab_size: 1024, ..tiny_config() }
}

/// Makes `tiny` at `dir`. Same seed, same bytes. If `dir` exists it is complete and stays.
///
/// # Errors
/// [`EngineError::Io`] if a file cannot be written.
pub fn make_tiny(dir: &Path, seed: u64) -> Result<(), EngineError> {
    make_random(dir, &tiny_config(), seed)
}

/// Makes a model of this shape with random weights and the byte-level tokenizer of `tiny`.
///
/// The directory appears whole or not at all; an existing one stays as it is.
///
/// # Errors
/// [`EngineError::BadParameter`] if the shape contradicts itself, [`EngineError::Io`] if a file
/// cannot be written.
pub fn make_random(dir: &Path, config: &ModelConfig, seed: u64) -> Result<(), EngineError> {
    config.check().map_err(EngineError::BadParameter)?;
    let Some(new) = NewDirectory::begin(dir)? else { return Ok(()) };
    let json = |value: &Value| value.to_string().into_bytes();
    new.write("config.json", &json(&config.to_json()))?;
    new.write("generation_config.json", &json(&json!({ "eos_token_id": config.eos })))?;
    new.write("tokenizer.json", &json(&byte_tokenizer()))?;
    new.write("tokenizer_config.json", &json(&tokenizer_config(config)))?;
    new.write("model.safetensors", &random_weights(config, seed, dir)?)?;
    new.finish()
}

/// Every tensor of a shape, with how far its numbers spread (`None` = all ones).
fn tensors(config: &ModelConfig) -> Vec<(String, Vec<usize>, Option<f32>)> {
    #[expect(clippy::cast_precision_loss, reason = "widths are small")]
    let spread = |inputs: usize| Some(1.0 / (inputs as f32).sqrt());
    let mut list = vec![(
        "model.embed_tokens.weight".to_owned(),
        vec![config.vocab_size, config.hidden],
        spread(config.hidden),
    )];
    for i in 0..config.layers {
        let name = |part: &str| format!("model.layers.{i}.{part}.weight");
        list.push((name("input_layernorm"), vec![config.hidden], None));
        list.push((name("post_attention_layernorm"), vec![config.hidden], None));
        list.push((name("self_attn.q_norm"), vec![config.head], None));
        list.push((name("self_attn.k_norm"), vec![config.head], None));
        for linear in Linear::ALL {
            let (outputs, inputs) = linear.shape(config);
            list.push((name(linear.module()), vec![outputs, inputs], spread(inputs)));
        }
    }
    list.push(("model.norm.weight".to_owned(), vec![config.hidden], None));
    if !config.tied {
        let shape = vec![config.vocab_size, config.hidden];
        list.push(("lm_head.weight".to_owned(), shape, spread(config.hidden)));
    }
    list
}

fn random_weights(config: &ModelConfig, seed: u64, dir: &Path) -> Result<Vec<u8>, EngineError> {
    let mut made = Vec::new();
    for (stream, (name, shape, spread)) in (0u64..).zip(tensors(config)) {
        let count = shape.iter().product();
        let numbers = match spread {
            None => vec![1.0; count],
            Some(spread) => normal(seed, stream, count, spread),
        };
        made.push((name, shape, bytes_of(&numbers)));
    }
    let views = made.iter().map(|(name, shape, bytes)| {
        TensorView::new(Dtype::F32, shape.clone(), bytes).map(|view| (name.as_str(), view))
    });
    let bad = |e: safetensors::SafeTensorError| EngineError::directory(dir, e.to_string());
    let views: Vec<_> = views.collect::<Result<_, _>>().map_err(bad)?;
    safetensors::serialize(views, None).map_err(bad)
}

/// Numbers of mean 0 that are close to normal: the sum of four uniform ones.
fn normal(seed: u64, stream: u64, count: usize, spread: f32) -> Vec<f32> {
    let mut rng = ChaCha12Rng::seed_from_u64(seed);
    rng.set_stream(stream);
    // Four uniforms on [-½, ½] have variance ⅓.
    let unit = spread * 3.0f32.sqrt() / 65_536.0;
    let draw = |bits: u64| {
        let parts = bits.to_le_bytes();
        let parts = parts.as_chunks::<2>().0.iter();
        let sum: u32 = parts.map(|part| u32::from(u16::from_le_bytes(*part))).sum();
        #[expect(clippy::cast_precision_loss, reason = "eighteen bits")]
        let centred = sum as f32 - 131_070.0;
        centred * unit
    };
    (0..count).map(|_| draw(rng.next_u64())).collect()
}

/// A tokenizer whose id of a byte is the byte.
fn byte_tokenizer() -> Value {
    let mut vocab = Map::new();
    for (byte, letter) in (0u32..).zip(byte_letters()) {
        vocab.insert(letter.to_string(), byte.into());
    }
    let added: Vec<Value> = (BYTES..)
        .zip(SPECIALS)
        .map(|(id, content)| {
            json!({
                "id": id, "content": content, "special": true, "single_word": false,
                "lstrip": false, "rstrip": false, "normalized": false,
            })
        })
        .collect();
    let bytes = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false,
    });
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": null, "pre_tokenizer": bytes, "post_processor": null, "decoder": bytes,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": false, "vocab": vocab, "merges": [],
        },
    })
}

fn tokenizer_config(config: &ModelConfig) -> Value {
    json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": config.context,
        "eos_token": SPECIALS[0],
        "pad_token": SPECIALS[0],
        "clean_up_tokenization_spaces": false,
    })
}

/// The printable letter that byte-level tokenizers write for each byte: itself where it is
/// printable, else the next unused one from U+0100.
fn byte_letters() -> impl Iterator<Item = char> {
    let mut spare = 0x100u32;
    (0u8..=255).map(move |byte| {
        if matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF) {
            char::from(byte)
        } else {
            spare += 1;
            char::from_u32(spare - 1).unwrap_or(char::REPLACEMENT_CHARACTER)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::BaseModel;

    #[test]
    fn same_seed_same_bytes_and_another_seed_other_ones() {
        let home = tempfile::tempdir().unwrap();
        let digest = |name: &str, seed| {
            let dir = home.path().join(name);
            make_tiny(&dir, seed).unwrap();
            BaseModel::load(&dir).unwrap().digest
        };
        assert_eq!(digest("a", 7), digest("b", 7));
        assert_ne!(digest("a", 7), digest("c", 8));
    }

    #[test]
    fn a_byte_is_its_own_token() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("tiny");
        make_tiny(&dir, 1).unwrap();
        let base = BaseModel::load(&dir).unwrap();
        let text = "Grüße, \n\t world! ~";
        let tokens = base.text.encode(text);
        assert_eq!(tokens, text.bytes().map(u32::from).collect::<Vec<_>>());
        assert_eq!(base.text.decode(&tokens), text);
        assert_eq!(base.text.decode(&[104, 105, 256]), "hi<|endoftext|>");
        assert_eq!(base.config, tiny_config());
    }
}
