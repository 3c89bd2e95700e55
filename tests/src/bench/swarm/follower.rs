//! One follower: its lease, its watch, its reports, and how it comes back.
//!
//! ```text
//!  dial ─▶ lease, if it has none ─▶ WatchPeers(token) ─▶ messages … ─▶ lost ─▶ wait, ever longer ─▶ dial
//!                                        └─ the first whole set ─▶ ReportStatus, as often as the server says
//! ```

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use loden_proto::convert::timestamp;
use loden_proto::names::{self, NetworkId};
use loden_proto::v1;
use loden_proto::v1::lease_service_client::LeaseServiceClient;
use loden_proto::v1::peer_service_client::PeerServiceClient;
use prost::Message as _;
use rand::Rng;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service;

use super::driver;
use super::followers::Board;
use super::frame::{self, Kind};
use super::members;
use super::sightings::{self, Sightings};
use super::wire::{self, Dialler, Wire};
use crate::client::raw;

const WATCH: &str = "https://control-plane/loden.v1.PeerService/WatchPeers";
/// An agent's patience after a failure: anything between nothing and this, which doubles up to the longest.
const SHORTEST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(5);
/// When the next report is due if the last one failed.
const REPORT_AGAIN: Duration = Duration::from_secs(10);

/// A client with one connection.
pub(super) struct Follower {
    index: u16,
    /// How many others there are, the driver among them.
    others: usize,
    dialler: Dialler,
    network: NetworkId,
    sightings: Arc<Sightings>,
    board: Arc<Board>,
    has_lease: bool,
    known: Known,
    /// Where its watch stands.
    token: watch::Sender<Bytes>,
}

/// Which members are known: a bit each, the driver's is the last.
#[derive(Debug)]
struct Known {
    bits: Vec<u64>,
    count: usize,
}

impl Known {
    fn new(members: u16) -> Self {
        Self { bits: vec![0; usize::from(members) / 64 + 1], count: 0 }
    }

    /// Whether it was new.
    fn insert(&mut self, member: usize) -> bool {
        let Some(bits) = self.bits.get_mut(member / 64) else { return false };
        let new = *bits & (1 << (member % 64)) == 0;
        *bits |= 1 << (member % 64);
        self.count += usize::from(new);
        new
    }

    fn remove(&mut self, member: usize) {
        let Some(bits) = self.bits.get_mut(member / 64) else { return };
        self.count -= usize::from(*bits & (1 << (member % 64)) != 0);
        *bits &= !(1 << (member % 64));
    }
}

impl Follower {
    /// The follower of an index among so many.
    pub(super) fn new(
        (index, count): (u16, u16),
        dialler: Dialler,
        network: NetworkId,
        sightings: Arc<Sightings>,
        board: Arc<Board>,
    ) -> Self {
        Self {
            index,
            others: usize::from(count),
            dialler,
            network,
            sightings,
            board,
            has_lease: false,
            known: Known::new(count),
            token: watch::Sender::default(),
        }
    }

    /// Follows for ever.
    pub(super) async fn run(mut self) {
        let mut patience = SHORTEST;
        loop {
            let Err(error) = self.follow(&mut patience).await;
            self.board.failed(&error);
            let pause = rand::rng().random_range(Duration::ZERO..patience);
            patience = (patience * 2).min(LONGEST);
            sleep(pause).await;
        }
    }

