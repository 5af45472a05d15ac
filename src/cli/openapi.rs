//! `openapi`: the admin API's document.

use std::process::ExitCode;

use super::fail;

/// Prints it, without a server.
pub(super) fn run() -> ExitCode {
    match crate::admin::document().to_pretty_json() {
        Ok(document) => {
            println!("{document}");
            ExitCode::SUCCESS
        }
        Err(error) => fail(error, 1),
    }
}
