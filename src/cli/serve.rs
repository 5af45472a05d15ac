//! `serve`: runs the gateway.

use std::process::ExitCode;

use super::{Files, USAGE, fail};
use crate::{config, lifecycle, telemetry};

/// Exit 0 when it was told to stop, 1 when it cannot start, 2 when the configuration is not valid.
pub(super) fn run(files: &Files) -> ExitCode {
    let files = files.or_default();
    let loaded = match config::load(&files) {
        Ok(loaded) => loaded,
        Err(invalid) => {
            return fail(format!("the configuration is not valid\n{invalid}"), USAGE);
        }
    };
    let guard = match telemetry::init(loaded.config.telemetry.log) {
        Ok(guard) => guard,
        Err(error) => return fail(format!("{error:#}"), USAGE),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(error, 1),
    };
    let outcome = runtime.block_on(lifecycle::run(files, loaded));
    // Log lines first, so that the reason for an error stands below them.
    drop(runtime);
    drop(guard);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(error, 1),
    }
}
