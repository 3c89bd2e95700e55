//! `loden-agent cleanup`: removes what agents have left on this host, and nothing else.
//!
//! ```text
//!  files that runtimes start pods from ─▶ packet filter ─▶ kernel ─▶ state
//! ```
//!
//! Bridges are made by CNI plugins and bear no mark of ours. Those that the state or a CNI configuration of ours
//! names go; others with such a name are told.
//!
//! The state goes last, and only when all else is gone: it says whose the rest is.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use loden_datapath::firewall::{Firewall, FirewallError};
use loden_datapath::kernel::Remnant;
use loden_datapath::{DeviceName, Host, HostFacts, Interface, Kernel, backend};
use loden_transport::explain;

use crate::introspection::{Unbound, remove_stale};
use crate::presence::{self, Unclaimed};
use crate::regular::{self, Found};
use crate::state::{Kept, StateDir, StateError};
use crate::{conflist, subnet_file};

/// Where agents put what they leave.
#[derive(Clone, Debug)]
pub struct Places {
    /// Of an agent's state.
    pub state_dir: PathBuf,
    /// For flannel's readers.
    pub subnet_file: PathBuf,
    /// Of CNI configurations.
    pub cni_config_dir: PathBuf,
    /// Where an agent is asked how it is.
    pub socket: PathBuf,
}

/// Nothing was touched.
#[derive(Debug, thiserror::Error)]
pub enum CleanupError {
    /// An agent runs, which would put everything back, or may run.
    #[error(transparent)]
    Unclaimed(#[from] Unclaimed),
    /// The state is in use or cannot be read.
    #[error(transparent)]
    State(#[from] StateError),
}

/// What became of everything; a line for each.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What is gone.
    pub removed: Vec<String>,
    /// What stays, and why.
    pub kept: Vec<String>,
    /// What could not be removed, and why.
    pub failed: Vec<String>,
}

/// Removes everything.
///
/// # Errors
/// An agent runs, or it is not known what is its.
pub async fn run(
    places: &Places,
    kernel: &Kernel,
    firewall: &mut impl Firewall,
) -> Result<Outcome, CleanupError> {
    let _claim = presence::claim().await?;
    let state = StateDir::open_existing(&places.state_dir)?;
    let known = state.as_ref().map(StateDir::kept).unwrap_or_default();
    let mut outcome = Outcome::default();
    let mut bridges = bridges(&known);
    bridges.extend(outcome.conflists(&places.cni_config_dir));
    outcome.subnet_file(&places.subnet_file, &known);
    outcome.socket(&places.socket);
    match firewall.clear().await {
        Ok(removed) => outcome.removed.extend(removed),
        Err(FirewallError::NoNftables) => {}
        Err(FirewallError::NoNft) => {
            outcome
                .kept
                .push("rules of ours, if there are any: nft, which removes them, is not installed".into());
        }
        Err(error) => outcome.failed.push(format!("rules: {}", explain(&error))),
    }
    // Whose the devices that are left are is known only then.
    let mut undeleted = None;
    match kernel.clear(bridges.iter().copied().collect()).await {
        Ok(cleared) => {
            let names = cleared.failed.iter().filter_map(|(remnant, _)| match remnant {
                Remnant::Device(name) => Some(*name),
                Remnant::Moved(_) | Remnant::Bridge(_) | Remnant::Route(_) => None,
            });
            undeleted = Some(names.collect::<BTreeSet<_>>());
            outcome.removed.extend(cleared.removed.iter().map(ToString::to_string));
            let lent = cleared.lent.iter().map(|bridge| format!("bridge {bridge}: pods are attached to it"));
            outcome.kept.extend(lent);
            let failed = cleared.failed.iter();
            outcome.failed.extend(failed.map(|(remnant, error)| format!("{remnant}: {}", explain(error))));
        }
        Err(error) => outcome.failed.push(format!("devices and routes: {}", explain(&error))),
    }
    match kernel.clone().facts().await {
        Ok(facts) => {
            if let Some(undeleted) = undeleted {
                outcome.strange_devices(&facts, &undeleted);
            }
            outcome.kept.extend(strange_bridges(&facts, &bridges, &places.state_dir));
        }
        Err(error) => outcome.failed.push(format!("bridges: {}", explain(&error))),
    }
    if let Some(state) = state {
        outcome.state(&places.state_dir, state);
    }
    Ok(outcome)
}

/// The bridges of the networks that were served here.
fn bridges(known: &[Kept]) -> BTreeSet<DeviceName> {
    let networks = known.iter().filter_map(|kept| kept.lease.as_ref());
    networks.filter_map(|(_, network)| conflist::bridge(network.vni).parse().ok()).collect()
}

/// Bridges with a name as ours have, of which nothing says that they are.
fn strange_bridges(facts: &HostFacts, known: &BTreeSet<DeviceName>, state_dir: &Path) -> Vec<String> {
    let bridges = facts.interfaces.iter().filter(|interface| interface.kind.as_deref() == Some("bridge"));
    let strange =
        bridges.filter(|bridge| conflist::is_bridge(bridge.name.as_str()) && !known.contains(&bridge.name));
    let told = strange.map(|bridge| {
        let (name, state_dir) = (bridge.name, state_dir.display());
        format!(
            "bridge {name}: neither the state in {state_dir} nor a CNI configuration of ours names it; if it is \
             Loden's: ip link delete {name}"
        )
    });
    told.collect()
}

impl Outcome {
    /// The bridges that those which are ours name.
    fn conflists(&mut self, directory: &Path) -> Vec<DeviceName> {
        let mut bridges = Vec::new();
        for path in conflist::unserved(directory, &Default::default()) {
            let Some(text) = self.text(&path) else { continue };
            match conflist::ours(&path, &text) {
                Some(list) => {
                    bridges.extend(conflist::bridge_in(&list));
                    self.remove_file(&path);
                }
                None => self.kept.push(format!("{}: no agent wrote it", path.display())),
            }
        }
        bridges
    }

