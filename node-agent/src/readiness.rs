//! Whether the agent is ready, and the files that pods start from: those come before it is, and after forwarding
//! works.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use loden_process::operations::Readiness;
use loden_proto::names::NetworkId;
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{info, warn};

use crate::agent::AgentConfig;
use crate::conflist::{self, Conflist};
use crate::published::{LOOK, Published};
use crate::status::{Files, Overview};
use crate::subnet_file;

/// Between attempts to write a file.
const REWRITE: Duration = Duration::from_secs(1);

/// The files that pods start from.
#[derive(Debug, Default)]
pub(crate) struct Handouts {
    /// Of the first network.
    subnet_file: Option<(NetworkId, Published)>,
    conflists: BTreeMap<NetworkId, Conflist>,
}

impl Handouts {
    /// Tells of configurations that are there for networks that are not served: a runtime may take them.
    pub(crate) fn new(config: &AgentConfig) -> Self {
        let first = config.networks.first();
        let subnet_file = first.zip(config.subnet_file.clone());
        let subnet_file = subnet_file.map(|(network, path)| (network.clone(), Published::new(path)));
        let Some(directory) = &config.cni_config_dir else {
            return Self { subnet_file, conflists: BTreeMap::new() };
        };
        let served: BTreeSet<_> = config.networks.iter().cloned().collect();
        for path in conflist::unserved(directory, &served) {
            warn!(
                path = %path.display(),
                "the CNI configuration is of a network that this agent does not serve, and a runtime may still \
                 use it; delete it when the network's pods are gone"
            );
        }
        let conflists = served
            .into_iter()
            .map(|network| {
                let conflist = Conflist::new(directory, &network, Some(&network) == first);
                (network, conflist)
            })
            .collect();
        Self { subnet_file, conflists }
    }

    /// Takes a network's configuration away: this node has no subnet to attach pods to.
    pub(crate) fn withdraw(&self, network: &NetworkId) {
        if let Some(conflist) = self.conflists.get(network) {
            conflist.remove();
        }
    }

    /// Writes what pods of a network that forwards start from, where it is not there.
    fn write(&mut self, id: &NetworkId, overview: &Overview) -> Result<(), String> {
        let applied = &overview.applied;
        let (Some((_, network)), Some(subnets)) = (&applied.lease, &applied.subnets) else { return Ok(()) };
        let mtu = applied.mtu;
        if let Some((_, file)) = self.subnet_file.as_mut().filter(|(first, _)| first == id) {
            let written = file.put(subnet_file::render(network, subnets, mtu)).map_err(|error| {
                format!("the subnet file {} cannot be written: {error}", file.path().display())
            })?;
            if written {
                info!(path = %file.path().display(), "subnet file written");
            }
        }
        self.conflists.get_mut(id).map_or(Ok(()), |file| file.put(network, subnets, mtu))
    }
}

/// What is known of a network, and where to tell how its files stand.
pub(crate) struct Judged {
    pub(crate) overview: watch::Receiver<Overview>,
    pub(crate) files: watch::Sender<Files>,
}

/// Tells whether the agent is ready, and keeps the files in place.
pub(crate) async fn judge(
    networks: BTreeMap<NetworkId, Judged>,
    mut changes: watch::Receiver<()>,
    mut handouts: Handouts,
    ready: watch::Sender<Readiness>,
) {
    loop {
        let mut now = Readiness::yes("");
        let mut unwritten = false;
        for (network, Judged { overview, files }) in &networks {
            let mut overview = overview.borrow().clone();
            if overview.applied.ended.is_some() {
                handouts.withdraw(network);
            }
            if overview.unforwarded().is_none() {
                overview.files =
                    handouts.write(network, &overview).map_or_else(Files::Failed, |()| Files::Written);
                unwritten |= overview.files != Files::Written;
                files.send_if_modified(|before| {
                    let changed = *before != overview.files;
                    before.clone_from(&overview.files);
                    changed
                });
            }
            let one = overview.readiness(network);
            now.ready &= one.ready;
            if !now.detail.is_empty() {
                now.detail.push_str("; ");
            }
            now.detail.push_str(&one.detail);
        }
        ready.send_if_modified(|before| {
            if *before == now {
                return false;
            }
            match (before.ready, now.ready) {
                (false, true) => info!(detail = now.detail, "ready"),
                (true, false) => warn!(detail = now.detail, "not ready"),
                _ => {}
            }
            *before = now;
            true
        });
        tokio::select! {
            changed = changes.changed() => if changed.is_err() {
                return;
            },
            () = sleep(if unwritten { REWRITE } else { LOOK }) => {}
        }
    }
}
