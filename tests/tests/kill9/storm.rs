//! Everybody writes at once, until the server is gone.

use anyhow::anyhow;
use futures_util::future::join_all;
use loden_proto::v1::lease_service_client::LeaseServiceClient;
use loden_tests::deployment::Deployment;
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::lane::{LeaseLane, network_lane};
use crate::witness::{LeaseItem, NetworkItem, Witness};
use crate::{ANSWER, Actors, NETWORKS, NODES, PASSING, lasting, node_name, passing};

/// How many calls came to what.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    pub(crate) acknowledged: usize,
    pub(crate) refused: usize,
    pub(crate) open: usize,
}

impl Figures {
    pub(crate) fn add(&mut self, other: Self) {
        self.acknowledged += other.acknowledged;
        self.refused += other.refused;
        self.open += other.open;
    }
}

/// What one caller has done and left open.
pub(crate) struct Account<K, I> {
    pub(crate) key: K,
    pub(crate) item: I,
    pub(crate) figures: Figures,
}

/// A storm that runs until the server is gone.
pub(crate) struct Storm {
    leases: JoinSet<anyhow::Result<Account<(String, String), LeaseItem>>>,
    networks: JoinSet<anyhow::Result<Account<String, NetworkItem>>>,
}

impl Storm {
    /// Begins a storm; it is under way when this returns.
    pub(crate) async fn begin(
        deployment: &Deployment,
        actors: &Actors,
        witness: &Witness,
        seed: u64,
    ) -> anyhow::Result<Self> {
        let mut rng = StdRng::seed_from_u64(seed);
        let channels = join_all(actors.nodes.iter().map(|identity| deployment.control.channel(identity)));
        let (admin, nodes) = tokio::join!(deployment.control.channel(&actors.admin), channels);
        let (admin, nodes) = (admin?, nodes.into_iter().collect::<anyhow::Result<Vec<_>>>()?);
        let (begun, mut begins) = watch::channel(());
        let mut storm = Self { leases: JoinSet::new(), networks: JoinSet::new() };
        let lease_networks = (0..NETWORKS).map(lasting).collect::<Vec<_>>();
        let deletions = |network: &str| witness.deletions.get(network).cloned().unwrap_or_default();
        for (number, channel) in (0..NODES).zip(&nodes) {
            // Each node's last lane is in a network that comes and goes.
            let passing = passing(number % PASSING);
            for network in lease_networks.iter().chain([&passing]) {
                let key = (network.clone(), node_name(number));
                let item = witness.leases.get(&key).cloned().unwrap_or_default();
                let lane = LeaseLane {
                    deletions: deletions(network),
                    key,
                    number,
                    client: LeaseServiceClient::new(channel.clone()),
                    channel: channel.clone(),
                    rng: StdRng::seed_from_u64(rng.random()),
                    begun: begun.clone(),
                };
                storm.leases.spawn(lane.run(item));
            }
        }
        for number in 0..PASSING {
            let key = passing(number);
            let item = witness.networks.get(&key).cloned().unwrap_or_default();
            storm.networks.spawn(network_lane((key.clone(), deletions(&key)), number, admin.clone(), item));
        }
        let first = tokio::time::timeout(ANSWER, begins.changed()).await;
        first.map_err(|_| anyhow!("nothing was acknowledged within {ANSWER:?}"))??;
        Ok(storm)
    }

    /// Waits until every caller has noticed that the server is gone.
    pub(crate) async fn end(mut self, witness: &mut Witness) -> anyhow::Result<Figures> {
        let mut figures = Figures::default();
        while let Some(account) = self.leases.join_next().await {
            let Account { key, item, figures: one } = account??;
            witness.leases.insert(key, item);
            figures.add(one);
        }
        while let Some(account) = self.networks.join_next().await {
            let Account { key, item, figures: one } = account??;
            witness.networks.insert(key, item);
            figures.add(one);
        }
        Ok(figures)
    }
}
