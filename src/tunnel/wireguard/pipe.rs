//! What smoltcp takes for a network device: one packet in, some packets out.

use bytes::BytesMut;
use gotatun::packet::Packet;
use smoltcp::{
    phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken},
    time::Instant,
};

/// Packets made before they are sealed and sent: the windows of a stream or two.
const OUTGOING_MAX: usize = 256;

/// Between smoltcp and the session.
pub(crate) struct Pipe {
    /// The packet that comes next.
    pub(crate) incoming: Option<Packet>,
    /// The packets that were made, in order.
    pub(crate) outgoing: Vec<Packet>,
    mtu: u16,
}

impl Pipe {
    pub(crate) fn new(mtu: u16) -> Self {
        Self { incoming: None, outgoing: Vec::new(), mtu }
    }

    pub(super) fn is_full(&self) -> bool {
        self.outgoing.len() >= OUTGOING_MAX
    }

    pub(super) fn push(&mut self, packet: BytesMut) {
        self.outgoing.push(Packet::from_bytes(packet));
    }
}

impl Device for Pipe {
    type RxToken<'a> = In;
    type TxToken<'a> = Out<'a>;

    // An answer to a packet has room always: there is one at most to each that comes in, and those
    // are few at a time.
    fn receive(&mut self, _now: Instant) -> Option<(In, Out<'_>)> {
        Some((In(self.incoming.take()?), Out(&mut self.outgoing)))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Out<'_>> {
        (!self.is_full()).then_some(Out(&mut self.outgoing))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu.into();
        capabilities
    }
}

/// The packet that came.
pub(crate) struct In(Packet);

impl RxToken for In {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

/// Room for a packet.
pub(crate) struct Out<'a>(&'a mut Vec<Packet>);

impl TxToken for Out<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, write: F) -> R {
        let mut packet = BytesMut::zeroed(length);
        let result = write(&mut packet);
        self.0.push(Packet::from_bytes(packet));
        result
    }
}
