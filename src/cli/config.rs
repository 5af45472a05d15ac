//! `config check`: everything that is wrong with a configuration, in one run.

use std::process::ExitCode;

use super::{Files, USAGE, out};
use crate::config;

/// Validates and reports. Exit 0 when there is nothing to mend.
pub(super) fn check(files: &Files) -> ExitCode {
    let files = files.or_default();
    match config::load(&files) {
        Ok(loaded) => {
            for warning in &loaded.warnings {
                out::note(format_args!("warning: {warning}"));
            }
            let targets = counted(loaded.config.targets.len(), "target");
            let clients = counted(loaded.config.clients.len(), "client");
            let text = format!("configuration is valid: {targets}, {clients}");
            out::result(text, ExitCode::SUCCESS)
        }
        Err(invalid) => {
            out::note(invalid);
            ExitCode::from(USAGE)
        }
    }
}

/// `1 target`, `2 targets`.
fn counted(count: usize, thing: &str) -> String {
    format!("{count} {thing}{}", if count == 1 { "" } else { "s" })
}
