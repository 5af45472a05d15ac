//! Enrolment tokens: what an operator hands to a customer, once, for one connector.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use rustls::crypto::aws_lc_rs;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::keys::Pin;
use crate::origin::Authority;

/// How a token begins, so that people and secret scanners know what it is.
const PREFIX: &str = "egress-connector-token-";

/// Longest token, in bytes.
pub const TOKEN_BYTES_MAX: usize = 4 << 10;

/// What a token says.
pub struct Token {
    /// Where the gateway's connector listener is.
    pub gateways: Vec<Authority>,
    /// The key that the gateway has to show.
    pub pin: Pin,
    /// The name that the connector is enrolled under.
    pub name: String,
    secret: TokenSecret,
}

/// 256 random bits, base64: overwritten when dropped.
#[derive(Clone)]
pub(super) struct TokenSecret(Zeroizing<String>);

impl Serialize for TokenSecret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for TokenSecret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(Zeroizing::new(text)))
    }
}

impl TokenSecret {
    /// What the gateway keeps in place of it: SHA-256, base64. It has 256 random bits, so nothing
    /// slower is needed.
    pub(super) fn hash(&self) -> String {
        URL_SAFE_NO_PAD.encode(Sha256::digest(self.0.as_bytes()))
    }
}

/// What is not a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is not an enrolment token; it begins with {PREFIX}")]
pub struct TokenFault;

/// There are no random bits to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the system has no random bits")]
pub struct NoRandom;

/// As it stands inside, base64.
#[derive(Serialize, Deserialize)]
struct Written {
    gateways: Vec<String>,
    pin: String,
    name: String,
    secret: TokenSecret,
}

impl Token {
    /// A new one.
    ///
    /// # Errors
    /// The system has no random bits.
    pub fn new(gateways: Vec<Authority>, pin: Pin, name: String) -> Result<Self, NoRandom> {
        let mut random = Zeroizing::new([0; 32]);
        aws_lc_rs::default_provider().secure_random.fill(&mut random[..]).map_err(|_| NoRandom)?;
        let secret = TokenSecret(Zeroizing::new(URL_SAFE_NO_PAD.encode(random.as_slice())));
        Ok(Self { gateways, pin, name, secret })
    }

    /// Reads what an operator handed over.
    ///
    /// # Errors
    /// Anything that is no token. The message repeats none of it.
    pub fn parse(text: &str) -> Result<Self, TokenFault> {
        let encoded = text.trim().strip_prefix(PREFIX).ok_or(TokenFault)?;
        let json = Zeroizing::new(URL_SAFE_NO_PAD.decode(encoded).map_err(|_| TokenFault)?);
        let written: Written = serde_json::from_slice(&json).map_err(|_| TokenFault)?;
        let gateways: Result<Vec<_>, _> =
            written.gateways.iter().map(|gateway| Authority::parse(gateway)).collect();
        let gateways = gateways.map_err(|_| TokenFault)?;
        let pin = Pin::parse(&written.pin).map_err(|_| TokenFault)?;
        if gateways.is_empty() {
            return Err(TokenFault);
        }
        Ok(Self { gateways, pin, name: written.name, secret: written.secret })
    }

    /// The one line to hand over.
    pub fn to_line(&self) -> Zeroizing<String> {
        let written = Written {
            gateways: self.gateways.iter().map(ToString::to_string).collect(),
            pin: self.pin.to_string(),
            name: self.name.clone(),
            secret: self.secret.clone(),
        };
        // Strings always serialise.
        let json = Zeroizing::new(serde_json::to_vec(&written).unwrap_or_default());
        Zeroizing::new(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(&*json)))
    }

    /// What is shown to the gateway.
    pub(super) fn secret(&self) -> TokenSecret {
        self.secret.clone()
    }

    /// What the gateway keeps in place of it.
    pub fn hash(&self) -> String {
        self.secret.hash()
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token").field("name", &self.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> Token {
        let gateways = ["gateway.example:7443", "[2001:db8::1]:7443"];
        let gateways = gateways.map(|gateway| Authority::parse(gateway).unwrap()).to_vec();
        let pin = Pin::parse("sha256//AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=").unwrap();
        Token::new(gateways, pin, "acme".into()).unwrap()
    }

    #[test]
    fn a_token_is_read_as_it_was_written_and_never_shown() {
        let token = token();
        let line = token.to_line();
        let read = Token::parse(&format!(" {}\n", *line)).unwrap();
        assert_eq!(read.gateways, token.gateways);
        assert_eq!((read.pin, &read.name, read.hash()), (token.pin, &token.name, token.hash()));
        assert!(!format!("{token:?}").contains(token.secret.0.as_str()));
        assert!(line.len() < TOKEN_BYTES_MAX);
        assert_eq!(token.hash().len(), 43);
        assert_ne!(self::token().hash(), token.hash());
    }

    #[test]
    fn what_is_no_token_is_refused() {
        for wrong in ["", "x", PREFIX, "egress-connector-token-e30", "egress-connector-token-%"] {
            assert_eq!(Token::parse(wrong).unwrap_err(), TokenFault, "{wrong}");
        }
        let line = token().to_line();
        assert_eq!(Token::parse(&line[..line.len() - 9]).unwrap_err(), TokenFault);
    }
}
