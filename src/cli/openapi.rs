//! `openapi`: the admin API's document.

use std::{
    io::{ErrorKind, Write as _, stdout},
    process::ExitCode,
};

use super::fail;

/// Prints it, without a server.
pub(super) fn run() -> ExitCode {
    let document = match crate::admin::document().to_pretty_json() {
        Ok(document) => document,
        Err(error) => return fail(error, 1),
    };
    match writeln!(stdout().lock(), "{document}") {
        // It is long: `head` and a pager that is left stop reading before its end.
        Err(error) if error.kind() != ErrorKind::BrokenPipe => fail(error, 1),
        Ok(()) | Err(_) => ExitCode::SUCCESS,
    }
}
