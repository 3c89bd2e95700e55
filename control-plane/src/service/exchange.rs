//! A call's bytes: its request is read whole before there is an answer, and both are held (`held`).

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use tonic::body::Body;
use tonic::service::Routes;
use tonic::{Code, Status};
use tower::Service;

use crate::held::{Held, HeldCall, Streamed, Whole};
use crate::registry::{Link, STREAMS};

/// Largest request, in bytes: an endpoint or a network with many pools.
pub(super) const LARGEST_REQUEST: usize = 256 << 10;
/// What gRPC puts before a message, in bytes.
const PREFIX: usize = 5;

/// A request whose body is whole.
pub(super) type WholeRequest = Request<Full<Bytes>>;

/// Reads a request. One that is too large is cut off: whoever decodes it finds that out from its first bytes.
pub(super) async fn read(call: &mut HeldCall, request: Request<Incoming>) -> Result<WholeRequest, Status> {
    let (head, mut body) = request.into_parts();
    let mut whole = BytesMut::new();
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
    Ok(Request::from_parts(head, Full::new(whole.freeze())))
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

/// Answers a call whose messages come one by one: health and reflection.
pub(super) async fn streaming(
    held: Held,
    link: Arc<Link>,
    mut routes: Routes,
    request: Request<Incoming>,
) -> Response<Body> {
    let Ok(place) = Arc::clone(&link.streams).try_acquire_owned() else {
        let message = format!("at most {STREAMS} calls of health and reflection at once on one connection");
        return Status::new(Code::ResourceExhausted, message).into_http();
    };
    link.room.free().await;
    let Ok(response) = routes.call(request).await;
    response.map(|body| Body::new(Streamed::new(body, held, link, place)))
}
