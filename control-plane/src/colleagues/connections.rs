//! Which nodes are connected, with this replica and with the others.
//!
//! ```text
//!  links, streams ─▶ here ─┬─▶ told to another replica that asks
//!                          └─▶ with what each of the others tells, and who of them is silent ─▶ of all
//! ```

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use loden_proto::InvalidValue;
use loden_proto::model::{BootId, InstanceId, LeaseName};
use loden_proto::names::{self, NetworkId, NodeId};
use loden_proto::v1::node_service_client::NodeServiceClient;
use loden_proto::v1::{ListConnectionsRequest, ListConnectionsResponse, NodeConnection, NodeWatch};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};
use tracing::{debug, warn};

use super::{ANSWER_BYTES, Colleagues};
use crate::registry::{Client, Link, Registry};
use crate::watch::Streams;

/// Nodes on a page: as many as there may be.
const PAGE: i32 = 1000;

/// The nodes that are connected, as far as that is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Connections {
    nodes: BTreeMap<NodeId, Connected>,
    /// Replicas that were asked in vain.
    unasked: BTreeSet<String>,
}

/// A node that is connected.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Connected {
    /// Of the CAs, when the certificates were made that its connections have shown.
    generations: BTreeSet<u32>,
    watches: BTreeSet<Watch>,
}

/// An open watch of a node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Watch {
    pub(crate) network: NetworkId,
    pub(crate) instance: InstanceId,
    /// On which host, when that is told.
    pub(crate) boot: Option<BootId>,
}

impl Connections {
    /// Those with this replica.
    pub(crate) fn here(registry: &Registry, streams: &Streams) -> Self {
        Self::of_links(registry.links(), streams.watches())
    }

    /// One node alone, if it is connected with this replica. It costs little however many others are connected, for
    /// whoever has a node's certificate can have this asked.
    pub(crate) fn here_of(registry: &Registry, streams: &Streams, node: &NodeId) -> Self {
        Self::of_links(registry.links_of(node), streams.watches_of(node))
    }

    fn of_links(links: Vec<Arc<Link>>, watches: Vec<(LeaseName, InstanceId, Option<BootId>)>) -> Self {
        let mut here = Self::default();
        for link in links {
            if let (Some(node), Client::Holder(holder)) = (link.client.node(), &link.client) {
                here.of(node.clone()).generations.insert(holder.generation);
            }
        }
        for (LeaseName { network, node }, instance, boot) in watches {
            here.of(node).watches.insert(Watch { network, instance, boot });
        }
        here
    }

    /// Each as the others are told of it, by name.
    pub(crate) fn to_wire(&self) -> Vec<(NodeId, NodeConnection)> {
        let wire = |(node, connected): (&NodeId, &Connected)| {
            let connection = NodeConnection {
                node: names::node(node),
                generations: connected.generations.iter().copied().collect(),
                watches: connected.watches.iter().map(watch_to_wire).collect(),
            };
            (node.clone(), connection)
        };
        self.nodes.iter().map(wire).collect()
    }

    /// How many nodes have shown a certificate of a generation, and which have shown others only.
    pub(crate) fn by_generation(&self, generation: u32) -> (usize, Vec<&NodeId>) {
        let shown = self.nodes.iter().filter(|(_, connected)| !connected.generations.is_empty());
        let (current, behind): (Vec<_>, Vec<_>) =
            shown.partition(|(_, connected)| connected.generations.contains(&generation));
        (current.len(), behind.into_iter().map(|(node, _)| node).collect())
    }

    /// Whether a node is connected, with or without a watch.
    pub(crate) fn has(&self, node: &NodeId) -> bool {
        self.nodes.contains_key(node)
    }

    /// The open watches of a node.
    pub(crate) fn watches(&self, node: &NodeId) -> impl Iterator<Item = &Watch> {
        self.nodes.get(node).into_iter().flat_map(|connected| &connected.watches)
    }

    /// The leases whose nodes have open watches.
    ///
    /// # Errors
    /// The replicas that did not say, with which there may be more.
    pub(crate) fn streaming(self) -> Result<HashSet<LeaseName>, BTreeSet<String>> {
        if !self.unasked.is_empty() {
            return Err(self.unasked);
        }
        let of = |(node, connected): (NodeId, Connected)| {
            let watches = connected.watches.into_iter();
            watches.map(move |watch| LeaseName { network: watch.network, node: node.clone() })
        };
        Ok(self.nodes.into_iter().flat_map(of).collect())
    }

