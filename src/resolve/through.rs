//! The way to name servers that are reached through something else than the egress address.

use std::fmt::Debug;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite};

/// A future of a trait object.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A connection to a name server, whatever carries it.
pub trait Link: AsyncRead + AsyncWrite + Unpin + Send + Sync + Debug {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + Sync + Debug> Link for T {}

/// Datagrams to one name server and back, whatever carries them.
pub trait Datagrams: Send + Sync + Debug {
    /// Sends one, which may be lost on its way.
    fn send(&self, datagram: &[u8]) -> io::Result<()>;

    /// Waits for one from the server and writes it to the front of `buffer`. Gives its length.
    fn poll_receive(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>>;
}

/// Leads to name servers. Nothing leaves for them in any other way.
pub trait Through: Debug + Send + Sync {
    /// Connects to a name server of the configuration.
    fn connect(&self, server: SocketAddr) -> BoxFuture<io::Result<Box<dyn Link>>>;

    /// Whether datagrams can be sent that way.
    fn has_datagrams(&self) -> bool;

    /// A socket for datagrams to a name server of the configuration.
    ///
    /// # Errors
    /// When the way is known to be closed, or has no datagrams.
    fn datagrams(&self, server: SocketAddr) -> io::Result<Box<dyn Datagrams>>;

    /// Ways with equal keys are one and the same.
    fn key(&self) -> &[u64];
}

/// A way that is shared, and compared by what it is.
#[derive(Clone, Debug)]
pub struct Way(Arc<dyn Through>);

impl Way {
    /// This way.
    pub fn new(way: impl Through + 'static) -> Self {
        Self(Arc::new(way))
    }
}

impl Deref for Way {
    type Target = dyn Through;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

impl PartialEq for Way {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Way {}
