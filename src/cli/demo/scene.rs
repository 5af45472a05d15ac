//! One scene: what is asked, what is announced, and whether that is what came.

use super::{
    client::{Answer, Ask, Outcome},
    process::Event,
    receiver::Visits,
};

/// A scene of the demo.
pub(super) struct Scene {
    /// What it shows, in a few words.
    pub(super) title: &'static str,
    /// What one has to know to see the point.
    pub(super) story: &'static str,
    /// What the client asks for.
    pub(super) ask: Ask,
    /// How it has to come out.
    pub(super) expect: Expect,
}

/// How a scene has to come out.
pub(super) enum Expect {
    /// A tunnel, and the receiver's answer through it.
    Allowed,
    /// No tunnel; nothing reaches the receiver.
    Refused {
        /// The gateway's answer.
        status: u16,
        /// The public word.
        code: &'static str,
        /// The finer word.
        cause: &'static str,
    },
    /// A tunnel that is cut before a byte reaches the receiver. Only the log can say why.
    Cut {
        /// The public word.
        code: &'static str,
        /// The finer word.
        cause: &'static str,
    },
    /// The receiver's answer, relayed.
    Delivered,
    /// The same answer once more, and the receiver is not asked again.
    Replayed,
    /// The receiver is asked, and what it says is not passed on.
    Withheld {
        /// The gateway's answer.
        status: u16,
        /// The public word.
        code: &'static str,
        /// The finer word.
        cause: &'static str,
    },
    /// The receiver does not prove who it is: it sees the first bytes of TLS, and no request.
    Distrusted {
        /// The gateway's answer.
        status: u16,
        /// The public word.
        code: &'static str,
        /// The finer word.
        cause: &'static str,
    },
}

impl Expect {
    /// The gateway's answer and what becomes of it, in short.
    pub(super) fn words(&self) -> String {
        match self {
            Self::Allowed | Self::Delivered => "200 allowed".to_owned(),
            Self::Replayed => "200 replayed".to_owned(),
            Self::Refused { status, cause, .. }
            | Self::Withheld { status, cause, .. }
            | Self::Distrusted { status, cause, .. } => format!("{status} {cause}"),
            Self::Cut { cause, .. } => format!("200 {cause}"),
        }
    }

    fn parts(&self) -> Parts<'_> {
        let (status, decision, code, cause) = match *self {
            Self::Allowed | Self::Delivered | Self::Replayed => (200, "allowed", None, None),
            Self::Refused { status, code, cause }
            | Self::Withheld { status, code, cause }
            | Self::Distrusted { status, code, cause } => {
                (status, "refused", Some(code), Some(cause))
            }
            Self::Cut { code, cause } => (200, "refused", Some(code), Some(cause)),
        };
        Parts { status, decision: Some(decision), code, cause }
    }

    /// What the receivers see of it.
    const fn visits(&self) -> Visits {
        match self {
            Self::Allowed | Self::Delivered | Self::Withheld { .. } => {
                Visits { connections: 1, requests: 1 }
            }
            Self::Distrusted { .. } => Visits { connections: 1, requests: 0 },
            Self::Refused { .. } | Self::Cut { .. } | Self::Replayed => {
                Visits { connections: 0, requests: 0 }
            }
        }
    }
}

/// What came of a scene.
pub(super) struct Seen {
    /// What the client got.
    pub(super) answer: Answer,
    /// What the gateway logged.
    pub(super) event: Event,
    /// What reached the receivers.
    pub(super) visits: Visits,
}

/// What a scene and its outcome are compared by.
#[derive(PartialEq)]
struct Parts<'a> {
    status: u16,
    decision: Option<&'a str>,
    code: Option<&'a str>,
    cause: Option<&'a str>,
}