    /// The replicas with which other nodes may be connected, for they did not say.
    pub(crate) const fn unasked_replicas(&self) -> &BTreeSet<String> {
        &self.unasked
    }

    /// The same in words; `None` if there is none.
    pub(crate) fn unasked(&self) -> Option<String> {
        let names: Vec<_> = self.unasked.iter().map(String::as_str).collect();
        match &names[..] {
            [] => None,
            [name] => Some(format!("the replica {name}, which does not answer")),
            _ => Some(format!("the replicas {}, which do not answer", names.join(" and "))),
        }
    }

    fn of(&mut self, node: NodeId) -> &mut Connected {
        self.nodes.entry(node).or_default()
    }

    /// Adds what another replica has told. What cannot be read is as good as no answer.
    pub(crate) fn add(&mut self, replica: String, told: Option<Vec<NodeConnection>>) {
        let told = told.map(|told| told.into_iter().map(read).collect::<Result<Vec<_>, _>>());
        match told {
            Some(Ok(told)) => {
                for (node, connected) in told {
                    let known = self.of(node);
                    known.generations.extend(connected.generations);
                    known.watches.extend(connected.watches);
                }
            }
            Some(Err(invalid)) => {
                debug!(replica, %invalid, "what another replica tells of its nodes cannot be read");
                self.unasked.insert(replica);
            }
            None => {
                self.unasked.insert(replica);
            }
        }
    }
}

impl Colleagues {
    /// Those that are connected with this replica, and those that the others tell of: if one node is named, that one
    /// alone.
    pub(crate) async fn connections(&self, here: Connections, node: Option<&NodeId>) -> Connections {
        let mut all = here;
        let node = node.map(names::node).unwrap_or_default();
        for (replica, told) in self.ask_each(&node, list).await {
            let told = told.and_then(|pages| of_asked(&replica, pages));
            all.add(replica, told);
        }
        all
    }
}

/// What the replica that was asked tells. An address may lead to another one, a balancer's to any, and what that one
/// knows is not what was asked for.
fn of_asked(replica: &str, pages: Vec<ListConnectionsResponse>) -> Option<Vec<NodeConnection>> {
    if let Some(other) = pages.iter().find(|page| page.replica != replica) {
        let answered = other.replica.as_str();
        warn!(replica, answered, "another one answers than was asked, or it does not say who it is");
        return None;
    }
    Some(pages.into_iter().flat_map(|page| page.connections).collect())
}

/// All pages.
async fn list(
    channel: Channel,
    node: Request<String>,
) -> Result<Response<Vec<ListConnectionsResponse>>, Status> {
    let mut client = NodeServiceClient::new(channel).max_decoding_message_size(ANSWER_BYTES);
    let (node, mut page_token) = (node.into_inner(), String::new());
    let mut pages = Vec::new();
    loop {
        let request = ListConnectionsRequest { page_size: PAGE, page_token, node: node.clone() };
        let page = client.list_connections(request).await?.into_inner();
        page_token = page.next_page_token.clone();
        pages.push(page);
        if page_token.is_empty() {
            return Ok(Response::new(pages));
        }
    }
}

fn read(wire: NodeConnection) -> Result<(NodeId, Connected), InvalidValue> {
    let watches = wire.watches.iter().map(read_watch).collect::<Result<BTreeSet<_>, InvalidValue>>()?;
    let connected = Connected { generations: wire.generations.into_iter().collect(), watches };
    Ok((names::parse_node(&wire.node)?, connected))
}

fn read_watch(wire: &NodeWatch) -> Result<Watch, InvalidValue> {
    Ok(Watch {
        network: names::parse_network(&wire.network)?,
        instance: wire.instance_id.parse()?,
        boot: (!wire.boot_id.is_empty()).then(|| wire.boot_id.parse()).transpose()?,
    })
}

