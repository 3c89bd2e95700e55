//! What is told: from plain data to the message.

use std::collections::BTreeMap;

use loden_process::operations::Readiness;
use loden_proto::convert::{count, timestamp};
use loden_proto::names::{NetworkId, NodeId};
use loden_proto::{names, v1};
use loden_transport::Holder;

use crate::status::{Overview, Source};
use crate::told::{Told, said};

/// What an agent knows of itself.
pub(super) struct Known<'a> {
    pub(super) node: &'a NodeId,
    /// Of its certificate; none while that cannot be read.
    pub(super) holder: Option<Holder>,
    pub(super) readiness: Readiness,
    pub(super) networks: BTreeMap<&'a NetworkId, Overview>,
}

impl Known<'_> {
    pub(super) fn status(&self) -> v1::AgentStatus {
        let holder = self.holder.as_ref();
        v1::AgentStatus {
            node: names::node(self.node),
            spiffe_id: holder.map(|holder| holder.id.to_string()).unwrap_or_default(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            certificate_expire_time: holder.map(|holder| timestamp(holder.expires)),
            ready: self.readiness.ready,
            detail: said(&self.readiness.detail),
            networks: self.networks.iter().map(|(id, overview)| network(id, overview)).collect(),
        }
    }
}

fn network(id: &NetworkId, overview: &Overview) -> v1::AgentNetwork {
    let Overview { applied, lease, link, .. } = overview;
    let subnets = lease.held.iter().flat_map(|(held, _)| held.subnets.iter());
    let told = Told::of(overview);
    v1::AgentNetwork {
        network: names::network(id),
        programmed: applied.lease.as_ref().map(|(_, network)| network.into()),
        subnets: subnets.map(|subnet| subnet.to_string()).collect(),
        mtu: applied.mtu,
        connected: link.connected,
        standing: said(&overview.standing().to_string()),
        ready: told.ready,
        not_ready_reason: told.not_ready_reason,
        source: source(applied.source).into(),
        peers: told.peers,
        waiting_peers: count(applied.waiting),
        apply_time: applied.time.map(timestamp),
        failures: told.failures,
        failures_left_out: told.failures_left_out,
        warnings: told.warnings,
        warnings_left_out: told.warnings_left_out,
    }
}

fn source(source: Option<Source>) -> v1::PeerSource {
    match source {
        Some(Source::Server) => v1::PeerSource::Server,
        Some(Source::Disk) => v1::PeerSource::Disk,
        None => v1::PeerSource::Unspecified,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, SystemTime};

    use loden_proto::model::Epoch;
    use loden_proto::text;

    use super::*;
    use crate::problem::Problem;
    use crate::state::Held;
    use crate::status::{Applied, Failure, Files, LeaseView, Link};
    use crate::testing::{network, peer};

    fn told(holder: Option<Holder>, readiness: Readiness, overview: Overview) -> v1::AgentStatus {
        let (node, id) = ("node-9".parse().unwrap(), network().id);
        Known { node: &node, holder, readiness, networks: BTreeMap::from([(&id, overview)]) }.status()
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn an_agent_that_forwards_tells_who_it_is_and_what_it_has() {
        let id = "spiffe://demo/node/node-9".parse().unwrap();
        let holder = Holder { id, epoch: 0, generation: 0, root: None, begins: at(0), expires: at(7) };
        let lease = Some((Held { subnets: peer(9).subnets, epoch: Epoch(1) }, network()));
        let failure = Failure { message: "it overlaps".to_owned(), since: at(3) };
        let applied = Applied {
            source: Some(Source::Server),
            peers: 2,
            waiting: 1,
            failures: Arc::new(BTreeMap::from([("node-3".to_owned(), failure)])),
            lease: lease.clone(),
            mtu: 1450,
            time: Some(at(5)),
            warnings: vec!["no forwarding".to_owned()],
            ..Applied::default()
        };
        let overview = Overview {
            applied,
            lease: LeaseView { held: lease, granted: true, confirmed: true, ..LeaseView::default() },
            link: Link { connected: true, opened: 1, problem: None },
            files: Files::Written,
            ..Overview::default()
        };
        let status = told(Some(holder), Readiness::yes("default: 2 peers"), overview);
        assert_eq!((&*status.node, &*status.spiffe_id), ("nodes/node-9", "spiffe://demo/node/node-9"));
        assert_eq!(status.certificate_expire_time.map(|time| time.seconds), Some(7));
        assert_eq!((status.ready, &*status.detail), (true, "default: 2 peers"));
        let [network] = &status.networks[..] else { panic!("{status:?}") };
        assert_eq!(network.network, "networks/default");
        assert!(matches!(
            network.programmed.as_ref().and_then(|network| network.backend.as_ref()),
            Some(v1::network::Backend::Vxlan(_))
        ));
        assert_eq!((&network.subnets[..], network.mtu), (&["10.244.9.0/24".to_owned()][..], 1450));
        assert_eq!((network.connected, &*network.standing), (true, "control plane connected"));
        assert_eq!((network.ready, &*network.not_ready_reason), (true, ""));
        assert_eq!((network.source(), network.peers, network.waiting_peers), (v1::PeerSource::Server, 2, 1));
        assert_eq!(network.apply_time.map(|time| time.seconds), Some(5));
        assert_eq!((&*network.failures[0].node, &*network.failures[0].message), ("node-3", "it overlaps"));
        assert_eq!(network.warnings, ["no forwarding"]);
    }

    #[test]
    fn an_agent_that_knows_nothing_yet_says_why_and_steers_no_terminal() {
        let problem = Some(Problem::Away("no \u{1b}[1manswer".to_owned()));
        let link = Link { problem, ..Link::default() };
        let status = told(None, Readiness::no("default:\nnothing"), Overview { link, ..Overview::default() });
        assert_eq!((&*status.spiffe_id, status.certificate_expire_time), ("", None));
        assert_eq!((status.ready, &*status.detail), (false, r"default:\nnothing"));
        let [network] = &status.networks[..] else { panic!("{status:?}") };
        assert_eq!((network.programmed.as_ref(), network.subnets.len(), network.mtu), (None, 0, 0));
        assert!(!network.connected && !network.ready);
        assert_eq!(network.standing, r"control plane away (no \u{1b}[1manswer)");
        text::check(&network.not_ready_reason).unwrap();
        assert!(network.not_ready_reason.starts_with("peers are not known yet"), "{network:?}");
        assert_eq!(network.source(), v1::PeerSource::Unspecified);
    }
}
