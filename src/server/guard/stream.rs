//! The guard as the stream that hyper reads and writes.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Buf as _;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Guard, Stage};

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Guard<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            if this.passing > 0 {
                let count = this.passing.min(buffer.remaining());
                buffer.put_slice(this.held.get(..count).unwrap_or_default());
                this.held.advance(count);
                this.passing = this.passing.saturating_sub(count);
                return Poll::Ready(Ok(()));
            }
            match &this.stage {
                Stage::Head { .. } => ready!(this.poll_head(cx, buffer)),
                // The answer was out before the end of the request.
                Stage::Answer if this.turn.is_idle() => this.await_head(),
                Stage::Answer => return this.poll_answer(cx, buffer),
                Stage::Body(_) => return this.poll_body(cx, buffer),
                Stage::Failed(fault) => return Poll::Ready(Err((*fault).into())),
                Stage::Stopped => return Poll::Ready(Ok(())),
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Guard<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().poll_write_with(cx, |stream, cx| stream.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().poll_write_with(cx, |stream, cx| stream.poll_write_vectored(cx, pieces))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let result = this.poll_flush_all(cx);
        ready!(this.in_time(cx, result))?;
        if !this.turn.flushed() || !matches!(this.stage, Stage::Answer) {
            return Poll::Ready(Ok(()));
        }
        if this.turn.is_switched() {
            // What came behind the request is of the new protocol.
            this.stage = Stage::Stopped;
            return Poll::Ready(Ok(()));
        }
        this.await_head();
        // hyper may have found nothing to read before, and will not look again by itself.
        if !this.held.is_empty() || this.eof || this.read_timer.poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
        Poll::Ready(Ok(()))
    }

    /// Nothing: the connection is not hyper's to close.
    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
