//! The task that owns a tunnel: the socket outside, the session, and the streams inside.

use std::{
    collections::VecDeque,
    future::pending,
    io,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use gotatun::packet::Packet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{
    PeerAddress, Resolving, Settings, Shared,
    bell::Ring,
    link::Link,
    noise::{Noise, Opened},
    routing::Routing,
    stack::Stack,
};
use crate::dial::EgressAddresses;

/// How often the session's timers are looked at, as gotatun's own device does it.
const TICK: Duration = Duration::from_millis(250);

/// Sealed datagrams that wait for the socket.
const OUT_MAX: usize = 1024;

/// How many times the socket is read from before everybody else has a turn: each time gives a
/// datagram, or as many as the kernel has joined.
const RECEIVES_MAX: usize = 16;

/// Older than this a session is not used (`REJECT_AFTER_TIME` of WireGuard's paper); what the
/// peer's name leads to is asked again then.
pub(super) const SESSION_MAX: Duration = Duration::from_mins(3);

/// The pauses between questions for the peer's address, when they fail and when the peer does not
/// answer there.
const RESOLVE_PAUSE: Duration = Duration::from_secs(5);
const RESOLVE_PAUSE_MAX: Duration = Duration::from_mins(1);

/// How long streams that nobody holds any more may take to end when the tunnel does.
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// What a tunnel is made of; enough to begin anew.
#[derive(Clone)]
pub(super) struct Plan {
    pub(super) settings: Settings,
    pub(super) routing: Arc<Routing>,
    pub(super) egress: EgressAddresses,
    pub(super) peer: PeerAddress,
}

pub(super) struct Engine {
    noise: Noise,
    stack: Stack,
    link: Option<Link>,
    peer: Option<SocketAddr>,
    /// Datagrams for the peer.
    out: VecDeque<Packet>,
    /// The socket takes no more for now.
    blocked: bool,
    next_tick: Instant,
    resolve: Resolve,
    plan: Plan,
    shared: Arc<Shared>,
}

/// When the peer's address is asked for.
struct Resolve {
    running: Option<Resolving>,
    /// When to ask next; `None`: as long as the peer answers, never.
    due: Option<Instant>,
    pause: Duration,
    /// When it was last known.
    known: Option<Instant>,
}

impl Resolve {
    /// Whether to ask now, with a session of this age.
    fn is_due(&self, now: Instant, session_age: Option<Duration>, wants_out: bool) -> bool {
        if self.running.is_some() {
            return false;
        }
        if let Some(due) = self.due {
            return due <= now;
        }
        let old = session_age.is_none_or(|age| age > SESSION_MAX);
        let long_known = self
            .known
            .is_none_or(|known| now.saturating_duration_since(known) >= RESOLVE_PAUSE_MAX);
        old && wants_out && long_known
    }
}

impl Engine {
    /// `None` when a key is not 32 bytes.
    pub(super) fn new(plan: Plan, shared: Arc<Shared>) -> Option<Self> {
        let now = Instant::now();
        Some(Self {
            noise: Noise::new(&plan.settings)?,
            stack: Stack::new(Arc::clone(&plan.routing), plan.settings.mtu),
            link: None,
            peer: None,
            out: VecDeque::new(),
            blocked: false,
            next_tick: now,
            resolve: Resolve { running: None, due: Some(now), pause: RESOLVE_PAUSE, known: None },
            plan,
            shared,
        })
    }

    /// Runs until `stop`.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        self.shared.facts().running = true;
        let mut end = None;
        loop {
            self.look_around();
            let received = self.receive();
            self.tick();
            let more = self.send();
            if stop.is_cancelled() {
                let end = *end.get_or_insert_with(|| {
                    self.stack.end();
                    Instant::now().checked_add(END_TIMEOUT)
                });
                if self.stack.is_empty() || end.is_none_or(|end| end <= Instant::now()) {
                    self.send();
                    return;
                }
            }
            if received || (more && !self.blocked) {
                tokio::task::yield_now().await;
            } else {
                self.wait(&stop).await;
            }
        }
    }

    /// Waits until there is something to do.
    async fn wait(&mut self, stop: &CancellationToken) {
        let wake = self.stack.next_due().map_or(self.next_tick, |due| due.min(self.next_tick));
        let link = self.link.as_ref();
        let resolved = async {
            match &mut self.resolve.running {
                Some(running) => running.await,
                None => pending().await,
            }
        };
        tokio::select! {
            // once cancelled it is so always
            () = stop.cancelled(), if !stop.is_cancelled() => {}
            () = self.shared.bell.heard() => {}
            () = sleep_until(wake) => {}
            () = readable(link) => {}
            () = writable(link), if self.blocked => self.blocked = false,
            answer = resolved => {
                self.resolve.running = None;
                match answer {
                    Ok(peer) => self.move_to(peer),
                    Err(fault) => self.fail(fault),
                }
            }
        }
    }

    /// Sees to those that rang.
    fn look_around(&mut self) {
        for ring in self.shared.bell.answer() {
            match ring {
                Ring::Stream(lane) => self.stack.look_at(&lane),
                Ring::Datagrams(port) => self.stack.look_at_port(&port),
            }
        }
        if self.shared.probed.swap(false, Ordering::AcqRel) {
            self.out.extend(self.noise.initiate(true));
        }
    }

    /// Takes what has come. `true`: there may be more.
    fn receive(&mut self) -> bool {
        let Some(link) = &mut self.link else { return false };
        let mut datagrams = Vec::new();
        let mut more = true;
        for _ in 0..RECEIVES_MAX {
            // an error is of some datagram sent before, and perhaps forged: no reason to stop
            let Ok(true) = link.receive(|datagram, from| datagrams.push((datagram, from))) else {
                more = false;
                break;
            };
        }
        for (datagram, from) in datagrams {
            self.open(datagram, from);
        }
        more
    }

    fn open(&mut self, datagram: Packet, from: SocketAddr) {
        let length = u64::try_from(datagram.len()).unwrap_or(u64::MAX);
        let opened = self.noise.open(datagram, from, &mut self.out);
        let now = Instant::now();
        match opened {
            Opened::Junk => return,
            Opened::KeyMismatch => {
                self.shared.facts().mismatch = Some(now);
                return;
            }
            Opened::Cookie(reply) => {
                if let Some(link) = &self.link {
                    link.send_once(&reply, from);
                }
                return;
            }
            Opened::Session => {
                let mut facts = self.shared.facts();
                facts.round_trip = self.noise.round_trip().or(facts.round_trip);
                facts.handshake = Some(now);
                facts.mismatch = None;
                facts.fault = None;
                drop(facts);
                self.shared.answers.send_modify(|count| *count = count.wrapping_add(1));
            }
            Opened::Authentic => {}
            Opened::Inside(packet) => {
                let _admitted = self.stack.receive(packet);
            }
        }
        // it has moved (WireGuard's roaming): only who has the peer's key can say so
        self.peer = Some(from);
        let mut facts = self.shared.facts();
        facts.peer = Some(from);
        facts.received = Some(now);
        facts.bytes_received = facts.bytes_received.saturating_add(length);
    }

    /// Looks at the session's timers, and at the peer's address, when it is time.
    fn tick(&mut self) {
        let now = Instant::now();
        if now < self.next_tick {
            return;
        }
        self.next_tick = now.checked_add(TICK).unwrap_or(now);
        self.out.extend(self.noise.tick());
        let age = self.noise.session_age();
        if let Some(age) = age {
            // also of handshakes that the peer began
            self.shared.facts().handshake = now.checked_sub(age);
        }
        // what has just become due is a handshake, then: something wants out
        if self.resolve.is_due(now, age, !self.out.is_empty()) {
            self.resolve.due = None;
            self.resolve.running = Some((self.plan.peer)());
        }
    }

    /// The peer's address is known, perhaps another than before.
    fn move_to(&mut self, peer: SocketAddr) {
        let known_before = self.resolve.known.replace(Instant::now()).is_some();
        self.resolve.pause = RESOLVE_PAUSE;
        let same_family = self.peer.is_some_and(|before| before.is_ipv4() == peer.is_ipv4());
        if self.link.is_none() || !same_family {
            match Link::open(&self.plan.egress, peer) {
                Ok(link) => self.link = Some(link),
                Err(error) => return self.fail(error.to_string()),
            }
        }
        let moved = self.peer.replace(peer) != Some(peer);
        {
            let mut facts = self.shared.facts();
            facts.peer = Some(peer);
            facts.fault = None;
        }
        // What began while nobody knew where to, or at the wrong place, begins again. It is not
        // asked a second time where nothing wants out.
        if moved && (known_before || !self.out.is_empty()) {
            self.out.clear();
            self.out.extend(self.noise.initiate(true));
        }
    }

    /// There is no way to the peer from here for now.
    fn fail(&mut self, fault: String) {
        self.resolve.due = Instant::now().checked_add(self.resolve.pause);
        self.resolve.pause = self.resolve.pause.saturating_mul(2).min(RESOLVE_PAUSE_MAX);
        self.shared.facts().fault = Some(fault);
    }

    /// Seals and sends what the streams have made. `true`: there is more.
    fn send(&mut self) -> bool {
        let mut more = false;
        if self.out.len() < OUT_MAX {
            more = self.stack.send();
        }
        for packet in self.stack.made() {
            self.out.extend(self.noise.seal(packet));
        }
        let (Some(link), Some(peer)) = (&mut self.link, self.peer) else {
            self.out.truncate(1); // that something wants out
            return more;
        };
        let before = bytes(&self.out);
        match link.send(&mut self.out, peer) {
            Ok(true) => {}
            Ok(false) => {
                self.blocked = true;
                self.out.truncate(OUT_MAX.saturating_mul(2));
            }
            Err(error) => self.note(&error),
        }
        let sent = before.saturating_sub(bytes(&self.out));
        if sent > 0 {
            let mut facts = self.shared.facts();
            facts.bytes_sent = facts.bytes_sent.saturating_add(sent);
        }
        more
    }

    fn note(&self, error: &io::Error) {
        self.shared.facts().fault = Some(format!("a datagram cannot be sent: {error}"));
    }
}

