//! What `/readyz` asks: can this process do its work right now.

use std::{sync::Arc, time::Duration};

use tokio::{sync::Mutex, time::Instant};

use crate::{
    admin::{BoxFuture, Check, Probe},
    gateway::Gateway,
    store::Store,
};

/// How long the store's answer stands: anybody may ask `/readyz`, and the probe takes the
/// database's write lock.
const STORE_INTERVAL: Duration = Duration::from_secs(1);

/// How long the resolver may take to show that it answers.
const RESOLVER_TIMEOUT: Duration = Duration::from_millis(1500);

/// Looks at what the gateway cannot work without.
#[derive(Debug)]
pub(super) struct Readiness {
    gateway: Arc<Gateway>,
    store: Store,
    store_said: Mutex<Option<(Instant, Check)>>,
}

impl Readiness {
    pub(super) fn new(gateway: Arc<Gateway>, store: Store) -> Self {
        Self { gateway, store, store_said: Mutex::new(None) }
    }

    fn egress_address(&self) -> Check {
        const NAME: &str = "egress_address";
        let view = self.gateway.view.load();
        match view.egress.addresses.missing() {
            Ok(missing) if missing.is_empty() => match view.egress_ips.as_slice() {
                [] => Check::ok(NAME, "none is configured; the system chooses"),
                ips => Check::ok(NAME, format!("{ips:?} on this machine")),
            },
            Ok(missing) => Check::failed(NAME, format!("{missing:?} not on this machine")),
            Err(error) => Check::failed(NAME, error.to_string()),
        }
    }

    async fn resolver(&self) -> Check {
        let view = self.gateway.view.load_full();
        if view.egress.resolver.answering(RESOLVER_TIMEOUT).await {
            Check::ok("resolver", "answering")
        } else {
            Check::failed("resolver", "no DNS server answers; see dns.servers")
        }
    }

    async fn store(&self) -> Check {
        let mut said = self.store_said.lock().await;
        if let Some((at, check)) = &*said
            && at.elapsed() < STORE_INTERVAL
        {
            return check.clone();
        }
        let check = match self.store.probe().await {
            Ok(()) => Check::ok("store", "reachable"),
            Err(error) => Check::failed("store", error.to_string()),
        };
        *said = Some((Instant::now(), check.clone()));
        check
    }

    fn draining(&self) -> Check {
        if self.gateway.is_draining() {
            Check::failed("draining", "this process is shutting down")
        } else {
            Check::ok("draining", "no")
        }
    }
}

impl Probe for Readiness {
    fn checks(&self) -> BoxFuture<'_, Vec<Check>> {
        Box::pin(async {
            let (resolver, store) = tokio::join!(self.resolver(), self.store());
            vec![self.egress_address(), resolver, store, self.draining()]
        })
    }
}
