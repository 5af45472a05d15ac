//! What every HTTP/2 connection with streams of bytes in it is made of, at the proxy's listeners and
//! in reverse connectors: the bytes below, a stream, and whether the other end is still there.

mod alive;
mod stream;
mod wire;

pub(crate) use alive::{Patience, ask, until_silent};
pub use stream::Stream;
pub(crate) use stream::poll_room;
pub(crate) use wire::{Heard, Wire};
