//! What the customer's end answers to one stream: a status, and a word that says why.

use http::{HeaderName, HeaderValue, Response, StatusCode};

use crate::tunnel::error::TunnelError;

/// The field of an answer that holds the word.
const REASON: HeaderName = HeaderName::from_static("x-connector-reason");

/// Why the customer's end opens no stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// Its own allowlist does not hold the address and port.
    NotAllowed,
    /// What is asked for is no address and port.
    NotAnAddress,
    /// It has no room for another stream.
    Busy,
    /// Nothing listens there.
    NothingListens,
    /// No way leads there.
    NoRoute,
    /// Nothing answers there in time.
    NoAnswer,
    /// The connection fails otherwise.
    Failed,
}

impl Refused {
    const ALL: [Self; 7] = [
        Self::NotAllowed,
        Self::NotAnAddress,
        Self::Busy,
        Self::NothingListens,
        Self::NoRoute,
        Self::NoAnswer,
        Self::Failed,
    ];

    const fn status(self) -> StatusCode {
        match self {
            Self::NotAllowed => StatusCode::FORBIDDEN,
            Self::NotAnAddress => StatusCode::BAD_REQUEST,
            Self::Busy => StatusCode::SERVICE_UNAVAILABLE,
            Self::NothingListens | Self::NoRoute | Self::Failed => StatusCode::BAD_GATEWAY,
            Self::NoAnswer => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// The word, on the wire and in the log.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::NotAllowed => "not_allowed",
            Self::NotAnAddress => "not_an_address",
            Self::Busy => "busy",
            Self::NothingListens => "refused",
            Self::NoRoute => "unreachable",
            Self::NoAnswer => "timeout",
            Self::Failed => "failed",
        }
    }

    /// The answer's head.
    pub(super) fn response(self) -> Response<()> {
        let mut response = Response::new(());
        *response.status_mut() = self.status();
        response.headers_mut().insert(REASON, HeaderValue::from_static(self.as_str()));
        response
    }

    /// Reads an answer that is not a success. What the far end wrote is not repeated: of a word
    /// that is not known, the status has to do.
    pub(super) fn read<T>(response: &Response<T>) -> Option<Self> {
        let status = response.status();
        let word = response.headers().get(REASON).map(HeaderValue::as_bytes);
        let of_status = || Self::ALL.into_iter().filter(move |one| one.status() == status);
        of_status()
            .find(|one| word == Some(one.as_str().as_bytes()))
            .or_else(|| of_status().next_back())
    }
}

impl From<Refused> for TunnelError {
    fn from(refused: Refused) -> Self {
        let beyond = |text: &str| Self::BeyondUnreachable(text.to_owned());
        match refused {
            Refused::NotAllowed => {
                Self::Denied("the connector's own allowlist does not hold it".into())
            }
            Refused::NotAnAddress => {
                Self::Protocol("the connector does not read the address".into())
            }
            Refused::Busy => Self::Unreachable("the connector has no room for a stream".into()),
            Refused::NothingListens => beyond("connection refused"),
            Refused::NoRoute => beyond("no way leads to the address"),
            Refused::NoAnswer => beyond("no answer to the connection attempt in time"),
            Refused::Failed => beyond("connection failed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_read_as_it_was_written() {
        for refused in Refused::ALL {
            assert_eq!(Refused::read(&refused.response()), Some(refused));
        }
    }

    #[test]
    fn an_unknown_word_is_judged_by_its_status() {
        let mut response = Refused::NotAllowed.response();
        response.headers_mut().insert(REASON, HeaderValue::from_static("<script>"));
        assert_eq!(Refused::read(&response), Some(Refused::NotAllowed));
        *response.status_mut() = StatusCode::BAD_GATEWAY;
        assert_eq!(Refused::read(&response), Some(Refused::Failed));
        *response.status_mut() = StatusCode::IM_A_TEAPOT;
        assert_eq!(Refused::read(&response), None);
    }

    #[test]
    fn each_becomes_what_a_tunnel_says() {
        for (refused, denied, beyond) in [
            (Refused::NotAllowed, true, false),
            (Refused::NothingListens, false, true),
            (Refused::NoRoute, false, true),
            (Refused::NoAnswer, false, true),
            (Refused::Failed, false, true),
        ] {
            let error = TunnelError::from(refused);
            assert_eq!(matches!(error, TunnelError::Denied(_)), denied, "{refused:?}");
            assert_eq!(matches!(error, TunnelError::BeyondUnreachable(_)), beyond, "{refused:?}");
        }
    }
}
