//! The judgement: may this request leave, and to which addresses.
//!
//! Two proofs come out of here and from nowhere else: a [`Permit`], that rules 1 to 3 of the
//! contract passed, and [`VettedAddr`]s, that rule 6 passed for every address of an answer. The
//! dialler takes nothing else.

pub mod address;
mod redirect;
mod rule;
mod vet;

use std::sync::Arc;

pub use redirect::redirect;
pub use rule::{RULES, Rule, Step, Verdict};
pub use vet::{Answered, Judgement, Own, Scene, Vetted, VettedAddr, judge, vet};

use crate::{client::Client, destination::Destination, reason::Refusal, target::Target};

/// How bytes will be carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// An opaque tunnel.
    Connect,
    /// A request whose path and answer the gateway sees.
    Relay,
    /// A relayed request that is signed on the way.
    Webhook,
    /// A connectivity check: nobody's request, and no credential goes with it, so that rules about
    /// credentials do not apply.
    Check,
}

impl Mode {
    /// The word of events and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Relay => "relay",
            Self::Webhook => "webhook",
            Self::Check => "check",
        }
    }
}

/// Proof that rules 1 to 3 passed for this client, destination and target.
#[derive(Clone, Debug)]
pub struct Permit {
    target: Arc<Target>,
    destination: Destination,
}

impl Permit {
    /// The target that owns the destination.
    pub fn target(&self) -> &Arc<Target> {
        &self.target
    }

    /// What was asked for.
    pub fn destination(&self) -> &Destination {
        &self.destination
    }
}

/// What the rules look at.
#[derive(Clone, Copy, Debug)]
pub struct Case<'a> {
    /// Who asks.
    pub client: &'a Client,
    /// What is asked.
    pub destination: &'a Destination,
    /// Whose it is.
    pub target: &'a Target,
    /// How the bytes would be carried.
    pub mode: Mode,
}

/// Asks every rule in order; the first refusal wins.
///
/// # Errors
/// The refusal of the first rule that does not pass.
pub fn permit(
    client: &Client,
    destination: Destination,
    target: &Arc<Target>,
    mode: Mode,
) -> Result<Permit, Refusal> {
    let case = Case { client, destination: &destination, target, mode };
    for rule in RULES {
        (rule.judge)(&case)?;
    }
    Ok(Permit { target: Arc::clone(target), destination })
}

/// Asks every rule and tells what each says, for `explain`.
pub fn explain(case: &Case<'_>) -> Vec<Step> {
    let mut refused = false;
    let judge = |rule: &Rule| {
        let verdict = if refused {
            Ok(Verdict::NotAsked)
        } else {
            (rule.judge)(case).map(|()| Verdict::Passed)
        };
        refused |= verdict.is_err();
        Step::new(rule.name, verdict)
    };
    RULES.iter().map(judge).collect()
}

#[cfg(test)]
mod tests;
