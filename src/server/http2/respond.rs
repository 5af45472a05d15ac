//! Sends a whole answer on an HTTP/2 stream, no faster than the client takes it.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use h2::{Reason, SendStream, server::SendResponse};
use http::{HeaderMap, HeaderValue, Response, header::CONTENT_LENGTH};
use hyper::body::{Body, Frame, SizeHint};

use crate::multiplex::poll_room;

/// Why an answer did not go out whole. The stream has been reset by then.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unsent<E> {
    /// The client reset the stream, its connection ended, or HTTP/2 cannot carry the head.
    #[error("the stream: {0}")]
    Stream(#[source] h2::Error),
    /// The body failed.
    #[error("the body: {0}")]
    Body(#[source] E),
    /// The client took nothing for too long.
    #[error("the client takes nothing")]
    Stalled,
}

/// Sends head, data and trailers. At most one frame of the body and the connection's send buffer
/// are held at a time. A body that fails becomes a reset with `INTERNAL_ERROR`, so that the client
/// cannot take what it got for the whole. `stall` is the longest time in which the client may take
/// no byte; waiting for the body is the body's own affair.
///
/// # Errors
/// The client ended the stream, the client stalled, or the body failed.
pub(super) async fn respond<B>(
    mut to: SendResponse<Bytes>,
    response: Response<B>,
    stall: Duration,
) -> Result<(), Unsent<B::Error>>
where
    B: Body<Data = Bytes>,
{
    let (head, body) = response.into_parts();
    let mut head = Response::from_parts(head, ());
    let body = pin!(body);
    let empty = body.is_end_stream();
    set_length(head.headers_mut(), &body.size_hint());
    let mut stream = match to.send_response(head, empty) {
        Ok(stream) => stream,
        Err(error) => {
            to.send_reset(Reason::INTERNAL_ERROR);
            return Err(Unsent::Stream(error));
        }
    };
    if empty {
        return Ok(());
    }
    let sent = send_body(&mut stream, body, stall).await;
    match &sent {
        Ok(()) => {}
        Err(Unsent::Stalled) => stream.send_reset(Reason::CANCEL),
        Err(Unsent::Body(_) | Unsent::Stream(_)) => stream.send_reset(Reason::INTERNAL_ERROR),
    }
    sent
}

/// Says how long the body is, where that is known and nobody has said it.
fn set_length(head: &mut HeaderMap, size: &SizeHint) {
    if let Some(length) = size.exact().filter(|length| *length > 0) {
        head.entry(CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(length));
    }
}

async fn send_body<B>(
    stream: &mut SendStream<Bytes>,
    mut body: Pin<&mut B>,
    stall: Duration,
) -> Result<(), Unsent<B::Error>>
where
    B: Body<Data = Bytes>,
{
    while let Some(frame) = next_frame(stream, body.as_mut()).await? {
        match frame.into_data() {
            Ok(data) => {
                let last = !data.is_empty() && body.is_end_stream();
                send_data(stream, data, last, stall).await?;
                if last {
                    return Ok(());
                }
            }
            Err(other) => {
                if let Ok(trailers) = other.into_trailers() {
                    return stream.send_trailers(trailers).map_err(Unsent::Stream);
                }
            }
        }
    }
    stream.send_data(Bytes::new(), true).map_err(Unsent::Stream)
}

/// Waits for the body, but not longer than the client does.
async fn next_frame<B>(
    stream: &mut SendStream<Bytes>,
    mut body: Pin<&mut B>,
) -> Result<Option<Frame<Bytes>>, Unsent<B::Error>>
where
    B: Body<Data = Bytes>,
{
    poll_fn(|cx| {
        if let Poll::Ready(gone) = stream.poll_reset(cx) {
            let error = gone.map_or_else(|error| error, h2::Error::from);
            return Poll::Ready(Err(Unsent::Stream(error)));
        }
        body.as_mut().poll_frame(cx).map(|frame| frame.transpose().map_err(Unsent::Body))
    })
    .await
}

async fn send_data<E>(
    stream: &mut SendStream<Bytes>,
    mut data: Bytes,
    last: bool,
    stall: Duration,
) -> Result<(), Unsent<E>> {
    while !data.is_empty() {
        let room = poll_fn(|cx| poll_room(stream, cx, data.len()));
        let room = match tokio::time::timeout(stall, room).await {
            Ok(room) => room.map_err(Unsent::Stream)?,
            Err(_) => return Err(Unsent::Stalled),
        };
        let piece = data.split_to(room.min(data.len()));
        stream.send_data(piece, last && data.is_empty()).map_err(Unsent::Stream)?;
    }
    Ok(())
}
