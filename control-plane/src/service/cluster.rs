//! ClusterService.

use std::sync::Arc;
use std::time::SystemTime;

use loden_proto::convert::{count, timestamp};
use loden_proto::v1::cluster_service_server::ClusterService;
use loden_proto::v1::{ClusterStatus, FormerLife, GetClusterStatusRequest};
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use super::{Shared, active_leases};
use crate::replicas::Note;
use crate::store::Health;

pub(super) struct Clusters(pub(super) Arc<Shared>);

#[tonic::async_trait]
impl ClusterService for Clusters {
    async fn get_cluster_status(
        &self,
        _: Request<GetClusterStatusRequest>,
    ) -> Result<Response<ClusterStatus>, Status> {
        let shared = &self.0;
        let store_failure = match &*shared.clerk.store_health().borrow() {
            Health::Healthy => String::new(),
            Health::Away { cause } | Health::Poisoned { cause } | Health::Recoverable { cause } => {
                cause.to_string()
            }
        };
        let mut status = shared.clerk.read(|ledger| {
            let cluster = ledger.cluster();
            ClusterStatus {
                incarnation: cluster
                    .as_ref()
                    .map(|cluster| format!("{:032x}", cluster.incarnation))
                    .unwrap_or_default(),
                adopting_until: cluster.and_then(|cluster| cluster.adopt_until).map(timestamp),
                revision: ledger.revision().0,
                networks: count(ledger.networks().count()),
                leases: count(active_leases(ledger)),
                ..Default::default()
            }
        });
        status.cluster = shared.cluster.to_string();
        status.version = env!("CARGO_PKG_VERSION").to_owned();
        status.store_failure = store_failure;
        let others = Arc::clone(&shared.others.borrow());
        let all = |here: usize, of: fn(&Note) -> u64| {
            let there = others.iter().map(|other| of(&other.note)).fold(0, u64::saturating_add);
            count(here).saturating_add(there.try_into().unwrap_or(u32::MAX))
        };
        status.watches = all(shared.watches.len(), |note| note.watches);
        status.unconverged_nodes = count(shared.unconverged());
        let unserved = shared.nodes.unserved(SystemTime::now());
        status.refused_nodes = all(unserved.refused, |note| note.refused);
        status.waiting_nodes = all(unserved.waiting, |note| note.waiting);
        status.former_life = shared.knocked(Instant::now()).map(|knocked| FormerLife {
            address: knocked.last.to_string(),
            knock_time: Some(timestamp(SystemTime::now() - knocked.ago)),
            hosts: count(knocked.hosts),
        });
        status.start_time = Some(timestamp(shared.started));
        Ok(Response::new(status))
    }
}
