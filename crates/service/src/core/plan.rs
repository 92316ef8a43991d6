//! From what a client asks for to what is written down.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use snakehouse_base::Chance;
use snakehouse_base::id::ModelId;
use snakehouse_engine_api::{
    CreateModel, ForwardBackward, LoraSpec, Optimize, Request as _, Sample, SampleParams,
};
use snakehouse_tinker_api::json::ErrorDetail;
use snakehouse_tinker_api::{CheckpointKind, CheckpointName, CheckpointPath, InvalidInput};

use super::op::{OpKind, Place};
use super::submit::{LoadTarget, SampleRequest, Submit, Target};
use super::{Category, CoreError};

/// An operation, encoded. Pure: the same request gives the same content digest.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) kind: OpKind,
    pub(super) place: Place,
    pub(super) sample_seq: u64,
    pub(super) samples: u32,
    /// SHA-256 of the request, drawn seeds left out.
    pub(super) content: [u8; 32],
    /// What the owner task runs, drawn seeds put in.
    pub(super) body: Bytes,
    pub(super) failed: Option<(String, Category)>,
}

/// The body of a save.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SavePlan {
    pub(super) name: Option<String>,
    pub(super) overwrite: bool,
}

/// The body of a load.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct LoadPlan {
    pub(super) path: String,
    pub(super) optimizer: bool,
    pub(super) base: Option<String>,
}

/// The most bytes a submitted operation occupies while it is being encoded, roughly.
pub(super) fn size_of(op: &Submit) -> usize {
    match op {
        Submit::ForwardBackward { data, .. } => data
            .iter()
            .map(|d| d.tokens.len() + d.targets.len() + d.weights.len() + 64)
            .sum::<usize>(),
        Submit::Sample { request, .. } => request.prompt.len() + 256,
        Submit::Invalid { content, .. } => content.len(),
        _ => 512,
    }
}

/// The id of the model that a session numbers `model_seq_id`.
pub(super) fn model_id(session: &snakehouse_base::id::SessionId, model_seq_id: u64) -> ModelId {
    ModelId::new(format!("{session}:train:{model_seq_id}"))
}

/// Encodes an operation.
pub(super) fn plan(op: Submit, chance: &Chance) -> Result<Plan, CoreError> {
    let mut failed = None;
    let mut sample_seq = 0;
    let mut samples = 0;
    let (kind, place, content, body) = match op {
        Submit::CreateModel { session, model_seq_id, base_model, lora, user_metadata } => {
            let model = model_id(&session, model_seq_id);
            let asked = json(&(&base_model, &lora, &user_metadata))?;
            let lora = LoraSpec {
                rank: lora.rank,
                seed: lora.seed.unwrap_or_else(|| chance.next_u64()),
                train_attn: lora.train_attn,
                train_mlp: lora.train_mlp,
                train_unembed: lora.train_unembed,
            };
            let call = CreateModel { model: model.clone(), base: base_model, lora };
            let place = Place::Model(model, 0);
            (OpKind::CreateModel, place, digest("create", &[&asked]), encoded(call.encode())?)
        }
        Submit::ForwardBackward { model, seq, data, loss, forward_only } => {
            let kind = if forward_only { OpKind::Forward } else { OpKind::ForwardBackward };
            let place = in_turn(&model, seq.0)?;
            let body = encoded(ForwardBackward { model, data, loss, forward_only }.encode())?;
            (kind, place, digest("forward_backward", &[&body]), body)
        }
        Submit::OptimStep { model, seq, adam } => {
            let place = in_turn(&model, seq.0)?;
            let body = encoded(Optimize { model, adam }.encode())?;
            (OpKind::OptimStep, place, digest("optim_step", &[&body]), body)
        }
        Submit::SaveWeights { model, seq, name, overwrite } => {
            let place = in_turn(&model, seq.0)?;
            failed = CheckpointName::new(&name).err().map(|e| user(&e));
            let body = json(&SavePlan { name: Some(name), overwrite })?;
            (OpKind::SaveWeights, place, digest("save", &[&body]), body)
        }
        Submit::SaveForSampler { model, seq, name, sampling_session_seq_id: _ } => {
            let place = in_turn(&model, seq.0)?;
            let bad_name = |name: &String| CheckpointName::new(name).err().map(|e| user(&e));
            failed = name.as_ref().and_then(bad_name);
            // The protocol has no overwrite flag here; saving a name again moves it.
            let body = json(&SavePlan { name, overwrite: true })?;
            (OpKind::SaveForSampler, place, digest("save_for_sampler", &[&body]), body)
        }
        Submit::LoadWeights { target, path, optimizer } => {
            failed = match path.parse::<CheckpointPath>() {
                Ok(parsed) if parsed.kind == CheckpointKind::Training => None,
                Ok(_) => Some(user(&InvalidInput::InvalidPath {
                    path: path.clone(),
                    reason: "it holds weights to sample from, which cannot be trained on",
                })),
                Err(e) => Some(user(&e)),
            };
            let (place, base, metadata) = match target {
                LoadTarget::Create { session, model_seq_id, base_model, user_metadata } => {
                    let model = model_id(&session, model_seq_id);
                    (Place::Model(model, 0), base_model, user_metadata)
                }
                LoadTarget::Overwrite { model, seq } => (in_turn(&model, seq.0)?, None, None),
            };
            let body = json(&LoadPlan { path, optimizer, base })?;
            let content = digest("load", &[&body, &json(&metadata)?]);
            (OpKind::LoadWeights, place, content, body)
        }
        Submit::Sample { sampler, seq, request } => {
            (sample_seq, samples) = (fits(seq)?, request.num_samples);
            let drawn = request.seed.is_none();
            let mut call = sample_call(sampler.clone(), request);
            let asked = encoded(call.encode())?;
            let content = digest("sample", &[&[u8::from(drawn)], &asked]);
            let body = if drawn {
                call.params.seed = chance.next_u64();
                encoded(call.encode())?
            } else {
                asked
            };
            (OpKind::Sample, Place::Sampler(sampler), content, body)
        }
        Submit::Invalid { target, message, content } => {
            failed = Some((message, Category::User));
            let place = match target {
                Target::Model(model, seq) => in_turn(&model, seq.0)?,
                Target::Session(session, number) => Place::Model(model_id(&session, number), 0),
                Target::Sampler(sampler, seq) => {
                    sample_seq = fits(seq)?;
                    Place::Sampler(sampler)
                }
            };
            (OpKind::Invalid, place, digest("invalid", &[&content]), Bytes::new())
        }
    };
    Ok(Plan { kind, place, sample_seq, samples, content, body, failed })
}