fn watch_to_wire(watch: &Watch) -> NodeWatch {
    NodeWatch {
        network: names::network(&watch.network),
        instance_id: watch.instance.to_string(),
        boot_id: watch.boot.map(|boot| boot.to_string()).unwrap_or_default(),
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// What a replica tells of a node.
    pub(crate) fn connection(node: &str, generations: &[u32], networks: &[&str]) -> NodeConnection {
        NodeConnection {
            node: format!("nodes/{node}"),
            generations: generations.to_vec(),
            watches: networks.iter().map(|network| watch(network)).collect(),
        }
    }

    fn watch(network: &str) -> NodeWatch {
        let instance_id = format!("{:032x}", 1);
        NodeWatch { network: format!("networks/{network}"), instance_id, boot_id: format!("{:032x}", 2) }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::connection;
    use super::*;

    fn told(connections: Vec<NodeConnection>) -> Connections {
        let mut all = Connections::default();
        all.add("one".to_owned(), Some(connections));
        all
    }

    #[test]
    fn a_node_has_all_that_it_has_with_any_replica() {
        let mut all = told(vec![connection("a", &[1], &["blue"]), connection("b", &[1], &[])]);
        all.add("other".to_owned(), Some(vec![connection("a", &[2], &["red"])]));
        let [a, b] = ["a", "b"].map(|node| node.parse::<NodeId>().unwrap());
        assert_eq!(all.by_generation(2), (1, vec![&b]), "a goes over to another connection");
        assert_eq!(all.by_generation(1), (2, vec![]));
        let watches = |node| all.watches(node).map(|watch| watch.network.to_string()).collect::<Vec<_>>();
        assert_eq!((watches(&a), watches(&b)), (vec!["blue".to_owned(), "red".to_owned()], vec![]));
        let c = "c".parse().unwrap();
        assert!(all.has(&a) && all.has(&b) && !all.has(&c), "b is connected, though it has no watch");
        assert_eq!(all.unasked(), None);
        let leases = ["blue", "red"].map(|id| LeaseName { network: id.parse().unwrap(), node: a.clone() });
        assert_eq!(all.clone().streaming(), Ok(HashSet::from(leases)));
        let wire: Vec<_> = all.to_wire().into_iter().map(|(_, connection)| connection).collect();
        assert_eq!(wire, [connection("a", &[1, 2], &["blue", "red"]), connection("b", &[1], &[])]);
        assert_eq!(told(wire), all);
    }

    #[test]
    fn of_a_node_that_is_asked_for_there_is_what_there_is_of_it_among_all() {
        let (registry, streams) = (Registry::default(), Streams::default());
        let open =
            |id: &str| registry.open(crate::registry::testing::client(id), "192.0.2.1:1".parse().unwrap());
        let links = ["node/a", "node/b", "admin/a", "node/a"].map(open);
        let all = Connections::here(&registry, &streams);
        assert_eq!(all.nodes.len(), 2);
        for node in ["a", "b", "c"].map(|node| node.parse::<NodeId>().unwrap()) {
            let one = Connections::here_of(&registry, &streams, &node);
            let of_all = all.nodes.iter().filter(|(other, _)| **other == node);
            assert!(one.nodes.iter().eq(of_all), "{node}: {one:?}");
        }
        drop(links);
    }

    #[test]
    fn only_the_one_that_was_asked_can_answer() {
        let page = |replica: &str, node: &str| ListConnectionsResponse {
            connections: vec![connection(node, &[1], &[])],
            next_page_token: String::new(),
            replica: replica.to_owned(),
        };
        let both = vec![connection("a", &[1], &[]), connection("b", &[1], &[])];
        assert_eq!(of_asked("one", vec![page("one", "a"), page("one", "b")]), Some(both));
        assert_eq!(of_asked("one", vec![page("other", "a")]), None);
        assert_eq!(
            of_asked("one", vec![page("one", "a"), page("other", "b")]),
            None,
            "the address leads to both"
        );
        assert_eq!(of_asked("one", vec![page("", "a")]), None, "one of a version that does not say");
    }

    #[test]
    fn one_that_says_nothing_or_nothing_of_use_is_named() {
        let mut all = told(vec![]);
        all.add("control-2".to_owned(), None);
        assert_eq!(all.unasked().unwrap(), "the replica control-2, which does not answer");
        all.add("control-3".to_owned(), Some(vec![connection("not a node", &[], &[])]));
        let both = "the replicas control-2 and control-3, which do not answer";
        assert_eq!(all.unasked().unwrap(), both);
        assert_eq!(all.nodes, BTreeMap::new());
        assert_eq!(all.streaming().unwrap_err().into_iter().collect::<Vec<_>>(), ["control-2", "control-3"]);
    }
}
