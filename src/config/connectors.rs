//! Reads the section of reverse connectors.

use std::{net::SocketAddr, path::PathBuf};

use super::reference::{Base, References};
use crate::{fields::Fields, origin::Authority};

/// Where reverse connectors dial in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connectors {
    /// Addresses to listen at; port 0 lets the system choose. Default empty: no connector can dial
    /// in.
    pub listen: Vec<SocketAddr>,
    /// Where customers find the listener: what enrolment tokens say. Default: [`Self::listen`],
    /// where that is an address that others can dial.
    pub addresses: Vec<Authority>,
    /// A PEM file of the private key that the listener shows. Default: `connector.key` in
    /// `state_dir`, made where it is missing.
    pub key_file: PathBuf,
}

pub(super) fn connectors(
    mut fields: Fields<'_>,
    references: &References<'_>,
    state_dir: &std::path::Path,
) -> Connectors {
    let listen = fields.list("listen", |text| {
        text.parse::<SocketAddr>()
            .map_err(|_| format!("{text:?} is not an address and port, such as 0.0.0.0:7443"))
    });
    let listen = listen.unwrap_or_default();
    let addresses = fields.list("addresses", Authority::parse).unwrap_or_default();
    let key_file = fields.read("key_file", |value| references.pem(Base::Tagged, value));
    fields.finish();
    let addresses = if addresses.is_empty() { dialable(&listen) } else { addresses };
    let key_file = key_file.unwrap_or_else(|| state_dir.join("connector.key"));
    Connectors { listen, addresses, key_file }
}

/// The listeners that somebody else could dial by what is written there.
fn dialable(listen: &[SocketAddr]) -> Vec<Authority> {
    let dialable = |address: &&SocketAddr| !address.ip().is_unspecified() && address.port() != 0;
    let dialable = listen.iter().filter(dialable);
    dialable.filter_map(|address| Authority::parse(&address.to_string()).ok()).collect()
}
