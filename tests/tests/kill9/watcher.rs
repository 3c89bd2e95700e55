//! An observer that must not see anything that is lost.

use std::collections::BTreeMap;

use anyhow::{bail, ensure};
use loden_proto::v1;
use loden_proto::v1::cluster_service_client::ClusterServiceClient;
use loden_tests::client::{Follower, Seen};
use tonic::Status;
use tonic::transport::Channel;

use crate::witness::Witness;
use crate::{ANSWER, lasting};

/// An observer of one network that comes back after every kill.
pub(crate) struct Watcher {
    follower: Follower,
    incarnation: String,
}

impl Watcher {
    pub(crate) async fn begin(admin: &Channel) -> anyhow::Result<Self> {
        let mut follower = Follower::observer(&lasting(0));
        follower.open(admin).await?;
        ensure!(follower.next().await? == Seen::Snapshot { adopting: false }, "no snapshot came first");
        Ok(Self { follower, incarnation: incarnation(admin).await? })
    }

    /// Takes in whatever is published until the watch ends.
    pub(crate) async fn read_on(mut self) -> Self {
        while self.follower.next().await.is_ok() {}
        self
    }

    /// Resumes where the last watch ended, and has what the lists have.
    pub(crate) async fn compare(&mut self, admin: &Channel, witness: &Witness) -> anyhow::Result<()> {
        // A watcher that had been told of a change that is lost would have seen another store's life begin.
        let incarnation = incarnation(admin).await?;
        ensure!(incarnation == self.incarnation, "incarnation {incarnation} has begun");
        self.follower.open(admin).await?;
        match tokio::time::timeout(ANSWER, self.follower.next()).await? {
            Ok(Seen::Delta { .. } | Seen::Heartbeat) => {}
            other => bail!("the watch did not resume: {other:?}"),
        }
        let of_network = witness.leases.iter().filter(|((network, _), _)| *network == lasting(0));
        let expected: BTreeMap<_, _> = of_network
            .filter_map(|((_, node), item)| Some((node.clone(), item.known.as_ref()?.subnets.clone())))
            .collect();
        let peers = self.follower.peers.iter();
        let seen: BTreeMap<_, _> = peers.map(|(node, peer)| (node.clone(), peer.subnets.clone())).collect();
        ensure!(seen == expected, "the watch shows {seen:?}, the leases are {expected:?}");
        Ok(())
    }
}

async fn incarnation(admin: &Channel) -> Result<String, Status> {
    let mut cluster = ClusterServiceClient::new(admin.clone());
    let status = cluster.get_cluster_status(v1::GetClusterStatusRequest {}).await?.into_inner();
    Ok(format!("{}{}", status.incarnation, if status.adopting_until.is_some() { " (adopting)" } else { "" }))
}
