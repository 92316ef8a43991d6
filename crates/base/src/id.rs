//! Ids as types of their own: two of them cannot be swapped by accident.

use std::fmt;

/// Declares an id over `u64`.
macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

/// Declares an id over text.
macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// Wraps text that is already known to be such an id.
            pub fn new(text: impl Into<String>) -> Self {
                Self(text.into())
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

number_id! {
    /// A place in a pool that a worker occupies. Stays the same over restarts.
    WorkerId
}
number_id! {
    /// Which life of a worker. A dead incarnation never comes back.
    Incarnation
}
number_id! {
    /// A durable operation of the training service, in the order of acceptance.
    OpId
}
number_id! {
    /// The client's own order of the operations of one model, from 1.
    SeqId
}
text_id! {
    /// A client session of the training service.
    SessionId
}
text_id! {
    /// A training model: `<session>:train:<number>`.
    ModelId
}
text_id! {
    /// A sampling session of the training service.
    SamplerId
}
text_id! {
    /// Marks every process of one run of a host, through the environment.
    RunToken
}

impl RunToken {
    /// A token nobody else has.
    pub fn fresh() -> Self {
        Self(uuid::Uuid::now_v7().simple().to_string())
    }
}

impl SessionId {
    /// A session id nobody else has. Ordered by creation.
    pub fn fresh() -> Self {
        Self(uuid::Uuid::now_v7().to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fresh_tokens_differ() {
        assert_ne!(RunToken::fresh(), RunToken::fresh());
        assert_ne!(SessionId::fresh(), SessionId::fresh());
    }

    #[test]
    fn ids_print_bare() {
        assert_eq!(OpId(7).to_string(), "7");
        assert_eq!(ModelId::new("s:train:0").to_string(), "s:train:0");
    }
}
