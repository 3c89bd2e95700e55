//! Clients that hold a lease and read their watch, and do nothing else: what they measure is
//! the server and the wire.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use loden_proto::names::{self, NetworkId, NodeId};
use loden_proto::v1;
use loden_proto::v1::lease_service_client::LeaseServiceClient;
use loden_proto::v1::peer_service_client::PeerServiceClient;
use loden_proto::v1::watch_peers_response::Update;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::transport::Channel;

use super::members::{self, Members};
use super::sightings::{self, Sightings};

/// How long everybody may take to join.
const JOIN: Duration = Duration::from_secs(900);

/// Followers with identities and connections, not started.
pub(super) struct Prepared(Vec<(u16, NodeId, Channel)>);

/// Followers that follow.
pub(super) struct Followers {
    sightings: Arc<Sightings>,
    /// Why the first one ended that did.
    ended: watch::Receiver<Option<String>>,
    _tasks: JoinSet<()>,
}

impl Followers {
    pub(super) fn prepare(members: &Members, count: u16) -> anyhow::Result<Prepared> {
        let one = |index| {
            let node = members::name(index)?;
            let channel = members.connect(&node)?;
            Ok((index, node, channel))
        };
        Ok(Prepared((0..count).map(one).collect::<anyhow::Result<_>>()?))
    }

    pub(super) fn check(&self) -> anyhow::Result<()> {
        match &*self.ended.borrow() {
            Some(why) => bail!("{why}"),
            None => Ok(()),
        }
    }

    pub(super) fn sightings(&self) -> Arc<Sightings> {
        Arc::clone(&self.sightings)
    }
}

impl Prepared {
    /// Everybody acquires and watches at once; done when everybody knows everybody else.
    pub(super) async fn start(
        self,
        network: &NetworkId,
        sightings: &Arc<Sightings>,
    ) -> anyhow::Result<Followers> {
        // The others and the driver.
        let everybody = self.0.len();
        let (tell, ended) = watch::channel(None);
        let mut tasks = JoinSet::new();
        let mut known = Vec::new();
        for (index, node, channel) in self.0 {
            let (peers, knows) = watch::channel(0);
            known.push(knows);
            let follower =
                Follower { index, network: network.clone(), sightings: Arc::clone(sightings), peers };
            let tell = tell.clone();
            tasks.spawn(async move {
                let Err(error) = follower.follow(channel).await;
                tell.send_if_modified(|ended| {
                    let first = ended.is_none();
                    ended.get_or_insert_with(|| format!("{node}: {error:#}"));
                    first
                });
            });
        }
        let mut followers = Followers { sightings: Arc::clone(sightings), ended, _tasks: tasks };
        let all = async {
            for knows in &mut known {
                knows.wait_for(|peers| *peers == everybody).await.map_err(|_| anyhow!("one has ended"))?;
            }
            anyhow::Ok(())
        };
        let mut watched = followers.ended.clone();
        let joined = tokio::select! {
            joined = tokio::time::timeout(JOIN, all) => joined,
            _ = watched.wait_for(Option::is_some) => Ok(Err(anyhow!("one has ended"))),
        };
        followers.ended.mark_unchanged();
        followers.check()?;
        joined.map_err(|_| anyhow!("not everybody knew everybody within {JOIN:?}"))??;
        Ok(followers)
    }
}

struct Follower {
    index: u16,
    network: NetworkId,
    sightings: Arc<Sightings>,
    /// How many peers it knows.
    peers: watch::Sender<usize>,
}

impl Follower {
    /// Never ends but by an error.
    async fn follow(self, channel: Channel) -> anyhow::Result<std::convert::Infallible> {
        let (network, instance_id) = (names::network(&self.network), format!("{:032x}", self.index));
        let mut leases = LeaseServiceClient::new(channel.clone());
        let address = members::underlay(self.index);
        let bare = v1::Endpoint { address_v4: address.to_string(), ..Default::default() };
        let request = v1::AcquireLeaseRequest {
            boot_id: String::new(),
            underlay_prefixes: Vec::new(),
            network: network.clone(),
            instance_id: instance_id.clone(),
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
        let mut watches = PeerServiceClient::new(channel);
        let request = v1::WatchPeersRequest {
            boot_id: String::new(),
            network,
            resume_token: Vec::new(),
            instance_id,
            seen_token: Vec::new(),
        };
        let mut watch = watches.watch_peers(request).await.context("watch")?.into_inner();
        let mut peers = std::collections::HashSet::new();
        loop {
            let message = watch.message().await?.context("the server closed the watch")?;
            let (upserts, removed) = match message.update {
                Some(Update::Snapshot(page)) => (page.peers, Vec::new()),
                Some(Update::Delta(delta)) => (delta.upserts, delta.removed),
                Some(Update::Heartbeat(_)) | None => continue,
            };
            for peer in upserts {
                self.look(&peer);
                peers.insert(peer.node);
            }
            for node in removed {
                peers.remove(&node);
            }
            self.peers.send_if_modified(|known| std::mem::replace(known, peers.len()) != peers.len());
        }
    }

    fn look(&self, peer: &v1::Peer) {
        let address = peer.endpoint.as_ref().and_then(|endpoint| endpoint.address_v4.parse::<IpAddr>().ok());
        if let Some(change) = address.and_then(sightings::change) {
            self.sightings.saw(self.index, change);
        }
    }
}
