//! A connection to a target that speaks HTTP/1, driven by whoever uses it.
//!
//! hyper wants its connections driven by a task of their own. A request would then go through four
//! polls of two tasks that wake each other; driven in place it takes two polls of one. The answer's
//! body drives the connection on, and a connection that waits in the pool needs nobody: what has
//! come meanwhile is seen at the next look.
//!
//! A task is needed where nobody else goes on: while the request's body is still on its way when the
//! answer comes, as a client may take nothing of the answer before it has sent everything; and to
//! close a connection in an orderly way.

use std::{
    fmt,
    future::poll_fn,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use hyper::{
    body::{Body as _, Frame, Incoming},
    client::conn::{TrySendError, http1},
};
use hyper_util::rt::TokioIo;
use tokio::{runtime::Handle, task::unconstrained};
use tokio_util::task::TaskTracker;

use super::{
    body::{Progress, RequestBody},
    interim::Interims,
    noted::{Noted, Seen},
    timer::Timer,
};

/// Longest head of an answer, in bytes.
const HEAD_BYTES_MAX: usize = 256 * 1024;

/// The connection. Dropping it closes it.
pub struct Line {
    sender: http1::SendRequest<RequestBody>,
    /// `None` once a task of its own drives it, or it has ended.
    driver: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    seen: Arc<Seen>,
    timer: Timer,
    /// The target's, as every request on the connection says it.
    host: Option<HeaderValue>,
    tasks: TaskTracker,
}

/// Without hyper's inner state.
impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line").field("sender", &self.sender).finish_non_exhaustive()
    }
}

/// The head of an answer, or why hyper has none.
pub(super) type Sent = Result<Response<Incoming>, TrySendError<Request<RequestBody>>>;

/// Why a request is given up.
pub(super) enum GivenUp {
    /// More interim answers came than are acceptable.
    Flooded,
    /// No answer came in time.
    Silent,
}

impl Line {
    /// Begins to speak HTTP/1 to `host`. Tasks of the connection's own are those of `tasks`.
    pub(super) async fn open(
        stream: Noted,
        host: &str,
        tasks: &TaskTracker,
    ) -> hyper::Result<Self> {
        let seen = stream.seen();
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(HEAD_BYTES_MAX)
            .handshake(TokioIo::new(stream))
            .await?;
        let driver = async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "a connection to a target ended with an error");
            }
        };
        Ok(Self {
            sender,
            driver: Some(Box::pin(driver)),
            seen,
            timer: Timer::default(),
            host: HeaderValue::from_str(host).ok(),
            tasks: tasks.clone(),
        })
    }

    /// What is noted of its connection.
    pub(super) const fn seen(&self) -> &Arc<Seen> {
        &self.seen
    }

    /// What `Host` says.
    pub(super) fn host(&self) -> Option<&HeaderValue> {
        self.host.as_ref()
    }

    /// Whether it has not ended, by what has come of it until now.
    pub(super) fn stands(&mut self) -> bool {
        if let Some(driver) = &mut self.driver {
            // Nobody is woken to look again, so this look must find whatever is there. There is
            // little to do while no request is under way: what comes unasked ends the connection.
            let look = pin!(unconstrained(driver));
            if look.poll(&mut Context::from_waker(Waker::noop())).is_ready() {
                self.driver = None;
            }
        }
        !self.is_closed()
    }

    /// Whether it had ended when it was last looked at.
    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Whether a request can be sent now.
    pub(super) fn is_ready(&self) -> bool {
        self.sender.is_ready()
    }

    /// Waits until a request can be sent.
    pub(super) async fn ready(&mut self) -> hyper::Result<()> {
        poll_fn(|cx| {
            self.drive(cx);
            self.sender.poll_ready(cx)
        })
        .await
    }

    /// Sends a request and waits for the head of its answer, but not longer than `limit` after the
    /// last byte that went out: a long upload is no slow answer.
    pub(super) async fn send(
        &mut self,
        request: Request<RequestBody>,
        progress: &Progress,
        interims: &Interims,
        limit: Duration,
    ) -> Result<Sent, GivenUp> {
        // Unconstrained: it is polled without a waker.
        let mut answer = pin!(unconstrained(self.sender.try_send_request(request)));
        self.timer.set(limit);
        let sent = poll_fn(|cx| {
            self.drive(cx);
            if interims.is_exceeded() {
                return Poll::Ready(Err(GivenUp::Flooded));
            }
            if let Poll::Ready(answer) = answer.as_mut().poll(&mut self.by_itself(cx)) {
                return Poll::Ready(Ok(answer));
            }
            loop {
                ready!(self.timer.poll(cx));
                let rest = limit.saturating_sub(progress.quiet_for());
                if rest.is_zero() {
                    return Poll::Ready(Err(GivenUp::Silent));
                }
                self.timer.set(rest);
            }
        })
        .await;
        self.timer.clear();
        if !progress.is_sent() || self.seen.is_stuck() {
            self.hand_over();
        }
        sent
    }

    /// More of an answer's body.
    pub(super) fn poll_body(
        &mut self,
        body: &mut Incoming,
        cx: &mut Context<'_>,
    ) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        // What the connection has brought already needs no look at it.
        if let Poll::Ready(frame) = Pin::new(&mut *body).poll_frame(&mut self.by_itself(cx)) {
            return Poll::Ready(frame);
        }
        self.drive(cx);
        Pin::new(body).poll_frame(&mut self.by_itself(cx))
    }

    fn drive(&mut self, cx: &mut Context<'_>) {
        if let Some(driver) = &mut self.driver
            && driver.as_mut().poll(cx).is_ready()
        {
            self.driver = None;
        }
    }

    /// How to wait for what the connection brings: as long as it is driven here, only what wakes
    /// the connection has to wake, and it need not wake whoever is polling it.
    fn by_itself<'a>(&self, cx: &Context<'a>) -> Context<'a> {
        Context::from_waker(if self.driver.is_some() { Waker::noop() } else { cx.waker() })
    }

    /// Has a task drive it from now on.
    fn hand_over(&mut self) {
        // Where the runtime is gone, nothing is left to drive it; it closes as it is dropped.
        if let Some(driver) = self.driver.take()
            && let Ok(runtime) = Handle::try_current()
        {
            self.tasks.spawn_on(driver, &runtime);
        }
    }
}

