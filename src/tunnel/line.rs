//! Whether a stream's tunnel still leads anywhere: silence is no error of any socket.

use std::{
    fmt,
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::sync::watch;

use super::{PassageError, TunnelError};

/// What attempts at the far end say of the streams that are open through it. One that does not take
/// its credentials any more, or refuses an address, says nothing of them.
#[derive(Clone, Debug, Default)]
pub(super) enum Line {
    /// The last one reached it, or there was none.
    #[default]
    Holds,
    /// The last one did not.
    Down(TunnelError),
    /// Neither did the one before it, which had ended when the last one began.
    Lost(TunnelError),
}

/// When a stream gives its tunnel up.
#[derive(Clone, Copy, Debug)]
pub(super) enum Until {
    /// For what is opened anew at no loss.
    Down,
    /// For what is lost with the stream: a single lost packet must not be enough.
    Lost,
}

/// What a stream can be bound to.
#[derive(Debug)]
pub(super) struct Lifeline {
    pub(super) tunnel: Arc<str>,
    pub(super) line: watch::Receiver<Line>,
}

/// Ends a stream whose far end is gone.
pub(super) enum Bond {
    Holds(Pin<Box<dyn Future<Output = PassageError> + Send + Sync>>),
    Broken(PassageError),
}

impl Lifeline {
    pub(super) fn bond(self, until: Until) -> Bond {
        let Self { tunnel, mut line } = self;
        Bond::Holds(Box::pin(async move {
            let gone = |line: &Line| line.ends(until).is_some();
            let error = match line.wait_for(gone).await {
                Ok(line) => line.ends(until).cloned(),
                Err(_) => None,
            };
            match error {
                Some(error) => PassageError { tunnel, error },
                // Nobody looks after the tunnel any more: its streams end by themselves.
                None => std::future::pending().await,
            }
        }))
    }
}

impl Line {
    fn ends(&self, until: Until) -> Option<&TunnelError> {
        match (self, until) {
            (Self::Lost(error), Until::Down | Until::Lost) | (Self::Down(error), Until::Down) => {
                Some(error)
            }
            (Self::Holds, Until::Down | Until::Lost) | (Self::Down(_), Until::Lost) => None,
        }
    }
}

impl Bond {
    /// Ready with an error, now and ever after, once the far end is gone.
    pub(super) fn poll<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if let Self::Holds(gone) = self {
            *self = Self::Broken(ready!(gone.as_mut().poll(cx)));
        }
        match self {
            Self::Holds(_) => Poll::Pending,
            Self::Broken(failure) => Poll::Ready(Err(failure.clone().into())),
        }
    }
}

impl fmt::Debug for Bond {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Holds(_) => f.write_str("Holds"),
            Self::Broken(failure) => write!(f, "Broken({failure})"),
        }
    }
}

/// A reset, as who asks name servers asks once more after one.
impl From<PassageError> for io::Error {
    fn from(failure: PassageError) -> Self {
        Self::new(io::ErrorKind::ConnectionReset, failure)
    }
}

impl PassageError {
    /// Why a stream was ended because its tunnel is gone, where that was the reason.
    pub fn of_stream(error: &io::Error) -> Option<&Self> {
        error.get_ref().and_then(|inner| inner.downcast_ref())
    }
}
