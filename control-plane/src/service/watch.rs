//! WatchPeers, served beside tonic: the body is the feed's own.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body::Frame;
use hyper::body::Incoming;
use loden_proto::model::LeaseName;
use loden_proto::names::{self, NetworkId};
use loden_proto::reason::{self, Reason};
use loden_proto::v1::{WatchPeersRequest, WatchPeersResponse};
use loden_transport::Role;
use tokio::time::Instant;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::body::Body;
use tonic::codec::{Codec, Streaming};
use tonic::{Code, Status};
use tonic_prost::ProstCodec;

use super::Shared;
use super::access::Caller;
use super::exchange::{self, LARGEST_REQUEST};
use super::lease::{parse_boot, parse_instance};
use super::network::not_found;
use super::refusal::{elsewhere, failed};
use crate::adoption::{AdoptionError, OpenError};
use crate::ledger::LeaseState;
use crate::registry::{EndReason, Link, Parting};
use crate::status::OpenWatch;
use crate::watch::{Elsewhere, Viewer, WatchBody, WatchHandle, WatchOpen, WatchRefusal};

/// When a client tries again whose token shows that the store was lost, while no new incarnation can begin.
const LOST_RETRY: Duration = Duration::from_secs(2);

/// Answers one WatchPeers call.
pub(super) async fn serve(
    shared: Arc<Shared>,
    caller: Caller,
    link: Arc<Link>,
    request: Request<Incoming>,
) -> Response<Body> {
    match open(&shared, &caller, link, request).await {
        Ok(body) => {
            let mut response = Response::new(Body::new(body));
            let grpc = HeaderValue::from_static("application/grpc");
            response.headers_mut().insert(header::CONTENT_TYPE, grpc);
            response
        }
        Err(status) => status.into_http(),
    }
}

async fn open(
    shared: &Arc<Shared>,
    caller: &Caller,
    link: Arc<Link>,
    request: Request<Incoming>,
) -> Result<OpenBody, Status> {
    if let Some(why) = link.parting() {
        return Err(goes(why));
    }
    let mut call = shared.held.call(&link);
    let request = exchange::read(&mut call, request).await?;
    let decoder = ProstCodec::<WatchPeersResponse, WatchPeersRequest>::default().decoder();
    let mut messages = Streaming::new_request(decoder, request.into_body(), None, Some(LARGEST_REQUEST));
    let wire = messages.message().await?.ok_or_else(|| Status::internal("the request has no message"))?;
    let network = names::parse_network(&wire.network).map_err(|invalid| invalid.at("network"))?;
    let token = Bytes::from(wire.resume_token);
    for token in [&token, &Bytes::from(wire.seen_token)] {
        shared.adoption.heed(&network, token).await.map_err(|error| refused(error.into()))?;
    }
    let ids = Ids { instance: wire.instance_id, boot: wire.boot_id };
    let viewer = admit(shared, caller, &link, &network, &ids)?;
    let node = match &viewer {
        Viewer::Node { node, .. } => Some(node.clone()),
        Viewer::Observer => None,
    };
    let open = WatchOpen { network: network.clone(), token, viewer };
    let body = shared.adoption.watch(open).await.map_err(refused)?;
    // A lease that went before the watch was open is not told to it: look again.
    admit(shared, caller, &link, &network, &ids)?;
    let handle = body.handle();
    let number = shared.watches.insert(handle, Arc::clone(&link));
    let opened = Arc::clone(&link);
    let connected = node.map(|node| shared.nodes.watch_opened(node, opened, SystemTime::now()));
    let stays = Some(Box::pin(link.draining().clone().cancelled_owned()));
    Ok(OpenBody { body, number, shared: Arc::clone(shared), link, stays, _connected: connected })
}

/// A watch that does not begin, or a life of the store, for the client.
pub(super) fn refused(error: OpenError) -> Status {
    let message = error.to_string();
    match error {
        OpenError::Refused(WatchRefusal::NotFound(_)) => {
            reason::status(Code::NotFound, Reason::NotFound, message)
        }
        // Nobody is given a set of peers that may lack some.
        OpenError::Refused(WatchRefusal::StoreLost(_)) | OpenError::Adoption(AdoptionError::Marker(_)) => {
            reason::status_retry(Code::Unavailable, Reason::StoreFailed, message, LOST_RETRY)
        }
        OpenError::Adoption(AdoptionError::Submit(error)) => failed(error),
    }
}

