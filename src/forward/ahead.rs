//! A target's answer of which a beginning was read ahead, and which is passed on unchanged.

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf as _, Bytes};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, SizeHint};

use super::{body::AnswerBody, pool::Sender};

/// The body: what was read, then the rest.
#[derive(Debug)]
pub struct Ahead {
    read: VecDeque<hyper::Result<Frame<Bytes>>>,
    rest: AnswerBody,
}

impl From<AnswerBody> for Ahead {
    fn from(rest: AnswerBody) -> Self {
        Self { read: VecDeque::new(), rest }
    }
}

impl Ahead {
    /// As [`AnswerBody::release`].
    pub(super) fn release(&mut self) -> Option<Sender> {
        self.rest.release()
    }

    /// Reads until there are `bytes_max`, or the end, or the time is up. Gives a copy of the first
    /// `bytes_max` bytes of what is there.
    pub async fn look(&mut self, bytes_max: usize, limit: Duration) -> Vec<u8> {
        let mut seen = Vec::new();
        let reading = async {
            while seen.len() < bytes_max {
                let Some(frame) = self.rest.frame().await else { return };
                if let Ok(frame) = &frame
                    && let Some(data) = frame.data_ref()
                {
                    let room = bytes_max.saturating_sub(seen.len());
                    seen.extend_from_slice(data.get(..room).unwrap_or(data));
                }
                let broken = frame.is_err();
                self.read.push_back(frame);
                if broken {
                    return;
                }
            }
        };
        // Whatever came in time is what there is to see.
        let _in_time = tokio::time::timeout(limit, reading).await;
        seen
    }
}

impl Body for Ahead {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        match self.read.pop_front() {
            Some(frame) => Poll::Ready(Some(frame)),
            None => Pin::new(&mut self.rest).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.read.is_empty() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let data = self.read.iter().filter_map(|frame| frame.as_ref().ok()?.data_ref());
        let read: usize = data.map(Bytes::remaining).sum();
        let read = u64::try_from(read).unwrap_or(u64::MAX);
        let rest = self.rest.size_hint();
        let mut hint = SizeHint::new();
        // The upper bound first: it may not lie below the lower one.
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper.saturating_add(read));
        }
        hint.set_lower(rest.lower().saturating_add(read));
        hint
    }
}
