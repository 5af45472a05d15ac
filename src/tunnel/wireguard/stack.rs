//! TCP over packets: smoltcp, one socket at a time.
//!
//! smoltcp looks through all of an interface's sockets for each packet. Here each stream has a set
//! of its own, and the packet is brought to the one it is for, so that the cost of a packet does not
//! grow with the number of streams.

use std::{
    collections::{BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use gotatun::packet::Packet;
use rustls::crypto::{SecureRandom, aws_lc_rs};
use smoltcp::{
    iface::{Config, Interface, PollResult, SocketSet},
    socket::tcp::State,
    time::Instant as SmolInstant,
    wire::{HardwareAddress, IpAddress, IpCidr},
};
use tokio::time::Instant;

use super::{
    datagrams::Port,
    flight::Flight,
    lane::{Failure, Inner, Lane, Phase},
    pipe::Pipe,
    routing::{Inside, Routing},
};

/// What packets of a stream have in common: the other side, and our port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Key {
    remote: SocketAddr,
    port: u16,
}

/// Our ports (RFC 6335, section 6, "dynamic ports", with some more).
const PORT_FIRST: u16 = 32_768;

/// How often another port is drawn when one is taken.
const PORT_DRAWS_MAX: usize = 64;

/// How long a stream that nobody holds any more may take to end.
const ORPHAN_TIMEOUT: Duration = Duration::from_secs(30);

/// A socket that needs nothing for this long in `TIME-WAIT` has said everything.
const NOTHING_LEFT: Duration = Duration::from_secs(1);

/// Time between two turns of a stream that does nothing with them.
const TURN_MIN: Duration = Duration::from_millis(1);

/// Streams there may be at a time, those counted that nobody holds any more.
const LANES_MAX: usize = 2 * super::STREAMS_MAX;

/// All streams and datagram sockets of one tunnel.
pub(super) struct Stack {
    iface: Interface,
    pipe: Pipe,
    routing: Arc<Routing>,
    lanes: HashMap<Key, Entry>,
    ports: HashMap<u16, Arc<Port>>,
    due: BTreeSet<(SmolInstant, Key)>,
    /// Those to look at; each once.
    touched: Vec<Key>,
    began: Instant,
    random: &'static dyn SecureRandom,
}

struct Entry {
    lane: Arc<Lane>,
    flight: Flight,
    due: Option<SmolInstant>,
    touched: bool,
    /// When it ends by force, once nobody holds it any more.
    patience: Option<Instant>,
}

impl Stack {
    pub(super) fn new(routing: Arc<Routing>, mtu: u16) -> Self {
        let mut pipe = Pipe::new(mtu);
        let iface = interface(&mut pipe, &routing, 0);
        Self {
            iface,
            pipe,
            routing,
            lanes: HashMap::new(),
            ports: HashMap::new(),
            due: BTreeSet::new(),
            touched: Vec::new(),
            began: Instant::now(),
            random: aws_lc_rs::default_provider().secure_random,
        }
    }

    /// A stream rang: it is new, or there is something to do for it.
    pub(super) fn look_at(&mut self, lane: &Arc<Lane>) {
        lane.rung.store(false, Ordering::Release);
        match lane.key.get() {
            Some(key) => self.touch(*key),
            None if self.connect(lane).is_none() => lane.cut(),
            None => {}
        }
    }

    /// A datagram socket rang.
    pub(super) fn look_at_port(&mut self, port: &Arc<Port>) {
        port.rung.store(false, Ordering::Release);
        if port.number.get().is_none() {
            let draw = || self.draw().map(|(number, _)| number);
            let free = (0..PORT_DRAWS_MAX)
                .find_map(|_| draw().filter(|number| !self.ports.contains_key(number)));
            let Some(number) = free.filter(|number| port.number.set(*number).is_ok()) else {
                port.cut();
                return;
            };
            self.ports.insert(number, Arc::clone(port));
        }
        for packet in port.packets() {
            self.pipe.push(packet);
        }
        if port.lock().closed
            && let Some(number) = port.number.get()
        {
            self.ports.remove(number);
        }
    }

    /// A packet from the peer. `false`: it may not pass.
    pub(super) fn receive(&mut self, packet: Packet) -> bool {
        match self.routing.admit(&packet) {
            Some(Inside::Tcp { from, port }) => {
                self.receive_segment(Key { remote: from, port }, packet);
            }
            Some(Inside::Udp { from, port, payload }) => {
                if let Some(port) = self.ports.get(&port).filter(|port| port.to == from) {
                    port.deliver(payload);
                }
            }
            Some(Inside::Unreachable { to, port }) => self.give_up(Key { remote: to, port }),
            None => return false,
        }
        true
    }

    /// Somebody on the way says that there is none: believed of a stream that is being opened.
    fn give_up(&mut self, key: Key) {
        let Some(lane) = self.lanes.get(&key).map(|entry| Arc::clone(&entry.lane)) else { return };
        if let Some(mut inner) = lane.lock()
            && matches!(inner.phase, Phase::Opening(_))
        {
            inner.phase = Phase::Failed(Failure::NoWay);
            inner.wake_all();
            self.remove(key);
        }
    }

    fn receive_segment(&mut self, key: Key, packet: Packet) {
        let now = self.now();
        if let Some(entry) = self.lanes.get_mut(&key)
            && let Some(mut inner) = entry.lane.lock()
        {
            let heard = entry.flight.hear(&packet, time(now));
            let last = heard.is_some().then_some(packet);
            for packet in heard.into_iter().flatten().chain(last) {
                self.pipe.incoming = Some(packet);
                self.iface.poll_ingress_single(now, &mut self.pipe, &mut inner.sockets);
            }
        } else {
            // nobody's: smoltcp answers with a reset
            self.pipe.incoming = Some(packet);
            let mut nobody = SocketSet::new(Vec::new());
            self.iface.poll_ingress_single(now, &mut self.pipe, &mut nobody);
        }
        self.touch(key);
    }

    /// Lets everybody send whose turn it is, as long as there is room. `true`: some have to wait
    /// for room.
    pub(super) fn send(&mut self) -> bool {
        let now = self.now();
        while let Some(&(due, key)) = self.due.first() {
            if due > now {
                break;
            }
            self.due.pop_first();
            if let Some(entry) = self.lanes.get_mut(&key) {
                entry.due = None;
            }
            self.touch(key);
        }
        let touched = std::mem::take(&mut self.touched);
        for (index, key) in touched.iter().enumerate() {
            if self.pipe.is_full() {
                self.touched.extend(touched.iter().skip(index));
                return true;
            }
            if let Some(entry) = self.lanes.get_mut(key) {
                entry.touched = false;
            }
            self.serve(*key, now);
        }
        !self.touched.is_empty()
    }

    /// The packets that were made since the last time.
    pub(super) fn made(&mut self) -> std::vec::Drain<'_, Packet> {
        self.pipe.outgoing.drain(..)
    }

    /// When somebody has to be looked at again.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let &(due, _) = self.due.first()?;
        self.began.checked_add(time(due))
    }

    /// Resets every stream that somebody holds; the others may end as they were about to.
    pub(super) fn end(&mut self) {
        let held = |(key, entry): (&Key, &Entry)| entry.patience.is_none().then_some(*key);
        let held: Vec<_> = self.lanes.iter().filter_map(held).collect();
        for key in held {
            if let Some(entry) = self.lanes.get(&key) {
                entry.lane.cut();
            }
            self.touch(key);
        }
    }

    /// Whether no stream is left.
    pub(super) fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }

    fn touch(&mut self, key: Key) {
        if let Some(entry) = self.lanes.get_mut(&key)
            && !std::mem::replace(&mut entry.touched, true)
        {
            self.touched.push(key);
        }
    }

    /// Begins to connect. `None`: it cannot.
    fn connect(&mut self, lane: &Arc<Lane>) -> Option<()> {
        if self.lanes.len() >= LANES_MAX {
            return None;
        }
        for _ in 0..PORT_DRAWS_MAX {
            let (port, seed) = self.draw()?;
            let key = Key { remote: lane.to, port };
            if self.lanes.contains_key(&key) {
                continue;
            }
            // An interface of its own, for what its random numbers are: smoltcp takes them from a
            // generator that gives itself away, and whoever is talked to could know where the
            // numbers of somebody else's stream begin (RFC 6528).
            self.iface = interface(&mut self.pipe, &self.routing, seed);
            let mut inner = lane.lock()?;
            let context = self.iface.context();
            inner.socket().connect(context, lane.to, (lane.from, port)).ok()?;
            lane.key.set(key).ok()?;
            drop(inner);
            let entry = Entry {
                lane: Arc::clone(lane),
                flight: Flight::default(),
                due: None,
                touched: false,
                patience: None,
            };
            self.lanes.insert(key, entry);
            self.touch(key);
            return Some(());
        }
        None
    }

    /// A port, and a seed.
    fn draw(&self) -> Option<(u16, u64)> {
        let mut bytes = [0; 10];
        self.random.fill(&mut bytes).ok()?;
        let [seed @ .., high, low] = bytes;
        Some((PORT_FIRST | u16::from_be_bytes([high, low]), u64::from_be_bytes(seed)))
    }

    /// Lets one stream send, and sees what has become of it.
    fn serve(&mut self, key: Key, now: SmolInstant) {
        let Some(entry) = self.lanes.get_mut(&key) else { return };
        let Some(mut inner) = entry.lane.lock() else {
            entry.lane.cut();
            self.remove(key);
            return;
        };
        let given_up = entry.patience.is_some_and(|patience| patience <= Instant::now());
        let unwanted = inner.orphaned && inner.socket().can_recv();
        if inner.orphaned && inner.socket().state() == State::SynSent {
            // it was never there: an answer that comes late is reset like any other of nobody's
            drop(inner);
            self.remove(key);
            return;
        }
        if inner.reset || inner.phase == Phase::Cut || given_up || unwanted {
            inner.socket().abort();
        } else if inner.orphaned && entry.patience.is_none() {
            inner.socket().close();
            entry.patience = Instant::now().checked_add(ORPHAN_TIMEOUT);
        }
        let due = exchange(&mut self.iface, &mut self.pipe, &mut inner, &mut entry.flight, now);
        let full = self.pipe.is_full();
        let ended = has_ended(&mut inner, due, now);
        progress(&mut inner);
        inner.wake();
        if ended {
            inner.wake_all();
        }
        drop(inner);
        if ended {
            self.remove(key);
            return;
        }
        let forced = entry.patience.map(|patience| since(self.began, patience));
        let quiet = entry.flight.due().map(|due| after(SmolInstant::ZERO, due));
        // whatever is due now has just had its turn
        let due = due
            .into_iter()
            .chain(forced)
            .chain(quiet)
            .min()
            .map(|due| due.max(after(now, TURN_MIN)));
        self.schedule(key, due);
        if full {
            self.touch(key);
        }
    }

    fn schedule(&mut self, key: Key, due: Option<SmolInstant>) {
        let Some(entry) = self.lanes.get_mut(&key) else { return };
        if entry.due == due {
            return;
        }
        if let Some(before) = std::mem::replace(&mut entry.due, due) {
            self.due.remove(&(before, key));
        }
        if let Some(due) = due {
            self.due.insert((due, key));
        }
    }

    fn remove(&mut self, key: Key) {
        self.schedule(key, None);
        self.lanes.remove(&key);
    }

    fn now(&self) -> SmolInstant {
        since(self.began, Instant::now())
    }
}

