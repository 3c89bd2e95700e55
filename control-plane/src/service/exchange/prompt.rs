//! A stream of requests whose first message must be whole in time, and the answer that says so when it was not.
//!
//! The service that reads the requests ends its answers without a word when they fail, so the reason is put into
//! the trailers here.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame};
use tokio::time::{Sleep, sleep};
use tonic::Status;

use super::{PREFIX, late};

/// Whether the first message of a call was late, and how much of it had come.
#[derive(Clone, Debug, Default)]
pub(super) struct Late(Arc<AtomicUsize>);

impl Late {
    /// The time was over after so many bytes.
    fn tell(&self, bytes: usize) {
        self.0.store(bytes + 1, Ordering::Relaxed);
    }

    fn status(&self) -> Option<Status> {
        self.0.load(Ordering::Relaxed).checked_sub(1).map(late)
    }

    /// Has an answer's trailers say that the request was late, if it was.
    pub(super) fn excuse(&self, mut frame: Frame<Bytes>) -> Frame<Bytes> {
        if let (Some(trailers), Some(status)) = (frame.trailers_mut(), self.status()) {
            trailers.clear();
            // Its text is ours, and fits into a header.
            let _ = status.add_header(trailers);
        }
        frame
    }
}

/// How much of a gRPC message has come: its prefix, then as many bytes as that says.
#[derive(Debug, Default)]
struct Progress {
    prefix: Vec<u8>,
    bytes: usize,
}

impl Progress {
    fn add(&mut self, data: &[u8]) {
        let missing = PREFIX - self.prefix.len();
        self.prefix.extend(data.iter().take(missing));
        self.bytes += data.len();
    }

    fn is_whole(&self) -> bool {
        match self.prefix[..] {
            [_, a, b, c, d] => self.bytes - PREFIX >= u32::from_be_bytes([a, b, c, d]) as usize,
            _ => false,
        }
    }
}

/// A request's body; it fails when its first message is not whole in time.
pub(super) struct Prompt<B> {
    body: B,
    /// Until the first message is whole.
    waiting: Option<(Progress, Pin<Box<Sleep>>)>,
    late: Late,
}

impl<B> Prompt<B> {
    /// The first message has this long from now.
    pub(super) fn new(body: B, time: Duration, late: Late) -> Self {
        Self { body, waiting: Some((Progress::default(), Box::pin(sleep(time)))), late }
    }
}

impl<B> Body for Prompt<B>
where
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Unpin,
{
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        let Some((progress, time)) = &mut this.waiting else { return polled.map_err(Into::into) };
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                progress.add(frame.data_ref().map_or(&[], |data| &data[..]));
                if progress.is_whole() {
                    this.waiting = None;
                }
            }
            Poll::Ready(_) => this.waiting = None,
            Poll::Pending => {
                if time.as_mut().poll(cx).is_ready() {
                    let bytes = progress.bytes;
                    this.waiting = None;
                    this.late.tell(bytes);
                    return Poll::Ready(Some(Err(late(bytes).into())));
                }
            }
        }
        polled.map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_whole_when_as_much_has_come_as_its_prefix_says() {
        let mut progress = Progress::default();
        assert!(!progress.is_whole());
        for (data, whole) in [(&[0, 0][..], false), (&[0, 0, 3], false), (&[1], false), (&[2, 3], true)] {
            progress.add(data);
            assert_eq!(progress.is_whole(), whole, "{progress:?}");
        }
        let mut empty = Progress::default();
        empty.add(&[0; PREFIX]);
        assert!(empty.is_whole(), "a message without a byte");
        let mut both = Progress::default();
        both.add(&[0, 0, 0, 0, 1, 7, 0, 0]);
        assert!(both.is_whole(), "the next one has begun");
    }
}
