//! NodeService.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use loden_proto::names::{self, NodeId};
use loden_proto::v1::node_service_server::NodeService;
use loden_proto::v1::{GetNodeRequest, ListNodesRequest, ListNodesResponse, Node};
use tonic::{Request, Response, Status};

use super::Shared;
use super::network::not_found;
use super::page::Page;
use crate::status::Membership;

pub(super) struct NodeReads(pub(super) Arc<Shared>);

#[tonic::async_trait]
impl NodeService for NodeReads {
    async fn get_node(&self, request: Request<GetNodeRequest>) -> Result<Response<Node>, Status> {
        let node = names::parse_node(&request.get_ref().name).map_err(|invalid| invalid.at("name"))?;
        if !self.0.node_ids().contains(&node) {
            return Err(not_found(&names::node(&node)));
        }
        let (mut memberships, _) = self.memberships(std::slice::from_ref(&node));
        let memberships = memberships.remove(&node).unwrap_or_default();
        Ok(Response::new(self.0.nodes.view(&node, &memberships, SystemTime::now())))
    }

    async fn list_nodes(
        &self,
        request: Request<ListNodesRequest>,
    ) -> Result<Response<ListNodesResponse>, Status> {
        let ListNodesRequest { page_size, page_token } = request.into_inner();
        let page = Page::new("", page_size, &page_token)?;
        let after: Option<NodeId> = page.after(str::parse)?;
        let all = self.0.node_ids();
        let later = all.into_iter().filter(|node| after.as_ref().is_none_or(|after| node > after));
        // One more than the page holds: it shows whether there is a next one.
        let nodes: Vec<NodeId> = later.take(page.size + 1).collect();
        let (mut memberships, revision) = self.memberships(&nodes);
        let now = SystemTime::now();
        let view = |node: &NodeId| {
            let memberships = memberships.remove(node).unwrap_or_default();
            self.0.nodes.view(node, &memberships, now)
        };
        let (nodes, next_page_token) = page.take(nodes.into_iter(), ToString::to_string, view);
        Ok(Response::new(ListNodesResponse { nodes, next_page_token, revision }))
    }
}

impl NodeReads {
    /// The networks of each of the nodes, and the revision that shows them.
    fn memberships(&self, nodes: &[NodeId]) -> (HashMap<NodeId, Vec<Membership>>, u64) {
        let mut memberships: HashMap<NodeId, Vec<Membership>> = HashMap::new();
        let (leases, revision) = self.0.clerk.read(|ledger| {
            let networks: Vec<_> = ledger.networks().map(|network| network.id.clone()).collect();
            let leases = networks.into_iter().flat_map(|network| {
                nodes.iter().filter_map(move |node| {
                    let name = loden_proto::model::LeaseName { network: network.clone(), node: node.clone() };
                    ledger.lease(&name)
                })
            });
            (leases.collect::<Vec<_>>(), ledger.revision().0)
        });
        for lease in leases {
            let current = self.0.feeds.last_change(&lease.name.network).unwrap_or_default();
            let membership = Membership { network: lease.name.network, subnets: lease.subnets, current };
            memberships.entry(lease.name.node).or_default().push(membership);
        }
        (memberships, revision)
    }
}
