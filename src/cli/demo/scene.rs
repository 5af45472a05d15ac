//! One scene: what is asked, what is announced, and whether that is what came.

use super::{
    client::{Answer, Ask, Inside},
    gateway::Event,
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
        /// The answer to CONNECT.
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
}

impl Expect {
    /// The answer to CONNECT and what becomes of it, in short.
    pub(super) fn words(&self) -> String {
        match self {
            Self::Allowed => "200 allowed".to_owned(),
            Self::Refused { status, cause, .. } => format!("{status} {cause}"),
            Self::Cut { cause, .. } => format!("200 {cause}"),
        }
    }

    fn parts(&self) -> Parts<'_> {
        let (status, decision, code, cause) = match *self {
            Self::Allowed => (200, "allowed", None, None),
            Self::Refused { status, code, cause } => (status, "refused", Some(code), Some(cause)),
            Self::Cut { code, cause } => (200, "refused", Some(code), Some(cause)),
        };
        Parts { status, decision: Some(decision), code, cause }
    }
}

/// What came of a scene.
pub(super) struct Seen {
    /// What the client got.
    pub(super) answer: Answer,
    /// What the gateway logged.
    pub(super) event: Event,
    /// On how many connections something reached the receiver.
    pub(super) reached: u64,
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
        let what = self.event.text("cause").or_else(|| self.event.text("decision"));
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
        if let Some(problem) = &self.answer.problem {
            let answer = Parts {
                status: self.answer.status,
                decision: Some("refused"),
                code: Some(&problem.code),
                cause: Some(&problem.cause),
            };
            compare("the client's answer", expect.parts(), answer);
        }
        let inside = match (&self.answer.inside, expect) {
            (Some(Inside::Answered(_)), Expect::Allowed)
            | (Some(Inside::Cut(_)), Expect::Cut { .. })
            | (None, Expect::Refused { .. }) => None,
            (Some(Inside::Answered(answer)), _) => Some(format!("the receiver's {answer}")),
            (Some(Inside::Cut(error)), _) => Some(error.clone()),
            (None, _) => Some("no tunnel".to_owned()),
        };
        if let Some(inside) = inside {
            found.push(format!("in the tunnel: saw {inside}"));
        }
        let reached = u64::from(matches!(expect, Expect::Allowed));
        if self.reached != reached {
            let seen = self.reached;
            found.push(format!("the receiver: expected {reached} connections, saw {seen}"));
        }
        found
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

    fn event(decision: &str, code: &str, cause: &str) -> Event {
        let line = serde_json::json!({ "decision": decision, "code": code, "cause": cause });
        Event::parse(line.to_string()).unwrap()
    }

    fn allowed() -> Seen {
        let inside = Some(Inside::Answered("200".to_owned()));
        let event = Event::parse(r#"{"decision": "allowed"}"#.to_owned()).unwrap();
        Seen { answer: Answer { status: 200, problem: None, inside }, event, reached: 1 }
    }

    fn refused(status: u16, code: &str, cause: &str) -> Seen {
        let problem = Problem {
            code: code.to_owned(),
            cause: cause.to_owned(),
            detail: String::new(),
            decision_id: String::new(),
            next_step: String::new(),
        };
        let answer = Answer { status, problem: Some(problem), inside: None };
        Seen { answer, event: event("refused", code, cause), reached: 0 }
    }

    fn cut() -> Seen {
        let inside = Some(Inside::Cut("alert".to_owned()));
        let event = event("refused", "UNSAFE", "sni_mismatch");
        Seen { answer: Answer { status: 200, problem: None, inside }, event, reached: 0 }
    }

    #[test]
    fn what_comes_out_as_announced_has_no_differences() {
        let as_announced = [
            (Expect::Allowed, allowed()),
            (REFUSED, refused(403, "UNSAFE", "no_target")),
            (CUT, cut()),
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
            (REFUSED, Seen { reached: 1, ..refused(403, "UNSAFE", "no_target") }),
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
            (Expect::Allowed, Seen { reached: 0, ..allowed() }),
            (Expect::Allowed, Seen { answer: cut().answer, ..allowed() }),
            (CUT, Seen { reached: 1, ..cut() }),
            (CUT, Seen { answer: allowed().answer, ..cut() }),
            (CUT, Seen { event: event("refused", "UNSAFE", "no_target"), ..cut() }),
        ];
        for (place, (expect, seen)) in other.into_iter().enumerate() {
            assert!(!seen.differences(&expect).is_empty(), "{place}");
        }
    }
}
