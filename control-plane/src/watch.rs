//! WatchPeers as a response body that pulls.
//!
//! ```text
//!  hyper polls ──▶ WatchBody ──▶ prepared frames? ──▶ told to end? ──▶ bell rang? ──▶ heartbeat due?
//!                                    │ hand out          │ trailers       │ pull         │ pull
//!                                    └────────── each answer goes back to the first question
//! ```
//!
//! tonic would encode every message anew for every stream; this body hands out frames that all streams
//! share. On the wire it is an ordinary server stream of gRPC. hyper polls as the client reads, so a slow
//! client pulls less often and gets more at once; one that reads nothing is not polled at all, which
//! [`WatchHandle::lag`] tells.

mod handle;
mod masked;
mod streams;

#[cfg(test)]
pub(crate) mod tests;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::Stream;
use http::{HeaderMap, HeaderValue, Response, header};
use http_body::{Body, Frame};
use loden_proto::model::{BootId, InstanceId, LeaseName};
use loden_proto::names::{self, NetworkId, NodeId};
use loden_proto::reason::{self, Reason};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};
use tokio_stream::wrappers::WatchStream;
use tonic::{Code, Status};

use crate::feed::{Cursor, Ended, Feeds, NetworkFeed, TokenVerdict};

pub use handle::WatchHandle;
use masked::masked;
use streams::Streaming;
pub use streams::{Elsewhere, Streams};

/// Who watches.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Viewer {
    /// A node with a lease in the network; its own peer is left out.
    Node {
        /// Its name, from its certificate.
        node: NodeId,
        /// Its instance, as in AcquireLease.
        instance: InstanceId,
        /// On which host it is, when that is told.
        boot: Option<BootId>,
    },
    /// Somebody without a lease; sees everybody, and no keys.
    Observer,
}

impl Viewer {
    const fn node(&self) -> Option<&NodeId> {
        match self {
            Self::Node { node, .. } => Some(node),
            Self::Observer => None,
        }
    }
}

/// A request to watch that has passed the door.
#[derive(Clone, Debug)]
pub struct WatchOpen {
    /// The network.
    pub network: NetworkId,
    /// The client's resume token; empty for everything.
    pub token: Bytes,
    /// Who watches.
    pub viewer: Viewer,
}

/// Why a watch does not begin.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum WatchRefusal {
    /// There is no such network.
    #[error("{} does not exist", names::network(.0))]
    NotFound(NetworkId),
    /// The token shows that our store was lost or rolled back. A new incarnation must begin before
    /// anybody is given a set of peers.
    #[error("the client has followed a store that this one does not know: {0:?}")]
    StoreLost(TokenVerdict),
}

impl Feeds {
    /// Begins a watch. Its first messages are there at once.
    ///
    /// # Errors
    /// When the network does not exist, or the token shows that the store was lost.
    pub fn watch(&self, streams: &Streams, open: WatchOpen) -> Result<WatchBody, WatchRefusal> {
        let WatchOpen { network, token, viewer } = open;
        let feed = self.network(&network).ok_or_else(|| WatchRefusal::NotFound(network.clone()))?;
        let verdict = self.judge(&network, &token);
        if verdict.lost().is_some() {
            return Err(WatchRefusal::StoreLost(verdict));
        }
        let resume = match verdict {
            TokenVerdict::Resume(_) => self.open_token(&network, &token),
            _ => None,
        };
        let streaming = match &viewer {
            Viewer::Node { node, instance, boot } => {
                let lease = LeaseName { network: network.clone(), node: node.clone() };
                Some(streams.enter(lease, *instance, *boot))
            }
            Viewer::Observer => None,
        };
        let bell = WatchStream::from_changes(feed.bell());
        let mut frames = VecDeque::new();
        let cursor = feed.open(resume, viewer.node(), &mut frames);
        let mut heartbeat = interval_at(Instant::now() + self.heartbeat(), self.heartbeat());
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(WatchBody {
            handle: WatchHandle::new(network, viewer),
            feed,
            cursor,
            frames,
            bell,
            heartbeat,
            trailers: None,
            over: false,
            _streaming: streaming,
        })
    }
}

/// The messages of one watch, framed. Ends with trailers.
#[derive(Debug)]
pub struct WatchBody {
    handle: WatchHandle,
    feed: Arc<NetworkFeed>,
    cursor: Cursor,
    /// Made, not yet handed out.
    frames: VecDeque<Bytes>,
    bell: WatchStream<u64>,
    heartbeat: Interval,
    /// How it ends, once the frames are out.
    trailers: Option<Status>,
    over: bool,
    _streaming: Option<Streaming>,
}

impl WatchBody {
    /// What others may know of this watch, and how they end it.
    #[must_use]
    pub fn handle(&self) -> WatchHandle {
        self.handle.clone()
    }

    /// The answer to the call.
    #[must_use]
    pub fn into_response(self) -> Response<Self> {
        let mut response = Response::new(self);
        let grpc = HeaderValue::from_static("application/grpc");
        response.headers_mut().insert(header::CONTENT_TYPE, grpc);
        response
    }

    fn pull(&mut self) {
        if let Err(ended) = self.feed.pull(&mut self.cursor, self.handle.viewer().node(), &mut self.frames) {
            self.trailers = Some(self.status(ended));
        }
    }

    fn status(&self, ended: Ended) -> Status {
        let network = names::network(self.handle.network());
        match ended {
            Ended::NetworkDeleted => {
                let message = format!("network: \"{network}\" does not exist any more");
                reason::status(Code::NotFound, Reason::NotFound, message)
            }
            Ended::LeaseGone => {
                let message = format!("network: the node has no lease in \"{network}\" any more");
                reason::status(Code::FailedPrecondition, Reason::NotFound, message)
            }
        }
    }

    /// The next frame, or `None` when there is nothing until somebody wakes the task.
    fn next(&mut self, cx: &mut Context<'_>) -> Option<Frame<Bytes>> {
        loop {
            if let Some(status) = self.handle.told_to_end(cx) {
                return Some(self.end(&status));
            }
            if let Some(frame) = self.frames.pop_front() {
                self.handle.handed_out(self.cursor.point().revision);
                return Some(Frame::data(match self.handle.viewer() {
                    Viewer::Node { .. } => frame,
                    Viewer::Observer => masked(frame),
                }));
            }
            if let Some(status) = self.trailers.take() {
                return Some(self.end(&status));
            }
            if Pin::new(&mut self.bell).poll_next(cx).is_ready() {
                self.pull();
            } else if self.heartbeat.poll_tick(cx).is_ready() {
                self.feed.pull_heartbeat(&mut self.cursor, &mut self.frames);
            } else {
                self.handle.caught_up();
                return None;
            }
        }
    }

    fn end(&mut self, status: &Status) -> Frame<Bytes> {
        self.over = true;
        self.frames.clear();
        let mut trailers = HeaderMap::new();
        // A status whose words cannot be put into headers still ends the call with its code.
        if status.add_header(&mut trailers).is_err() {
            trailers.insert("grpc-status", HeaderValue::from(status.code() as i32));
        }
        Frame::trailers(trailers)
    }
}

impl Body for WatchBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        if this.over {
            return Poll::Ready(None);
        }
        this.next(cx).map_or(Poll::Pending, |frame| Poll::Ready(Some(Ok(frame))))
    }

    fn is_end_stream(&self) -> bool {
        self.over
    }
}

impl Drop for WatchBody {
    fn drop(&mut self) {
        self.feed.leave(&self.cursor);
    }
}
