//! Enrolment: a token is shown once, and from then on the key alone counts.

use super::{
    super::{
        hello::{Answer, Ask, Hello},
        keys::Key,
        token::Token,
    },
    LinkError, dial,
};

/// Enrols a key with the first gateway of the token that answers; the name that it is enrolled
/// under.
///
/// # Errors
/// Why it is not enrolled.
pub async fn enrol(token: &Token, key: &Key) -> Result<String, LinkError> {
    let tls = key.client(vec![token.pin])?;
    let hello = Hello::new(Ask::Enrol, "", Some(token.secret()));
    let mut last = LinkError::Timeout;
    for gateway in &token.gateways {
        match dial::greet(gateway, &tls, &hello).await {
            Ok((_, Answer::Enrolled { name })) => return Ok(name),
            Ok((_, Answer::Refused { why, versions })) => {
                return Err(LinkError::Refused(why, versions));
            }
            Ok((_, Answer::Welcome { .. })) => {
                return Err(LinkError::Protocol("it answers another question".into()));
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}