impl Seen {
    /// In the words of [`Expect::words`].
    pub(super) fn words(&self) -> String {
        let what = match self.answer.outcome {
            Outcome::Replayed => Some("replayed"),
            Outcome::Refused(_) | Outcome::Answered(_) | Outcome::Cut(_) | Outcome::Relayed(_) => {
                self.event.text("cause").or_else(|| self.event.text("decision"))
            }
        };
        format!("{} {}", self.answer.status, what.unwrap_or("nothing"))
    }

    /// Everything that is not as announced; nothing, if all is well.
    pub(super) fn differences(&self, expect: &Expect) -> Vec<String> {
        let mut found = Vec::new();
        let mut compare = |what: &str, expected: Parts<'_>, seen: Parts<'_>| {
            if expected != seen {
                found.push(format!("{what}: expected {}, saw {}", expected.text(), seen.text()));
            }
        };
        let event = Parts {
            status: self.answer.status,
            decision: self.event.text("decision"),
            code: self.event.text("code"),
            cause: self.event.text("cause"),
        };
        compare("the gateway's log", expect.parts(), event);
        if let Outcome::Refused(problem) = &self.answer.outcome {
            let answer = Parts {
                status: self.answer.status,
                decision: Some("refused"),
                code: Some(&problem.code),
                cause: Some(&problem.cause),
            };
            compare("the client's answer", expect.parts(), answer);
        }
        if let Some(other) = other_than(expect, &self.answer.outcome) {
            found.push(format!("the answer: saw {other}"));
        }
        if self.visits != expect.visits() {
            let (expected, seen) = (expect.visits(), self.visits);
            found.push(format!("the receiver: expected {expected}, saw {seen}"));
        }
        found
    }
}

/// What an answer brings, where something else is announced.
fn other_than(expect: &Expect, outcome: &Outcome) -> Option<String> {
    match (outcome, expect) {
        (Outcome::Answered(_), Expect::Allowed)
        | (Outcome::Cut(_), Expect::Cut { .. })
        | (Outcome::Relayed(_), Expect::Delivered)
        | (Outcome::Replayed, Expect::Replayed)
        | (
            Outcome::Refused(_),
            Expect::Refused { .. } | Expect::Withheld { .. } | Expect::Distrusted { .. },
        ) => None,
        (Outcome::Refused(problem), _) => Some(format!("the gateway's {}", problem.code)),
        (Outcome::Answered(answer), _) => Some(format!("through a tunnel: {answer}")),
        (Outcome::Cut(error), _) => Some(format!("in a tunnel: {error}")),
        (Outcome::Relayed(answer), _) => Some(format!("relayed: {answer}")),
        (Outcome::Replayed, _) => Some("an earlier one again".to_owned()),
    }
}