// an error of the socket shows when it is used
async fn readable(link: Option<&Link>) {
    match link {
        Some(link) => drop(link.readable().await),
        None => pending().await,
    }
}

async fn writable(link: Option<&Link>) {
    match link {
        Some(link) => drop(link.writable().await),
        None => pending().await,
    }
}

fn bytes(out: &VecDeque<Packet>) -> u64 {
    out.iter().fold(0, |sum, one| sum.saturating_add(u64::try_from(one.len()).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peers_address_is_asked_for_again_when_the_handshake_has_aged_and_traffic_wants_out() {
        let known = Instant::now();
        let resolve =
            Resolve { running: None, due: None, pause: RESOLVE_PAUSE, known: Some(known) };
        let later = known + Duration::from_mins(1);
        let (young, old) = (Some(SESSION_MAX), Some(SESSION_MAX + Duration::from_secs(1)));
        assert!(resolve.is_due(later, old, true));
        assert!(resolve.is_due(later, None, true), "there never was a session");
        assert!(!resolve.is_due(later, old, false), "nothing wants out");
        assert!(!resolve.is_due(later, young, true));
        assert!(!resolve.is_due(known + Duration::from_secs(59), old, true), "it was just asked");

        let failed = Resolve { due: Some(later), ..resolve };
        assert!(!failed.is_due(known, old, true));
        assert!(failed.is_due(later, young, false), "an answer is still missing");
        let asked = Resolve { running: Some(Box::pin(pending())), ..failed };
        assert!(!asked.is_due(later, old, true), "one question at a time");
    }
}
