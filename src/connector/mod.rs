//! The reverse connector: the customer's end dials out, and the gateway opens streams through it.
//!
//! Both ends speak HTTP/2 with the roles turned over the connection that the customer's end
//! dialled: the gateway is the HTTP/2 client, and each stream is a `CONNECT address:port`
//! (RFC 9113, section 8.5). Below is TLS 1.3, in which both ends show raw public keys (RFC 7250)
//! that were pinned at enrolment; between the two, one line each way ([`hello`]) names versions.

pub mod client;
pub mod gateway;
pub mod keys;
pub mod token;

mod hello;
mod reply;
#[cfg(test)]
mod tests;

use std::time::Duration;

use crate::multiplex::Patience;
pub use hello::Why;

/// How long a link may be silent: a dead one is noticed 25 seconds after its last byte.
const PATIENCE: Patience =
    Patience { unasked: Duration::from_secs(10), asked: Duration::from_secs(15) };

/// Streams that may be open at once on one connection.
const STREAMS_MAX: u16 = 1024;

/// Largest frame: fewer, larger ones cost less, and another stream waits behind one at most. With
/// its own head of 9 bytes and TLS around it, it is just below what the kernel sends as two packets:
/// a few bytes more would go out, and be received and acknowledged, alone.
const FRAME_BYTES_MAX: u32 = (125 << 10) - 9;

/// Bytes of one stream that may be under way before its reader has taken any: at 50 ms of round
/// trip, 160 Mbit/s. Whole frames, as below, so that no small ones are cut off.
const STREAM_WINDOW_BYTES: u32 = 8 * FRAME_BYTES_MAX;

/// Bytes of all streams of one connection that may be under way.
const CONNECTION_WINDOW_BYTES: u32 = 16 * STREAM_WINDOW_BYTES;

/// Bytes of one stream that wait for the socket; what is behind them waits at its source.
const SEND_BUFFER_BYTES: usize = 4 * as_usize(FRAME_BYTES_MAX);

/// Bytes of TLS that wait for the socket: there is room for a frame behind half of another.
const TLS_BUFFER_BYTES: usize = 2 * as_usize(FRAME_BYTES_MAX);

#[expect(clippy::as_conversions, reason = "32 bits fit everywhere, and From is not const")]
const fn as_usize(count: u32) -> usize {
    count as usize
}

/// Largest head of a request or an answer: an address and a word.
const HEAD_BYTES_MAX: u32 = 4 << 10;