impl Drop for Stack {
    /// Also when the task panicked: nobody may wait for what does not come.
    fn drop(&mut self) {
        for entry in self.lanes.values() {
            entry.lane.cut();
        }
        for port in self.ports.values() {
            port.cut();
        }
    }
}

fn egress(iface: &mut Interface, pipe: &mut Pipe, inner: &mut Inner, now: SmolInstant) {
    while !pipe.is_full() {
        match iface.poll_egress(now, pipe, &mut inner.sockets) {
            PollResult::SocketStateChanged => {}
            PollResult::None => break,
        }
    }
}

/// Lets one stream send as long as there is room, first what is new. When smoltcp wants to be asked
/// again.
fn exchange(
    iface: &mut Interface,
    pipe: &mut Pipe,
    inner: &mut Inner,
    flight: &mut Flight,
    now: SmolInstant,
) -> Option<SmolInstant> {
    let before = pipe.outgoing.len();
    egress(iface, pipe, inner, now);
    for packet in flight.loss() {
        pipe.incoming = Some(packet);
        iface.poll_ingress_single(now, pipe, &mut inner.sockets);
    }
    egress(iface, pipe, inner, now);
    for packet in pipe.outgoing.iter().skip(before) {
        flight.note(packet, time(now));
    }
    while !pipe.is_full()
        && let Some(packet) = flight.resend(time(now))
    {
        pipe.outgoing.push(packet);
    }
    iface.poll_at(now, &inner.sockets)
}