/// What tells an agent from a copy of it, as sent.
struct Ids {
    instance: String,
    boot: String,
}

/// Who watches, if it may: a node must hold an active lease in the network, as this very instance on this very
/// host.
fn admit(
    shared: &Shared,
    caller: &Caller,
    link: &Link,
    network: &NetworkId,
    ids: &Ids,
) -> Result<Viewer, Status> {
    let Role::Node(node) = &caller.id.role else { return Ok(Viewer::Observer) };
    let instance = parse_instance(&ids.instance)?;
    let boot = parse_boot(&ids.boot)?;
    let name = LeaseName { network: network.clone(), node: node.clone() };
    let (exists, lease) =
        shared.clerk.read(|ledger| (ledger.network(network).is_some(), ledger.lease(&name)));
    if !exists {
        return Err(not_found(&names::network(network)));
    }
    let refuse = |why: &str| {
        let message = format!("{name} {why}; acquire it first");
        Err(reason::status(Code::FailedPrecondition, Reason::NotFound, message))
    };
    match lease {
        None => refuse("does not exist"),
        Some(lease) if lease.state != LeaseState::Active => refuse("has expired"),
        Some(lease) if lease.instance != instance => {
            let message = format!(
                "instance_id: \"{instance}\" does not hold {name}, the instance {} does; acquire it first",
                lease.instance.first_digits()
            );
            Err(reason::status(Code::FailedPrecondition, Reason::StaleEpoch, message))
        }
        Some(_) => match shared.streams.admit(&name, instance, boot) {
            Ok(()) => Ok(Viewer::Node { node: node.clone(), instance, boot }),
            Err(other) => {
                if matches!(other, Elsewhere::Streams(_)) {
                    shared.copied(node, instance, link);
                }
                Err(elsewhere(&name, other, shared.nodes.address(node)))
            }
        },
    }
}

/// How watches end whose client is asked to come back over another connection.
fn goes(why: Parting) -> Status {
    let message = format!("{why}; connect again");
    reason::status_retry(Code::Unavailable, Reason::Draining, message, why.pause())
}

/// A watch's body, known to others as long as it lives.
struct OpenBody {
    body: WatchBody,
    number: u64,
    shared: Arc<Shared>,
    link: Arc<Link>,
    /// Until the client is asked to go.
    stays: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    _connected: Option<OpenWatch>,
}

impl OpenBody {
    /// Ends the watch once its client is asked to go.
    fn heed(&mut self, cx: &mut Context<'_>) {
        let asked = self.stays.as_mut().is_some_and(|stays| stays.as_mut().poll(cx).is_ready());
        if asked {
            self.stays = None;
            if let Some(why) = self.link.parting() {
                self.body.handle().end(goes(why));
            }
        }
    }
}

impl http_body::Body for OpenBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        this.heed(cx);
        Pin::new(&mut this.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

impl Drop for OpenBody {
    fn drop(&mut self) {
        self.shared.watches.remove(self.number);
    }
}

/// All open watches, observers' too.
#[derive(Debug, Default)]
pub(crate) struct Watches {
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    watches: BTreeMap<u64, (WatchHandle, Arc<Link>)>,
}

impl Watches {
    fn insert(&self, handle: WatchHandle, link: Arc<Link>) -> u64 {
        let mut open = self.open();
        open.next += 1;
        let number = open.next;
        open.watches.insert(number, (handle, link));
        number
    }

    fn remove(&self, number: u64) {
        let removed = self.open().watches.remove(&number);
        // Only now, without the lock: it may be the last of its link.
        drop(removed);
    }

    /// How many are open.
    pub(crate) fn len(&self) -> usize {
        self.open().watches.len()
    }

    /// The longest that a client has left its watch unread.
    pub(crate) fn worst_lag(&self, now: Instant) -> Duration {
        self.open().watches.values().map(|(handle, _)| handle.lag(now)).max().unwrap_or_default()
    }

    /// Ends the connections of clients that have not read for `max_lag`.
    pub(crate) fn end_slow(&self, max_lag: Duration, now: Instant) {
        let slow: Vec<_> = {
            let open = self.open();
            let lags = open.watches.values().map(|(handle, link)| (handle.lag(now), link));
            lags.filter(|(lag, _)| *lag > max_lag).map(|(lag, link)| (lag, Arc::clone(link))).collect()
        };
        for (lag, link) in slow {
            link.end(EndReason::Slow { lag });
        }
    }

    /// A panic elsewhere leaves the map whole.
    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
