//! `connector --config FILE`: runs the customer's end until it is told to stop.

use std::{path::Path, process::ExitCode, time::Duration};

use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::super::{USAGE, fail};
use crate::{
    connector::client::{self, settings::Settings},
    telemetry,
};

/// How long a look-up that is under way may hold the end of the program up.
const LOOK_UP_TIMEOUT: Duration = Duration::from_secs(1);

pub(super) fn run(file: &Path) -> ExitCode {
    let settings = match Settings::load(file) {
        Ok(settings) => settings,
        Err(error) => return fail(error, USAGE),
    };
    let guard = match telemetry::init(settings.log) {
        Ok(guard) => guard,
        Err(error) => return fail(format!("{error:#}"), USAGE),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(error, 1),
    };
    let outcome = runtime.block_on(serve(settings));
    // A name that is being resolved cannot be interrupted, and is not waited for.
    runtime.shutdown_timeout(LOOK_UP_TIMEOUT);
    // Log lines first, so that the reason for an error stands below them.
    drop(guard);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(format!("{error:#}"), 1),
    }
}

async fn serve(settings: Settings) -> anyhow::Result<()> {
    let mut signals = Signals::new()?;
    let stop = CancellationToken::new();
    announce(&settings);
    let mut running = std::pin::pin!(client::run(settings, stop.clone()));
    tokio::select! {
        ended = &mut running => return Ok(ended?),
        () = signals.next() => {}
    }
    tell(&[NotifyState::Stopping, NotifyState::Status("draining")]);
    stop.cancel();
    tokio::select! {
        ended = running => ended?,
        () = signals.next() => {}
    }
    tracing::info!("stopped");
    Ok(())
}

fn announce(settings: &Settings) {
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        connector = settings.name,
        key = %settings.key.pin(),
        "started"
    );
    tell(&[NotifyState::Ready, NotifyState::Status("serving")]);
}

/// What tells the program to stop.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

fn tell(state: &[NotifyState<'_>]) {
    // Without a service manager there is nobody to tell, which is not an error.
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "the service manager could not be told");
    }
}
