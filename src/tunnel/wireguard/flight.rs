//! What a stream has on the way, and what of it was lost.
//!
//! smoltcp resends one lost segment a round trip, and anything else after a pause of a second. The
//! other side says what it has got (RFC 2018), so what it has not is kept here, and is sent again as
//! soon as something sent later has arrived (RFC 8985). How much may be on the way stays smoltcp's
//! business: it is told of the loss once, and what is resent takes the place of what has arrived. It
//! lets more out for each acknowledgement, whatever that is of, so it is brought one for each segment.

use std::{collections::VecDeque, time::Duration};

use gotatun::packet::Packet;
use smoltcp::wire::{
    IpAddress, IpProtocol, IpVersion, Ipv4Packet, Ipv6Packet, TcpPacket, TcpSeqNumber,
};

use super::routing::split;

/// Segments of a stream that are kept; more than a window of full ones. Those beyond are resent by
/// smoltcp alone.
const SEGMENTS_MAX: usize = 512;

/// Transmissions that may overtake another before that counts as lost.
const OVERTAKEN_MAX: u64 = 3;

/// What the same means in time, at least.
const OVERTAKEN_TIME_MIN: Duration = Duration::from_millis(1);

/// Silence after which the last segment is sent again, so that the answer says what is missing: two
/// round trips, but at least this long.
const SILENCE_MIN: Duration = Duration::from_millis(10);

/// How long others put off the answer to a single segment, and some.
const ANSWER_DELAY_MAX: Duration = Duration::from_millis(50);

/// How often in a row, each time after twice the silence; then it is smoltcp's turn.
const PROBES_MAX: u32 = 5;

/// What smoltcp takes for a loss (RFC 5681).
const REPEATS: usize = 3;

/// Acknowledgements that are made of one at most.
const STEPS_MAX: usize = 64;

/// The segments of one stream that are on the way, oldest first. Times are since some fixed moment.
#[derive(Default)]
pub(super) struct Flight {
    segments: VecDeque<Segment>,
    /// Behind the last byte that was ever sent.
    end: Option<u32>,
    /// Transmissions so far.
    sent: u64,
    /// Of those that arrived the last one, and when it was sent.
    newest: Option<(u64, Duration)>,
    /// Segments that arrived while one before them is missing.
    ahead: usize,
    /// What smoltcp has yet to be told of a loss.
    repeat: Option<Packet>,
    /// Where the flight ended when a loss showed, until all of that has arrived.
    mending: Option<u32>,
    /// Segments that may be resent.
    credit: usize,
    /// What the other side acknowledged last, with its window.
    heard: Option<(u32, u16)>,
    /// The same of ours.
    said: Option<(u32, u16)>,
    round_trip: Option<Duration>,
    quiet_since: Duration,
    probes: u32,
}

struct Segment {
    start: u32,
    end: u32,
    packet: Box<[u8]>,
    /// Its last transmission: which it was, and when.
    order: u64,
    sent: Duration,
    resent: bool,
    arrived: bool,
}

impl Flight {
    /// smoltcp sends this.
    pub(super) fn note(&mut self, packet: &[u8], now: Duration) {
        let Some((segment, ..)) = segment_of(packet) else { return };
        let length = length(&segment);
        self.said = Some((number(segment.ack_number()), segment.window_len()));
        let start = number(segment.seq_number());
        let end = start.wrapping_add(length);
        let known = self.end.is_some_and(|last| reaches(last, end));
        // what is known and not kept asks whether somebody is there, or is beyond what is kept
        if length == 0 || segment.syn() || segment.rst() || (known && self.segments.is_empty()) {
            return;
        }
        self.sent = self.sent.saturating_add(1);
        self.quiet_since = now;
        if self.segments.back().is_some_and(|last| reaches(last.end, end)) {
            for old in self.segments.iter_mut().filter(|old| old.lies_in(start, end)) {
                old.send_again(self.sent, now);
            }
            return;
        }
        while self.segments.back().is_some_and(|last| reaches(last.start, start)) {
            let cut = self.segments.pop_back();
            self.ahead = self.ahead.saturating_sub(cut.map_or(0, |cut| cut.arrived.into()));
        }
        if !known {
            self.end = Some(end);
        }
        if self.segments.len() < SEGMENTS_MAX {
            self.segments.push_back(Segment {
                start,
                end,
                packet: packet.into(),
                order: self.sent,
                sent: now,
                resent: known,
                arrived: false,
            });
        }
    }

