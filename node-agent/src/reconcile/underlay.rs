//! Which interface is sent over now, and what others are told of it.

use ipnet::IpNet;
use loden_datapath::backend::Underlay;
use loden_datapath::{Datapath, Host, HostFacts};
use loden_proto::model::{Endpoint, Receiver};
use loden_transport::explain;
use tokio::time::Instant;
use tracing::{info, warn};

use super::Reconcile;
use super::agenda::RETRIES;
use crate::iface::{self, Choice};
use crate::state::Held;

impl<D: Datapath + Host> Reconcile<D> {
    /// Chooses the interface again; true when that changes anything. Without
    /// one the last choice stays: forwarding may still work.
    pub(super) async fn look(&mut self) -> bool {
        let chosen = match self.choose().await {
            Ok(chosen) => chosen,
            Err(why) => {
                if self.no_interface.as_ref() != Some(&why) {
                    warn!("{why}");
                }
                self.no_interface = Some(why);
                self.facts_due = Some(Instant::now() + RETRIES.longest_wait);
                return false;
            }
        };
        self.no_interface = None;
        let (choice, prefixes) = chosen;
        if self.choice.as_ref() != Some(&choice) {
            info!(device = %choice.device, v4 = ?choice.v4, v6 = ?choice.v6, reason = choice.reason, "underlay chosen");
        }
        let changed = self.choice.as_ref() != Some(&choice) || self.prefixes != prefixes;
        self.choice = Some(choice);
        self.prefixes = prefixes;
        changed
    }

    async fn choose(&mut self) -> Result<(Choice, Vec<IpNet>), String> {
        let host = &mut self.program.datapath;
        let facts: HostFacts = host.facts().await.map_err(|error| explain(&error))?;
        let selection = &self.place.selection;
        let route = match selection.can_reach {
            Some(address) => host.route_to(address).await.map_err(|error| explain(&error))?,
            None => None,
        };
        let choice = iface::choose(selection, &facts, route.as_ref()).map_err(|error| error.to_string())?;
        Ok((choice, facts.connected.iter().map(|(_, prefix)| *prefix).collect()))
    }
}

/// What peers are told: the addresses to send to, and what receives there.
pub(super) fn endpoint(choice: &Choice, receivers: &[Receiver]) -> Endpoint {
    let mut endpoint = Endpoint { v4: choice.public_v4, v6: choice.public_v6, receivers: Vec::new() };
    let addressed = |receiver: &&Receiver| match receiver {
        Receiver::Vxlan(vtep) => endpoint.address(vtep.family).is_some(),
    };
    endpoint.receivers = receivers.iter().filter(addressed).copied().collect();
    endpoint
}

/// Prefixes below our own subnets are our pods' bridges: no peer is refused
/// for them, and they come and go.
pub(super) fn of(choice: &Choice, prefixes: &[IpNet], held: &Held) -> Underlay {
    let ours = |prefix: &&IpNet| !held.subnets.iter().any(|own| own.contains(*prefix));
    Underlay {
        lower: choice.device,
        mtu: choice.mtu,
        v4: choice.v4,
        v6: choice.v6,
        prefixes: prefixes.iter().filter(ours).copied().collect(),
    }
}
