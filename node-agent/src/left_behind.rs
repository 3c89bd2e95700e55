//! Networks that the agent is not part of any more and whose devices are still in the kernel.
//!
//! They are told and never removed: they forward for pods that may still be there, and the agent cannot know
//! whether somebody only mistyped a name.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ipnet::IpNet;
use loden_datapath::{DeviceName, Host, HostFacts};
use loden_proto::model::{Backend, Pool};
use loden_proto::names::NetworkId;
use loden_transport::explain;
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{debug, info, warn};

use crate::state::StateDir;

/// Between looks, while something is there that somebody may remove.
const LOOK: Duration = Duration::from_secs(10);

/// Devices by the network that they were made for.
pub(crate) type LeftBehind = BTreeMap<NetworkId, Vec<DeviceName>>;

/// Devices of ours whose networks are not `served`.
fn of(facts: &HostFacts, served: &BTreeSet<NetworkId>) -> LeftBehind {
    let mut left = LeftBehind::new();
    for interface in &facts.interfaces {
        if let Some(network) = interface.network.clone().filter(|network| !served.contains(network)) {
            left.entry(network).or_default().push(interface.name);
        }
    }
    left
}

/// Pools of networks that are not `served` and that this agent was part of: routes of next hops into them have no
/// device of ours to be known by.
pub(crate) fn pools(state: &StateDir, served: &BTreeSet<NetworkId>) -> Vec<IpNet> {
    let ids = state.networks().into_iter().filter(|id| !served.contains(id));
    let left: Vec<_> = ids.filter_map(|id| state.network(&id).1.lease).map(|(_, network)| network).collect();
    // Others have devices, which are told by name.
    for network in left.iter().filter(|network| network.backend == Backend::HostGw) {
        warn!(
            network = %network.id,
            "this agent does not serve the network any more; what is here of it stays and forwards: name it in \
             --network again, or run `loden-agent cleanup` before the agent starts"
        );
    }
    left.iter().flat_map(|network| &network.pools).map(Pool::cidr).collect()
}

/// Looks at the start, and again until nothing is left; never ends.
pub(crate) async fn run<H: Host>(
    mut host: H,
    served: BTreeSet<NetworkId>,
    left_behind: watch::Sender<LeftBehind>,
) {
    loop {
        match host.facts().await {
            Ok(facts) => {
                let now = of(&facts, &served);
                let before = left_behind.send_replace(now.clone());
                announce(&before, &now);
                if now.is_empty() {
                    break;
                }
            }
            Err(error) => debug!(error = %explain(&error), "devices could not be read"),
        }
        sleep(LOOK).await;
    }
    drop(host);
    std::future::pending().await
}

fn announce(before: &LeftBehind, now: &LeftBehind) {
    for (network, devices) in now.iter().filter(|(network, _)| !before.contains_key(*network)) {
        let names: Vec<_> = devices.iter().map(ToString::to_string).collect();
        let devices = names.join(" ");
        warn!(
            %network,
            devices,
            "this agent does not serve the network, and its devices and routes are still here and forward; \
             name it in --network again, or delete them by `ip link delete`"
        );
    }
    for network in before.keys().filter(|network| !now.contains_key(*network)) {
        info!(%network, "the network's devices are gone");
    }
}

#[cfg(test)]
mod tests {
    use loden_datapath::{Fake, Interface};

    use super::*;
    use crate::testing::facts;

    fn device(name: &str, network: Option<&str>) -> Interface {
        Interface {
            name: name.parse().unwrap(),
            ours: true,
            network: network.map(|network| network.parse().unwrap()),
            ..facts("192.0.2.9").interfaces.remove(0)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_somebody_removes_is_no_longer_told() {
        let mut host = facts("192.0.2.9");
        host.interfaces.push(device("loden2a", Some("blue")));
        let kernel = Fake::new(host);
        let (sender, mut left) = watch::channel(LeftBehind::new());
        let task = tokio::spawn(run(kernel.clone(), BTreeSet::new(), sender));
        left.wait_for(|left| left.len() == 1).await.unwrap();
        kernel.change_facts(|host| drop(host.interfaces.pop()));
        left.wait_for(LeftBehind::is_empty).await.unwrap();
        sleep(Duration::from_secs(3600)).await;
        assert!(!task.is_finished());
    }

    #[test]
    fn devices_of_networks_that_are_not_served_are_found_by_their_alias() {
        let mut host = facts("192.0.2.9");
        host.interfaces.extend([
            device("loden1a", Some("default")),
            device("loden2a", Some("blue")),
            device("loden2b", Some("blue")),
            device("loden9a", None),
        ]);
        let served = BTreeSet::from(["default".parse().unwrap()]);
        let left = of(&host, &served);
        let names = ["loden2a", "loden2b"].map(|name| name.parse().unwrap());
        assert_eq!(left, LeftBehind::from([("blue".parse().unwrap(), names.to_vec())]));
    }
}
