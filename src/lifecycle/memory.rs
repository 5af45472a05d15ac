//! What the process remembers: the store, and the tasks that write to it.

use std::{path::Path, sync::Arc};

use arc_swap::ArcSwap;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    check::{Board, scheduler},
    deliveries::Deliveries,
    inventory::Inventory,
    seal::Keys,
    sightings::Sightings,
    store::{Store, StoreError},
    telemetry::metrics::Metrics,
    view::View,
};

/// Below `state_dir`: where files lie that targets of the API may name.
const TLS_FOLDER: &str = "tls";

/// Everything that is kept in the store, and what goes on in the background.
#[derive(Debug)]
pub(super) struct Memory {
    pub(super) store: Store,
    pub(super) sightings: Arc<Sightings>,
    pub(super) deliveries: Arc<Deliveries>,
    pub(super) checks: Arc<Board>,
    /// Writers end when nobody can hand them anything any more, everything else with `stop`.
    pub(super) background: TaskTracker,
    pub(super) stop: CancellationToken,
}

impl Memory {
    pub(super) async fn open(url: &str, metrics: &Arc<Metrics>) -> Result<Self, StoreError> {
        let store = Store::open(url).await?;
        let (background, stop) = (TaskTracker::new(), CancellationToken::new());
        let (sightings, writer) = Sightings::new(store.sightings().await?, store.clone());
        background.spawn(writer.run());
        let (deliveries, writer) = Deliveries::new(store.clone());
        background.spawn(writer.run());
        let (metrics, tasks) = (Arc::clone(metrics), background.clone());
        let (checks, writer) = Board::new(metrics, store.clone(), tasks, stop.clone());
        background.spawn(writer.run());
        Ok(Self {
            store,
            sightings: Arc::new(sightings),
            deliveries: Arc::new(deliveries),
            checks: Arc::new(checks),
            background,
            stop,
        })
    }

    /// The targets of the API, added to the view, and the checks of all; from now on both are kept
    /// up to date.
    pub(super) async fn inventory(
        &self,
        view: &Arc<ArcSwap<View>>,
        state_dir: &Path,
        keys: Option<Keys>,
    ) -> Result<Arc<Inventory>, StoreError> {
        let (store, checks) = (self.store.clone(), Arc::clone(&self.checks));
        let folder = state_dir.join(TLS_FOLDER);
        let inventory = Inventory::open(store, Arc::clone(view), checks, folder, keys).await?;
        let inventory = Arc::new(inventory);
        let current = view.load_full();
        self.checks.restore(self.store.latest_checks().await?, &current);
        self.checks.follow(&current);
        self.background.spawn(Arc::clone(&inventory).end_rotations(self.stop.clone()));
        let (checks, view) = (Arc::clone(&self.checks), Arc::clone(view));
        let view = move || view.load_full();
        self.background.spawn(scheduler::run(checks, view, self.stop.clone()));
        Ok(inventory)
    }
}
