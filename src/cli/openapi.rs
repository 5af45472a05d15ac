//! `openapi`: the admin API's document.

use std::process::ExitCode;

use super::{fail, out};

/// Prints it, without a server.
pub(super) fn run() -> ExitCode {
    match crate::admin::document().to_pretty_json() {
        Ok(document) => out::result(document, ExitCode::SUCCESS),
        Err(error) => fail(error, 1),
    }
}
