//! What is known of one network's state, and what "ready" means.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use loden_process::operations::Readiness;
use loden_proto::model::{Family, Network, Subnets};
use loden_proto::names::NetworkId;

use crate::peers::Token;
use crate::problem::Problem;
use crate::program::Done;
use crate::state::Held;

/// Where the peers in the kernel came from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Source {
    /// The control plane, in this process's life.
    Server,
    /// The agent's own state; the control plane has not confirmed it yet.
    Disk,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Server => "server",
            Self::Disk => "disk",
        })
    }
}

/// A peer that is refused or could not be programmed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Failure {
    /// What failed and why.
    pub message: String,
    /// When it was first seen.
    pub since: SystemTime,
}

/// What the reconcile task has made of a network.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Applied {
    /// None until a set is known.
    pub source: Option<Source>,
    /// Peers that are programmed.
    pub peers: usize,
    /// Peers that are not ready to receive yet.
    pub waiting: usize,
    /// Peers that are refused or could not be programmed, by name.
    pub failures: Arc<BTreeMap<String, Failure>>,
    /// Why the kernel does not hold the whole set.
    pub unfinished: Option<String>,
    /// Why the network has ended: another one has what was its own.
    pub ended: Option<String>,
    /// Why the state on disk is behind.
    pub unsaved: Option<String>,
    /// The lease and network that are programmed.
    pub lease: Option<(Held, Network)>,
    /// What pods can have of the lease: the subnets of the families that work on this host.
    pub subnets: Option<Subnets>,
    /// MTU for pods in bytes, as the kernel's devices allow.
    pub mtu: u32,
    /// Of the last message that is taken in.
    pub token: Option<Token>,
    /// When the kernel last held all that was known.
    pub time: Option<SystemTime>,
    /// How long the last full pass took.
    pub last_pass: Duration,
    /// Passes and refused steps since the start.
    pub(crate) done: Done,
    /// Devices that the network's packets pass.
    pub devices: Devices,
    /// Settings of the host that are in the way.
    pub warnings: Vec<String>,
}

/// Devices of the host that the network's packets pass.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Devices {
    /// Behind which pods are.
    pub pods: BTreeSet<String>,
    /// Which lead to the peers, as far as any are in use.
    pub links: BTreeSet<String>,
    /// The host's own that is sent over.
    pub lower: BTreeSet<String>,
    /// The families of the underlay whose tunnels are in use.
    pub families: Vec<Family>,
}

/// What the packet filter does for a network, and against it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Filter {
    /// Whether packets that leave the network get the node's address.
    pub masquerades: bool,
    /// Why our rules are not as the networks want them.
    pub failed: Option<String>,
    /// What an operator should know: mostly, who drops the network's packets.
    pub warnings: Vec<String>,
}

/// The files that pods start from.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Files {
    /// Not written yet in this process's life.
    #[default]
    Pending,
    /// In place; or none is to be.
    Written,
    /// Why one cannot be written.
    Failed(String),
}

/// How the lease stands.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LeaseView {
    /// What is held, confirmed or not.
    pub held: Option<(Held, Network)>,
    /// Whether an acquire succeeded in this process's life.
    pub granted: bool,
    /// Whether the server knows it now, as far as we know.
    pub confirmed: bool,
    /// Why the lease is lost: the datapath stays, the node is not ready.
    pub lost: Option<String>,
    /// Why the last call did not go through; none when it did.
    pub problem: Option<Problem>,
}

/// How the watch stands.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Link {
    /// Whether a stream is open.
    pub connected: bool,
    /// Streams that were opened.
    pub opened: u64,
    /// Why the last one ended or could not be opened.
    pub problem: Option<Problem>,
}

/// How the control plane stands towards this node.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Standing {
    /// It has not been heard yet.
    Unheard,
    /// It is there, and nothing is wrong.
    Heard,
    /// Something is.
    Troubled(Problem),
}

