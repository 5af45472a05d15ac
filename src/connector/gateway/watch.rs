//! Keeps what is connected in agreement with the store: a key that was revoked is cut.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::{Connectors, link::Link};
use crate::store::StoreError;

/// How often the store is asked. A revocation has to cut within a second.
const LOOK_INTERVAL: Duration = Duration::from_millis(400);

/// How long the store may take to answer.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);

/// How often it is noted that connectors are connected.
const NOTE_INTERVAL: Duration = Duration::from_mins(1);

/// Never ends by itself.
pub(super) async fn watch(connectors: &Connectors) {
    let mut ticks = interval(LOOK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut noted = Instant::now();
    let mut healthy = true;
    loop {
        ticks.tick().await;
        let links = connectors.all_links();
        if links.is_empty() {
            continue;
        }
        let looked = timeout(LOOK_TIMEOUT, cut_revoked(connectors, &links)).await;
        let now_healthy = matches!(looked, Ok(Ok(())));
        if healthy && !now_healthy {
            tracing::error!("the store does not answer: revoked connectors stay connected");
        }
        healthy = now_healthy;
        if healthy && noted.elapsed() >= NOTE_INTERVAL {
            noted = Instant::now();
            connectors.saw(links.iter().map(|link| link.spki.clone()).collect()).await;
        }
    }
}

async fn cut_revoked(connectors: &Connectors, links: &[Arc<Link>]) -> Result<(), StoreError> {
    let known = connectors.store.connectors().await?;
    for link in links {
        let holds = known
            .iter()
            .any(|one| one.spki == link.spki && one.name == link.name && one.revoked_at.is_none());
        if !holds {
            tracing::warn!(connector = link.name, key = link.spki, "a revoked connector is cut");
            connectors.unregister(link);
            link.cut.cancel();
        }
    }
    Ok(())
}

impl Connectors {
    /// Every connection, also those that take no new streams.
    fn all_links(&self) -> Vec<Arc<Link>> {
        self.names().values().flat_map(|name| name.links.iter().map(Arc::clone)).collect()
    }

    /// Notes that these keys are, or were until now, connected.
    pub(super) async fn saw(&self, spkis: Vec<String>) {
        let now = jiff::Timestamp::now().as_second();
        let saved = timeout(LOOK_TIMEOUT, self.store.saw_connectors(&spkis, now)).await;
        if !matches!(saved, Ok(Ok(()))) {
            tracing::warn!("when connectors were last seen could not be saved");
        }
    }
}