    /// The other side sends this: what smoltcp should take before it. `None`: not even that.
    pub(super) fn hear(&mut self, packet: &[u8], now: Duration) -> Option<Vec<Packet>> {
        if self.segments.is_empty() {
            return Some(Vec::new());
        }
        let Some((segment, source, destination)) = segment_of(packet) else {
            return Some(Vec::new());
        };
        let ack = number(segment.ack_number());
        let sound = segment.ack() && !segment.syn() && !segment.rst();
        let possible = self.end.is_some_and(|end| reaches(end, ack));
        if !sound || !possible || !segment.verify_checksum(&source, &destination) {
            return Some(Vec::new());
        }
        let ranges = segment.selective_ack_ranges().unwrap_or_default();
        let window = segment.window_len();
        let bare = segment.segment_len() == 0 && ranges.iter().any(Option::is_some);
        let mut steps = Vec::new();
        let arrived = self.arrive(ack, &ranges, now, &mut steps);
        if arrived > 0 {
            self.quiet_since = now;
            self.probes = 0;
        }
        if self.mending.is_some_and(|until| reaches(ack, until)) {
            self.mending = None;
        }
        self.credit = match self.mending {
            // one at least: what this answers has left the way
            Some(_) => self.credit.saturating_add(arrived.max(1)).min(SEGMENTS_MAX),
            None => arrived.max(1),
        };
        let again = self.heard.replace((ack, window)) == Some((ack, window));
        if self.mending.is_none() && self.ahead > 0 && self.next_lost().is_some() {
            self.mending = self.segments.back().map(|last| last.end);
            self.repeat = acknowledgement(packet, None);
        } else if again && bare && self.segments.front().is_some_and(|first| first.start == ack) {
            return None; // what is missing is known here
        }
        let steps = steps.into_iter().filter(|step| *step != ack);
        Some(steps.filter_map(|step| acknowledgement(packet, Some((step, window)))).collect())
    }

    /// What smoltcp should take besides, once it has sent what it may: how much is on the way then
    /// is what it takes the loss for a part of.
    pub(super) fn loss(&mut self) -> Vec<Packet> {
        let repeat = self.repeat.take();
        let copy = |packet: &Packet| Packet::copy_from(&packet[..]);
        repeat.iter().cycle().take(REPEATS).map(copy).collect()
    }

    /// Sees what has arrived; how many segments have that had not.
    fn arrive(
        &mut self,
        ack: u32,
        ranges: &[Option<(u32, u32)>],
        now: Duration,
        steps: &mut Vec<u32>,
    ) -> usize {
        let mut arrived: usize = 0;
        let mut news = Vec::new();
        // What is left of a segment is smoltcp's to resend, without the rest of it: others of its kind
        // take no end of a stream that comes with bytes they have.
        while let Some(first) = self.segments.pop_front_if(|first| !reaches(first.start, ack)) {
            if first.arrived {
                self.ahead = self.ahead.saturating_sub(1);
            } else if reaches(ack, first.end) {
                arrived = arrived.saturating_add(1);
                news.push((first.order, first.sent, first.resent));
                if steps.len() < STEPS_MAX {
                    steps.push(first.end);
                }
            }
        }
        for &(left, right) in ranges.iter().flatten().filter(|(left, _)| reaches(*left, ack)) {
            for segment in &mut self.segments {
                if !segment.arrived && segment.lies_in(left, right) {
                    segment.arrived = true;
                    arrived = arrived.saturating_add(1);
                    self.ahead = self.ahead.saturating_add(1);
                    news.push((segment.order, segment.sent, segment.resent));
                }
            }
        }
        for (order, sent, resent) in news {
            if self.newest.is_none_or(|(newest, _)| newest < order) {
                self.newest = Some((order, sent));
            }
            if !resent {
                let took = now.saturating_sub(sent);
                let before = self.round_trip.unwrap_or(took);
                self.round_trip = before.saturating_mul(7).saturating_add(took).checked_div(8);
            }
        }
        arrived
    }

    /// What should be sent again now; to be asked until there is nothing.
    pub(super) fn resend(&mut self, now: Duration) -> Option<Packet> {
        if self.due().is_some_and(|due| due <= now) {
            self.probes = self.probes.saturating_add(1);
            let last = self.segments.iter().rposition(|segment| !segment.arrived)?;
            return self.send_again(last, now);
        }
        self.mending?;
        let lost = self.next_lost()?;
        self.credit = self.credit.checked_sub(1)?;
        self.send_again(lost, now)
    }

