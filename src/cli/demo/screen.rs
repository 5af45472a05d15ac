//! Where the demo prints: colour only where it is wanted, and a reader may leave at any time.

use std::{
    fmt,
    io::{self, IsTerminal as _, Write as _},
};

/// How a piece of text is shown where colours are.
#[derive(Clone, Copy)]
pub(super) enum Style {
    /// As it is.
    Plain,
    /// A heading.
    Bold,
    /// What one may skip.
    Dim,
    /// As announced.
    Good,
    /// Not as announced.
    Bad,
}

/// Standard output.
pub(super) struct Screen {
    out: io::Stdout,
    colours: bool,
    /// Set by the first line that could not be written; nothing is written after it.
    failure: Option<io::Error>,
}

impl Screen {
    /// Standard output, with colours where it is a terminal and nobody has asked for none
    /// (no-color.org).
    pub(super) fn new() -> Self {
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let out = io::stdout();
        let colours = out.is_terminal() && !set("NO_COLOR");
        Self { out, colours, failure: None }
    }

    /// Prints a line.
    pub(super) fn line(&mut self, style: Style, text: impl fmt::Display) {
        self.labelled("", style, text);
    }

    /// Prints a line that says first, plainly, what it is.
    pub(super) fn labelled(&mut self, label: &str, style: Style, text: impl fmt::Display) {
        let (begin, end) = match style {
            Style::Plain => ("", ""),
            Style::Bold => ("\x1b[1m", "\x1b[0m"),
            Style::Dim => ("\x1b[2m", "\x1b[0m"),
            Style::Good => ("\x1b[32m", "\x1b[0m"),
            Style::Bad => ("\x1b[31m", "\x1b[0m"),
        };
        let (begin, end) = if self.colours { (begin, end) } else { ("", "") };
        if self.failure.is_none() {
            let written = writeln!(self.out, "{label}{begin}{text}{end}");
            self.failure = written.and_then(|()| self.out.flush()).err();
        }
    }

    /// Why not everything was written. A reader that has left is no failure: the demo's exit code
    /// is what it still wants to know.
    pub(super) fn failure(&self) -> Option<&io::Error> {
        self.failure.as_ref().filter(|error| error.kind() != io::ErrorKind::BrokenPipe)
    }
}