impl Drop for Line {
    /// hyper ends the connection, with what TLS says at its end, once the sender is gone.
    fn drop(&mut self) {
        self.hand_over();
    }
}

#[cfg(test)]
pub(super) mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, TcpStream},
        time::timeout,
    };

    use super::*;
    use crate::{
        egress::{Carrier, Ready, Stream},
        forward::{body::AnswerBody, pool::Sender},
    };

    const LIMIT: Duration = Duration::from_secs(20);

    /// A line, its far end, and its tasks.
    #[expect(clippy::disallowed_methods, reason = "a test's own connection on loopback")]
    pub(in crate::forward) async fn line() -> (Line, TcpStream, TaskTracker) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stream = TcpStream::connect(address).await.unwrap();
        let (far, _) = listener.accept().await.unwrap();
        let stream = Stream::Plain(Carrier::Direct(stream));
        let stream = Noted::new(address, Ready { stream, facts: None });
        let tasks = TaskTracker::new();
        (Line::open(stream, "far.example", &tasks).await.unwrap(), far, tasks)
    }

    fn upload(bytes: usize, progress: &Arc<Progress>) -> Request<RequestBody> {
        let body = RequestBody::whole(vec![b'x'; bytes].into(), progress);
        Request::put("/up").header("content-length", bytes).body(body).unwrap()
    }

    async fn send(line: &mut Line, bytes: usize) -> Response<Incoming> {
        let (progress, interims) = (Progress::new(), Interims::default());
        line.ready().await.unwrap();
        let sent = line.send(upload(bytes, &progress), &progress, &interims, LIMIT).await;
        let Ok(Ok(response)) = sent else { panic!("no answer") };
        response
    }

    #[tokio::test]
    async fn an_answer_needs_no_task_and_its_body_drives_the_connection() {
        let (mut line, mut far, tasks) = line().await;
        let answering = async {
            let mut read = [0; 4096];
            assert!(far.read(&mut read).await.unwrap() > 0);
            far.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\na").await.unwrap();
        };
        let (response, ()) = tokio::join!(send(&mut line, 3), answering);
        let mut body = AnswerBody::new(response.into_body(), Sender::Http1(Box::new(line)));
        let first = http_body_util::BodyExt::frame(&mut body).await.unwrap().unwrap();
        assert_eq!(first.into_data().unwrap(), "a");
        let (second, ()) = tokio::join!(http_body_util::BodyExt::frame(&mut body), async {
            far.write_all(b"b").await.unwrap();
        });
        assert_eq!(second.unwrap().unwrap().into_data().unwrap(), "b");
        assert!(tasks.is_empty());
        let Some(Sender::Http1(mut line)) = body.release() else { panic!("not given back") };
        assert!(line.stands() && line.is_ready());
        drop(line);
        tasks.close();
        timeout(LIMIT, tasks.wait()).await.unwrap();
        assert_eq!(far.read(&mut [0]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_body_goes_on_while_nobody_takes_the_answer() {
        const BYTES: usize = 64 * 1024 * 1024;
        let (mut line, mut far, _tasks) = line().await;
        let answering = async {
            far.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n").await.unwrap();
        };
        let (_response, ()) = tokio::join!(send(&mut line, BYTES), answering);
        let mut read = vec![0; 1024 * 1024];
        let mut left = BYTES;
        while left > 0 {
            let count = timeout(LIMIT, far.read(&mut read)).await.unwrap().unwrap();
            assert!(count > 0, "{left} bytes did not come");
            left = left.saturating_sub(count);
        }
    }

    #[tokio::test]
    async fn a_look_finds_that_the_target_closed_or_spoke_unasked() {
        for said in [&b""[..], b"HTTP/1.1 200 OK\r\n\r\n"] {
            let (mut line, mut far, _tasks) = line().await;
            line.ready().await.unwrap();
            assert!(line.stands());
            far.write_all(said).await.unwrap();
            drop(far);
            let closed = async {
                while line.stands() {
                    tokio::task::yield_now().await;
                }
            };
            timeout(LIMIT, closed).await.unwrap();
        }
    }
}