    /// Devices that are not wholly as ours are, of those that were not to be deleted and could not. A process that ended
    /// between creating and naming one leaves one without an alias, and so may anybody else. One with our alias has been
    /// renamed: it forwards.
    fn strange_devices(&mut self, facts: &HostFacts, undeleted: &BTreeSet<DeviceName>) {
        for Interface { name, kind, network, .. } in &facts.interfaces {
            if undeleted.contains(name) || (network.is_none() && backend::vni_of(*name).is_none()) {
                continue;
            }
            if network.is_some() && matches!(kind.as_deref(), Some("vxlan" | "tun")) {
                self.failed.push(format!(
                    "device {name}: it has the alias of a tunnel of ours, and not the name of one with its VNI; if it \
                     is Loden's: ip link delete {name}"
                ));
            } else {
                self.kept.push(format!(
                    "device {name}: its kind, name, VNI and alias are not together those of a tunnel of ours; if it \
                     is Loden's: ip link delete {name}"
                ));
            }
        }
    }

    /// It is of flannel's form and at flannel's place: ours is one with a subnet of this node.
    fn subnet_file(&mut self, path: &Path, known: &[Kept]) {
        let Some(text) = self.text(path) else { return };
        let leases = || known.iter().filter_map(|kept| kept.lease.as_ref());
        let held = |subnet: &IpNet| leases().any(|(held, _)| held.subnets.iter().any(|own| own == *subnet));
        let subnets = subnet_file::subnets(&text);
        if !subnets.is_empty() && subnets.iter().all(held) {
            self.remove_file(path);
        } else {
            self.kept.push(format!("{}: it is not of a subnet that this node held", path.display()));
        }
    }

    /// Of an agent that was killed: one that ends takes it away.
    fn socket(&mut self, path: &Path) {
        match remove_stale(path) {
            Ok(true) => self.removed.push(path.display().to_string()),
            Ok(false) => {}
            Err(Unbound::Io { path, error }) => self.failed.push(format!("{}: {error}", path.display())),
            Err(stays @ (Unbound::Taken { .. } | Unbound::Foreign { .. })) => {
                self.kept.push(stays.to_string())
            }
        }
    }

    /// What is in a file; tells where it is none, or cannot be read.
    fn text(&mut self, path: &Path) -> Option<String> {
        match regular::read(path) {
            Ok(Found::Text(text)) => return Some(text),
            Ok(Found::Nothing) => {}
            Ok(Found::Other(kind)) => {
                self.kept.push(format!("{}: it is {kind}, which no agent makes", path.display()));
            }
            Err(error) => self.failed.push(format!("{}: {error}", path.display())),
        }
        None
    }

    fn state(&mut self, path: &Path, state: StateDir) {
        if !self.failed.is_empty() {
            self.kept.push(format!("{}: it says whose the rest is", path.display()));
            return;
        }
        match state.remove() {
            Ok(left) => {
                self.removed.push(format!("state in {}", path.display()));
                self.kept
                    .extend(left.iter().map(|path| format!("{}: it is not the agent's", path.display())));
            }
            Err(error) => self.failed.push(explain(&error)),
        }
    }

    fn remove_file(&mut self, path: &Path) {
        match fs::remove_file(path) {
            Ok(()) => self.removed.push(path.display().to_string()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => self.failed.push(format!("{}: {error}", path.display())),
        }
    }
}

#[cfg(test)]
mod tests;
