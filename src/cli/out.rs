//! Where commands print: a reader may leave at any time, and what cannot be written is a failure.

use std::{
    fmt::Display,
    io::{ErrorKind, Write as _, stderr, stdout},
    process::ExitCode,
};

/// Prints a command's result, with an end of line, and gives the exit code: `code`, or 1 when the
/// result cannot be written. That a reader has left (`head`, a pager) is no failure: the exit code
/// is what it still wants to know.
pub(super) fn result(text: impl Display, code: ExitCode) -> ExitCode {
    let mut out = stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            fail(format_args!("standard output: {error}"), 1)
        }
        Ok(()) | Err(_) => code,
    }
}

/// Shows at once what comes before the result. Where that cannot be written, the result cannot.
pub(super) fn progress(text: impl Display) {
    let mut out = stdout().lock();
    let _ignored = write!(out, "{text}").and_then(|()| out.flush());
}

/// Prints a line for whoever sits before a terminal. Without one the exit code has to do.
pub(super) fn note(text: impl Display) {
    let _ignored = writeln!(stderr(), "{text}");
}

/// Prints an error and gives the exit code for it.
pub(super) fn fail(error: impl Display, code: u8) -> ExitCode {
    note(format_args!("egress-gateway: {error}"));
    ExitCode::from(code)
}