/// For a sentence that says what else is.
impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unheard => f.write_str("control plane away"),
            Self::Heard => f.write_str("control plane connected"),
            Self::Troubled(problem @ Problem::Away(_)) => write!(f, "control plane away ({problem})"),
            Self::Troubled(problem @ Problem::Refused { .. }) => {
                write!(f, "control plane refuses: {problem}")
            }
            Self::Troubled(problem @ Problem::Unreadable(_)) => {
                write!(f, "control plane not understood: {problem}")
            }
        }
    }
}

/// One network, all in all.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Overview {
    /// The kernel's side.
    pub applied: Applied,
    /// The lease.
    pub lease: LeaseView,
    /// The watch.
    pub link: Link,
    /// The packet filter.
    pub filter: Filter,
    /// The files that pods start from.
    pub files: Files,
}

impl Overview {
    /// How the control plane stands. What it says of the lease counts more
    /// than that a watch is not open, which may only follow from it.
    #[must_use]
    pub fn standing(&self) -> Standing {
        let Self { lease, link, .. } = self;
        let unwatched = link.problem.as_ref().filter(|_| !link.connected);
        // Somebody who is watched is not away, whatever the last call met.
        let stale = |problem: &&Problem| link.connected && matches!(problem, Problem::Away(_));
        match lease.problem.as_ref().filter(|problem| !stale(problem)).or(unwatched) {
            Some(problem) => Standing::Troubled(problem.clone()),
            None if link.connected => Standing::Heard,
            None => Standing::Unheard,
        }
    }

    /// Why the node is not ready; none when it is: it forwards, and pods can start.
    #[must_use]
    pub fn unready(&self) -> Option<String> {
        self.unforwarded().or_else(|| match &self.files {
            Files::Pending => Some("the files that pods start from are not written yet".to_owned()),
            Files::Failed(why) => Some(why.clone()),
            Files::Written => None,
        })
    }

    /// Why the kernel does not hold a whole set, with the lease that it
    /// belongs to; none when it does.
    #[must_use]
    pub fn unforwarded(&self) -> Option<String> {
        let Self { applied, lease, .. } = self;
        if applied.ended.is_some() {
            return applied.ended.clone();
        }
        if lease.lost.is_some() {
            return lease.lost.clone();
        }
        if applied.source.is_some() {
            return applied.unfinished.clone().or_else(|| self.unmasked());
        }
        let unknown = "peers are not known yet";
        Some(match (&applied.unfinished, self.standing()) {
            (Some(unfinished), _) => format!("{unknown}: {unfinished}"),
            (None, Standing::Unheard | Standing::Heard) => unknown.to_owned(),
            (None, troubled) => format!("{unknown}: {troubled}"),
        })
    }

    /// Why packets that should get the node's address do not.
    fn unmasked(&self) -> Option<String> {
        let (_, network) = self.applied.lease.as_ref()?;
        network.masquerade.as_ref()?;
        match &self.filter.failed {
            Some(failed) => Some(format!("packets are not masqueraded: {failed}")),
            None => (!self.filter.masquerades).then(|| "packets are not masqueraded yet".to_owned()),
        }
    }

    /// What an operator should know, though the network forwards.
    pub fn warnings(&self) -> impl Iterator<Item = &String> {
        self.applied.warnings.iter().chain(&self.filter.warnings)
    }

    /// Whether a whole set is in the kernel, with the lease that it belongs
    /// to, and from where; or why not.
    #[must_use]
    pub fn readiness(&self, network: &NetworkId) -> Readiness {
        let applied = &self.applied;
        let (None, Some(source)) = (self.unready(), applied.source) else {
            return Readiness::no(format!("{network}: {}", self.unready().unwrap_or_default()));
        };
        let mut text = format!("{network}: {} peers from {source}", applied.peers);
        if applied.waiting > 0 {
            text.push_str(&format!(", {} not ready to receive yet", applied.waiting));
        }
        if !applied.failures.is_empty() {
            text.push_str(&format!(", {} left out", applied.failures.len()));
        }
        let standing = self.standing();
        if standing != Standing::Heard {
            text.push_str(&format!(", {standing}"));
        }
        if let Some(unsaved) = &applied.unsaved {
            text.push_str(&format!(", state not saved ({unsaved})"));
        }
        for warning in self.warnings() {
            text.push_str(&format!(", warning: {warning}"));
        }
        Readiness::yes(text)
    }
}

