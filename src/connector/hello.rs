//! The one line that each end says after TLS and before HTTP/2: who asks for what, and versions.
//!
//! A line is a JSON object of at most [`LINE_BYTES_MAX`] bytes. Fields that an end does not know
//! are ignored, so that a later version can add some.

use std::io;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use zeroize::Zeroizing;

use super::token::TokenSecret;

/// The versions of the protocol that this program speaks.
pub(super) const VERSIONS: &[u32] = &[1];

/// Longest line, its end included.
const LINE_BYTES_MAX: usize = 1024;

/// Longest text of a peer that is repeated in a log or an error, in characters.
const SHOWN_CHARS_MAX: usize = 32;

/// What the connector says first.
#[derive(Serialize, Deserialize)]
pub(super) struct Hello {
    /// What it wants.
    pub(super) ask: Ask,
    /// The versions that it speaks.
    pub(super) versions: Vec<u32>,
    /// Its program's version, for people.
    #[serde(default)]
    pub(super) program: String,
    /// Random, the same for as long as the process runs: a connection of the same process replaces
    /// the one before it.
    #[serde(default)]
    pub(super) instance: String,
    /// The secret of an enrolment token, to enrol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) token: Option<TokenSecret>,
}

/// What a connector wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Ask {
    /// To carry streams.
    Carry,
    /// To have its key enrolled.
    Enrol,
}

/// What the gateway says to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub(super) enum Answer {
    /// HTTP/2 follows, in this version.
    Welcome {
        /// The version.
        version: u32,
        /// The name that the key is enrolled under.
        name: String,
    },
    /// The key is enrolled now.
    Enrolled {
        /// The name that it is enrolled under.
        name: String,
    },
    /// Nothing follows.
    Refused {
        /// Why.
        why: Why,
        /// The versions that the gateway speaks.
        versions: Vec<u32>,
    },
}

/// Why a gateway refuses a connector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// No version in common.
    #[error("it speaks no version of the protocol that this connector speaks")]
    Version,
    /// The key is not enrolled.
    #[error("it does not know this connector's key; enrol it with a new token")]
    UnknownKey,
    /// The key was revoked.
    #[error("it has revoked this connector's key; enrol it with a new token")]
    Revoked,
    /// There is no such token.
    #[error("it does not know the token")]
    TokenUnknown,
    /// The token was used.
    #[error("the token has been used already; ask for a new one")]
    TokenUsed,
    /// The token has expired.
    #[error("the token has expired; ask for a new one")]
    TokenExpired,
    /// Too many connections of this name.
    #[error("it has no room for another connection of this name")]
    Busy,
    /// It stops.
    #[error("it is going away")]
    Leaving,
    /// It cannot tell now, as its store does not answer.
    #[error("it cannot look up keys now")]
    Unavailable,
    /// A reason that this version does not know.
    #[serde(other)]
    #[error("it refuses this connector for a reason that this version does not know")]
    Other,
}

impl Hello {
    /// What this program says.
    pub(super) fn new(ask: Ask, instance: &str, token: Option<TokenSecret>) -> Self {
        Self {
            ask,
            versions: VERSIONS.to_vec(),
            program: env!("CARGO_PKG_VERSION").to_owned(),
            instance: instance.to_owned(),
            token,
        }
    }
}

/// The newest version that both ends speak.
pub(super) fn common(theirs: &[u32]) -> Option<u32> {
    VERSIONS.iter().copied().filter(|version| theirs.contains(version)).max()
}

/// Versions as people read them.
pub(super) fn shown_versions(versions: &[u32]) -> String {
    let shown: Vec<_> = versions.iter().take(8).map(ToString::to_string).collect();
    if shown.is_empty() { "none".into() } else { shown.join(", ") }
}

/// What of a peer's text may be repeated.
pub(super) fn shown(text: &str) -> String {
    text.chars().filter(char::is_ascii_graphic).take(SHOWN_CHARS_MAX).collect()
}

/// Reads one line, and not a byte beyond it: HTTP/2 follows.
///
/// # Errors
/// What the stream says; `InvalidData` for what is no such line.
pub(super) async fn read<T: DeserializeOwned>(
    from: &mut (impl AsyncRead + Unpin),
) -> io::Result<T> {
    let mut line = Zeroizing::new(Vec::with_capacity(LINE_BYTES_MAX));
    loop {
        match from.read_u8().await? {
            b'\n' => break,
            _ if line.len() >= LINE_BYTES_MAX => return Err(io::ErrorKind::InvalidData.into()),
            byte => line.push(byte),
        }
    }
    // The parser's own words could repeat what it read.
    serde_json::from_slice(&line).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// Writes one line.
///
/// # Errors
/// What the stream says.
pub(super) async fn write(
    to: &mut (impl AsyncWrite + Unpin),
    message: &impl Serialize,
) -> io::Result<()> {
    let mut line = Zeroizing::new(serde_json::to_vec(message)?);
    line.push(b'\n');
    to.write_all(&line).await?;
    to.flush().await
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[tokio::test]
    async fn a_line_is_read_whole_and_what_follows_stays() {
        let token: TokenSecret = serde_json::from_str("\"secret\"").unwrap();
        let hash = token.hash();
        let mut bytes = Vec::new();
        write(&mut bytes, &Hello::new(Ask::Enrol, "one", Some(token))).await.unwrap();
        bytes.extend_from_slice(b"PRI *");
        let mut rest = bytes.as_slice();
        let hello: Hello = read(&mut rest).await.unwrap();
        assert_eq!((hello.ask, hello.versions.as_slice()), (Ask::Enrol, VERSIONS));
        assert_eq!(hello.token.unwrap().hash(), hash);
        assert_eq!(rest, b"PRI *");
    }

    #[tokio::test]
    async fn a_later_version_may_say_more_and_refuse_for_new_reasons() {
        let line = br#"{"answer":"refused","why":"full_moon","versions":[7],"new":1}"#;
        let mut line = [line.as_slice(), b"\n"].concat();
        let answer: Answer = read(&mut line.as_slice()).await.unwrap();
        assert_eq!(answer, Answer::Refused { why: Why::Other, versions: vec![7] });
        line.clear();
        assert_eq!((common(&[7, 1]), common(&[0, 7]), common(&[])), (Some(1), None, None));
    }

    #[tokio::test]
    async fn an_endless_line_is_refused_at_its_limit() {
        let mut endless = tokio::io::repeat(b'{');
        let refused = read::<Hello>(&mut endless).await.err().unwrap();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let _refused = runtime.block_on(read::<Hello>(&mut bytes.as_slice()));
        }

        #[test]
        fn what_is_shown_is_short_and_plain(text: String) {
            let shown = shown(&text);
            prop_assert!(shown.len() <= SHOWN_CHARS_MAX);
            prop_assert!(shown.bytes().all(|byte| byte.is_ascii_graphic()));
        }
    }
}