/// Notes what the socket's state says of the stream as a whole.
fn progress(inner: &mut Inner) {
    let Phase::Opening(began) = inner.phase else { return };
    match inner.socket().state() {
        State::SynSent | State::SynReceived | State::Listen => {}
        State::Closed => {
            inner.phase = Phase::Failed(Failure::Refused);
            inner.wake_all();
        }
        State::Established
        | State::CloseWait
        | State::LastAck
        | State::FinWait1
        | State::FinWait2
        | State::Closing
        | State::TimeWait => {
            inner.phase = Phase::Open(began.elapsed());
            inner.wake_all();
        }
    }
}

/// Whether the socket needs no more looking at. What has come is still there to be read, which is
/// why a socket in `TIME-WAIT` is left alone once it has said everything: at the end of that state
/// smoltcp would empty it.
fn has_ended(inner: &mut Inner, due: Option<SmolInstant>, now: SmolInstant) -> bool {
    let socket = inner.socket();
    match socket.state() {
        State::Closed => socket.remote_endpoint().is_none(),
        State::TimeWait => due.is_none_or(|due| due >= after(now, NOTHING_LEFT)),
        State::Listen
        | State::SynSent
        | State::SynReceived
        | State::Established
        | State::FinWait1
        | State::FinWait2
        | State::CloseWait
        | State::Closing
        | State::LastAck => false,
    }
}

