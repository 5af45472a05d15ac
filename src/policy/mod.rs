//! The judgement: may this request leave, and to which addresses.

pub mod address;

use std::net::SocketAddr;

/// Proof that rule 6 passed: an address that the policy judged and found reachable for one target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct VettedAddr(SocketAddr);

impl VettedAddr {
    /// The address itself, to dial, to show and to compare.
    pub fn addr(self) -> SocketAddr {
        self.0
    }
}