#[cfg(test)]
mod tests {
    use loden_proto::model::{Epoch, Masquerade};

    use super::*;
    use crate::testing::{network, peer};

    fn text(overview: &Overview) -> String {
        let Readiness { ready, detail } = overview.readiness(&network().id);
        format!("{} {detail}", if ready { "yes" } else { "no" })
    }

    #[test]
    fn ready_is_a_whole_set_in_the_kernel_and_a_lease() {
        let mut overview = Overview::default();
        assert_eq!(text(&overview), "no default: peers are not known yet");
        overview.link.problem = Some(Problem::Away("connection refused".into()));
        let away = "control plane away (connection refused)";
        assert_eq!(text(&overview), format!("no default: peers are not known yet: {away}"));

        overview.applied.source = Some(Source::Disk);
        overview.applied.peers = 2;
        overview.applied.lease = Some((Held { subnets: peer(1).subnets, epoch: Epoch(1) }, network()));
        assert_eq!(text(&overview), "no default: the files that pods start from are not written yet");
        let failed = "the subnet file cannot be written: no space";
        overview.files = Files::Failed(failed.into());
        assert_eq!(text(&overview), format!("no default: {failed}"));
        overview.files = Files::Written;
        assert_eq!(
            text(&overview),
            "yes default: 2 peers from disk, control plane away (connection refused)"
        );

        overview.link = Link { connected: true, opened: 1, problem: None };
        overview.applied.source = Some(Source::Server);
        assert_eq!(text(&overview), "yes default: 2 peers from server");

        overview.applied.waiting = 3;
        assert_eq!(text(&overview), "yes default: 2 peers from server, 3 not ready to receive yet");

        overview.applied.unfinished = Some("there is no device eth0".into());
        assert_eq!(text(&overview), "no default: there is no device eth0");
        overview.applied.unfinished = None;
        let (_, network) = overview.applied.lease.as_mut().unwrap();
        network.masquerade = Some(Masquerade::default());
        assert_eq!(text(&overview), "no default: packets are not masqueraded yet");
        overview.filter.failed = Some("nft is not installed".into());
        assert_eq!(text(&overview), "no default: packets are not masqueraded: nft is not installed");
        overview.filter = Filter { masquerades: true, warnings: vec!["FORWARD drops".into()], failed: None };
        overview.applied.waiting = 0;
        overview.applied.warnings = vec!["no forwarding".into()];
        let warned = "yes default: 2 peers from server, warning: no forwarding, warning: FORWARD drops";
        assert_eq!(text(&overview), warned);
        overview.lease.lost = Some("SUBNET_TAKEN".into());
        assert_eq!(text(&overview), "no default: SUBNET_TAKEN");
        overview.applied.ended = Some("its VNI 8 belongs to the network green now".into());
        assert_eq!(text(&overview), "no default: its VNI 8 belongs to the network green now");
    }

    #[test]
    fn who_refuses_is_not_called_away_and_is_told_beside_an_open_watch() {
        let mut overview = Overview { files: Files::Written, ..Overview::default() };
        overview.applied.source = Some(Source::Server);
        overview.link = Link { connected: true, opened: 1, problem: None };
        let reason = Some("INVALID_FIELD".to_owned());
        let message = "endpoint.address_v4: \"192.0.2.9\" lies in a pool".to_owned();
        overview.lease.problem =
            Some(Problem::Refused { code: tonic::Code::InvalidArgument, reason, message });
        let says = "control plane refuses: INVALID_FIELD: endpoint.address_v4: \"192.0.2.9\" lies in a pool \
                    (INVALID_ARGUMENT)";
        assert_eq!(text(&overview), format!("yes default: 0 peers from server, {says}"));

        // It goes away after that: one cause, the one that was seen last by the lease.
        overview.lease.problem = Some(Problem::Away("no answer".into()));
        overview.link.connected = false;
        assert_eq!(text(&overview), "yes default: 0 peers from server, control plane away (no answer)");
    }
}
