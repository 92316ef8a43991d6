//! Who may come in.

use http::{HeaderMap, header};
use snakehouse_base::{Kind, Secret};
use subtle::ConstantTimeEq;
use tonic::Status;

use crate::error::GrpcError;
use crate::refusal::{Refusal, refuse};

/// Fewest characters of a token.
const SHORTEST: usize = 16;

const SCHEME: &str = "Bearer ";

/// The token that a server asks for, if it does.
#[derive(Clone, Debug)]
pub(crate) struct Access {
    token: Option<Secret>,
}

impl Access {
    /// # Errors
    /// [`GrpcError::BadToken`] for one that is too short to be one, or that no header can hold.
    pub(crate) fn new(token: Option<Secret>) -> Result<Self, GrpcError> {
        if let Some(token) = &token {
            check(token)?;
        }
        Ok(Self { token })
    }

    /// Lets a request pass, or says why not. How long that takes does not depend on how much of a
    /// wrong token is right.
    ///
    /// # Errors
    /// A status of code `UNAUTHENTICATED`.
    pub(crate) fn admit(&self, headers: &HeaderMap) -> Result<(), Status> {
        let Some(token) = &self.token else { return Ok(()) };
        let presented = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let presented = presented.and_then(|value| value.strip_prefix(SCHEME));
        let (code, message) = match presented {
            Some(presented) if presented.as_bytes().ct_eq(token.expose().as_bytes()).into() => {
                return Ok(());
            }
            Some(_) => ("wrong_token", "the token is not this server's"),
            None => ("no_token", "this server asks for a token"),
        };
        let hint = Some("send `authorization: Bearer TOKEN` with the server's token".to_owned());
        let refusal = Refusal { kind: Kind::Unauthenticated, code, message: message.into(), hint };
        Err(refuse(refusal))
    }
}

/// Whether a token can be one.
///
/// # Errors
/// [`GrpcError::BadToken`].
pub(crate) fn check(token: &Secret) -> Result<(), GrpcError> {
    let text = token.expose();
    let why = if text.len() < SHORTEST {
        "it has less than 16 characters"
    } else if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        "it has characters other than letters, digits and signs"
    } else {
        return Ok(());
    };
    Err(GrpcError::BadToken { why })
}

/// The header that presents a token. It is marked as not to be shown.
pub(crate) fn present(token: &Secret) -> Result<header::HeaderValue, GrpcError> {
    check(token)?;
    let mut value = header::HeaderValue::try_from(format!("{SCHEME}{}", token.expose()))
        .map_err(|_| GrpcError::BadToken { why: "no header can hold it" })?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use snakehouse_base::Coded;

    use super::*;
    use crate::error_of;

    const TOKEN: &str = "a-token-of-24-characters";

    fn admit(header: Option<&str>) -> Result<(), String> {
        let access = Access::new(Some(Secret::new(TOKEN))).unwrap();
        let mut headers = HeaderMap::new();
        if let Some(header) = header {
            headers.insert(header::AUTHORIZATION, header.parse().unwrap());
        }
        access.admit(&headers).map_err(|status| {
            assert_eq!(status.code(), tonic::Code::Unauthenticated);
            error_of(&status).unwrap().code
        })
    }

    #[test]
    fn only_the_token_opens() {
        assert_eq!(admit(Some(&format!("Bearer {TOKEN}"))), Ok(()));
        assert_eq!(admit(None), Err("no_token".into()));
        assert_eq!(admit(Some(TOKEN)), Err("no_token".into()));
        for wrong in
            ["Bearer ", "Bearer a-token-of-24-character", "Bearer a-token-of-24-characterS"]
        {
            assert_eq!(admit(Some(wrong)), Err("wrong_token".into()), "{wrong}");
        }
    }

    #[test]
    fn what_cannot_be_a_token_is_refused_and_none_is_ever_shown() {
        for bad in ["", "short", "with spaces in it, all right", "wïth-ùmlauts-everywhere"] {
            let error = Access::new(Some(Secret::new(bad))).unwrap_err();
            assert_eq!(error.code(), "bad_token");
            assert!(bad.is_empty() || !error.to_string().contains(bad));
        }
        let access = Access::new(Some(Secret::new(TOKEN))).unwrap();
        let header = present(&Secret::new(TOKEN)).unwrap();
        assert!(!format!("{access:?} {header:?}").contains("24"));
    }
}
