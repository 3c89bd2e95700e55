//! PeerService, but for WatchPeers (`watch`).

use std::sync::Arc;
use std::time::SystemTime;

use futures_util::stream::Empty;
use loden_proto::convert::duration;
use loden_proto::model::LeaseName;
use loden_proto::names;
use loden_proto::v1::peer_service_server::PeerService;
use loden_proto::v1::{ReportStatusRequest, ReportStatusResponse, WatchPeersRequest, WatchPeersResponse};
use tonic::{Request, Response, Status};

use super::network::not_found;
use super::{Shared, caller};
use crate::status::{Report, texts};

pub(super) struct Peers(pub(super) Arc<Shared>);

#[tonic::async_trait]
impl PeerService for Peers {
    type WatchPeersStream = Empty<Result<WatchPeersResponse, Status>>;

    /// Never reached: the door serves this path itself, with a body that tonic's encoder could not make.
    async fn watch_peers(
        &self,
        _: Request<WatchPeersRequest>,
    ) -> Result<Response<Self::WatchPeersStream>, Status> {
        Err(Status::internal("WatchPeers came past its own service"))
    }

    async fn report_status(
        &self,
        request: Request<ReportStatusRequest>,
    ) -> Result<Response<ReportStatusResponse>, Status> {
        let node = caller(&request)?.node()?.clone();
        let wire = request.into_inner();
        let network = names::parse_network(&wire.network).map_err(|invalid| invalid.at("network"))?;
        texts::check(&wire)?;
        let name = LeaseName { network, node };
        if self.0.clerk.read(|ledger| ledger.lease(&name).is_none()) {
            if !wire.ready {
                self.0.nodes.not_ready(&name, &wire.not_ready_reason, SystemTime::now());
            }
            return Err(not_found(&name.to_string()));
        }
        // A position in another life of the store says nothing about this one.
        let token = self.0.feeds.open_token(&name.network, &wire.applied_token);
        let token = token.filter(|token| token.incarnation == self.0.feeds.incarnation().id);
        let applied = token.map(|token| token.point.revision).unwrap_or_default();
        let report = Report::new(&wire, applied);
        let next = self.0.nodes.file(&name.node, name.network, report, SystemTime::now());
        let trust_generation = self.0.signer.pki().authority().generation();
        Ok(Response::new(ReportStatusResponse { next_report: Some(duration(next)), trust_generation }))
    }
}
