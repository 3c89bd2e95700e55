//! Clients that acquire, renew, release, reserve and create while things go wrong, and write down what they are told.
//!
//! ```text
//!  tenants, reservers, founders ── through haproxy, each over a connection of its own ──▶ calls ──┐
//!  lookers ── one beside each replica ──────────────────────────────────────────────────▶ looks ──┴▶ Recorder
//! ```
//!
//! Half of the tenants are in the agents' network, so that its peers change all the time. The others are more than
//! their network has subnets, and there is always one VNI less than would be needed: what is given back is taken at once.

mod admins;
mod desk;
mod looker;
mod tenant;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;
use tokio::task::JoinSet;

use self::admins::{Founder, Reserver};
use self::desk::Desk;
pub(super) use self::looker::last_looks;
use self::tenant::Tenant;
use super::site::{NETWORK, Site};
use crate::client;
use crate::history::{Recorder, Thing};

/// The network that is too small.
const SCARCE: &str = "scarce";
/// Its pool: 31 subnets beside the first.
const POOL: &str = "172.30.0.0/24";
const SLOT: u32 = 29;
/// The first address number of a tenant, above those of a swarm.
const FIRST: u16 = 40_000;
/// How long a list may take.
const LIST: Duration = Duration::from_secs(5);

/// How many clients there are.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Nodes that come and go, half of them in the agents' network.
    pub tenants: u16,
    /// Administrators that reserve subnets.
    pub reservers: u8,
    /// Administrators that create and delete networks.
    pub founders: u8,
}

/// Clients at work.
pub(super) struct Workload {
    tasks: JoinSet<anyhow::Result<()>>,
    stop: watch::Sender<bool>,
}

impl Workload {
    /// Begins; the choices come from the seed, and their order is everybody's own.
    pub(super) async fn begin(
        site: &Site,
        load: Load,
        seed: u64,
        recorder: &Arc<Recorder>,
    ) -> anyhow::Result<Self> {
        let mut random = StdRng::seed_from_u64(seed);
        let admin = site.channel().await?;
        let scarce = client::create_network(&admin, SCARCE, POOL, SLOT).await?;
        let scarce_vni = scarce.vni.context("the network has no VNI")?;
        for node in &site.nodes {
            recorder.bystander(Thing::lease(NETWORK, &node.name));
        }
        let (stop, stopped) = watch::channel(false);
        let mut desk = |thing| Desk {
            recorder: Arc::clone(recorder),
            thing,
            random: StdRng::seed_from_u64(random.random()),
            stopped: stopped.clone(),
        };
        let mut tasks = JoinSet::new();
        for number in 0..load.tenants {
            let (network, vni) = if number % 2 == 0 { (NETWORK, site.vni) } else { (SCARCE, scarce_vni) };
            let node = format!("tenant-{number}");
            let channel = site.replicated.channel(&site.identities.node(&node)?).await?;
            let endpoint = client::vtep(FIRST + number, vni);
            tasks.spawn(Tenant::new(desk(Thing::lease(network, &node)), network, endpoint, channel).work());
        }
        for number in 0..load.reservers {
            let thing = Thing::reservation(SCARCE, &format!("reserved-{number}"));
            tasks.spawn(Reserver::new(desk(thing), site.channel().await?).work());
        }
        for number in 0..load.founders {
            let thing = Thing::Network(format!("passing-{number}"));
            tasks.spawn(Founder::new(desk(thing), number, site.channel().await?).work());
        }
        for replica in 0..site.replicated.replicas().len() {
            let channel = site.replicated.channel_past(replica, &site.admin).await?;
            tasks.spawn(looker::look_on(replica, channel, Arc::clone(recorder), stopped.clone()));
        }
        Ok(Self { tasks, stop })
    }

    /// Has everybody end what it is at, and waits for that.
    pub(super) async fn end(mut self) -> anyhow::Result<()> {
        self.stop.send_replace(true);
        while let Some(ended) = self.tasks.join_next().await {
            ended??;
        }
        Ok(())
    }
}
