//! What both protocols of hops read and write.

use std::{future::poll_fn, io, pin::Pin, task::Poll};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};

use super::TunnelError;

/// Sends a whole message.
pub(super) async fn send<S: AsyncWrite + Unpin>(
    link: &mut S,
    message: &[u8],
) -> Result<(), TunnelError> {
    let send = async {
        link.write_all(message).await?;
        link.flush().await
    };
    send.await.map_err(|error| lost(&error))
}

/// Reads exactly as many bytes as the message has, so that what follows stays where it is.
pub(super) async fn read<const N: usize, S: AsyncRead + Unpin>(
    link: &mut S,
) -> Result<[u8; N], TunnelError> {
    let mut bytes = [0; N];
    link.read_exact(&mut bytes).await.map_err(|error| lost(&error))?;
    Ok(bytes)
}

/// A hop that answers before it was asked cannot mean our question.
pub(super) async fn nothing_yet<S: AsyncRead + Unpin>(link: &mut S) -> Result<(), TunnelError> {
    let mut byte = [0];
    let mut buffer = ReadBuf::new(&mut byte);
    let read = poll_fn(|cx| Poll::Ready(Pin::new(&mut *link).poll_read(cx, &mut buffer))).await;
    match read {
        Poll::Pending => Ok(()),
        Poll::Ready(Err(error)) => Err(lost(&error)),
        Poll::Ready(Ok(())) if buffer.filled().is_empty() => Err(closed()),
        Poll::Ready(Ok(())) => {
            Err(TunnelError::Protocol("it answers before it was asked".to_owned()))
        }
    }
}

/// The connection to the hop broke.
pub(super) fn lost(error: &io::Error) -> TunnelError {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        return closed();
    }
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        // In TLS 1.3 the far side looks at the client certificate when we believe ourselves ready.
        Some(rustls::Error::AlertReceived(alert)) => {
            TunnelError::Auth(format!("TLS alert {alert:?}, as for a client certificate"))
        }
        Some(_) | None => TunnelError::Unreachable(format!("the connection broke: {error}")),
    }
}

/// The hop closed the connection where an answer belongs.
pub(super) fn closed() -> TunnelError {
    TunnelError::Unreachable("it closed the connection without an answer".to_owned())
}
