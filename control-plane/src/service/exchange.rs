//! A call's bytes: its request is read whole before there is an answer, and both are held (`held`).
//!
//! A request must be whole in time: one that is not would be held as long as its connection lives. A call whose
//! messages come one by one (reflection) may wait between them for as long as it likes, after the first.

mod prompt;

use std::error::Error;
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use http_body::Body as HttpBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use tokio::time::timeout;
use tonic::body::Body;
use tonic::service::Routes;
use tonic::{Code, Status};
use tower::Service;

use self::prompt::{Late, Prompt};
use crate::held::{Held, HeldCall, Streamed, Whole};
use crate::registry::{Link, STREAMS};

/// Largest request, in bytes: an endpoint or a network with many pools.
pub(super) const LARGEST_REQUEST: usize = 256 << 10;
/// How long a request may take from its headers to its last byte. The largest one comes in that time over
/// 210 kbit/s, a usual one over anything.
const WHOLE: Duration = Duration::from_secs(10);
/// What gRPC puts before a message, in bytes.
const PREFIX: usize = 5;

/// A request whose body is whole.
pub(super) type WholeRequest = Request<Full<Bytes>>;

/// Reads a request. One that is too large is cut off: whoever decodes it finds that out from its first bytes.
pub(super) async fn read<B>(call: &mut HeldCall, request: Request<B>) -> Result<WholeRequest, Status>
where
    B: HttpBody<Data = Bytes, Error: Display> + Unpin,
{
    let (head, body) = request.into_parts();
    let mut whole = BytesMut::new();
    match timeout(WHOLE, fill(&mut whole, call, body)).await {
        Ok(filled) => filled?,
        Err(_) => return Err(late(whole.len())),
    }
    Ok(Request::from_parts(head, Full::new(whole.freeze())))
}

async fn fill<B>(whole: &mut BytesMut, call: &mut HeldCall, mut body: B) -> Result<(), Status>
where
    B: HttpBody<Data = Bytes, Error: Display> + Unpin,
{
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Status::cancelled(format!("the request broke off: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        let before = whole.capacity();
        whole.extend_from_slice(&data);
        call.add(whole.capacity() - before);
        if whole.len() > LARGEST_REQUEST + PREFIX {
            break;
        }
    }
    Ok(())
}

/// The status of a request that was not whole in time.
fn late(bytes: usize) -> Status {
    let seconds = WHOLE.as_secs();
    Status::deadline_exceeded(format!(
        "the request was not whole {seconds} s after it began: {bytes} bytes of it have come"
    ))
}

/// Answers a call of one request and one answer.
pub(super) async fn unary(
    held: Held,
    link: Arc<Link>,
    mut routes: Routes,
    request: Request<Incoming>,
) -> Response<Body> {
    let mut call = held.call(&link);
    let request = match read(&mut call, request).await {
        Ok(request) => request,
        Err(status) => return status.into_http(),
    };
    link.room.free().await;
    if link.ended().is_cancelled() {
        // Nobody will read it. What is made for many at once must not come before their end.
        return Status::unavailable("the connection has ended").into_http();
    }
    let Ok(response) = routes.call(request).await;
    let (head, body) = response.into_parts();
    let answer = match body.collect().await {
        Ok(answer) => answer,
        Err(status) => return status.into_http(),
    };
    let trailers = answer.trailers().cloned();
    let data = answer.to_bytes();
    let data = (!data.is_empty()).then(|| held.unread(&link, &data));
    Response::from_parts(head, Body::new(Whole::new(data, trailers)))
}

/// Answers a call of one request and many answers: health.
pub(super) async fn watching(
    held: Held,
    link: Arc<Link>,
    routes: Routes,
    request: Request<Incoming>,
) -> Response<Body> {
    let read = read(&mut held.call(&link), request).await;
    match read {
        Ok(request) => streaming(held, link, routes, request, Late::default()).await,
        Err(status) => status.into_http(),
    }
}

/// Answers a call whose messages come one by one in both directions: reflection.
pub(super) async fn conversing(
    held: Held,
    link: Arc<Link>,
    routes: Routes,
    request: Request<Incoming>,
) -> Response<Body> {
    let late = Late::default();
    let request = request.map(|body| Prompt::new(body, WHOLE, late.clone()));
    streaming(held, link, routes, request, late).await
}

async fn streaming<B>(
    held: Held,
    link: Arc<Link>,
    mut routes: Routes,
    request: Request<B>,
    late: Late,
) -> Response<Body>
where
    B: HttpBody<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
{
    let Ok(place) = Arc::clone(&link.streams).try_acquire_owned() else {
        let message = format!("at most {STREAMS} calls of health and reflection at once on one connection");
        return Status::new(Code::ResourceExhausted, message).into_http();
    };
    link.room.free().await;
    let Ok(response) = routes.call(request).await;
    let excused = move |body: Body| body.map_frame(move |frame| late.excuse(frame));
    response.map(|body| Body::new(Streamed::new(excused(body), held, link, place)))
}
