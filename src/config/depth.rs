//! Finds text that lies too deep in itself, before a parser that recurses sees it.
//!
//! The TOML parser bounds the depth of brackets and the length of dotted keys, each at 80, but not
//! their product: 80 inline tables with keys of 80 parts are 6,400 tables in each other, and
//! dropping those takes more stack than a thread has.

/// How deep tables and lists may lie in each other: no key of ours lies deeper than five.
const DEPTH_MAX: usize = 32;

/// Where a text becomes deeper than any configuration is. Judged by brackets and dots outside of
/// strings and comments, which is exact enough for what is TOML, and never too low.
pub(super) fn too_deep(text: &str) -> Option<usize> {
    let mut scan = Scan { levels: Vec::new(), here: 0, total: 0 };
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let rest = bytes.get(at..).unwrap_or_default();
        let skip = match byte {
            b'#' => end_of_line(rest),
            b'"' | b'\'' => string(rest, *byte),
            _ => {
                scan.take(*byte);
                1
            }
        };
        if scan.total > DEPTH_MAX {
            return Some(at);
        }
        at = at.saturating_add(skip.max(1));
    }
    None
}

struct Scan {
    /// How much each open bracket, with the key before it, adds.
    levels: Vec<usize>,
    /// What the key being read adds.
    here: usize,
    total: usize,
}

impl Scan {
    fn take(&mut self, byte: u8) {
        match byte {
            b'.' => {
                self.here = self.here.saturating_add(1);
                self.total = self.total.saturating_add(1);
            }
            b'[' | b'{' => {
                self.levels.push(self.here);
                self.here = 1;
                self.total = self.total.saturating_add(1);
            }
            b']' | b'}' => {
                self.total = self.total.saturating_sub(self.here);
                self.here = self.levels.pop().unwrap_or(0);
            }
            b',' if !self.levels.is_empty() => self.begin(1),
            b'\n' if self.levels.is_empty() => self.begin(0),
            _ => {}
        }
    }

    fn begin(&mut self, here: usize) {
        self.total = self.total.saturating_sub(self.here).saturating_add(here);
        self.here = here;
    }
}

fn end_of_line(text: &[u8]) -> usize {
    text.iter().position(|byte| *byte == b'\n').unwrap_or(text.len())
}

/// The length of a string of any of TOML's four kinds, quotes included. One that does not end ends
/// where the parser gives it up.
fn string(text: &[u8], quote: u8) -> usize {
    let multi_line = text.starts_with(&[quote; 3]);
    let mut at: usize = if multi_line { 3 } else { 1 };
    while let Some(byte) = text.get(at) {
        if *byte == b'\\' && quote == b'"' {
            at = at.saturating_add(1);
        } else if *byte == b'\n' && !multi_line {
            return at;
        } else if *byte == quote && !multi_line {
            return at.saturating_add(1);
        } else if multi_line && text.get(at..).is_some_and(|rest| rest.starts_with(&[quote; 3])) {
            return at.saturating_add(3);
        }
        at = at.saturating_add(1);
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_configurations_are_made_of_is_not_too_deep() {
        let flat =
            "a.b.c = { d.e = [1.5, 2.5, 3.5], f = \"........................................\" }\n";
        let list = format!("[x.y]\na = [\n{}]\n", "  \"1.2.3.4/32\", # .[[[{{{\n".repeat(1000));
        let string = format!("a = \"\"\"{}\"\"\"\nb = '{}'\n", "[".repeat(99), "\\{".repeat(99));
        for text in [flat.repeat(1000), list, string, "[[targets]]\n".repeat(1000)] {
            assert_eq!(too_deep(&text), None, "{text}");
        }
    }

    #[test]
    fn depth_of_every_kind_is_found() {
        let dots = "a.".repeat(20) + "a = ";
        for text in [
            "[".repeat(33),
            "{a=".repeat(33),
            "a.".repeat(33),
            format!("{dots}{{ {dots} 1 }}"),
            "x = 1\n\"unfinished\n".to_owned() + &"[".repeat(33),
            "x = \"\\\"\" #\n".to_owned() + &"[".repeat(33),
            "x = '\\'\n".to_owned() + &"[".repeat(33),
        ] {
            assert!(too_deep(&text).is_some(), "{text}");
        }
    }
}
