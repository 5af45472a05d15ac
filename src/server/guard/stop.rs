//! Why a connection's requests end, and why a request's body is cut off.

use std::{error::Error, io, time::Duration};

use http::StatusCode;

use crate::{
    reason::{Cause, Refusal},
    server::{
        chunked::ChunkFault,
        head::{Head, HeadFault},
    },
};

/// Why no further request of a connection is served here.
#[derive(Debug)]
pub enum Stop {
    /// Every answer that was owed is with the socket, and one of the two sides wants no more: the
    /// client has closed or was idle for too long, the answer said `Connection: close`, or the
    /// request's body was not read to its end. To be closed with patience for bytes still on the way.
    Closed,
    /// What came where a request's head was expected is refused. All answers before it are with the
    /// socket: say this one, and close.
    Fault(Refusal),
    /// A CONNECT request. What the client sent behind it comes with it.
    Connect(Box<Head>),
    /// The service has switched protocols, and the client has its 101.
    Upgraded,
    /// An answer, or the connection, is cut off: to be closed in a way that cannot be taken for an
    /// end.
    Broken,
}

/// Why the body of a request ended before its end. The service gets it as the body's error; see
/// [`BodyFault::of`]. The messages hold nothing that the client sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyFault {
    /// The client closed, or its sending side.
    #[error("the client closed the connection before the end of the request's body")]
    Truncated,
    /// Not a byte for `limits.idle_timeout`.
    #[error("no byte of the request's body came within limits.idle_timeout")]
    Stalled,
    /// Chunked in a way that could be read in two.
    #[error(transparent)]
    Chunk(#[from] ChunkFault),
}

impl BodyFault {
    /// The fault that ended a body, where it is one of these: hyper passes it on inside its own.
    pub fn of(error: &hyper::Error) -> Option<Self> {
        let mut source = error.source();
        while let Some(error) = source {
            if let Some(error) = error.downcast_ref::<io::Error>() {
                return error.get_ref()?.downcast_ref().copied();
            }
            source = error.source();
        }
        None
    }

    /// The stable word for it in events.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Truncated => "body_truncated",
            Self::Stalled => "body_stalled",
            Self::Chunk(fault) => fault.word(),
        }
    }
}

impl From<BodyFault> for io::Error {
    fn from(fault: BodyFault) -> Self {
        let kind = match fault {
            BodyFault::Truncated => io::ErrorKind::UnexpectedEof,
            BodyFault::Stalled => io::ErrorKind::TimedOut,
            BodyFault::Chunk(_) => io::ErrorKind::InvalidData,
        };
        Self::new(kind, fault)
    }
}

/// The answer to a head that is refused.
pub(super) fn malformed(fault: HeadFault) -> Refusal {
    let cause = if fault.status() == StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE {
        Cause::HeadTooLarge
    } else {
        Cause::HeadMalformed
    };
    Refusal::new(cause, fault.detail())
}

/// The answer to a head that began, and did not end in time.
pub(super) fn late(timeout: Duration) -> Refusal {
    let detail = format!("the request head did not arrive within {timeout:?}");
    Refusal::new(Cause::HeadTimeout, detail)
}
