//! A customer's network: a network namespace of its own, joined to the gateway's by one cable.
//!
//! Nothing in it can be reached but through [`HOP`]: there is no route to its private addresses.

use super::lab::{self, EGRESS};
use std::{
    net::{IpAddr, Ipv4Addr},
    pin::Pin,
    process::Command,
};
use tokio::sync::{mpsc, oneshot};

/// The gateway's end of the cable.
const NEAR: IpAddr = IpAddr::V4(Ipv4Addr::new(45, 76, 10, 1));
/// The customer's end of the cable, where hops listen.
pub(crate) const HOP: IpAddr = IpAddr::V4(Ipv4Addr::new(45, 76, 10, 2));
/// Behind the cable: a second address for hops.
pub(crate) const HOP_2: IpAddr = IpAddr::V4(Ipv4Addr::new(45, 76, 11, 2));
/// A host inside.
pub(crate) const INSIDE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 30, 0, 5));
/// A second host inside.
pub(crate) const INSIDE_2: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 30, 0, 6));
/// The name server inside.
pub(crate) const INSIDE_DNS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 30, 0, 53));

/// The network; it ends when dropped.
pub(crate) struct Far {
    jobs: mpsc::UnboundedSender<Job>,
}

type Job = Box<dyn FnOnce() -> Pin<Box<dyn Future<Output = ()>>> + Send>;

impl Far {
    /// Makes the network and lays the cable.
    pub(crate) async fn new() -> Self {
        let (jobs, mut queue) = mpsc::unbounded_channel::<Job>();
        let (tell, made) = oneshot::channel();
        std::thread::spawn(move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            // Where `ip` finds this thread's namespace.
            let thread = std::fs::read_link("/proc/thread-self").unwrap();
            tell.send(thread.file_name().unwrap().to_str().unwrap().to_owned()).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                while let Some(job) = queue.recv().await {
                    job().await;
                }
            });
        });
        let thread = made.await.unwrap();
        lab::ip(&format!("link add near0 type veth peer name far0 netns {thread}"));
        lab::ip(&format!("addr add {NEAR}/30 dev near0"));
        lab::ip("link set near0 up");
        let far = Self { jobs };
        far.ip("link set lo up").await;
        for address in [HOP_2, INSIDE, INSIDE_2, INSIDE_DNS] {
            far.ip(&format!("addr add {address}/32 dev lo")).await;
        }
        far.ip(&format!("addr add {HOP}/30 dev far0")).await;
        far.plug_in().await;
        lab::ip(&format!("route add {HOP_2}/32 via {HOP} dev near0"));
        far
    }

    /// Connects the cable.
    pub(crate) async fn plug_in(&self) {
        self.ip("link set far0 up").await;
        self.ip(&format!("route replace {EGRESS}/32 via {NEAR} dev far0")).await;
    }

    /// Pulls the cable: packets are lost from now on, and nobody says so.
    pub(crate) async fn pull(&self) {
        self.ip("link set far0 down").await;
    }

    /// From now on nothing comes back from this address: what is open stays open, and says nothing.
    pub(crate) async fn silence(&self, address: IpAddr) {
        self.ip(&format!("rule add from {address}/32 blackhole")).await;
    }

    /// Ends that.
    pub(crate) async fn restore(&self, address: IpAddr) {
        self.ip(&format!("rule del from {address}/32 blackhole")).await;
    }

    /// Runs this inside; the sockets that it opens are of that network.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        job: impl AsyncFnOnce() -> T + Send + 'static,
    ) -> T {
        let (tell, done) = oneshot::channel();
        let job: Job = Box::new(move || {
            Box::pin(async move {
                drop(tell.send(job().await));
            })
        });
        assert!(self.jobs.send(job).is_ok());
        done.await.expect("the job comes to its end")
    }

    async fn ip(&self, words: &str) {
        let words: Vec<_> = words.split(' ').map(ToOwned::to_owned).collect();
        self.run(async move || {
            let output = Command::new("ip").args(&words).output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "`ip {}` inside: {said}", words.join(" "));
        })
        .await;
    }
}