    /// When [`Self::resend`] has something because nothing was heard.
    pub(super) fn due(&self) -> Option<Duration> {
        if self.segments.is_empty() || self.probes >= PROBES_MAX {
            return None;
        }
        let silence = self.round_trip?.saturating_mul(2).max(SILENCE_MIN);
        let delay = if self.segments.len() == 1 { ANSWER_DELAY_MAX } else { Duration::ZERO };
        let silence = silence.saturating_add(delay).saturating_mul(1 << self.probes);
        Some(self.quiet_since.saturating_add(silence))
    }

    fn send_again(&mut self, index: usize, now: Duration) -> Option<Packet> {
        self.sent = self.sent.saturating_add(1);
        self.quiet_since = now;
        let segment = self.segments.get_mut(index)?;
        segment.send_again(self.sent, now);
        let mut packet = Packet::copy_from(&*segment.packet);
        // it may have changed since
        renew(&mut packet, self.said?)?;
        Some(packet)
    }

    /// The first segment that counts as lost.
    fn next_lost(&self) -> Option<usize> {
        let (newest, sent) = self.newest?;
        let quarter = self.round_trip.and_then(|time| time.checked_div(4));
        let patience = quarter.unwrap_or_default().max(OVERTAKEN_TIME_MIN);
        self.segments.iter().position(|segment| {
            let overtaken = newest.saturating_sub(segment.order);
            let long = sent.saturating_sub(segment.sent) > patience;
            !segment.arrived && (overtaken >= OVERTAKEN_MAX || overtaken > 0 && long)
        })
    }
}

impl Segment {
    fn lies_in(&self, start: u32, end: u32) -> bool {
        reaches(self.start, start) && reaches(end, self.end)
    }

    fn send_again(&mut self, order: u64, now: Duration) {
        self.order = order;
        self.sent = now;
        self.resent = true;
    }
}

/// The acknowledgement in this packet, or another one, and nothing else of it.
fn acknowledgement(packet: &[u8], other: Option<(u32, u16)>) -> Option<Packet> {
    let (segment, source, destination) = segment_of(packet)?;
    let next = segment.seq_number().0.wrapping_add_unsigned(length(&segment));
    let header = usize::from(segment.header_len());
    let at = segment_at(packet)?;
    let mut packet = Packet::copy_from(packet.get(..at.checked_add(header)?)?);
    if source.version() == IpVersion::Ipv4 {
        let mut ip = Ipv4Packet::new_unchecked(&mut packet[..]);
        ip.set_total_len(u16::try_from(at.checked_add(header)?).ok()?);
        ip.fill_checksum();
    } else {
        Ipv6Packet::new_unchecked(&mut packet[..]).set_payload_len(u16::try_from(header).ok()?);
    }
    let mut segment = TcpPacket::new_unchecked(packet.get_mut(at..)?);
    segment.clear_flags();
    segment.set_ack(true);
    segment.set_header_len(u8::try_from(header).ok()?);
    segment.set_seq_number(TcpSeqNumber(next));
    segment.fill_checksum(&source, &destination);
    if let Some(other) = other {
        renew(&mut packet, other)?;
    }
    Some(packet)
}

/// Gives a segment another acknowledgement and window.
fn renew(packet: &mut [u8], (ack, window): (u32, u16)) -> Option<()> {
    let (_, source, destination) = segment_of(packet)?;
    let mut segment = TcpPacket::new_unchecked(packet.get_mut(segment_at(packet)?..)?);
    segment.set_ack_number(TcpSeqNumber(ack.cast_signed()));
    segment.set_window_len(window);
    segment.fill_checksum(&source, &destination);
    Some(())
}

/// The segment in this packet, with the packet's source and destination.
fn segment_of(packet: &[u8]) -> Option<(TcpPacket<&[u8]>, IpAddress, IpAddress)> {
    let (source, destination, protocol, payload) = split(packet)?;
    let segment = TcpPacket::new_checked(payload).ok()?;
    (protocol == IpProtocol::Tcp).then(|| (segment, source.into(), destination.into()))
}

/// Where it begins.
fn segment_at(packet: &[u8]) -> Option<usize> {
    let first = packet.first()?;
    Some(if first >> 4 == 4 { usize::from(first & 0x0f).saturating_mul(4) } else { 40 })
}

/// The numbers that a segment takes.
fn length(segment: &TcpPacket<&[u8]>) -> u32 {
    u32::try_from(segment.segment_len()).unwrap_or(0)
}

fn number(number: TcpSeqNumber) -> u32 {
    number.0.cast_unsigned()
}

/// Whether a sequence number is not before another (RFC 9293, section 3.4).
fn reaches(number: u32, other: u32) -> bool {
    number.wrapping_sub(other) < 1 << 31
}
