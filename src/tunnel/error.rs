//! Why a tunnel gave no stream.

use crate::reason::Cause;

/// Why a tunnel gave no stream. The text is for the refusal's detail: it never holds a credential.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TunnelError {
    /// The tunnel's own far end cannot be reached, or its TLS cannot be trusted.
    #[error("the tunnel cannot be reached: {0}")]
    Unreachable(String),
    /// The tunnel's far end does not accept what it is shown.
    #[error("the tunnel refuses the gateway's credentials: {0}")]
    Auth(String),
    /// The tunnel's far end stands, and refuses this address.
    #[error("the tunnel refuses the address: {0}")]
    Denied(String),
    /// The tunnel's far end stands, and tried, but could not reach the address.
    #[error("nothing answers behind the tunnel: {0}")]
    BeyondUnreachable(String),
    /// What the tunnel's far end says is not of its protocol.
    #[error("the tunnel does not speak its protocol: {0}")]
    Protocol(String),
    /// The tunnel's far end does not answer in time.
    #[error("the tunnel did not answer in time")]
    Timeout,
}

impl From<&TunnelError> for Cause {
    fn from(error: &TunnelError) -> Self {
        match error {
            TunnelError::Unreachable(_) => Self::TunnelUnreachable,
            TunnelError::Auth(_) => Self::TunnelAuth,
            TunnelError::Denied(_) => Self::TunnelDenied,
            TunnelError::BeyondUnreachable(_) => Self::TunnelTargetUnreachable,
            TunnelError::Protocol(_) => Self::TunnelProtocol,
            TunnelError::Timeout => Self::TunnelTimeout,
        }
    }
}
