//! The listener that reverse connectors dial in to.

use std::{net::SocketAddr, sync::Arc};

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{StartError, listeners::ListenError};
use crate::{
    config::Config,
    connector::{
        gateway::{Connectors, serve},
        keys::Key,
    },
    server::listen::Listener,
    store::Store,
};

/// The listener, while it is there.
#[derive(Debug, Default)]
pub(super) struct DialIn {
    /// Those that have dialled in; `None` where `connectors.listen` is empty.
    pub(super) connectors: Option<Arc<Connectors>>,
    /// What is really bound.
    pub(super) addresses: Vec<SocketAddr>,
    leave: CancellationToken,
}

impl DialIn {
    /// Binds and serves. The task ends with [`Self::close`].
    pub(super) fn open(
        config: &Config,
        store: &Store,
        tasks: &TaskTracker,
    ) -> Result<Self, StartError> {
        let settings = &config.connectors;
        if settings.listen.is_empty() {
            return Ok(Self::default());
        }
        let key = Key::load_or_create(&settings.key_file)?;
        let connectors = Connectors::new(store.clone(), &key)?;
        let (mut listeners, mut addresses) = (Vec::new(), Vec::new());
        for address in &settings.listen {
            let failed =
                |source| ListenError::Bind { kind: "connectors", address: *address, source };
            let listener = Listener::bind(*address).map_err(failed)?.into_tokio();
            let address = listener.local_addr().map_err(failed)?;
            tracing::info!(listener = "connectors", %address, "listening");
            addresses.push(address);
            listeners.push(listener);
        }
        let leave = CancellationToken::new();
        tasks.spawn(serve(Arc::clone(&connectors), listeners, leave.clone()));
        Ok(Self { connectors: Some(connectors), addresses, leave })
    }

    /// Nobody is let in any more; those who are there are asked to dial the successor, while their
    /// streams go on.
    pub(super) fn begin_draining(&self) {
        self.leave.cancel();
    }

    /// Ends every connection.
    pub(super) fn close(&self) {
        self.leave.cancel();
        if let Some(connectors) = &self.connectors {
            connectors.close();
        }
    }
}
