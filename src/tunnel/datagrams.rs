//! Datagrams through a tunnel, for name servers.

use std::{
    io,
    sync::{Mutex, PoisonError},
    task::{Context, Poll},
};

use super::{line::Bond, meter::Open, wireguard::WireGuardDatagrams};
use crate::resolve::Datagrams;

/// A socket for datagrams to one address behind the tunnel. It counts as one of the tunnel's open
/// streams, and ends with an error when the tunnel's far end is gone.
#[derive(Debug)]
pub(super) struct TunnelDatagrams {
    socket: WireGuardDatagrams,
    open: Open,
    bond: Mutex<Bond>,
}

impl TunnelDatagrams {
    pub(super) const fn new(socket: WireGuardDatagrams, open: Open, bond: Bond) -> Self {
        Self { socket, open, bond: Mutex::new(bond) }
    }
}

impl Datagrams for TunnelDatagrams {
    fn send(&self, datagram: &[u8]) -> io::Result<()> {
        self.socket.send(datagram)?;
        self.open.passed(0, count(datagram.len()));
        Ok(())
    }

    fn poll_receive(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let received = self.socket.poll_receive(cx, buffer);
        match received {
            Poll::Ready(Ok(length)) => self.open.passed(count(length), 0),
            Poll::Ready(Err(_)) => {}
            Poll::Pending => {
                return self.bond.lock().unwrap_or_else(PoisonError::into_inner).poll(cx);
            }
        }
        received
    }
}

fn count(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}
