//! What is known of a tunnel's far end, from probes and from traffic.

use std::{
    mem,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use prometheus::IntGauge;
use serde::Serialize;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use utoipa::ToSchema;

use super::{TunnelError, line::Line};

/// Whether a tunnel carries traffic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TunnelState {
    /// Nothing was tried yet.
    #[default]
    Unknown,
    /// Its far end answers, and does what it is asked.
    Healthy,
    /// Its far end does not answer, or not as it should.
    Unreachable,
}

/// What an attempt has seen of the far end.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    /// It answered.
    pub(super) reached: bool,
    /// How long a round trip took, where that was seen.
    pub(super) round_trip: Option<Duration>,
}

/// How an attempt at the tunnel ended.
#[derive(Debug)]
pub(super) struct Outcome<'a> {
    /// When it began.
    pub(super) started: Instant,
    /// What it has seen.
    pub(super) seen: Seen,
    /// Whether everything was tried that an answer could find fault with: the credentials too.
    pub(super) whole: bool,
    /// What went wrong.
    pub(super) error: Option<&'a TunnelError>,
}

/// What is known of one tunnel's far end.
#[derive(Debug)]
pub(super) struct Health {
    noted: Mutex<Noted>,
    /// Told when the far end goes down or comes back, or is doubted.
    turned: Notify,
    /// What streams go by that are open through the tunnel.
    line: watch::Sender<Line>,
}

#[derive(Debug, Default)]
struct Noted {
    known: Known,
    /// Another tunnel was faster than an attempt at this one, which nobody has waited for.
    doubted: bool,
    /// `egress_tunnel_up` of this tunnel, while it is watched.
    up: Option<IntGauge>,
}

impl Noted {
    fn show(&self) {
        if let Some(up) = &self.up {
            up.set(i64::from(self.known.state() == TunnelState::Healthy));
        }
    }
}

/// A copy of what is known.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    /// The far end cannot be reached, and why.
    pub(super) down: Option<TunnelError>,
    /// The far end is reached, but does not take what it is shown, or does not speak its protocol.
    pub(super) unfit: Option<TunnelError>,
    /// How many attempts in a row did not reach it, each begun after the one before had ended.
    failures: u32,
    /// When the last of them ended.
    failed: Option<Instant>,
    /// When the far end was last seen to answer, by the clock that decides.
    pub(super) answered: Option<Instant>,
    pub(super) last_healthy_at: Option<Timestamp>,
    pub(super) round_trip: Option<Duration>,
    pub(super) last_error: Option<String>,
}

impl Known {
    pub(super) fn state(&self) -> TunnelState {
        match (&self.down, &self.unfit, self.answered) {
            (None, None, None) => TunnelState::Unknown,
            (None, None, Some(_)) => TunnelState::Healthy,
            (Some(_), _, _) | (_, Some(_), _) => TunnelState::Unreachable,
        }
    }

    fn line(&self) -> Line {
        match &self.down {
            None => Line::Holds,
            Some(error) if self.failures > 1 => Line::Lost(error.clone()),
            Some(error) => Line::Down(error.clone()),
        }
    }

    /// Takes in how an attempt ended.
    fn note(&mut self, outcome: &Outcome<'_>) {
        if let Some(error) = outcome.error {
            self.last_error = Some(error.to_string());
        }
        let Seen { reached, round_trip } = outcome.seen;
        if !reached {
            // One that began before the far end last answered says nothing of it now.
            if self.answered.is_none_or(|at| at <= outcome.started) {
                self.down = outcome.error.cloned();
                // What was tried side by side is one attempt.
                if self.failed.is_none_or(|at| at <= outcome.started) {
                    self.failures = self.failures.saturating_add(1);
                    self.failed = Some(Instant::now());
                }
            }
            return;
        }
        self.failures = 0;
        self.answered = Some(Instant::now());
        self.round_trip = round_trip.or(self.round_trip);
        self.down = None;
        match outcome.error {
            Some(error @ (TunnelError::Auth(_) | TunnelError::Protocol(_))) => {
                self.unfit = Some(error.clone());
            }
            // Of what a probe does not try it says nothing.
            None if !outcome.whole => {}
            // The far end took the request for what it was, whatever came of it.
            None | Some(TunnelError::Denied(_) | TunnelError::BeyondUnreachable(_)) => {
                self.unfit = None;
            }
            // One target's matter, or the far end's with it: no reason to keep others away.
            Some(TunnelError::Unreachable(_) | TunnelError::Timeout) => {}
        }
        if self.unfit.is_none() {
            self.last_healthy_at = Some(Timestamp::now());
        }
    }
}

impl Health {
    pub(super) fn new() -> Self {
        Self { noted: Mutex::default(), turned: Notify::new(), line: watch::Sender::default() }
    }

    /// From now on the far end is probed until it is back whenever it is down. `None`: no longer.
    pub(super) fn set_watched(&self, up: Option<IntGauge>) {
        let mut noted = self.lock();
        noted.up = up;
        noted.show();
    }

    pub(super) fn note(&self, outcome: &Outcome<'_>) {
        let mut noted = self.lock();
        let before = noted.known.down.is_some();
        noted.known.note(outcome);
        noted.doubted = false;
        noted.show();
        let line = noted.known.line();
        self.line.send_if_modified(|before| {
            let turned = mem::discriminant(before) != mem::discriminant(&line);
            *before = line;
            turned
        });
        if before != noted.known.down.is_some() {
            self.turned.notify_one();
        }
    }

    /// The far end has not answered in the time that another tunnel took over in.
    pub(super) fn doubt(&self) {
        self.lock().doubted = true;
        self.turned.notify_one();
    }

    pub(super) fn is_doubted(&self) -> bool {
        self.lock().doubted
    }

    /// What streams go by that are open through the tunnel.
    pub(super) fn line(&self) -> watch::Receiver<Line> {
        self.line.subscribe()
    }

    pub(super) fn known(&self) -> Known {
        self.lock().known.clone()
    }

    /// Why there is no use in trying: the far end is down, and watched for its return.
    pub(super) fn down(&self) -> Option<TunnelError> {
        let noted = self.lock();
        noted.up.as_ref().and_then(|_| noted.known.down.clone())
    }

    /// Waits until the far end goes down or comes back, or is doubted.
    pub(super) async fn turned(&self) {
        self.turned.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, Noted> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
