//! The session with the peer: handshakes, keys, timers and cookies, all of them gotatun's.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use gotatun::{
    noise::{
        Tunn, TunnResult, errors::WireGuardError, index_table::IndexTable,
        rate_limiter::RateLimiter,
    },
    packet::{Packet, WgKind},
    tun::MtuWatcher,
    x25519::{PublicKey, StaticSecret},
};

use super::Settings;

/// Handshakes a second from one address before cookies are asked for, as gotatun's own device
/// has it.
const HANDSHAKES_PER_SECOND_MAX: u64 = 100;

/// What a datagram turned out to be.
pub(crate) enum Opened {
    /// Not of the peer, or not of use.
    Junk,
    /// An answer of the peer to a handshake, which our keys do not open.
    KeyMismatch,
    /// To be sent back to where the datagram came from, and nothing else.
    Cookie(Packet),
    /// From the peer; nothing was inside.
    Authentic,
    /// From the peer, and a new session stands.
    Session,
    /// From the peer, with this inside.
    Inside(Packet),
}

/// One end of a session.
pub(crate) struct Noise {
    tunn: Tunn,
    limiter: Arc<RateLimiter>,
    mtu: MtuWatcher,
    kept_alive: bool,
}

impl Noise {
    /// `None` when a key is not 32 bytes.
    pub(crate) fn new(settings: &Settings) -> Option<Self> {
        let private = StaticSecret::from(<[u8; 32]>::try_from(settings.private_key.expose()).ok()?);
        let preshared = match &settings.preshared_key {
            Some(key) => Some(<[u8; 32]>::try_from(key.expose()).ok()?),
            None => None,
        };
        let keepalive = settings.keepalive.map(|every| {
            u16::try_from(every.as_secs()).unwrap_or(u16::MAX).max(1) // 0 would mean none
        });
        let limiter =
            Arc::new(RateLimiter::new(&PublicKey::from(&private), HANDSHAKES_PER_SECOND_MAX));
        let tunn = Tunn::new(
            private,
            PublicKey::from(settings.peer_public_key),
            preshared,
            keepalive,
            IndexTable::from_os_rng(),
            Arc::clone(&limiter),
        );
        let mtu = MtuWatcher::new(settings.mtu);
        Some(Self { tunn, limiter, mtu, kept_alive: keepalive.is_some() })
    }

    /// A packet for the peer. Without a session it waits for one, among few, and the datagram is
    /// the beginning of a handshake, if none is under way.
    pub(crate) fn seal(&mut self, packet: Packet) -> Option<Packet> {
        self.tunn.handle_outgoing_packet(packet, Some(&mut self.mtu)).map(Packet::from)
    }

    /// A datagram from `from`. What is to be sent to the peer is put behind `out`.
    pub(crate) fn open(
        &mut self,
        datagram: Packet,
        from: SocketAddr,
        out: &mut impl Extend<Packet>,
    ) -> Opened {
        let message = match self.limiter.verify_packet(from, datagram) {
            Ok(message) => message,
            Err(TunnResult::WriteToNetwork(cookie)) => return Opened::Cookie(cookie.into()),
            Err(TunnResult::Done | TunnResult::Err(_) | TunnResult::WriteToTunnel(_)) => {
                return Opened::Junk;
            }
        };
        let answer = matches!(message, WgKind::HandshakeResp(_));
        let data = matches!(message, WgKind::Data(_));
        match self.tunn.handle_incoming_packet(message) {
            TunnResult::WriteToNetwork(reply) => {
                out.extend([Packet::from(reply)]);
                out.extend(self.tunn.get_queued_packets(&mut self.mtu).map(Packet::from));
                if answer { Opened::Session } else { Opened::Authentic }
            }
            TunnResult::WriteToTunnel(packet) if data && !packet.is_empty() => {
                Opened::Inside(packet)
            }
            TunnResult::WriteToTunnel(_) => Opened::Authentic,
            TunnResult::Err(WireGuardError::InvalidAeadTag) if answer => Opened::KeyMismatch,
            TunnResult::Done | TunnResult::Err(_) => Opened::Junk,
        }
    }

    /// What is due: a handshake once more, a packet that keeps the way open.
    pub(crate) fn tick(&mut self) -> Option<Packet> {
        match self.tunn.update_timers() {
            Ok(due) => due.map(Packet::from),
            // gotatun gives up after 90 seconds until somebody sends; a way that is to be kept
            // open is asked for again
            Err(WireGuardError::ConnectionExpired) if self.kept_alive => self.initiate(false),
            Err(_) => None,
        }
    }

    /// The beginning of a handshake; `None` when one is under way, unless it is `forced`.
    pub(super) fn initiate(&mut self, forced: bool) -> Option<Packet> {
        self.tunn.format_handshake_initiation(forced).map(|message| WgKind::from(message).into())
    }

    /// Time since the session was set up; `None` without one.
    pub(super) fn session_age(&self) -> Option<Duration> {
        self.tunn.time_since_last_handshake()
    }

    /// How long the peer took to answer the last handshake.
    pub(super) fn round_trip(&self) -> Option<Duration> {
        let (.., milliseconds) = self.tunn.stats();
        milliseconds.map(|milliseconds| Duration::from_millis(milliseconds.into()))
    }
}
