//! Bytes that know whether they are still held, and bodies of them.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame};
use tokio::sync::OwnedSemaphorePermit;

use super::{Held, HeldAnswer};
use crate::registry::Link;

/// Bytes of an answer: as long as somebody has them, they are held.
struct Unread {
    bytes: Bytes,
    _answer: HeldAnswer,
}

impl AsRef<[u8]> for Unread {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Held {
    /// The same bytes, held until the last of them is dropped. They are copied, since the buffer that they come
    /// from may be many times larger.
    pub(crate) fn unread(&self, link: &Arc<Link>, bytes: &[u8]) -> Bytes {
        let _answer = self.answer(link, bytes.len());
        Bytes::from_owner(Unread { bytes: Bytes::copy_from_slice(bytes), _answer })
    }
}

/// A whole answer: its message, then its trailers.
#[derive(Debug)]
pub(crate) struct Whole {
    data: Option<Bytes>,
    trailers: Option<HeaderMap>,
}

impl Whole {
    pub(crate) fn new(data: Option<Bytes>, trailers: Option<HeaderMap>) -> Self {
        Self { data, trailers }
    }
}

impl Body for Whole {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        let data = this.data.take().map(Frame::data);
        Poll::Ready(data.or_else(|| this.trailers.take().map(Frame::trailers)).map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_none() && self.trailers.is_none()
    }
}

/// A body whose messages are held one by one as they are made.
#[derive(Debug)]
pub(crate) struct Streamed<B> {
    body: B,
    held: Held,
    link: Arc<Link>,
    _place: OwnedSemaphorePermit,
}

impl<B> Streamed<B> {
    /// The stream of a connection that has a place for it.
    pub(crate) const fn new(body: B, held: Held, link: Arc<Link>, place: OwnedSemaphorePermit) -> Self {
        Self { body, held, link, _place: place }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Streamed<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.get_mut();
        Pin::new(&mut this.body)
            .poll_frame(cx)
            .map_ok(|frame| frame.map_data(|bytes| this.held.unread(&this.link, &bytes)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}