impl Parts<'_> {
    fn text(&self) -> String {
        let words = [self.decision, self.code, self.cause].into_iter().flatten();
        words.fold(self.status.to_string(), |text, word| format!("{text} {word}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::demo::client::Problem;

    const REFUSED: Expect = Expect::Refused { status: 403, code: "UNSAFE", cause: "no_target" };
    const CUT: Expect = Expect::Cut { code: "UNSAFE", cause: "sni_mismatch" };
    const WITHHELD: Expect =
        Expect::Withheld { status: 502, code: "UNSAFE", cause: "redirect_blocked" };
    const DISTRUSTED: Expect =
        Expect::Distrusted { status: 502, code: "TLS", cause: "tls_expired" };

    fn event(decision: &str, code: &str, cause: &str) -> Event {
        let line = serde_json::json!({ "decision": decision, "code": code, "cause": cause });
        Event::parse(line.to_string()).unwrap()
    }

    const ONE: Visits = Visits { connections: 1, requests: 1 };
    const NONE: Visits = Visits { connections: 0, requests: 0 };

    fn passed(outcome: Outcome, visits: Visits) -> Seen {
        let event = Event::parse(r#"{"decision": "allowed"}"#.to_owned()).unwrap();
        Seen { answer: Answer { status: 200, outcome }, event, visits }
    }

    fn allowed() -> Seen {
        passed(Outcome::Answered("200".to_owned()), ONE)
    }

    fn delivered() -> Seen {
        passed(Outcome::Relayed("verified".to_owned()), ONE)
    }

    fn replayed() -> Seen {
        passed(Outcome::Replayed, NONE)
    }

    fn refused(status: u16, code: &str, cause: &str) -> Seen {
        let problem = Problem {
            code: code.to_owned(),
            cause: cause.to_owned(),
            detail: String::new(),
            decision_id: String::new(),
            owner: String::new(),
            next_step: String::new(),
        };
        let answer = Answer { status, outcome: Outcome::Refused(problem) };
        Seen { answer, event: event("refused", code, cause), visits: NONE }
    }

    fn withheld() -> Seen {
        Seen { visits: ONE, ..refused(502, "UNSAFE", "redirect_blocked") }
    }

    fn distrusted() -> Seen {
        let visits = Visits { connections: 1, requests: 0 };
        Seen { visits, ..refused(502, "TLS", "tls_expired") }
    }

    fn cut() -> Seen {
        let outcome = Outcome::Cut("alert".to_owned());
        let event = event("refused", "UNSAFE", "sni_mismatch");
        Seen { answer: Answer { status: 200, outcome }, event, visits: NONE }
    }

    #[test]
    fn what_comes_out_as_announced_has_no_differences() {
        let as_announced = [
            (Expect::Allowed, allowed()),
            (REFUSED, refused(403, "UNSAFE", "no_target")),
            (CUT, cut()),
            (Expect::Delivered, delivered()),
            (Expect::Replayed, replayed()),
            (WITHHELD, withheld()),
            (DISTRUSTED, distrusted()),
        ];
        for (expect, seen) in as_announced {
            assert_eq!(seen.differences(&expect), [] as [&str; 0]);
            assert_eq!(seen.words(), expect.words());
        }
    }

    #[test]
    fn every_part_of_an_outcome_counts() {
        let other = [
            (REFUSED, refused(502, "UNSAFE", "no_target")),
            (REFUSED, refused(403, "OTHER", "no_target")),
            (REFUSED, refused(403, "UNSAFE", "other")),
            (REFUSED, Seen { visits: ONE, ..refused(403, "UNSAFE", "no_target") }),
            (
                REFUSED,
                Seen {
                    event: event("allowed", "UNSAFE", "no_target"),
                    ..refused(403, "UNSAFE", "no_target")
                },
            ),
            (
                REFUSED,
                Seen {
                    answer: refused(403, "UNSAFE", "other").answer,
                    ..refused(403, "UNSAFE", "no_target")
                },
            ),
            (REFUSED, allowed()),
            (Expect::Allowed, refused(403, "UNSAFE", "no_target")),
            (Expect::Allowed, Seen { visits: NONE, ..allowed() }),
            (Expect::Allowed, Seen { answer: cut().answer, ..allowed() }),
            (CUT, Seen { visits: ONE, ..cut() }),
            (CUT, Seen { answer: allowed().answer, ..cut() }),
            (CUT, Seen { event: event("refused", "UNSAFE", "no_target"), ..cut() }),
            (Expect::Delivered, Seen { visits: NONE, ..delivered() }),
            (Expect::Delivered, allowed()),
            (Expect::Delivered, replayed()),
            (Expect::Replayed, Seen { visits: ONE, ..replayed() }),
            (Expect::Replayed, Seen { visits: NONE, ..delivered() }),
            (WITHHELD, Seen { visits: NONE, ..withheld() }),
            (WITHHELD, delivered()),
            (DISTRUSTED, Seen { visits: ONE, ..distrusted() }),
            (DISTRUSTED, Seen { visits: NONE, ..distrusted() }),
        ];
        for (place, (expect, seen)) in other.into_iter().enumerate() {
            assert!(!seen.differences(&expect).is_empty(), "{place}");
        }
    }
}