    /// One connection, until it is lost.
    async fn follow(&mut self, patience: &mut Duration) -> anyhow::Result<std::convert::Infallible> {
        let mut wire = self.dialler.dial().await.context("connect")?;
        if !self.has_lease {
            self.acquire(&wire).await?;
            self.has_lease = true;
        }
        let request = v1::WatchPeersRequest {
            boot_id: String::new(),
            network: names::network(&self.network),
            resume_token: self.token.borrow().to_vec(),
            instance_id: self.instance(),
            seen_token: Vec::new(),
        };
        let request = http::Request::post(WATCH)
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Body::new(Full::new(raw::framed(&request))))?;
        std::future::poll_fn(|cx| wire.poll_ready(cx)).await?;
        let response = wire.call(request).await.context("watch")?;
        if let Some(status) = Status::from_header_map(response.headers()).filter(is_failure) {
            return Err(status).context("watch");
        }
        // Ends with the connection.
        let mut reports = JoinSet::new();
        let mut body = response.into_body();
        let mut come = BytesMut::new();
        let mut first = true;
        while let Some(framed) = body.frame().await {
            match framed?.into_data() {
                Ok(data) => come.extend_from_slice(&data),
                Err(frame) => {
                    let status = frame.trailers_ref().and_then(Status::from_header_map);
                    return Err(status.context("the watch ended without a status")?).context("watch");
                }
            }
            while let Some(message) = frame::take(&mut come)? {
                let kind = self.take(message)?;
                if std::mem::take(&mut first) {
                    self.board.opened(self.index, kind);
                    *patience = SHORTEST;
                }
            }
            if reports.is_empty() && self.known.count == self.others {
                reports.spawn(report(wire.clone(), self.network.clone(), self.token.subscribe()));
            }
        }
        bail!("the server closed the watch")
    }

    async fn acquire(&self, wire: &Wire) -> anyhow::Result<()> {
        let mut leases = LeaseServiceClient::with_origin(wire.clone(), wire::origin());
        let address = members::underlay(self.index);
        let bare = v1::Endpoint { address_v4: address.to_string(), ..Default::default() };
        let request = v1::AcquireLeaseRequest {
            boot_id: String::new(),
            underlay_prefixes: Vec::new(),
            network: names::network(&self.network),
            instance_id: self.instance(),
            claim: Vec::new(),
            endpoint: Some(bare),
        };
        let answer = leases.acquire_lease(request).await.context("acquire")?.into_inner();
        let lease = answer.lease.unwrap_or_default();
        let endpoint = members::endpoint(address, self.index, &answer.network.unwrap_or_default())?;
        let request = v1::UpdateEndpointRequest {
            name: lease.name,
            epoch: lease.epoch,
            endpoint: Some((&endpoint).into()),
        };
        leases.update_endpoint(request).await.context("update the endpoint")?;
        Ok(())
    }

    fn instance(&self) -> String {
        format!("{:032x}", self.index)
    }

    /// Takes over one message.
    fn take(&mut self, message: Bytes) -> anyhow::Result<Kind> {
        let was_whole = self.known.count == self.others;
        let (known, sightings, index) = (&mut self.known, &*self.sightings, self.index);
        let driver = self.others;
        let mut unreadable = None;
        let upsert = |peer: Bytes| match frame::name(peer.clone()) {
            Ok(name) if name == driver::NAME => {
                known.insert(driver);
                look(sightings, index, &peer);
            }
            Ok(name) => drop(members::index(&name).map(|member| known.insert(member.into()))),
            Err(error) => unreadable = Some(error),
        };
        let mut gone = Vec::new();
        let message = frame::read(message, upsert, |name| gone.push(members::index(name)))?;
        if let Some(error) = unreadable {
            return Err(error);
        }
        for member in gone {
            self.known.remove(member.map_or(driver, usize::from));
        }
        if !message.token.is_empty() {
            self.token.send_replace(message.token);
        }
        let is_whole = self.known.count == self.others;
        if is_whole != was_whole {
            self.board.whole(is_whole);
        }
        Ok(message.kind)
    }
}

/// Looks which change the driver's entry is of.
fn look(sightings: &Sightings, member: u16, peer: &Bytes) {
    let Ok(peer) = v1::Peer::decode(peer.clone()) else { return };
    let address = peer.endpoint.and_then(|endpoint| endpoint.address_v4.parse().ok());
    if let Some(change) = address.and_then(sightings::change) {
        sightings.saw(member, change);
    }
}

/// Reports, as an agent does that has programmed everything.
async fn report(wire: Wire, network: NetworkId, token: watch::Receiver<Bytes>) {
    let mut peers = PeerServiceClient::with_origin(wire, wire::origin());
    loop {
        let report = v1::ReportStatusRequest {
            network: names::network(&network),
            applied_token: token.borrow().to_vec(),
            apply_time: Some(timestamp(SystemTime::now())),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ready: true,
            ..Default::default()
        };
        let answer = peers.report_status(report).await.map(|answer| answer.into_inner().next_report);
        let next = answer.ok().flatten().and_then(|next| Duration::try_from(next).ok());
        sleep(next.unwrap_or(REPORT_AGAIN)).await;
    }
}

fn is_failure(status: &Status) -> bool {
    status.code() != tonic::Code::Ok
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_known_once() {
        let mut known = Known::new(64);
        assert!(known.insert(0) && known.insert(64) && !known.insert(64));
        assert_eq!(known.count, 2);
        known.remove(64);
        known.remove(64);
        assert_eq!((known.count, known.insert(200)), (1, false));
    }
}
