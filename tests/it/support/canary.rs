//! Listeners on addresses that nobody may reach.

use super::{lab, receiver};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex},
};
use tokio::{net::TcpStream, task::JoinSet};

/// Listens on every address there is, on some ports, and remembers who came.
///
/// Receivers of the test keep their own addresses: the kernel prefers the more specific socket.
pub(crate) struct Canary {
    ports: Vec<u16>,
    visits: Arc<Mutex<Vec<Visit>>>,
    _tasks: JoinSet<()>,
}

/// Who came, and to which address.
#[derive(Clone, Copy, Debug)]
struct Visit {
    peer: SocketAddr,
    local: SocketAddr,
}

impl Canary {
    /// Makes every address answer on this machine and listens on all of them.
    pub(crate) fn everywhere(ports: &[u16]) -> Self {
        lab::own_the_world();
        let visits: Arc<Mutex<Vec<Visit>>> = Arc::default();
        let mut tasks = JoinSet::new();
        for port in ports {
            for address in [IpAddr::V4(Ipv4Addr::UNSPECIFIED), Ipv6Addr::UNSPECIFIED.into()] {
                let listener = receiver::listen((address, *port).into());
                let visits = Arc::clone(&visits);
                tasks.spawn(async move {
                    while let Ok((stream, peer)) = listener.accept().await {
                        let local = stream.local_addr().unwrap();
                        visits.lock().unwrap().push(Visit { peer, local });
                    }
                });
            }
        }
        Self { ports: ports.to_vec(), visits, _tasks: tasks }
    }

    /// Panics if anyone but this function came.
    pub(crate) async fn assert_silent(&self) {
        // Each listener hands connections over in order: once our own knock was noted, every
        // earlier one was too.
        let mut own = Vec::new();
        for port in &self.ports {
            for address in [IpAddr::V4(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
                let knock = TcpStream::connect((address, *port)).await.unwrap();
                let from = knock.local_addr().unwrap();
                super::eventually("the canary notes a knock", async || {
                    self.visits.lock().unwrap().iter().any(|v| v.peer == from).then_some(())
                })
                .await;
                own.push(from);
            }
        }
        let mut visits = self.visits.lock().unwrap();
        visits.retain(|visit| !own.contains(&visit.peer));
        let reached: Vec<_> = visits.iter().map(|visit| visit.local).collect();
        assert!(reached.is_empty(), "a forbidden address was reached: {reached:?}");
    }
}