fn sample_call(sampler: snakehouse_base::id::SamplerId, request: SampleRequest) -> Sample {
    Sample {
        sampler,
        prompt: request.prompt,
        num_samples: request.num_samples,
        params: SampleParams {
            max_tokens: request.max_tokens,
            seed: request.seed.unwrap_or(0),
            temperature: request.temperature,
            top_k: request.top_k,
            top_p: request.top_p,
            stop: request.stop,
        },
        prompt_logprobs: request.prompt_logprobs,
    }
}

/// A place in a model's own order, which begins at 1.
fn in_turn(model: &ModelId, seq: u64) -> Result<Place, CoreError> {
    if seq == 0 {
        return Err(CoreError::BadName("seq_id begins at 1".into()));
    }
    Ok(Place::Model(model.clone(), fits(seq)?))
}

/// A number that the database can hold.
fn fits(number: u64) -> Result<u64, CoreError> {
    match i64::try_from(number) {
        Ok(small) if small < i64::MAX => Ok(number),
        _ => Err(CoreError::BadName(format!("{number} is too large for a sequence number"))),
    }
}

fn user(error: &InvalidInput) -> (String, Category) {
    (ErrorDetail::of(error).sentence(), Category::User)
}

fn digest(what: &str, parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(what.as_bytes());
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

fn json<T: Serialize>(value: &T) -> Result<Bytes, CoreError> {
    let text = serde_json::to_vec(value);
    text.map(Bytes::from).map_err(|e| CoreError::BadName(format!("cannot be written down: {e}")))
}

fn encoded(body: Result<Bytes, snakehouse_engine_api::CodecError>) -> Result<Bytes, CoreError> {
    body.map_err(|e| CoreError::BadName(e.to_string()))
}

#[cfg(test)]
mod tests {
    use snakehouse_base::id::{SamplerId, SeqId, SessionId};
    use snakehouse_engine_api::Stop;

    use super::super::LoraRequest;
    use super::*;

    fn sample(seed: Option<u64>) -> Submit {
        Submit::Sample {
            sampler: SamplerId::new("x"),
            seq: 3,
            request: SampleRequest {
                prompt: Bytes::from_static(&[1, 0, 0, 0]),
                num_samples: 2,
                max_tokens: Some(4),
                seed,
                temperature: 1.0,
                top_k: 0,
                top_p: 1.0,
                stop: Stop::Eos,
                prompt_logprobs: false,
            },
        }
    }

    #[test]
    fn a_drawn_seed_is_in_the_body_and_not_in_the_content() {
        let chance = Chance::seeded(1);
        let [a, b] = [(); 2].map(|()| plan(sample(None), &chance).unwrap());
        assert_eq!(a.content, b.content);
        let seed = |p: &Plan| Sample::decode(&p.body).unwrap().params.seed;
        assert_ne!(seed(&a), seed(&b));
        let zero = plan(sample(Some(0)), &chance).unwrap();
        assert_ne!(zero.content, a.content, "asking for seed 0 is not asking for any seed");
        assert_eq!(seed(&zero), 0);
    }

    #[test]
    fn model_ids_have_the_form_that_clients_derive() {
        let create = Submit::CreateModel {
            session: SessionId::new("abc"),
            model_seq_id: 2,
            base_model: "tiny".into(),
            lora: LoraRequest {
                rank: 8,
                seed: Some(0),
                train_attn: true,
                train_mlp: true,
                train_unembed: true,
            },
            user_metadata: None,
        };
        let planned = plan(create, &Chance::seeded(0)).unwrap();
        assert_eq!(planned.place, Place::Model(ModelId::new("abc:train:2"), 0));
    }

    #[test]
    fn the_number_of_an_unnamed_save_is_not_content() {
        let save = |number| Submit::SaveForSampler {
            model: ModelId::new("m"),
            seq: SeqId(4),
            name: None,
            sampling_session_seq_id: Some(number),
        };
        let chance = Chance::seeded(0);
        let [a, b] = [0, 1].map(|n| plan(save(n), &chance).unwrap().content);
        assert_eq!(a, b);
    }

    #[test]
    fn a_bad_name_is_a_failure_of_the_user_that_uses_up_its_number() {
        let save = Submit::SaveWeights {
            model: ModelId::new("m"),
            seq: SeqId(1),
            name: "../../etc".into(),
            overwrite: false,
        };
        let planned = plan(save, &Chance::seeded(0)).unwrap();
        assert_eq!(planned.failed.unwrap().1, Category::User);
    }
}
