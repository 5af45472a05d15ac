//! The customer's end of a reverse connector: this very program, enrolled and run as by a customer.

use std::{fs, net::SocketAddr};

use anyhow::Context as _;

use super::{
    folder::Folder,
    gateway::{CONFIGURATION, Gateway},
    process::{Process, output},
};

/// The connector's name, at both ends.
pub(super) const NAME: &str = "acme";

/// Where customers dial, which shows only once the gateway listens.
const ADDRESSES: &str = "addresses.toml";

/// A connector that is connected; killed, and its folder removed, when dropped.
pub(super) struct Connector {
    _process: Process,
}

impl Connector {
    /// Enrols one with a token that the gateway's operator makes, and connects it. It opens this
    /// address and port, and nothing else.
    ///
    /// # Errors
    /// What failed, with what the program said.
    pub(super) async fn start(gateway: &mut Gateway, allow: SocketAddr) -> anyhow::Result<Self> {
        let addresses = format!("[connectors]\naddresses = [\"{}\"]\n", gateway.connectors);
        fs::write(gateway.folder().join(ADDRESSES), addresses)?;
        let token = ["connector", "token", NAME, "--config", CONFIGURATION, "--config", ADDRESSES];
        let token = output(gateway.folder(), &token).await?;

        let folder = Folder::new().context("no temporary folder can be made")?;
        fs::write(folder.path().join("acme.token"), token)?;
        let (out, allow) = ("connector.toml", allow.to_string());
        let enrol =
            ["connector", "enrol", "--token-file", "acme.token", "--out", out, "--allow", &*allow];
        output(folder.path(), &enrol).await?;
        let process = Process::start(folder, &["connector", "--config", out])?;
        gateway.says("a connector is connected").await?;
        Ok(Self { _process: process })
    }
}