fn interface(pipe: &mut Pipe, routing: &Routing, seed: u64) -> Interface {
    let mut config = Config::new(HardwareAddress::Ip);
    config.random_seed = seed;
    let mut iface = Interface::new(config, pipe, SmolInstant::ZERO);
    iface.update_ip_addrs(|addresses| {
        for source in routing.sources() {
            let prefix = if source.is_ipv4() { 32 } else { 128 };
            // there is room for one of each family
            let _full = addresses.push(IpCidr::new(IpAddress::from(source), prefix));
        }
    });
    // There is one way out; where it leads says nothing here.
    for source in routing.sources() {
        let _route = match source {
            IpAddr::V4(v4) => iface.routes_mut().add_default_ipv4_route(v4),
            IpAddr::V6(v6) => iface.routes_mut().add_default_ipv6_route(v6),
        };
    }
    iface
}

fn since(began: Instant, now: Instant) -> SmolInstant {
    after(SmolInstant::ZERO, now.saturating_duration_since(began))
}

fn time(now: SmolInstant) -> Duration {
    Duration::from_micros(u64::try_from(now.total_micros()).unwrap_or(0))
}

fn after(now: SmolInstant, time: Duration) -> SmolInstant {
    let micros = i64::try_from(time.as_micros()).unwrap_or(i64::MAX);
    SmolInstant::from_micros(now.total_micros().saturating_add(micros))
}
