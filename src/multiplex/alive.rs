//! Whether the other end is still there: any byte is a sign of life, and silence is asked about.

use std::{pin::pin, time::Duration};

use h2::{Ping, PingPong};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::wire::Heard;

/// How long the other end may be silent. Both together: a dead connection is noticed so long after
/// its last byte.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// Before it is asked.
    pub(crate) unasked: Duration,
    /// Once it is asked.
    pub(crate) asked: Duration,
}

/// Asks once, and gives the round trip; `None` when the connection is gone. Somebody else has to
/// keep the connection moving meanwhile.
pub(crate) async fn ask(
    pings: &mut PingPong,
    heard: &Heard,
    patience: Patience,
) -> Option<Duration> {
    let asked = Instant::now();
    let mut pong = pin!(pings.ping(Ping::opaque()));
    loop {
        let since = heard.last().max(asked);
        match timeout_at(after(since, patience.asked), &mut pong).await {
            Ok(Ok(_)) => return Some(asked.elapsed()),
            // The answer may wait behind much else on a slow line: any sign of life will do.
            Err(_) if heard.last() > since => {}
            Ok(Err(_)) | Err(_) => return None,
        }
    }
}

/// Ready when the other end was silent, was asked, and stayed silent. `nudge` makes it be asked
/// at once; each round trip is shown to `note`.
pub(crate) async fn until_silent(
    pings: &mut PingPong,
    heard: &Heard,
    patience: Patience,
    mut nudge: impl AsyncFnMut(),
    note: impl Fn(Duration),
) {
    loop {
        let since = heard.last();
        let nudged = tokio::select! {
            () = sleep_until(after(since, patience.unasked)) => false,
            () = nudge() => true,
        };
        if heard.last() > since && !nudged {
            continue;
        }
        match ask(pings, heard, patience).await {
            Some(round_trip) => note(round_trip),
            None => return,
        }
    }
}

fn after(since: Instant, wait: Duration) -> Instant {
    since.checked_add(wait).unwrap_or(since)
}

#[cfg(test)]
mod tests {
    use std::{
        future::pending,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use bytes::Bytes;
    use tokio::{
        io::{AsyncWriteExt as _, DuplexStream, duplex},
        task::JoinSet,
        time::sleep,
    };

    use super::{super::wire::Wire, *};

    /// More than these connections ever hold.
    const ROOM: usize = 1 << 20;

    /// Frames of HTTP/2 (RFC 9113, sections 6.5 and 6.7): the first that an end sends, and one that
    /// asks for nothing but an answer.
    const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
    const PING: &[u8] = &[0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];

    const LONG: Duration = Duration::from_mins(1);

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    /// One end of a connection, kept moving.
    struct End {
        pings: PingPong,
        heard: Heard,
        _driven: JoinSet<()>,
    }

    async fn end(stream: DuplexStream) -> End {
        let wire = Wire::new(Bytes::new(), stream);
        let heard = wire.heard();
        let (requests, mut connection) = h2::client::handshake(wire).await.unwrap();
        let pings = connection.ping_pong().unwrap();
        let mut driven = JoinSet::new();
        driven.spawn(async move {
            let _requests = requests;
            let _ended = connection.await;
        });
        End { pings, heard, _driven: driven }
    }

    /// How long after its last byte an end is given up that says so many things, so far apart, and
    /// answers nothing.
    async fn given_up_after(patience: Patience, count: u32, apart: Duration) -> Duration {
        let (near, mut far) = duplex(ROOM);
        let mut end = end(near).await;
        let mut last = Instant::now();
        let talk = async {
            far.write_all(SETTINGS).await.unwrap();
            last = Instant::now();
            for _ in 0..count {
                sleep(apart).await;
                last = Instant::now();
                far.write_all(PING).await.unwrap();
            }
            pending::<()>().await;
        };
        tokio::select! {
            () = until_silent(&mut end.pings, &end.heard, patience, pending, |_| ()) => {}
            () = talk => {}
        }
        last.elapsed()
    }

    #[tokio::test]
    async fn an_end_that_falls_silent_is_noticed_in_time_whenever_its_last_byte_came() {
        let patience = Patience { unasked: ms(1000), asked: ms(1500) };
        let mut cases = JoinSet::new();
        for count in [0, 1, 5, 9, 10, 14] {
            cases.spawn(async move { (count, given_up_after(patience, count, ms(100)).await) });
        }
        while let Some(case) = cases.join_next().await {
            let (count, took) = case.unwrap();
            assert!(took >= ms(2490), "{count}: too early, after {took:?}");
            assert!(took <= ms(3200), "{count}: too late, after {took:?}");
        }
    }

    #[tokio::test]
    async fn whatever_comes_while_an_answer_is_late_is_a_sign_of_life() {
        let patience = Patience { unasked: ms(50), asked: ms(1000) };
        let took = given_up_after(patience, 6, ms(300)).await;
        assert!((ms(990)..ms(10_000)).contains(&took), "{took:?} after it had said everything");
    }

    #[tokio::test]
    async fn an_end_that_answers_is_never_given_up() {
        let (near, far) = duplex(ROOM);
        let mut end = end(near).await;
        let mut far = h2::server::handshake(far).await.unwrap();
        let answered = AtomicUsize::new(0);
        let note = |_| {
            answered.fetch_add(1, Ordering::Relaxed);
        };
        let patience = Patience { unasked: ms(20), asked: LONG };
        tokio::select! {
            () = until_silent(&mut end.pings, &end.heard, patience, pending, note) => {
                panic!("given up");
            }
            _ = far.accept() => panic!("nobody asks for a stream"),
            () = sleep(ms(700)) => {}
        }
        let answered = answered.into_inner();
        assert!((2..=35).contains(&answered), "asked {answered} times");
    }

    #[tokio::test]
    async fn a_nudge_asks_at_once_however_fresh_the_last_byte_is() {
        let (near, mut far) = duplex(ROOM);
        let mut end = end(near).await;
        far.write_all(SETTINGS).await.unwrap();
        far.write_all(PING).await.unwrap();
        let began = Instant::now();
        let patience = Patience { unasked: LONG, asked: ms(300) };
        let mut nudges = [()].into_iter();
        let nudge = async || {
            if nudges.next().is_none() {
                pending::<()>().await;
            }
        };
        until_silent(&mut end.pings, &end.heard, patience, nudge, |_| ()).await;
        assert!((ms(300)..LONG).contains(&began.elapsed()), "{:?}", began.elapsed());
    }
}
