//! The last bytes on a connection that is about to be closed.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// How long the peer may take to read the last words and to close.
const LINGER_TIMEOUT: Duration = Duration::from_secs(2);

/// How much of what the peer still sends is thrown away while waiting, in bytes.
const DISCARD_BYTES_MAX: u64 = 256 * 1024;

/// The same for the body of a request that was answered before its end (413): many clients write all
/// of it before they read, and would report a broken pipe instead of the answer.
const BODY_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Sends `words` and closes, so that the peer gets to read them.
///
/// A socket that is closed with unread bytes in its receive buffer sends RST, which makes the peer's
/// kernel throw away what it has not read yet: here, the answer that says why. So the sending side
/// is shut down first and what still arrives is thrown away, within limits.
pub async fn last_words<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, words: &[u8]) {
    close(stream, words, DISCARD_BYTES_MAX).await;
}

/// Closes behind an answer that the peer may not have read yet, as it still sends its request.
pub async fn after_answer<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) {
    close(stream, b"", BODY_BYTES_MAX).await;
}

async fn close<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, words: &[u8], discard: u64) {
    let speak = async {
        stream.write_all(words).await?;
        stream.shutdown().await?;
        tokio::io::copy(&mut stream.take(discard), &mut tokio::io::sink()).await
    };
    // Whatever goes wrong here, the connection is closed next.
    let _ignored = tokio::time::timeout(LINGER_TIMEOUT, speak).await;
}
